"""Tables and folders as people have them: no row is shifted, lost or read twice, and what is left out is counted."""

import csv
import io
import os
import unicodedata
from pathlib import Path
from typing import Any

import pydicom
import pytest
from factories import Run, points, write_mapping, write_picture
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.errors import MappingError, Reason
from cxrsearch.text import tidy
from indexer.dataset import Dataset, load
from indexer.folder import files
from indexer.mapping import FieldMapping
from indexer.phantoms import draw, write_dicom

MAPPING = """
name = "t"
[images]
table = "table.csv"
path = "data/{scan}.png"
[patient]
column = "patient"
[fields.finding]
column = "finding"
type = "keyword"
"""
LISTS = MAPPING + "separator = ','\n"


def dataset(folder: Path, toml: str, table: str, scans: int = 6) -> Dataset:
    return load(write_mapping(folder, toml, table, tuple(f"data/{n}.png" for n in range(1, scans + 1))))


def facts(data: Dataset) -> list[tuple[str, str | None, object]]:
    return [(record.key, record.patient, record.payload.get("finding")) for record in data.records()]


def indexable(folder: Path, toml: str, table: str, scans: int) -> str:
    (folder / "data").mkdir()
    for n in range(1, scans + 1):
        write_picture(folder / "data" / f"{n}.png", draw("Pneumonia", n, size=64))
    return write_mapping(folder, toml, table)


# ---------------------------------------------------------------- the shape of a table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("scan,patient,age,finding\n1,7,50,COVID-19,\n2,8,40,None\n", "first line has 4 cells, but line 2 has 5"),
        ("scan,patient,age,finding\n1,7,50,COVID-19\n2,8,,40,None\n", "but line 3 has 5"),
        ("scan,patient,age,finding\n1,7,50,COVID-19\n2,8,40\n", "but line 3 has 3"),
        ("scan,patient,finding\n" + "1,7,a,\n" * 5, "line 2 has 4, line 3 has 4, line 4 has 4 and 2 more"),
        ('scan,patient,finding,notes\n1,P1,a,ok\n2,P2,b,"nodule\n3,P3,c,ok\n4,P4,d,"fine"\n', "line 3: text follows"),
        ('scan,patient,finding\n1,P1,a\n2,P2,"b\n3,P3,c\n', "line 3: a quote .* never closed"),
        ('scan,patient,finding,notes\n1,P1,"a,ok\n2,P2,b",ok\n', "line 3 is inside a cell .* names a file of its own"),
        ('scan,patient,finding\n1,P1,"a" b\n', "line 2: text follows a closing quote"),
        ('scan,patient,finding\n1,P1,"' + "x" * 200_000, "line 2: a cell of more than 131,072 .* or its text is too"),
        ("scan,patient,finding,finding\n1,P1,a,b\n", "has 2 columns 'finding'"),
        ("\nscan,patient,finding\n1,P1,a\n", "names no columns"),
    ],
)
def test_a_table_that_would_shift_or_lose_rows_is_refused_by_its_line(tmp_path: Path, table: str, message: str) -> None:
    with pytest.raises(MappingError, match=message) as refused:
        dataset(tmp_path, MAPPING, table)
    assert refused.value.exit_code == 4


def test_a_table_with_the_mark_of_utf_16_says_what_to_set(tmp_path: Path) -> None:
    table = "scan,patient,finding\n1,P1,a\n"
    path = write_mapping(tmp_path, MAPPING, table, ("data/1.png",))
    (tmp_path / "table.csv").write_text(table, "utf-16")
    with pytest.raises(MappingError, match=r'table\.csv: UTF-16; set images\.encoding = "utf-16"$'):
        load(path)


def test_a_table_with_the_mark_of_utf_8_and_other_bytes_says_what_is_common(tmp_path: Path) -> None:
    mapping = MAPPING.replace("[images]", '[images]\nencoding = "utf-8"')
    path = write_mapping(tmp_path, mapping, "", ("data/1.png",))
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbfscan,patient,finding\n1,P1,\xe4\n")
    with pytest.raises(MappingError, match=r"csv: not text in utf-8; set images\.encoding \(latin-1 is common\)$"):
        load(path)


def test_text_of_several_lines_in_quotes_is_one_row(tmp_path: Path) -> None:
    table = 'scan,patient,finding,notes\n1,P1,a,"one, two, three,\nfour"" five"\n\n2,P2,b,\n , ,,\n'
    data = dataset(tmp_path, MAPPING, table)
    assert facts(data) == [("data/1.png", "P1", "a"), ("data/2.png", "P2", "b")]
    assert [record.row for record in data.records()] == [2, 4]
    assert data.table is not None
    assert data.table.running == [(2, 3)]
    assert data.row_counts == {"read": 2, "refused": 0, "left out by [select]": 0, "blank": 2}


CELL = st.text(st.sampled_from("ab \u00a0\u200bé\"',;\n\t|"), max_size=6)


@given(rows=st.lists(st.tuples(CELL, CELL, st.sampled_from(["X-ray", " X-ray\u00a0", "CT"])), min_size=1, max_size=8))
def test_what_is_written_as_csv_is_read_back_and_adds_up(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("scan", "patient", "finding", "modality"), *((str(n), *row) for n, row in enumerate(rows))])
    toml = MAPPING + "[select]\nmodality = 'X-ray'\n"
    folder = tmp_path_factory.mktemp("csv")
    expected = [
        (f"data/{n}.png", tidy(patient) or None, tidy(finding) or None)
        for n, (patient, finding, modality) in enumerate(rows)
        if "X" in modality
    ]
    if not expected:
        with pytest.raises(MappingError, match="no rows left after"):
            dataset(folder, toml, text.getvalue(), 0)
        return
    data = dataset(folder, toml, text.getvalue(), 0)
    assert facts(data) == expected
    assert sum(data.row_counts.values()) == len(rows)


@given(st.text(st.sampled_from('12,"\n\r ab'), max_size=40))
def test_any_table_is_an_error_or_adds_up(tmp_path_factory: pytest.TempPathFactory, body: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    try:
        data = dataset(folder, MAPPING, "scan,patient,finding\n" + body, 2)
    except MappingError:
        return
    rows = list(csv.reader(io.StringIO(body, newline=""), strict=True))
    assert sum(data.row_counts.values()) == len(rows)
    assert len(list(data.records())) <= len(rows)


# ---------------------------------------------------------------- cells


@pytest.mark.parametrize("cell", ["X-ray ", " X-ray", "\u00a0X-ray", "X-ray\u200b", "\u202aX-ray\u202c", "X-ray\x00\t"])
def test_a_selected_cell_is_read_as_any_other(tmp_path: Path, cell: str) -> None:
    toml = MAPPING + "[select]\nmodality = '\u00a0X-ray'\n"
    table = f"scan,patient,finding,modality\n1,P1,a,X-ray\n2,P2,b,{cell}\n3,P3,c,CT\n"
    data = dataset(tmp_path, toml, table)
    assert [patient for _, patient, _ in facts(data)] == ["P1", "P2"]
    assert data.row_counts == {"read": 2, "refused": 0, "left out by [select]": 1, "blank": 0}


@pytest.mark.parametrize(
    "cell",
    ["No  Finding", "No\u00a0Finding", "No\u3000Finding\ufeff", "\u200fNo Finding", "No\u00ad Finding", "No\nFinding"],
)
def test_texts_that_look_the_same_are_one_value(tmp_path: Path, cell: str) -> None:
    toml = LISTS.replace("'finding'", "'finding'") + "values = { 'No\u00a0Finding' = 'none' }\n"
    for finding, expected in ((f'"{cell}"', ["none"]), (f'"a,{cell}"', ["a", "none"])):
        assert facts(dataset(tmp_path, toml, f"scan,patient,finding\n1,P\u00a01,{finding}\n")) == [
            ("data/1.png", "P 1", expected)
        ]


def test_a_word_for_not_known_is_none_inside_a_list(tmp_path: Path) -> None:
    table = 'scan,patient,finding\n1,unknown,"COVID-19, unknown"\n2,P2,unknown\n3,P3,"?, ARDS ,unknown\u00a0"\n'
    data = dataset(tmp_path, "missing = ['unknown']\n" + LISTS + "missing = '?'\n", table)
    assert facts(data) == [
        ("data/1.png", None, ["COVID-19"]),
        ("data/2.png", "P2", None),
        ("data/3.png", "P3", ["ARDS"]),
    ]


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-Infinity", "1_000", "0x10", "1e999", "\u0661\u0662", "1,5"])
def test_what_is_no_number_is_none(cell: str) -> None:
    present = FieldMapping.model_validate({"column": "x", "type": "boolean", "present": "number"})
    assert present.value(cell, frozenset()) is False
    for kind in ("integer", "float"):
        with pytest.raises(ValueError, match="number"):
            FieldMapping.model_validate({"column": "x", "type": kind}).value(cell, frozenset())


def test_a_separator_may_be_a_tab_or_a_new_line(tmp_path: Path) -> None:
    toml = MAPPING + 'separator = "\\n"\n'
    assert facts(dataset(tmp_path, toml, 'scan,patient,finding\n1,P1,"a\nb"\n'))[0][2] == ["a", "b"]


def test_what_a_pattern_does_not_take_is_counted(tmp_path: Path) -> None:
    toml = MAPPING + "[fields.age]\ncolumn = 'age'\ntype = 'integer'\npattern = '^(\\d+)$'\n"
    data = dataset(tmp_path, toml, "scan,patient,finding,age\n1,P1,a,42\n2,P2,b,50+\n3,P3,c,\n4,P4,d,50+\n")
    assert [record.payload.get("age") for record in data.records()] == [42, None, None, None]
    assert data.unmatched["age"] == 2


@pytest.mark.parametrize(
    ("declared", "place"),
    [
        (
            "[fields.n]\npath = 'stem'\ntype = 'integer'\npattern = '^(.*)$'\n",
            "path 'stem': the value 'x' is no number",
        ),
        ("[fields.n]\nconstant = 'abc'\ntype = 'integer'\n", "fields.n: constant: 'abc' is no number"),
        ("[fields.n]\nconstant = nan\ntype = 'float'\n", "fields.n: constant: 'nan' is no finite number"),
        ("[fields.n]\npath = 'stem'\ntype = 'integer'\npattern = 'a{99999999999}'\n", "fields.n.pattern: no regular"),
        ("[fields.n]\npath = 'stem'\ntype = 'number'\n", "fields.n.type: Input should be 'keyword', 'integer'"),
        ("[fields.n]\npath = 'name'\ntype = 'keyword'\n", "fields.n.path: Input should be 'stem'"),
        ("[fields.n]\ndicom = 'PatientAgee'\ntype = 'integer'\n", r"fields.n.dicom: .* Did you mean 'PatientAge'\?"),
        ("[fields.n]\npath = 'stem'\ntype = 'date'\nformats = '%Q'\n", "fields.n.formats: '%Q' is no date format"),
        ("[fields.n]\npath = 'stem'\ntype = 'boolean'\nvalues = { x = 'so' }\n", "fields.n: values.x: 'so' is neither"),
        ("[fields.n]\npath = 'stem'\ntype = 'keyword'\nseparator = ''\n", "fields.n.separator: String should have"),
        ("[patient]\ndicom = 'PatientNumber'\n", "patient.dicom: DICOM has no keyword 'PatientNumber'"),
        ("[privacy]\ndates = 'never'\n", "privacy.dates: Input should be 'keep'"),
    ],
)
def test_a_wrong_key_of_a_mapping_is_named(tmp_path: Path, cxrsearch: Run, declared: str, place: str) -> None:
    path = write_mapping(tmp_path, f"name = 't'\nimages.glob = '*.png'\n{declared}", files=("x.png",))
    with pytest.raises(MappingError, match=place):
        load(path)
    assert cxrsearch("index", path, "--index", tmp_path / "index").code == 4


@pytest.mark.parametrize("pattern", ["", "/abs/*.png", "**x/../**y"])
def test_a_glob_that_is_none_is_named(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(MappingError, match=r"images.glob|no files matching"):
        load(write_mapping(tmp_path, f"name = 't'\nimages.glob = '{pattern}'\n"))


def test_a_group_that_takes_no_part_in_a_match_is_missing() -> None:
    mapping = FieldMapping.model_validate({"column": "x", "type": "keyword", "pattern": "(a)|b"})
    assert [mapping.value(cell, frozenset()) for cell in ("a", "b")] == ["a", None]


# ---------------------------------------------------------------- one file on several rows


def test_lists_of_one_file_are_joined_and_gaps_filled(tmp_path: Path) -> None:
    table = 'scan,patient,finding\n1,P1,COVID-19\n1,,"ARDS,COVID-19"\n2,P2,a\n1,P1,\n'
    data = dataset(tmp_path, LISTS, table)
    assert facts(data) == [("data/1.png", "P1", ["COVID-19", "ARDS"]), ("data/2.png", "P2", ["a"])]
    assert data.repeated == [[2, 3, 5]]
    assert data.row_counts["read"] == 4


@pytest.mark.parametrize("rows", ["1,P1,COVID-19\n1,P1,Pneumonia\n", "1,P1,COVID-19\n1,P2,COVID-19\n"])
def test_rows_of_one_file_that_contradict_each_other_are_refused_and_named(
    cxrsearch: Run, tmp_path: Path, rows: str
) -> None:
    path = indexable(tmp_path, MAPPING, f"scan,patient,finding\n{rows}2,P2,No Finding\n", 2)
    first = cxrsearch("index", path, "--index", tmp_path / "index", "--workers", 1)
    assert first.code == 3
    assert first.out.startswith("1 indexed, 0 updated, 0 unchanged, 1 rejected")
    assert "3 rows in table.csv: 1 read, 2 refused, 0 left out by [select], 0 blank" in first.out
    assert "rows 2, 3 are of one file and differ in" in first.err
    (left,) = (tmp_path / "index" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert '"contradiction"' in left
    before = points(tmp_path / "index")
    again = cxrsearch("index", path, "--index", tmp_path / "index", "--workers", 1)
    assert again.out.startswith("0 indexed, 0 updated, 1 unchanged, 1 rejected")
    assert {n: p.payload for n, p in points(tmp_path / "index").items()} == {n: p.payload for n, p in before.items()}


def test_a_path_that_is_spelt_otherwise_is_the_same_file(cxrsearch: Run, tmp_path: Path) -> None:
    mapping = MAPPING.replace("{scan}.png", "{scan}")
    rows = "./1.png,P1,COVID-19\n1.png,P1,Pneumonia\n.//2.png,P2,No Finding\n2.png,P2,No Finding\n"
    path = indexable(tmp_path, mapping, f"scan,patient,finding\n{rows}", 2)
    ran = cxrsearch("index", path, "--index", tmp_path / "index", "--workers", 1)
    assert ran.out.startswith("1 indexed, 0 updated, 0 unchanged, 1 rejected")
    assert "rows 2, 3 are of one file and differ in" in ran.err


# ---------------------------------------------------------------- numbers of patients


def test_numbers_that_a_spreadsheet_spoilt_are_counted_with_row_column_and_key(cxrsearch: Run, tmp_path: Path) -> None:
    table = "scan,patient,finding\n1,1e5,a\n2,1E+05,b\n3,0042,a\n4,42,b\n5,7,a\n6,x8,b\n"

    def notes(key: str) -> list[str]:
        path = write_mapping(tmp_path, MAPPING.replace("[fields", f"{key}\n[fields"), table)
        ran = cxrsearch("index", path, "--index", tmp_path / "index", "--dry-run")
        assert ran.code == 0
        assert not [cell for cell in ("1e5", "0042", "x8") if cell in ran.out + ran.err]
        return [line for line in ran.err.splitlines() if line.startswith("note: patient: ")]

    scientific, zeros = notes("")
    assert "2 cells of column patient, the first in row 2, are written as 1E+05 is" in scientific
    assert "pattern = '^(\\d+)$' under [patient]" in scientific
    assert "2 cells of column patient, the first in row 4, have the number of another row but for zeros" in zeros
    (unmatched,) = notes("pattern = '^0*(\\d+)$'")
    assert "3 cells of column patient, the first in row 2, do not match the pattern of [patient]" in unmatched


# ---------------------------------------------------------------- names of files


def test_what_systems_leave_in_folders_is_passed_over(cxrsearch: Run, tmp_path: Path) -> None:
    folder = tmp_path / "stick"
    (folder / "__MACOSX").mkdir(parents=True)
    for n in range(3):
        write_dicom(folder / f"IM{n}.dcm", draw("Pneumonia", n, size=64))
        (folder / f"._IM{n}.dcm").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 200)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX/IM0.dcm"):
        (folder / name).write_bytes(b"\0" * 40)
    write_dicom(folder / "._real.dcm", draw("Pneumonia", 9, size=64))
    ran = cxrsearch("index", folder, "--index", tmp_path / "index", "--workers", 1)
    assert (ran.code, ran.out.split(" in ")[0]) == (0, "4 indexed, 0 updated, 0 unchanged, 0 rejected")


def test_each_file_of_a_folder_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").symlink_to("away.png")
    asked: list[str] = []
    monkeypatch.setattr("indexer.folder.is_file", lambda path: asked.append(path.name) or path.is_file())
    found = {name: problem is None for _, name, problem in files(tmp_path, ["*.png", "**/*.png"])}
    assert found == {"1.png": True, "2.png": False}
    assert sorted(asked) == ["1.png", "2.png"]


def test_a_name_that_is_no_utf8_is_a_rejection(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_dicom(tmp_path / "set" / "good.dcm", draw("Pneumonia", 1, size=64))
    os.rename(tmp_path / "set" / "good.dcm", os.fsencode(tmp_path / "set") + b"/M\xfcller.dcm")  # noqa: PTH104
    write_dicom(tmp_path / "set" / "good.dcm", draw("Pneumonia", 2, size=64))
    arguments = ("index", tmp_path / "set", "--index", tmp_path / "index", "--workers", 1, "--paths", "relative")
    ran = cxrsearch(*arguments)
    assert (ran.code, ran.out.split(" in ")[0]) == (3, "1 indexed, 0 updated, 0 unchanged, 1 rejected")
    (left,) = (tmp_path / "index" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert "its name is no text in UTF-8" in left
    assert cxrsearch(*arguments).out.startswith("0 indexed, 0 updated, 1 unchanged, 1 rejected")


@pytest.mark.parametrize("table", [True, False], ids=["table", "folder"])
def test_accents_written_otherwise_are_the_same_file_also_to_prune(cxrsearch: Run, tmp_path: Path, table: bool) -> None:
    composed, apart = (unicodedata.normalize(form, "M\u00fcller") for form in ("NFC", "NFD"))
    toml = MAPPING if table else "name = 't'\nimages.glob = 'data/*.png'\n"
    path = indexable(tmp_path, toml, f"scan,patient,finding\n{composed},P1,a\n", 1)
    arguments = ("index", path, "--index", tmp_path / "index", "--workers", 1, "--prune")
    (tmp_path / "data" / "1.png").rename(tmp_path / "data" / f"{composed}.png")
    assert cxrsearch(*arguments).out.startswith("1 indexed")
    (tmp_path / "data" / f"{composed}.png").rename(tmp_path / "data" / f"{apart}.png")
    again = cxrsearch(*arguments)
    assert again.out.startswith("0 indexed, 0 updated, 1 unchanged, 0 rejected")
    assert "no longer has" not in again.out
    assert len(points(tmp_path / "index")) == 1


def test_two_files_whose_names_differ_in_accents_alone_are_not_one(tmp_path: Path) -> None:
    names = tuple(unicodedata.normalize(form, "M\u00fcller.png") for form in ("NFC", "NFD"))
    path = write_mapping(tmp_path, "name = 't'\nimages.glob = '*.png'\n", files=names)
    problems = [record.problem for record in load(path).records()]
    assert sorted(str(problem and problem.reason) for problem in problems) == ["None", str(Reason.UNREADABLE)]


# ---------------------------------------------------------------- ages


@pytest.mark.parametrize(
    ("age", "years"),
    [("050Y", 50), ("50Y", 50), ("42", 42), ("006M", 0), ("018M", 1), ("12W", 0), ("3D", 0), ("104w", 1), (" 7 Y", 7)],
)
def test_an_age_is_years_in_whatever_unit(age: str, years: int) -> None:
    whole, exact = (FieldMapping.model_validate({"dicom": "PatientAge", "type": kind}) for kind in ("integer", "float"))
    assert whole.value(age, frozenset()) == years
    value = exact.value(age, frozenset())
    assert isinstance(value, float)
    assert years <= value < years + 1


def test_ages_of_a_folder_are_read_or_counted(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for n, age in enumerate(["050Y", "50Y", "42", "006M", "old", "999Y"]):
        path = tmp_path / "set" / f"{n}.dcm"
        write_dicom(path, draw("Pneumonia", n, size=64))
        header: Any = pydicom.dcmread(path)
        with pydicom.config.disable_value_validation():
            header.PatientAge = age
            header.save_as(path)
    ran = cxrsearch("index", tmp_path / "set", "--index", tmp_path / "index", "--workers", 1)
    assert ran.code == 0
    assert "field age: 2 DICOM values could not be used and are missing" in ran.err
    ages = [point.payload.get("age") for point in points(tmp_path / "index").values()]
    assert sorted(age for age in ages if isinstance(age, int)) == [0, 42, 50, 50]
