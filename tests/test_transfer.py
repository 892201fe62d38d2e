"""Transfer: an effect of known size is found within its interval, noise is not; leaks are refused, sites left out."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, outcome_index, outcomes
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrsearch.errors import InputError, UsageError
from cxrsearch.model_card import DEFAULT_MODEL, read_card
from indexer.phantoms import write_cohort
from trainer.metrics import probabilities as scores
from trainer.transfer import cases as casing
from trainer.transfer import models, transfer

MakeIndex = Callable[..., Path]


@pytest.fixture
def make_index(tmp_path: Path) -> MakeIndex:
    def make(name: str = "index", **given: Any) -> Path:
        return outcome_index(tmp_path / name, **given)

    return make


@pytest.fixture(autouse=True)
def _fewer_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of six, still chosen among: most of the time goes into fitting each on every inner fold. The example of the
    command's help, which test_settings.py runs, chooses among all."""
    monkeypatch.setattr(models, "_STRENGTHS", (0.01, 0.1, 1.0))


# ---------------------------------------------------------------- figures


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), count=st.integers(8, 60), ties=st.booleans())
def test_figures_agree_with_scikit_learn_weighted_or_not(seed: int, count: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    score = rng.random(count).round(1) if ties else rng.random(count)
    positive = rng.random(count) < 0.4
    positive[:2] = [True, False]
    weights = rng.integers(0, 3, size=(2, count)).astype(float)
    weights[:, :2] = 1
    for row in range(2):
        expected = roc_auc_score(positive, score, sample_weight=weights[row])
        assert scores.auc(score, positive, weights)[row] == pytest.approx(expected)
        expected = average_precision_score(positive, score, sample_weight=weights[row])
        assert scores.auprc(score, positive, weights)[row] == pytest.approx(expected)
        expected = np.average((score - positive) ** 2, weights=weights[row])
        assert scores.brier(score, positive, weights)[row] == pytest.approx(expected)


def test_the_calibration_slope_is_that_of_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(size=400)
    positive = rng.random(400) < 1 / (1 + np.exp(-0.6 * logit))
    fitted = LogisticRegression(C=1e9).fit(logit[:, None], positive)
    found = scores.calibration_slope(1 / (1 + np.exp(-logit)), positive, np.ones((1, 400)))
    assert found[0] == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-3)


def test_figures_of_numbers() -> None:
    truth, said = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 1.5, 3.5, 3.5])
    ones = np.ones((1, 4))
    assert scores.mae(said, truth, ones)[0] == pytest.approx(0.5)
    assert scores.r2(said, truth, ones)[0] == pytest.approx(1 - 1 / 5)
    assert scores.pearson(said, truth, ones)[0] == pytest.approx(np.corrcoef(said, truth)[0, 1])


# ---------------------------------------------------------------- what it finds, and does not


def synthetic(people: int, effect: float, seed: int) -> tuple[casing.Cases, np.ndarray]:
    import pandas as pd

    vectors, age, died, chance = outcomes(people, effect, seed)
    facts = pd.DataFrame({"age": age})
    owners = np.array([f"P{n}" for n in range(people)])
    return casing.Cases(
        "outcome",
        ("survived", "died"),
        vectors,
        died.astype(float),
        owners,
        facts,
        {},
        [{} for _ in owners],
        list(owners),
        {},
    ), chance


@pytest.mark.slow
def test_a_planted_effect_is_within_its_interval_and_noise_covers_a_half_in_nine_of_ten_seeds_or_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """95 % of many seeds; of these 24, at least 21 (a true 95 % gives fewer once in thirty-three times).

    The planted truth is the AUC of the very probabilities the outcomes were drawn from, which an unbiased model
    approaches from below as cases grow; on noise the truth is one half. The seeds are others than those on which
    the widening of intervals was found to be needed.
    """
    monkeypatch.setattr(transfer, "BOOTSTRAPS", 200)
    monkeypatch.setattr(models, "_STRENGTHS", (0.03, 0.3))
    monkeypatch.setattr(models, "_IMAGE_WEIGHTS", (0.3, 1.0))
    seeds, held_effect, held_noise, gains = 24, 0, 0, 0
    for seed in range(seeds):
        cases, chance = synthetic(400, 1.0, seed + 5000)
        found = transfer.in_folds(cases, 1, seed)
        ones = np.ones((1, len(cases)))
        truth = scores.auc(chance, cases.truth == 1, ones)[0]
        auc = found.figures[transfer.BOTH]["AUC"]
        held_effect += auc.low <= truth <= auc.high
        gains += found.gain["AUC"].low > 0
        noise, _ = synthetic(200, 0.0, seed + 6000)
        noise = replace(noise, facts=noise.facts[[]])  # the model of the image alone, as it is beside any facts
        auc = transfer.in_folds(noise, 1, seed).figures[transfer.IMAGE]["AUC"]
        held_noise += auc.low <= 0.5 <= auc.high
    assert held_effect >= 21
    assert held_noise >= 21
    assert gains >= 12  # what the image adds to age is seen in most


def test_an_auc_within_folds_gives_nothing_for_knowing_the_folds() -> None:
    """Left-out hospitals of different base rates, each given the rate of the others: pooled, that ranks backwards."""
    rng = np.random.default_rng(0)
    parts = np.repeat(np.arange(4), 50)
    positive = rng.random(200) < np.array([0.1, 0.3, 0.6, 0.9])[parts]
    score = np.array([positive[parts != part].mean() for part in range(4)])[parts]
    ones = np.ones((1, 200))
    assert scores.auc(score, positive, ones)[0] < 0.25
    assert scores.auc(score, positive, ones, parts)[0] == pytest.approx(0.5)
    inside = [
        (roc_auc_score(positive[parts == p], rank), sum(positive[parts == p]) * sum(~positive[parts == p]))
        for p in range(4)
        for rank in [np.arange(50)]
    ]
    expected = sum(area * pairs for area, pairs in inside) / sum(pairs for _, pairs in inside)
    assert scores.auc(np.tile(np.arange(50.0), 4), positive, ones, parts)[0] == pytest.approx(expected)


def test_one_site_is_left_out_at_a_time(make_index: MakeIndex, cxrsearch: Run) -> None:
    ran = cxrsearch(
        "transfer", "--index", make_index(), "--target", "outcome", "--leave-out", "site", "--format", "json"
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["protocol"] == "one site left out at a time"
    assert found["images"] == 200
    assert found["models"]["both"]["AUC"]["value"] > 0.7


# ---------------------------------------------------------------- the command


def test_models_baselines_and_what_the_image_adds(make_index: MakeIndex, cxrsearch: Run, tmp_path: Path) -> None:
    index = make_index()
    common = ["transfer", "--index", index, "--target", "outcome", "--repeats", 2]
    ran = cxrsearch(*common, "--format", "json", "--out", tmp_path / "page.html")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert list(found["models"]) == [
        "clinical facts",
        "image embedding",
        "both",
        "site alone",
        "image shape alone",
        "neighbours' vote",
        "base rate",
    ]
    assert found["inputs"] == ["age", "sex", "site"]
    assert found["patients"] == 180
    assert set(found["classes"]) == {"survived", "died"}
    without = ("base rate", "neighbours' vote")
    for name, figures in found["models"].items():
        assert set(figures) | ({"slope"} if name in without else set()) == {"AUC", "AUPRC", "Brier", "slope", "ECE"}
    auc = {name: figures["AUC"]["value"] for name, figures in found["models"].items()}
    assert auc["both"] > auc["clinical facts"] > 0.55
    assert auc["image embedding"] > 0.65
    assert 0.4 < auc["base rate"] < 0.6
    assert found["both_minus_clinical_facts"]["AUC"]["low"] > 0
    refused = found["refused"]
    assert "after the image was taken" in refused["icu"]
    assert "free text" in refused["notes"]
    assert "AUC 1.000" in refused["code"]
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "its file is not here" in page
    assert "site_Daegu" in page
    table = cxrsearch(*common[:-1], 1)
    assert "both minus clinical facts" in table.out
    assert "not used: code: it alone predicts outcome" in table.err
    assert cxrsearch(*common, "--format", "json").out == ran.out  # seeds make it repeat


def test_a_number_is_predicted_too(make_index: MakeIndex, cxrsearch: Run) -> None:
    ran = cxrsearch(
        "transfer", "--index", make_index(), "--target", "severity", "--with", "age", "--repeats", 1, "--format", "json"
    )
    assert ran.code == 0, ran.err
    models_ = json.loads(ran.out)["models"]
    assert set(models_["both"]) == {"r", "R2", "MAE"}
    assert models_["both"]["R2"]["value"] > models_["clinical facts"]["R2"]["value"] > 0.3


def test_leaks_are_refused_by_name_and_taken_when_trusted(make_index: MakeIndex, cxrsearch: Run) -> None:
    common = ["transfer", "--index", make_index(), "--target", "outcome", "--repeats", 1]
    for field, why in (
        ("icu", "only after the image"),
        ("notes", "free text"),
        ("outcome", "the target itself"),
        ("study_date", "a date"),
        ("width", "how the image was made"),
    ):
        ran = cxrsearch(*common, "--with", f"age,{field}")
        assert ran.code == 2
        assert why in ran.err
    assert "Did you mean 'age'" in cxrsearch(*common, "--with", "agee").err
    ran = cxrsearch(*common, "--trust", "icu,code", "--format", "json")
    assert set(json.loads(ran.out)["inputs"]) == {"age", "sex", "site", "icu", "code"}
    assert json.loads(ran.out)["models"]["clinical facts"]["AUC"]["value"] > 0.98


def test_too_few_events_give_the_number_that_is_needed_and_no_figure(make_index: MakeIndex, cxrsearch: Run) -> None:
    ran = cxrsearch("transfer", "--index", make_index(people=50), "--target", "outcome", "--where", "age >= 75")
    assert ran.code == 4
    assert "at least 15 of every value are needed" in ran.err
    assert ran.out == ""


def test_from_one_dataset_to_another(make_index: MakeIndex, cxrsearch: Run) -> None:
    index = make_index(people=400)
    sides = ["--fit-on", 'site in ("Daegu", "Hannover")', "--test-on", 'site = "Seoul"']
    ran = cxrsearch("transfer", "--index", index, "--target", "outcome", *sides, "--format", "json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["images"] == 133
    assert found["models"]["both"]["AUC"]["value"] > 0.65
    assert cxrsearch("transfer", "--index", index, "--target", "outcome", *sides[:2]).code == 2


def test_a_saved_model_says_of_a_new_image_what_it_says_of_its_embedding(
    make_index: MakeIndex, cxrsearch: Run, tmp_path: Path, cohort: Path
) -> None:
    from cxrsearch.retrieval.prediction import Predictor

    index = make_index(dimensions=read_card(DEFAULT_MODEL).dimensions, effect=2.0)
    saved = tmp_path / "outcome.json"
    ran = cxrsearch("transfer", "--index", index, "--target", "outcome", "--repeats", 1, "--save", saved)
    assert ran.code == 0, ran.err
    image = next(cohort.parent.rglob("*.dcm"))
    ran = cxrsearch("search", image, "--index", index, "--predict", saved, "--vote", "outcome", "--format", "json")
    assert ran.code == 0, ran.err
    prediction = json.loads(ran.out)[0]["prediction"]
    assert sum(prediction["predicted"].values()) == pytest.approx(1)
    assert set(prediction["card"]["figures"]) >= {"AUC", "ECE"}
    shown = cxrsearch("search", image, "--index", index, "--predict", saved)
    assert "prediction of outcome" in shown.out
    assert "patients it did not see: AUC" in shown.out
    # The file's numbers are those of the scikit-learn model it came from.
    from cxrsearch.store import open_store

    with open_store(str(index)) as store:
        cases = casing.load(store, "outcome")
    table = models.frame(cases.vectors, None)
    model = models.fitted(
        table, cases.truth, 2, cases.vectors.shape[1], models.inner_folds(cases.truth, cases.owners, 2, 0)
    )
    expected = model.predict_proba(table)[:, 1]
    predictor = Predictor(saved)
    found = [predictor.predict(vector).predicted[cases.classes[1]] for vector in cases.vectors]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_prediction_for_another_encoder_or_a_damaged_one_is_refused(
    make_index: MakeIndex, cxrsearch: Run, tmp_path: Path, cohort: Path
) -> None:
    index, saved = make_index(dimensions=read_card(DEFAULT_MODEL).dimensions), tmp_path / "outcome.json"
    assert cxrsearch("transfer", "--index", index, "--target", "icu", "--repeats", 1, "--save", saved).code == 0
    image, text = next(cohort.parent.rglob("*.dcm")), saved.read_text("utf-8")
    data = json.loads(text)
    for changed, code, message in (
        (json.dumps({**data, "fingerprint": "0" * 64}), 6, "fitted on embeddings of"),
        (json.dumps({**data, "mean": data["mean"][1:]}), 4, "do not fit together"),
        (json.dumps({**data, "mean": [float("nan")] * len(data["mean"])}), 4, "do not fit together"),
        ("[]", 4, "not a model of cxrsearch transfer"),
        (text[:200], 4, "not a model of cxrsearch transfer"),
    ):
        saved.write_text(changed, "utf-8")
        ran = cxrsearch("search", image, "--index", index, "--predict", saved)
        assert ran.code == code
        assert message in ran.err


def test_the_way_to_a_second_hospital_that_the_page_shows(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cohorts whose tables call things otherwise, one index, one filter over both, one transfer."""
    from indexer.phantoms import write_cohort

    for name in ("north", "south"):
        folder = tmp_path / name
        toml = write_cohort(folder, patients=70, size=96)
        text = toml.read_text("utf-8").replace('name = "phantoms"', f'name = "{name}"\n')
        table = folder / "clinical.csv"
        if name == "south":
            header, rows = table.read_text("utf-8").split("\n", 1)
            header = header.replace("outcome", "discharge_status").replace("icu", "intensive_care")
            table.write_text(header + "\n" + rows, "utf-8")
            text = text.replace('column = "outcome"', 'column = "discharge_status"')
            text = text.replace('column = "icu"', 'column = "intensive_care"')
        text = text.replace("[images]", f'[images]\nroot = "{name}"', 1)
        (tmp_path / f"{name}.toml").write_text(text, "utf-8")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "transfer.md").read_text("utf-8")
    block = re.search(r"```console\n(.*?)```", page, re.DOTALL)
    assert block is not None
    commands = [line[2:] for line in block[1].splitlines()]
    assert len(commands) == 4
    for command in commands:
        ran = cxrsearch(*shlex.split(command)[1:])
        assert ran.code == 0, (command, ran.err)
    assert "fitted on dataset = " in ran.out


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("notes", UsageError, "predict a keyword, boolean or number"),
        ("path", UsageError, "predict a keyword"),
        ("outcom", UsageError, "Did you mean 'outcome'"),
    ],
)
def test_a_target_that_cannot_be_one(make_index: MakeIndex, target: str, error: type[Exception], message: str) -> None:
    from cxrsearch.store import open_store

    with open_store(str(make_index(people=60))) as store, pytest.raises(error, match=message):
        casing.load(store, target)


def test_a_site_with_all_the_patients_cannot_be_left_out(make_index: MakeIndex) -> None:
    from cxrsearch.store import open_store

    with open_store(str(make_index(people=120, sites=1))) as store:
        cases = casing.load(store, "outcome")
    assert set(cases.values("site")) == {"Daegu"}
    with pytest.raises(InputError, match="--leave-out site: fewer than two values are known; nothing to leave out"):
        transfer.leaving_out(cases, "site", 0)


@pytest.mark.parametrize("kind", ["one value each", "the same patients", "one image"])
def test_sites_that_cannot_judge_each_other_are_refused(kind: str) -> None:
    cases, _ = synthetic(120, 1.0, 0)
    number = np.arange(120)
    sites = np.where(cases.truth == 1, "A", "B")
    if kind == "the same patients":
        cases, sites = replace(cases, owners=np.array([f"P{n // 2}" for n in number])), np.where(number % 2, "A", "B")
    elif kind == "one image":
        sites = np.where(number, "A", "B")
    cases = replace(cases, payloads=[{"site": str(site)} for site in sites])
    with pytest.raises(InputError, match="--leave-out site: no site can be judged by the others"):
        transfer.leaving_out(cases, "site", 0)


def test_a_site_of_one_value_is_judged_beside_sites_of_both() -> None:
    cases, _ = synthetic(120, 1.0, 0)
    sites = np.array(["A", "B", "C"])[np.arange(120) % 3]
    sites[(sites == "C") & (cases.truth == 1)] = "A"
    found = transfer.leaving_out(replace(cases, payloads=[{"site": str(site)} for site in sites]), "site", 0)
    assert found.judged.all()
    assert 0.5 < found.figures["both"]["AUC"].value < 1


def test_a_case_is_never_shown_by_a_file_that_changed_since_it_was_indexed(cxrsearch: Run, tmp_path: Path) -> None:
    from cxrsearch.store import open_store
    from cxrsearch.store.images import StoredImages
    from trainer.transfer.report import picture

    toml = write_cohort(tmp_path / "set", patients=8, size=96)
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    with open_store(str(tmp_path / "index")) as store:
        cases, images = casing.load(store, "outcome"), StoredImages(store)
    original = picture(cases, 0, images)
    changed = toml.parent / str(cases.payloads[0]["path"])
    other = next(path for path in sorted(toml.parent.rglob("*.dcm")) if path != changed)
    changed.write_bytes(other.read_bytes())
    thumbnail = picture(cases, 0, images)
    assert None not in (original, thumbnail)
    store.thumbnails.remove([cases.ids[0]])
    assert picture(cases, 0, images) is None
