"""The right patient: who is left out, who is forgotten, and that two datasets never share an identity by accident."""

import dataclasses
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import Run, points, write_picture
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrsearch.clinical.identity import Numbering, load_identity, whole_number
from cxrsearch.errors import IndexUnavailable
from cxrsearch.settings import key_file
from cxrsearch.store.contract import Point
from cxrsearch.store.edge import EdgeStore
from indexer.phantoms import draw, write_dicom

BY_PATTERN = """
name = "set"
images.glob = ["*.dcm"]
images.root = "files"
missing = ["unknown"]
[patient]
dicom = "PatientID"
pattern = '^KH-0*([0-9]+|unknown)'
"""


def dicom(path: Path, patient: str, body: int, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(path, draw("Pneumonia", body, size=96), facts={"patient": patient}, **more)
    return path


def search(cxrsearch: Run, *arguments: object) -> dict[str, Any]:
    ran = cxrsearch("search", *arguments, "-k", 50, "--format", "json")
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)
    return dict(found)


def said(result: dict[str, Any], words: str) -> bool:
    return any(words in warning for warning in result["warnings"])


def test_search_and_forget_read_a_number_as_index_did(cxrsearch: Run, tmp_path: Path) -> None:
    """By the dataset's pattern, with its missing words, whatever white space and accents are written how."""
    for number, patient in enumerate(("KH-0042", "KH-7", "KH-unknown", "other")):
        dicom(tmp_path / "files" / f"{number}.dcm", patient, number)
    (tmp_path / "set.toml").write_text(BY_PATTERN)
    index = tmp_path / "index"
    ran = cxrsearch("index", tmp_path / "set.toml", "--index", index, "--workers", 1)
    assert "2 images have no patient number" in ran.out
    assert "4 of 2 patients, 2 of unknown patients" in cxrsearch("info", "--index", index).out
    result = search(cxrsearch, dicom(tmp_path / "new.dcm", "KH-42 second visit", 90), "--index", index)
    assert [hit["path"] for hit in result["hits"] if hit["path"] == "0.dcm"] == []
    assert len(result["hits"]) == 3
    assert len(result["query"]["left_out"]) == 1
    stranger = search(cxrsearch, dicom(tmp_path / "stranger.dcm", "KH-unknown", 91), "--index", index)
    assert stranger["query"]["left_out"] == []
    assert said(stranger, "this file's patient is not known to the index")
    assert cxrsearch("forget", "KH-0042", "--index", index, "--dry-run").out == "dry run: 1 images would be deleted\n"
    assert len(points(index)) == 4
    ran = cxrsearch("forget", "KH-0042", "--index", index)
    assert (ran.code, "images of this patient: set 1" in ran.err) == (0, True)
    assert len(points(index)) == 3
    again = cxrsearch("index", tmp_path / "set.toml", "--index", index, "--workers", 1)
    assert "1 files of forgotten patients were left out" in again.out


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_that_look_alike_are_one_number(text: str) -> None:
    numbering = Numbering(missing=("not known",))
    number = numbering.number(text)
    for other in (
        unicodedata.normalize("NFD", text),
        f"\u00a0{text}\x00",
        text.replace(" ", "\u200b \t"),
        f"\ufeff{text}",
    ):
        assert numbering.number(other) == number
    assert numbering.number(" not\u00a0 known\n") is None


def test_a_whole_number_with_decimals_is_the_patient_without(cxrsearch: Run, tmp_path: Path) -> None:
    """As data frames write a column with gaps; three zeros may be thousands."""
    cells = ("12", "12.0", "12.00", '"12,0"', "12.000", "112")
    for n in range(len(cells)):
        write_picture(tmp_path / f"{n}.png", draw("Pneumonia", n, size=64))
    rows = "".join(f"{n},{cell}\n" for n, cell in enumerate(cells))
    (tmp_path / "t.csv").write_text(f"scan,id\n{rows}")
    (tmp_path / "set.toml").write_text(
        'name = "set"\n[images]\ntable = "t.csv"\npath = "{scan}.png"\n[patient]\ncolumn = "id"\n'
    )
    index = tmp_path / "index"
    assert cxrsearch("index", tmp_path / "set.toml", "--index", index, "--workers", 1).code == 0
    assert "6 of 3 patients" in cxrsearch("info", "--index", index).out
    hits = search(cxrsearch, dicom(tmp_path / "new.dcm", "12.0", 90), "--index", index, "--dataset", "set")["hits"]
    assert {hit["path"] for hit in hits} == {"4.png", "5.png"}
    for number in ("12", "12.0"):
        ran = cxrsearch("forget", number, "--index", index, "--dry-run")
        assert ran.out == "dry run: 4 images would be deleted\n", ran.err


@pytest.fixture
def of_an_older_version(cxrsearch: Run, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A mapping, and its index in which 12.0 is another patient than 12; the older version until the test ends it."""
    for n in range(2):
        write_picture(tmp_path / f"{n}.png", draw("Pneumonia", n, size=64))
    (tmp_path / "t.csv").write_text("scan,id\n0,12.0\n1,112\n")
    toml, index = tmp_path / "set.toml", tmp_path / "index"
    toml.write_text('name = "set"\n[images]\ntable = "t.csv"\npath = "{scan}.png"\n[patient]\ncolumn = "id"\n')
    with pytest.MonkeyPatch.context() as older:
        older.setattr("cxrsearch.clinical.identity.whole_number", lambda text: text)
        assert cxrsearch("index", toml, "--index", index, "--workers", 1).code == 0
        yield toml, index


@pytest.mark.parametrize("number", ["12", "12.0"])
def test_a_whole_number_with_decimals_is_found_as_an_older_version_stored_it(
    cxrsearch: Run, of_an_older_version: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    toml, index = of_an_older_version
    monkeypatch.setattr("cxrsearch.clinical.identity.whole_number", whole_number)
    assert cxrsearch("forget", number, "--index", index).out.startswith("deleted 1 image;")
    assert "1 files of forgotten patients" in cxrsearch("index", toml, "--index", index, "--workers", 1).out


def test_a_whole_number_with_decimals_stays_forgotten_as_by_an_older_version(
    cxrsearch: Run, of_an_older_version: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    toml, index = of_an_older_version
    assert cxrsearch("forget", "12.0", "--index", index).out.startswith("deleted 1 image;")
    monkeypatch.setattr("cxrsearch.clinical.identity.whole_number", whole_number)
    run = ("index", toml, "--index", index, "--workers", 1)
    assert "1 files of forgotten patients" in cxrsearch(*run).out
    assert len(points(index)) == 1
    assert cxrsearch(*run, "--again").out.startswith("1 indexed")
    assert cxrsearch(*run).out.startswith("0 indexed, 0 updated, 2 unchanged")


def test_a_number_of_a_header_means_no_other(cxrsearch: Run, tmp_path: Path) -> None:
    for number, patient in enumerate(("12", "12.0")):
        dicom(tmp_path / "files" / f"{number}.dcm", patient, number)
    index = tmp_path / "index"
    assert cxrsearch("index", tmp_path / "files", "--index", index, "--workers", 1).code == 0
    for patient in ("12", "12.0"):
        ran = cxrsearch("forget", patient, "--index", index, "--dry-run")
        assert ran.out == "dry run: 1 images would be deleted\n", ran.err


def test_an_argument_of_forget_that_is_no_text_is_refused(cxrsearch: Run, index: Path) -> None:
    ran = cxrsearch("forget", "M\udcffller", "--index", index)
    assert (ran.code, ran.err) == (2, "cxrsearch: PATIENT: no text in UTF-8. Give the pseudonym that search shows.\n")


def test_two_folders_without_a_mapping_are_two_datasets(cxrsearch: Run, tmp_path: Path) -> None:
    """Of equal file names and equal patient numbers."""
    a, b, index = tmp_path / "a", tmp_path / "b", tmp_path / "index"
    for number in range(3):
        dicom(a / f"IM{number:04d}.dcm", f"{4711 + number}", number)
        dicom(b / f"IM{number:04d}.dcm", f"{4711 + number}", number + 10)
    assert cxrsearch("index", a, "--index", index, "--workers", 1).code == 0
    before = set(points(index))
    ran = cxrsearch("index", b, "--index", index, "--workers", 1)
    assert (ran.code, "--name" in ran.err) == (4, True)
    assert set(points(index)) == before
    assert cxrsearch("index", b, "--index", index, "--workers", 1, "--name", "b").code == 0
    (b / "IM0002.dcm").unlink()
    pruned = cxrsearch("index", b, "--index", index, "--workers", 1, "--name", "b", "--prune")
    assert "1 images that the dataset no longer has were deleted" in pruned.out
    assert before < set(points(index))
    assert len(points(index)) == 5
    # a number is a patient of one hospital: of that whose it is said to be, else of none
    query = dicom(tmp_path / "new.dcm", "4711", 90)
    unsaid = search(cxrsearch, query, "--index", index)
    assert unsaid["query"]["left_out"] == []
    assert said(unsaid, "one of dicom-folder and one of b: nobody was left out for it; say with --dataset")
    of_b = search(cxrsearch, query, "--index", index, "--dataset", "b")
    assert [hit["dataset"] for hit in of_b["hits"]].count("dicom-folder") == 3
    assert len(of_b["hits"]) == 4
    only_here = search(cxrsearch, dicom(tmp_path / "c.dcm", "4713", 91), "--index", index)
    assert len(only_here["hits"]) == 4
    assert said(only_here, "was taken for one of dicom-folder")
    assert cxrsearch("search", query, "--index", index, "--dataset", "c").code == 2
    # and forgetting wants to know it too
    refused = cxrsearch("forget", "4711", "--index", index)
    assert refused.code == 2
    for words in ("dicom-folder 1", "b 1", "--dataset"):
        assert words in refused.err
    assert "4711" not in refused.err
    assert cxrsearch("forget", "4711", "--index", index, "--dataset", "b").out.startswith("deleted 1 image;")
    assert before < set(points(index))
    # the folder of a dataset may move, when that is said
    moved = a.rename(tmp_path / "moved")
    assert cxrsearch("index", moved, "--index", index, "--workers", 1).code == 4
    ran = cxrsearch("index", moved, "--index", index, "--workers", 1, "--name", "dicom-folder")
    assert ran.out.startswith("0 indexed, 0 updated, 3 unchanged")


def test_a_file_inside_a_dataset_is_of_that_dataset(cxrsearch: Run, tmp_path: Path) -> None:
    """By its header's number, or by the part of its path that the dataset takes for one."""
    for name in ("north", "south"):
        dicom(tmp_path / name / "7" / "x.dcm", "7", ord(name[0]))
        of = 'path = "folder"' if name == "south" else 'dicom = "PatientID"'
        (tmp_path / f"{name}.toml").write_text(
            f'name = "{name}"\nimages = {{ glob = "**/*.dcm", root = "{name}" }}\n[patient]\n{of}\n'
        )
        assert cxrsearch("index", tmp_path / f"{name}.toml", "--index", tmp_path / "i", "--workers", 1).code == 0
    north = search(cxrsearch, dicom(tmp_path / "north" / "8" / "y.dcm", "7", 50), "--index", tmp_path / "i")
    assert [hit["dataset"] for hit in north["hits"]] == ["south"]
    south = search(cxrsearch, dicom(tmp_path / "south" / "7" / "y.dcm", "8", 51), "--index", tmp_path / "i")
    assert [hit["dataset"] for hit in south["hits"]] == ["north"]


def test_a_file_that_lost_frames_leaves_none_behind(cxrsearch: Run, tmp_path: Path) -> None:
    index, file = tmp_path / "index", dicom(tmp_path / "set" / "a.dcm", "1", 1)
    dicom(tmp_path / "set" / "a.dcm#2", "2", 2)  # a name that is no frame of the other
    dataset: Any = pydicom.dcmread(file)
    pixels = dataset.PixelData
    for frames in (3, 1):
        dataset.NumberOfFrames = frames
        dataset.PixelData = pixels if frames == 1 else pixels + pixels[::-1] + pixels[2:] + pixels[:2]
        dataset.save_as(file)
        assert cxrsearch("index", tmp_path / "set", "--index", index, "--workers", 1).code == 0
        assert len(points(index)) == frames + 1
        assert len(list((index / "thumbnails").rglob("*.jpg"))) == frames + 1


@pytest.mark.parametrize("is_killed", [False, True])
def test_one_who_is_forgotten_during_a_run_is_gone_though_it_is_killed(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_killed: bool
) -> None:
    """Killed before it deleted what it had in hand, the next run said that the patient is left out, and left it."""
    dataset: Any = pydicom.dcmread(file := dicom(tmp_path / "set" / "a.dcm", "1", 1))
    dataset.NumberOfFrames, dataset.PixelData = 2, dataset.PixelData + dataset.PixelData[::-1]
    dataset.save_as(file)
    stored = EdgeStore.upsert

    def forgotten_meanwhile(store: EdgeStore, batch: list[Point]) -> None:
        identity = load_identity(key_file())
        assert identity is not None
        token = identity.forgotten(str(batch[0].payload["patient"]))
        store.declare(dataclasses.replace(store.facts, forgotten=frozenset({token})))
        stored(store, batch)
        if is_killed:
            raise IndexUnavailable("as if killed here")

    run = ("index", tmp_path / "set", "--index", tmp_path / "index", "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(EdgeStore, "upsert", forgotten_meanwhile)
        ran = cxrsearch(*run)
    if is_killed:
        assert (ran.code, len(points(tmp_path / "index"))) == (5, 2)
        ran = cxrsearch(*run)
    assert "1 files of forgotten patients were left out" in ran.out
    assert points(tmp_path / "index") == {}


def test_an_index_inside_the_folder_is_not_read_as_images(cxrsearch: Run, tmp_path: Path) -> None:
    dicom(tmp_path / "a.dcm", "1", 1)
    for _ in range(2):
        ran = cxrsearch("index", tmp_path, "--index", tmp_path / "index", "--workers", 1)
        assert (ran.code, len(points(tmp_path / "index"))) == (0, 1), ran.err


def pictures(folder: Path, bodies: list[int]) -> Path:
    """A folder of PNG files and its dataset: each body's finding, and its patient but for every third."""
    folder.mkdir()
    rows = ["file,patient,finding"]
    for number, body in enumerate(bodies):
        Image.fromarray((draw("Pneumonia", body, size=192) * 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{'' if number % 3 == 2 else f'{folder.name}{number}'},{'xy'[body % 2]}")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    (folder / "set.toml").write_text(
        f'name = "{folder.name}"\nimages = {{ table = "t.csv", path = "{{file}}" }}\npatient.column = "patient"\n'
        'fields.finding = { column = "finding", type = "keyword" }\n'
    )
    return folder / "set.toml"


def test_a_picture_stored_twice_is_named_and_has_one_voice(cxrsearch: Run, tmp_path: Path) -> None:
    index = tmp_path / "index"
    first = cxrsearch("index", pictures(tmp_path / "one", list(range(12))), "--index", index, "--workers", 1)
    assert "more than once" not in first.out
    second = cxrsearch("index", pictures(tmp_path / "two", [0, 1, 20, 21]), "--index", index, "--workers", 1)
    assert "2 pictures are in the index more than once:\n  one 0.png, two 0.png\n  one 1.png, two 1.png\n" in second.out
    query = tmp_path / "new.png"
    Image.fromarray((draw("Pneumonia", 77, size=192) * 255).astype(np.uint8)).save(query)
    result = search(cxrsearch, query, "--index", index, "--vote", "finding")
    assert len(result["hits"]) == 16
    vote = result["vote"]
    assert (vote["patients"], vote["unknown"]) == (9, 5)
    table = cxrsearch("search", query, "--index", index, "--vote", "finding").out
    assert "9 patients and 5 images of unknown patients vote" in table
    # the same picture in another format, under another patient's number, is the own patient's all the same
    small = Image.open(tmp_path / "one" / "3.png")
    small.resize((small.width * 3 // 4, small.height * 3 // 4), Image.Resampling.LANCZOS).save(tmp_path / "copy.jpg")
    copy = search(cxrsearch, tmp_path / "copy.jpg", "--index", index)
    assert {"one 3.png"} == {f"{p.payload['dataset']} {p.payload['path']}" for p in points(index).values()} - {
        f"{hit['dataset']} {hit['path']}" for hit in copy["hits"]
    }
    assert len(copy["query"]["left_out"]) == 1
    assert said(copy, "left out: 1 images that are the same picture")
    own = search(cxrsearch, tmp_path / "one" / "0.png", "--index", index)
    assert "0.png" not in {hit["path"] for hit in own["hits"]}
    assert len(own["hits"]) == 14


def test_without_the_key_nobody_is_known(cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, file = tmp_path / "index", dicom(tmp_path / "set" / "a.dcm", "1", 1)
    assert cxrsearch("index", tmp_path / "set", "--index", index, "--workers", 1).code == 0
    new = dicom(tmp_path / "new.dcm", "1", 2)
    assert search(cxrsearch, file, "--index", index)["hits"] == search(cxrsearch, new, "--index", index)["hits"] == []
    monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(tmp_path / "none"))
    result = search(cxrsearch, new, "--index", index)
    assert len(result["hits"]) == 1
    assert said(result, "the pseudonym key is not here")
    ran = cxrsearch("forget", "1", "--index", index)
    assert (ran.code, "no pseudonym key" in ran.err) == (4, True)
