"""Cohorts side by side, exported, held against an image; words found in notes; pictures that are there twice."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from factories import Run
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.clinical.excerpts import excerpt, plain, searched_words
from cxrsearch.clinical.expression import And, Contains, Equals, Not, words
from cxrsearch.imaging.read import read
from indexer.phantoms import write_cohort


def rows(cxrsearch: Run, *arguments: object) -> Any:
    ran = cxrsearch("cohort", *arguments, "--format", "json")
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_two_cohorts_side_by_side(cxrsearch: Run, index: Path) -> None:
    found = rows(cxrsearch, "--index", index, "--where", 'site = "North"', "--versus", 'site = "South"')
    everyone = rows(cxrsearch, "--index", index)
    by_value = {(row["field"], row["value"]): row for row in found["rows"]}
    for side, site in (("first", "North"), ("second", "South")):
        of_site = [row for row in everyone if row["site"] == site]
        for value in ("F", "M"):
            expected = {row["patient"] for row in of_site if row["sex"] == value}
            part = by_value["sex", value][side]
            assert part["patients"] == len(expected)
            assert part["known"] == len({row["patient"] for row in of_site})
            assert part["low"] <= part["share"] <= part["high"]
        missing = {row["patient"] for row in of_site} - {row["patient"] for row in of_site if "outcome" in row}
        assert by_value["outcome", None][side]["patients"] == len(missing)
        ages: dict[str, list[int]] = {}
        for row in of_site:
            ages.setdefault(row["patient"], []).append(row["age"])
        assert by_value["age", ""][side]["known"] == len(ages)
    difference = by_value["sex", "F"]["difference"]
    assert difference[1] <= difference[0] <= difference[2]
    assert found["shared"] == 0
    table = cxrsearch("cohort", "--index", index, "--where", 'site = "North"', "--versus", 'site = "South"').out
    assert "95 % intervals" in table
    assert "median" in table


def test_patients_of_both_cohorts_are_told_of(cxrsearch: Run, index: Path) -> None:
    ran = cxrsearch("cohort", "--index", index, "--where", "age >= 30", "--versus", "age >= 50")
    assert "patients are in both" in ran.out


def test_a_cohort_as_csv_and_parquet(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    import pandas

    where = ["--index", index, "--where", 'site = "South"']
    number = len(rows(cxrsearch, *where))
    for name in ("c.csv", "c.parquet"):
        ran = cxrsearch("cohort", *where, "--export", tmp_path / name)
        assert ran.out == f"wrote {number} images to {tmp_path / name}\n"
        assert (tmp_path / name).stat().st_mode & 0o077 == 0
    with (tmp_path / "c.csv").open() as table:
        assert {row["site"] for row in csv.DictReader(table)} == {"South"}
    frame = pandas.read_parquet(tmp_path / "c.parquet")
    assert len(frame) == number
    assert frame["age"].dtype.kind == "i"
    assert all(len(finding) >= 1 for finding in frame["finding"].dropna())
    assert sorted(path.name for path in tmp_path.glob("c.*")) == ["c.csv", "c.parquet"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--export", "cohort.xlsx"], 2, "ends in .csv or .parquet"),
        (["--export", "/nowhere/c.csv"], 4, "cannot be written"),
        (["--by", "site", "--versus", "age > 3"], 2, "give one of"),
        (["--versus", 'site = "Sout"'], 2, "--versus: no image has site = 'Sout'. Did you mean 'South'?"),
        (["--similar-to", "none/nowhere.png"], 4, "none/nowhere.png: does not exist"),
        (["--similar-to", "https://example.org/a.png"], 4, "is an address; images are read from files"),
        (["--similar-to", "none.png", "--by", "site:10"], 2, "--by site:10: only numbers and dates are grouped"),
        (["--by", "notes"], 2, "--where 'notes contains \"word\"'"),
        (["--by", "site", "--show"], 2, "--show goes with --where alone"),
    ],
)
def test_what_cannot_be_done(cxrsearch: Run, index: Path, arguments: list[str], code: int, message: str) -> None:
    ran = cxrsearch("cohort", "--index", index, *arguments)
    assert (ran.code, message in ran.err) == (code, True), ran.err


def test_how_alike_a_cohort_is(cxrsearch: Run, cohort: Path, index: Path) -> None:
    image = sorted(cohort.parent.rglob("*.dcm"))[0]
    found = rows(cxrsearch, "--index", index, "--similar-to", image, "--by", "site")
    hits = json.loads(cxrsearch("search", image, "--index", index, "-k", 30, "--format", "json").out)[0]["hits"]
    for row in found:
        scores = [hit["score"] for hit in hits if hit["site"] == row["site"]]
        assert row["images"] == len(scores)
        assert row["0%"] == pytest.approx(min(scores), abs=1e-4)
        assert row["100%"] == pytest.approx(max(scores), abs=1e-4)
    assert sum(row["images"] for row in found) == 30  # not the image itself, nor its patient's other one
    steps = rows(cxrsearch, "--index", index, "--similar-to", image, "--by", "age:20")
    named = [row["age:20"] for row in steps if row["age:20"] is not None]
    assert named == sorted(named)
    for row in steps:
        low = float(str(row["age:20"]).split()[0]) if row["age:20"] is not None else None
        scores = [hit["score"] for hit in hits if (hit["age"] // 20 * 20 if "age" in hit else None) == low]
        assert (row["images"], row["100%"]) == (len(scores), pytest.approx(max(scores), abs=1e-4))


def test_the_words_around_a_match_are_shown(cxrsearch: Run, cohort: Path, index: Path) -> None:
    image = sorted(cohort.parent.rglob("*.dcm"))[0]
    where = 'notes contains "OPACITIES" and site = "South"'
    (found,) = json.loads(cxrsearch("search", image, "--index", index, "--where", where, "--format", "json").out)
    assert found["hits"]
    for hit in found["hits"]:
        assert "opacities" in hit["excerpts"]["notes"]
    assert "patchy peripheral opacities" in cxrsearch("search", image, "--index", index, "--where", where).out


def test_only_what_was_searched_words_is_shown() -> None:
    tree = And((Contains("notes", "Fever, cough"), Not(Contains("notes", "death")), Equals("site", ("a",))))
    assert searched_words(tree) == {"notes": frozenset({"fever", "cough"})}
    long = "x " * 200 + "a FEVER began " + "y " * 200
    pieces = excerpt(long, frozenset({"fever"}))
    assert [piece for piece, found in pieces if found] == ["FEVER"]
    assert len(plain(pieces)) < 150
    assert plain(pieces).startswith("…")
    assert excerpt("nothing here", frozenset({"fever"})) == ()


@given(st.text(max_size=400), st.text(max_size=10))
def test_an_excerpt_is_a_piece_of_the_text(text: str, word: str) -> None:
    pieces = excerpt(text, frozenset(words(word)))
    shown = plain(pieces)
    assert shown.removeprefix("…").removesuffix("…") in text
    assert all(piece.lower() in words(word) for piece, found in pieces if found)


def test_a_picture_under_two_patients_comes_first(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=9, size=160)
    with (tmp_path / "set/clinical.csv").open(newline="") as table:
        listed = list(csv.DictReader(table))
    north, south = (next(row for row in listed if row["site"] == site) for site in ("North", "South"))
    shutil.copy(tmp_path / "set" / north["file"], tmp_path / "set" / "south/copy.dcm")
    with (tmp_path / "set/clinical.csv").open("a", newline="") as table:
        csv.DictWriter(table, listed[0]).writerow(south | {"file": "south/copy.dcm", "patient": "OTHER"})
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    ran = cxrsearch("duplicates", "--index", tmp_path / "index", "--format", "json")
    assert ran.code == 0, ran.err
    first = json.loads(ran.out)["pairs"][0]
    assert first["kind"] == "two patients, two sites"
    assert first["bits"] == 0
    assert {first["path 1"], first["path 2"]} == {north["file"], "south/copy.dcm"}
    # The copy is not the query's file by name, and is its file by content: the search leaves both out, also when it
    # asks with another file of the picture. Where they are let in, they are warned of.
    from PIL import Image

    pixels = read(tmp_path / "set" / north["file"])[0].pixels
    Image.fromarray((pixels * 255).astype("uint8")).save(tmp_path / "same.png")
    asked = ("search", tmp_path / "same.png", "--index", tmp_path / "index", "--format", "json")
    (found,) = json.loads(cxrsearch(*asked).out)
    assert {north["file"], "south/copy.dcm"}.isdisjoint(hit["path"] for hit in found["hits"])
    (found,) = json.loads(cxrsearch(*asked, "--same-patient").out)
    assert any("nearly the same picture as the query" in line for line in found["warnings"])


def test_phantoms_of_two_patients_are_hardly_ever_called_duplicates(cxrsearch: Run, tmp_path: Path) -> None:
    """The 120 images of ``make demo``: 7,140 pairs."""
    assert cxrsearch("index", write_cohort(tmp_path / "set"), "--index", tmp_path / "index").code == 0
    ran = cxrsearch("duplicates", "--index", tmp_path / "index", "--format", "json")
    kinds = Counter(pair["kind"] for pair in json.loads(ran.out)["pairs"])
    assert kinds["two patients"] + kinds["two patients, two sites"] <= 20
    assert kinds["one patient"] >= 25  # of 30 that come twice


def test_a_lateral_among_frontals_is_warned_of(cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path) -> None:
    import pydicom

    lateral = pydicom.dcmread(sorted(cohort.parent.rglob("*.dcm"))[0])
    lateral.ViewPosition, lateral.PatientID = "LL", "SOMEBODY ELSE"
    lateral.save_as(tmp_path / "lateral.dcm")
    for format in ("table", "json", "jsonl", "csv"):
        ran = cxrsearch("search", tmp_path / "lateral.dcm", "--index", index, "--format", format)
        assert "the query is a lateral view and 10 of its 10 hits are frontal ones" in ran.out
