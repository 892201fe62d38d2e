"""Evaluation and audit: folds that keep patients apart, baselines that see no lungs, duplicates, risks, pages."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import Run, cloud, configuration, write_clouds
from PIL import Image

from cxrsearch.errors import InputError
from indexer.phantoms import FINDINGS, draw
from trainer.config import Config
from trainer.data import splits
from trainer.data.images import Images
from trainer.data.patients import near_duplicates, patient_groups
from trainer.evaluation import baselines, evaluate
from trainer.learning.fit import Fit
from trainer.learning.imported import new_network


def images_of(
    count: int,
    patients: list[str | None] | None = None,
    labels: list[int] | None = None,
    pictures: bool = False,
    datasets: list[str] | None = None,
    keys: list[str] | None = None,
    size: int = 64,
) -> Images:
    """``count`` images: noise, or different phantoms; their patients, classes, names."""
    rng = np.random.default_rng(0)
    labels = labels if labels is not None else [n % 2 for n in range(count)]
    pixels = rng.integers(0, 255, (count, size, size), dtype=np.uint8)

    def known(label: int, of_class: int) -> int:
        return -1 if label < 0 else int(label == of_class)

    if pictures:
        drawn = [Image.fromarray((draw(FINDINGS[n % 3], n, size=size) * 255).astype(np.uint8)) for n in range(count)]
        pixels = np.stack([np.asarray(picture.resize((size, size))) for picture in drawn])
    return Images(
        ("a", "b"),
        pixels,
        np.full((count, 2), 512),
        rng.integers(1000, 9000, count),
        np.array([[known(label, 0), known(label, 1)] for label in labels], dtype=np.int8),
        patients if patients is not None else [f"p{n}" for n in range(count)],
        keys if keys is not None else [f"{n}.png" for n in range(count)],
        datasets or ["set"] * count,
        datasets or ["set"] * count,
        [{"site": "north" if n % 3 else "south"} for n in range(count)],
        [str(n) for n in range(count)],
        np.zeros(count, dtype=bool),
        np.zeros(count, dtype=np.int64),
    )


def test_folds_by_patient_keep_patients_apart_and_cover_every_labelled_image_once() -> None:
    images = images_of(90, [f"p{n // 3}" for n in range(90)], [n % 2 if n < 80 else -1 for n in range(90)])
    times = np.zeros(90, dtype=int)
    for _, judged in splits.folds(images, 5, "patient", 0):
        times += judged
        seen = splits.learnt_from(images, judged)
        assert not {images.patients[n] for n in np.flatnonzero(seen)} & {
            images.patients[n] for n in np.flatnonzero(judged)
        }
    assert times.tolist() == [1] * 80 + [0] * 10


def test_folds_by_image_share_patients() -> None:
    images = images_of(90, [f"p{n // 3}" for n in range(90)])
    _, judged = next(splits.folds(images, 5, "image", 0))
    seen = splits.learnt_from(images, judged, "image")
    assert (seen | judged).all()
    assert {images.patients[n] for n in np.flatnonzero(seen)} & {images.patients[n] for n in np.flatnonzero(judged)}


def test_a_site_that_is_left_out_is_left_out_whole_with_its_patients() -> None:
    images = images_of(90)
    parts = dict(splits.sites(images, "site"))
    assert list(parts) == ["without site north", "without site south"]
    assert parts["without site south"].sum() == 30
    with pytest.raises(InputError, match="nothing to leave out"):
        list(splits.sites(images, "ward"))


def test_more_folds_than_a_class_has_images_is_an_error() -> None:
    with pytest.raises(InputError, match="rarest class has 3 images"):
        next(splits.folds(images_of(20, labels=[0] * 17 + [1] * 3), 5, "patient", 0))


def test_held_out_patients_are_a_part_of_the_patients_with_all_their_images() -> None:
    images = images_of(90, [f"p{n // 3}" for n in range(90)])
    chosen = splits.held_out(images, 0.2, 1)
    owners = {images.patients[n] for n in np.flatnonzero(chosen)}
    assert len(owners) == 6
    assert chosen.sum() == 18
    assert splits.held_out(images, 0.2, 2).tolist() != chosen.tolist()


def test_baselines_see_what_they_say() -> None:
    images = images_of(6)
    inner = images.pixels.copy()
    inner[:, 16:48, 16:48] = 7
    changed = Images(**{**images.__dict__, "pixels": inner})
    np.testing.assert_allclose(baselines.borders(images), baselines.borders(changed))
    assert not np.allclose(baselines.thumbnails(images), baselines.thumbnails(changed))
    np.testing.assert_allclose(baselines.shapes(images), baselines.shapes(changed))
    dark = baselines.without_lungs(images)
    assert (dark[:, 10:50, 10:50] == 0).all()
    np.testing.assert_array_equal(dark[:, :4], images.pixels[:, :4])
    dark = baselines.without_border(images)
    assert (dark[:, :4] == 0).all()
    assert (dark[:, :, -4:] == 0).all()
    np.testing.assert_array_equal(dark[:, 8:56, 8:56], images.pixels[:, 8:56, 8:56])


def test_padding_is_no_part_of_the_content() -> None:
    images = Images(**{**images_of(2).__dict__, "shapes": np.array([[100, 200], [512, 256]])})
    assert images.content() == [(slice(16, 48), slice(0, 64)), (slice(0, 64), slice(16, 48))]


def test_copies_are_found_rescaled_toned_and_cropped_and_different_bodies_are_not() -> None:
    images = images_of(24, pictures=True, size=160)
    pixels = images.pixels.copy()
    source = Image.fromarray(pixels[0])
    cut = source.crop((10, 6, 150, 146)).resize((160, 160))
    small = Image.fromarray(pixels[1]).resize((90, 90)).resize((160, 160))
    pixels[22] = np.asarray(cut)
    pixels[23] = (np.asarray(small) * 0.7 + 20).astype(np.uint8)
    changed = Images(**{**images.__dict__, "pixels": pixels})
    pairs = {(pair.first, pair.second) for pair in near_duplicates(changed)}
    assert {(0, 22), (1, 23)} <= pairs


def test_a_patient_is_found_by_its_copies_and_a_name_alone_tells_nothing() -> None:
    from trainer.data.patients import NearDuplicate

    images = images_of(
        6,
        patients=["n1", "n2", None, None, None, "n3"],
        datasets=["x"] * 4 + ["y"] * 2,
        keys=["a/1.png", "b/1.png", "c/2.png", "c/3.png", "z/3.png", "z/2.jpg"],
        size=160,
    )
    rng = np.random.default_rng(4)
    pixels = np.stack([np.asarray(cloud(rng, False).resize((160, 160))) for _ in range(6)])
    # z/3 is c/3 cropped by more than near duplicates are looked for; z/2 has nothing of c/2 but the name.
    pixels[4] = np.asarray(Image.fromarray(pixels[3]).crop((40, 30, 140, 130)).resize((160, 160)))
    images = Images(**{**images.__dict__, "pixels": pixels})
    assert near_duplicates(images) == []
    assert patient_groups(images, []) == ["n1", "n2", None, None, None, "n3"]
    groups = patient_groups(images, [NearDuplicate(0, 1, 3), NearDuplicate(0, 3, 3)])
    assert groups[0] == groups[1] == groups[3] == groups[4] is not None
    assert (groups[2], groups[5]) == (None, "n3")


def test_how_many_pairs_of_one_name_are_compared_is_said_before_and_strangers_are_soon_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 60
    keys, datasets = [f"{n % count}.png" for n in range(2 * count)], ["x"] * count + ["y"] * count
    images = images_of(2 * count, [None] * 2 * count, datasets=datasets, keys=keys, size=160)
    rng = np.random.default_rng(4)
    pixels = np.stack([np.asarray(cloud(rng, False).resize((160, 160))) for _ in range(2 * count)])
    pixels[count] = np.asarray(Image.fromarray(pixels[0]).crop((40, 30, 140, 130)).resize((160, 160)))
    images = replace(images, pixels=pixels, patients=["n1", *images.patients[1:]])
    monkeypatch.setattr("trainer.data.patients._MANY", count - 1)
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def counted(picture: Image.Image, size: tuple[int, int], *rest: Any) -> Image.Image:
        sizes.append(size)
        return resize(picture, size, *rest)

    monkeypatch.setattr(Image.Image, "resize", counted)
    with caplog.at_level("INFO", "cxrsearch"):
        assert patient_groups(images, [])[count] == "n1"
    assert caplog.messages == ["comparing 60 pairs of images of one file name in two datasets: about 1 min"]
    assert len(sizes) < 60 * count  # every size for every pair: 116 * count


@pytest.mark.slow
def test_folds_are_evaluated_with_baselines_and_a_page(cxrsearch: Run, tmp_path: Path) -> None:
    config, out = configuration(tmp_path, 36, 2), tmp_path / "folds"
    ran = cxrsearch("evaluate", config, "--folds", 2, "--out", out)
    assert ran.code == 0, ran.err
    assert "the encoder" in ran.out
    assert "LEAKAGE" not in ran.out
    found = json.loads((out / "evaluation.json").read_text("utf-8"))
    for gallery in ("archive", "unseen"):
        assert list(found["galleries"][gallery]) == [
            "the encoder",
            "the encoder, lungs blacked out",
            "the encoder, border blacked out",
            "ImageNet trunk, frozen",
            "32 x 32 thumbnails",
            "border only (outer 1/16)",
            "image shape",
            "the majority class",
        ]
    assert found["queries"] == 48
    own = found["galleries"]["archive"]["the encoder"]
    assert {"vote_accuracy", "map_at_r", "sensitivity/sick", "ppv/well", "auc/sick", "macro_auc"} <= set(own)
    assert own["vote_accuracy"]["low"] <= own["vote_accuracy"]["value"] <= own["vote_accuracy"]["high"]
    assert len(found["parts"]) == 2
    page = (out / "evaluation.html").read_text("utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "default-src 'none'" in page
    assert page.count("<figure") > 40
    words = re.sub(r"data:[^\"]+", "", page)
    assert "MRN" not in words  # no patient's number
    # Run again it learns nothing anew, and says the same.
    again = cxrsearch("evaluate", config, "--folds", 2, "--out", out)
    assert "epoch" not in again.err
    assert again.out == ran.out
    other = cxrsearch("evaluate", config, "--folds", 2, "--by", "image", "--out", out)
    assert other.code == 4
    assert "holds a run of another protocol" in other.err
    random = cxrsearch("evaluate", config, "--folds", 2, "--by", "image", "--out", tmp_path / "random")
    assert "LEAKAGE: patients are in training and test at once" in random.out
    assert "These figures flatter" in (tmp_path / "random" / "evaluation.html").read_text("utf-8")


@pytest.mark.slow
def test_a_model_on_images_it_never_saw_has_no_archive_and_claims_nothing(cxrsearch: Run, tmp_path: Path) -> None:
    config = configuration(tmp_path, 36, 1)
    assert cxrsearch("train", config, "--out", tmp_path / "run").code == 0
    judge = ["evaluate", config, "--model", tmp_path / "run" / "model"]
    ran = cxrsearch(*judge, "--all", "--out", tmp_path / "all")
    assert ran.code == 0, ran.err
    found = json.loads((tmp_path / "all" / "evaluation.json").read_text("utf-8"))
    assert list(found["galleries"]) == ["unseen"]
    assert found["queries"] == 48
    assert "learnt from, as in use" not in ran.out + (tmp_path / "all" / "evaluation.html").read_text("utf-8")
    assert "every labelled image" in ran.out
    assert "LEAKAGE: small learnt from these very images" in ran.out
    held = "patients held out of training"
    assert held in cxrsearch(*judge, "--out", tmp_path / "own").out
    # The card's own figures, among the images that were learnt from and not those that chose the epoch.
    found = json.loads((tmp_path / "own" / "evaluation.json").read_text("utf-8"))
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text("utf-8"))
    of_card = card["figures"]["archive"]["32 x 32 thumbnails"]
    for name, (value, low, high) in of_card.items():
        now = found["galleries"]["archive"]["32 x 32 thumbnails"][name]
        assert [now["value"], now["low"], now["high"]] == pytest.approx([value, low, high], abs=1e-4)
    # Away from its run, the card alone says whose it is.
    away = ["evaluate", config, "--model", shutil.copytree(tmp_path / "run" / "model", tmp_path / "away" / "small")]
    assert held in cxrsearch(*away, "--out", tmp_path / "own-away").out
    text = config.read_text("utf-8")
    for number, (before, after) in enumerate(
        [("\ntest = 0.2", "\ntest = 0.3"), ("validation = 0.2", "validation = 0.1"), ("epochs", "epochs")]
    ):
        config.write_text(text.replace(before, after), "utf-8")
        if before == after:  # other images under the same names
            write_clouds(tmp_path / "set", 30)
        for name, command in (("run", judge), ("away", away)):
            ran = cxrsearch(*command, "--out", tmp_path / f"{name}-{number}")
            assert (ran.code, held in ran.out, "whether this model has seen" in ran.out) == (0, False, True), ran.err
            assert "LEAKAGE: small learnt from" in ran.out
    config.write_text(config.read_text("utf-8").replace("seed = 3", "seed = 4"), "utf-8")
    assert "whether this model has seen them is not known" in cxrsearch(*judge, "--out", tmp_path / "other").out


@pytest.mark.slow
def test_one_site_is_left_out_at_a_time(cxrsearch: Run, tmp_path: Path) -> None:
    ran = cxrsearch("evaluate", configuration(tmp_path, 40, 1), "--leave-out", "site", "--out", tmp_path / "sites")
    assert ran.code == 0, ran.err
    assert "one site left out at a time" in ran.out
    assert "without site North" in ran.err
    assert "without site South" in ran.err


def test_what_may_be_of_the_site_that_is_left_out_is_learnt_from_in_no_part(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tmp_path, 60, 1)
    table = tmp_path / "set" / "facts.csv"
    head, *rows = table.read_text("utf-8").splitlines()
    nowhere = {row.split(",")[0] for row in rows[5:12]}
    lines = [row.rpartition(",")[0] + "," if row.split(",")[0] in nowhere else row for row in rows]
    table.write_text("\n".join([head, *lines]) + "\n", "utf-8")
    learnt: list[set[str]] = []

    def fit(config: Config, images: Images, validation: Images | None, unlabelled: Images, *rest: object) -> Fit:
        assert validation is not None
        learnt.append({*images.keys, *validation.keys, *unlabelled.keys})
        return Fit(new_network(config).eval(), 0)

    monkeypatch.setattr(evaluate, "fit", fit)
    ran = cxrsearch("evaluate", config, "--leave-out", "site", "--out", tmp_path / "sites")
    assert ran.code == 0, ran.err
    assert len(learnt) == 2
    assert not nowhere & set.union(*learnt)
    assert "one site left out at a time; 7 images whose site is not known are learnt from in none" in ran.out


def test_weights_cut_short_are_learnt_anew_and_no_epochs_need_no_checkpoint(cxrsearch: Run, tmp_path: Path) -> None:
    import open_clip

    open_clip.add_model_config(Path(sys.modules["trainer.learning.network"].__file__ or "").parent / "towers")
    config, out = configuration(tmp_path, 24, 0), tmp_path / "folds"
    text = config.read_text("utf-8").replace("dimensions = 16", 'dimensions = 16\npretrained = "weights.pt"')
    config.write_text(text, "utf-8")
    torch.save(open_clip.create_model("cxr-RN14-w8").state_dict(), tmp_path / "weights.pt")
    ran = cxrsearch("evaluate", config, "--folds", 2, "--out", out)
    assert ran.code == 0, ran.err
    weights = out / "part-1" / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    again = cxrsearch("evaluate", config, "--folds", 2, "--out", out)
    assert (again.code, again.out) == (0, ran.out), again.err
    assert weights.read_bytes() == whole


def test_what_chooses_the_epoch_is_not_learnt_from_without_labels_though_nobody_knows_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown patients are numbered: among all images, not anew among those that have labels."""
    images = images_of(60, [None] * 60, [-1 if n < 20 else n % 2 for n in range(60)])
    parts: list[tuple[Images, Images, Images]] = []

    def fit(config: Config, learnt: Images, validation: Images, unlabelled: Images, *rest: object) -> Fit:
        parts.append((learnt, validation, unlabelled))
        return Fit(new_network(config).eval(), 0)

    monkeypatch.setattr(evaluate, "fit", fit)
    config = Config.load(configuration(tmp_path, 4, 1))
    folds, nothing = splits.folds(images, 2, "patient", 0), np.zeros(60, dtype=bool)
    evaluate.in_folds(config, images, "folds", folds, nothing, tmp_path / "out")
    for learnt, validation, unlabelled in parts:
        assert (len(learnt), len(validation), len(unlabelled)) == (16, 4, 36)
        assert not set(validation.digests) & set(unlabelled.digests)
        assert set(learnt.digests) <= set(unlabelled.digests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --model DIR, --folds N, --leave-out FIELD"),
        (["--folds", "3", "--leave-out", "site"], "give one of"),
        (["--folds", "3", "--all"], "--all, --external and --agreement go with --model"),
        (["--model", "m", "--external", "kermany"], "give a CONFIG.toml, or --external"),
    ],
)
def test_an_evaluation_has_one_protocol(cxrsearch: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    ran = cxrsearch("evaluate", tmp_path / "config.toml", "--out", tmp_path / "out", *arguments)
    assert ran.code == 2
    assert message in ran.err


def test_a_field_that_no_image_has_cannot_be_left_out(cxrsearch: Run, tmp_path: Path) -> None:
    config, out = configuration(tmp_path, 24, 1), tmp_path / "out"
    ran = cxrsearch("evaluate", config, "--leave-out", "sites", "--out", out)
    assert ran.code == 4
    assert "--leave-out: no image has a field 'sites'. Did you mean 'site'? The fields are dataset, finding" in ran.err
    assert not out.exists()


def test_a_model_of_another_picture_size_is_refused(cxrsearch: Run, tmp_path: Path) -> None:
    from cxrsearch.model_card import DEFAULT_MODEL

    ran = cxrsearch("evaluate", configuration(tmp_path, 24, 1), "--model", DEFAULT_MODEL, "--out", tmp_path / "out")
    assert ran.code == 4
    assert "set network.image_size" in ran.err


def test_an_audit_finds_planted_risks(cxrsearch: Run, tmp_path: Path) -> None:
    """Two hospitals with a class each, one patient in both classes, one picture twice, a field only one class has."""
    rows, rng = ["file,patient,finding,site,crp"], np.random.default_rng(0)
    for n in range(60):
        sick, name = n % 2 == 0, f"{n}.png"
        cloud(rng, sick).resize((128, 128) if sick else (96, 128)).save(tmp_path / name)
        patient = "4711" if n in (0, 1) else f"p{n}"
        rows.append(
            f"{name},{patient},{'<b>sick' if sick else 'well'},{'north' if sick else 'south'},{'7' if sick else ''}"
        )
    (tmp_path / "copy.png").write_bytes((tmp_path / "6.png").read_bytes())
    rows.append("copy.png,p-other,well,south,")
    (tmp_path / "facts.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "set.toml").write_text(
        'name = "set"\n[images]\ntable = "facts.csv"\npath = "{file}"\n[patient]\ncolumn = "patient"\n'
        '[fields.finding]\ncolumn = "finding"\ntype = "keyword"\n[fields.site]\ncolumn = "site"\ntype = "keyword"\n'
        '[fields.crp]\ncolumn = "crp"\ntype = "float"\n'
    )
    ran = cxrsearch("audit", tmp_path / "set.toml", "--format", "json", "--out", tmp_path / "audit.html")
    assert ran.code == 3, ran.err
    found = json.loads(ran.out)
    risks = {risk["risk"]: risk["words"] for risk in found["risks"] if risk["found"]}
    assert "1 patients" in risks["patients in several classes"]
    assert "1 patients" in risks["patients in several sites (site)"]
    assert found["exact_duplicates"] == [["set image 7", "set image 61"]]
    assert found["near_duplicates"][0]["kind"] == "different classes"
    assert found["near_duplicates"][0]["bits"] == 0
    assert "image shape tells" in risks["shortcuts to finding"]
    assert "image shape tells" in risks["shortcuts to site"]
    assert "crp" in risks["missing values that tell the class"]
    assert "patients unknown" not in found
    assert found["label_by_site"]["well"] == {"south": 31}
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert "<b>sick" not in page
    assert "&lt;b&gt;sick" in page
    assert "4711" not in page + ran.out
    assert "6.png" not in page + ran.out
    named = cxrsearch("audit", tmp_path / "set.toml", "--paths", "--format", "json")
    assert json.loads(named.out)["exact_duplicates"] == [["set 6.png", "set copy.png"]]


def test_an_audit_of_a_clean_set_is_clear(cxrsearch: Run, tmp_path: Path) -> None:
    """Noise: every picture different, shape and size telling nothing, every patient in one class."""
    rng = np.random.default_rng(0)
    for n in range(60):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,p{n},{'ab'[n % 2]}" for n in range(60)]
    (tmp_path / "facts.csv").write_text("\n".join(["file,patient,finding", *rows]) + "\n")
    (tmp_path / "set.toml").write_text(
        'name = "set"\n[images]\ntable = "facts.csv"\npath = "{file}"\n[patient]\ncolumn = "patient"\n'
        '[fields.finding]\ncolumn = "finding"\ntype = "keyword"\n'
    )
    ran = cxrsearch("audit", tmp_path / "set.toml")
    assert ran.code == 0, ran.out
    assert "RISK" not in ran.out
    assert "not shown: 60 images, 2 values: too few to rule it out" in ran.out
    assert "No patient number has more than one image" in ran.out


def test_an_audit_finds_a_number_that_is_two_people(cxrsearch: Run, tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["file,patient,finding,sex,age"]
    people = [
        ("1", "F", 40),
        ("1", "M", 41),
        ("2", "F", 30),
        ("2", "F", 71),
        ("3", "M", 200),
        ("4", "M", 5),
        ("4", "m", 9),
    ]
    for n, (patient, sex, age) in enumerate(people):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / f"{n}.png")
        rows.append(f"{n}.png,{patient},a,{sex},{age}")
    (tmp_path / "facts.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "set.toml").write_text(
        'name = "set"\nimages = { table = "facts.csv", path = "{file}" }\npatient.column = "patient"\n'
        'fields.finding = { column = "finding", type = "keyword" }\nfields.sex = { column = "sex", type = "keyword" }\n'
        'fields.age = { column = "age", type = "integer" }\n'
    )
    ran = cxrsearch("audit", tmp_path / "set.toml", "--format", "json")
    assert ran.code == 3, ran.err
    risks = {risk["risk"]: risk["words"] for risk in json.loads(ran.out)["risks"] if risk["found"]}
    assert risks["one patient, two sexes"].startswith("1 patient numbers have two sexes")
    assert risks["impossible ages"].startswith("1 images have an age that nobody has; 1 patient numbers have ages")


def test_an_audit_wants_a_root_for_each_dataset(cxrsearch: Run, tmp_path: Path) -> None:
    ran = cxrsearch("audit", "darkcovidnet", "covid-chestxray", "--root", tmp_path)
    assert ran.code == 2
    assert "--root once for each DATASET" in ran.err


@pytest.mark.data
@pytest.mark.slow
def test_the_risks_of_darkcovidnet_and_its_neighbour_are_found(cxrsearch: Run, data: Path, tmp_path: Path) -> None:
    ran = cxrsearch("audit", "darkcovidnet", "--root", data / "darkcovidnet", "--format", "json")
    assert ran.code == 3
    alone = json.loads(ran.out)
    assert alone["patients_in_several_classes"] == 21
    assert len(alone["near_duplicates"]) >= 3
    best = {(s["source"], s["target"]): s for s in alone["shortcuts"]}[("image shape", "finding")]
    assert best["best"] == "COVID-19"
    assert best["auc"] > 0.95
    roots = ["--root", data / "darkcovidnet", "--root", data / "covid-chestxray"]
    both = json.loads(cxrsearch("audit", "darkcovidnet", "covid-chestxray", *roots, "--format", "json").out)
    shared = [pair for pair in both["near_duplicates"] if len({name.split()[0] for name in pair["images"]}) == 2]
    assert len(shared) >= 80
    known = next(v for v in both["risks"] if v["risk"] == "patients unknown")
    assert "near duplicates tell whose 118 of them are" in known["words"]
