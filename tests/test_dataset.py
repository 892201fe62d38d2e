"""The mapping language: a TOML and a table become facts, or an error that names the place."""

from pathlib import Path

import pytest
from factories import write_mapping
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.errors import MappingError, Reason
from indexer.dataset import load
from indexer.mapping import FieldMapping
from indexer.mapping_file import shipped

TABLE = 'name = "t"\n[images]\ntable = "table.csv"\npath = "{file}"\n'


def only_field(folder: Path, field: str, cell: str, extra: str = "") -> object:
    """The value that a field declaration gives for one cell of column x."""
    quoted = '"' + cell.replace('"', '""') + '"'
    path = write_mapping(
        folder,
        f"{extra}{TABLE}[fields.f]\ncolumn = 'x'\n{field}\n[privacy]\nfree_text = true\n",
        f"file,x\na.png,{quoted}\n",
    )
    (record,) = load(path).records()
    return record.payload.get("f")


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("type = 'keyword'", "  O\u0308st ", "\u00d6st"),  # Unicode NFC
        ("type = 'integer'", "65.0", 65),
        ("type = 'float'", "38.5", 38.5),
        ("type = 'boolean'", "Y", True),
        ("type = 'boolean'", "no", False),
        ("type = 'boolean'\nvalues = { gestorben = true }", "gestorben", True),
        ("type = 'keyword'\nvalues = { Y = 'survived', N = 'died' }", "N", "died"),
        ("type = 'keyword'\nseparator = ','", "COVID-19, ARDS", ["COVID-19", "ARDS"]),
        ("type = 'keyword'\nseparator = '|'", "A|A|", ["A"]),
        ("type = 'keyword'\nseparator = ','", " , ", None),
        ("type = 'date'", "2020-03-01", "2020-03-01"),
        ("type = 'date'\nformats = ['%B %d, %Y', '%d.%m.%y']", "January 22, 2020", "2020-01-22"),
        ("type = 'date'\nformats = ['%B %d, %Y', '%d.%m.%y']", "1.3.20", "2020-03-01"),
        ("type = 'date'\nformats = 'excel'", "45321", "2024-01-30"),
        ("type = 'date'\nformats = ['%d.%m.%Y', 'excel-1904']", "43859.75", "2024-01-30"),
        ("type = 'boolean'\npresent = 'number'", "-4.0", True),
        ("type = 'boolean'\npresent = 'number'", "", False),
        ("type = 'boolean'\npresent = 'text'", "anything", True),
        ("type = 'integer'\npattern = '^(\\d+)$'", "50+", None),
        ("type = 'integer'\npattern = '(\\d{4})'", "March 2003", 2003),
        ("type = 'keyword'", "", None),
        ("type = 'keyword'\nmissing = '?'", "?", None),
        ("type = 'text'", "line one\nline two\x1b[31m", "line one line two [31m"),
    ],
)
def test_a_cell_becomes_a_value(tmp_path: Path, field: str, cell: str, value: object) -> None:
    found = only_field(tmp_path, field, cell)
    assert found == value
    assert type(found) is type(value)


def test_missing_words_hold_for_the_whole_table(tmp_path: Path) -> None:
    assert only_field(tmp_path, "type = 'boolean'", "?", extra="missing = ['?', 'todo']\n") is None


def test_a_folder_names_the_label_and_a_stem_the_patient(tmp_path: Path) -> None:
    toml = """name = "f"
    images.glob = ["*/*.png"]
    patient = { path = "stem", pattern = '^(\\d{8})_' }
    fields.finding = { path = "folder", type = "keyword", values = { "No_findings" = "No Finding" } }
    fields.year = { path = "full", type = "integer", pattern = 'y(\\d{4})' }
    fields.source = { constant = "x", type = "keyword" }
    """
    path = write_mapping(tmp_path, toml, files=("No_findings/00011097_002.png", "Covid-19/case-y2020.png", "notes.txt"))
    covid, none = load(path).records()
    assert (covid.patient, covid.payload) == (None, {"finding": "Covid-19", "year": 2020, "source": "x"})
    assert (none.patient, none.payload) == ("00011097", {"finding": "No Finding", "source": "x"})


def test_rows_are_selected(tmp_path: Path) -> None:
    path = write_mapping(
        tmp_path,
        TABLE + "[select]\nmodality = 'X-ray'\nview = ['PA', 'AP']\n",
        "file,modality,view\na,X-ray,PA\nb,CT,PA\nc,X-ray,L\nd,X-ray,AP\n",
    )
    assert [(record.key, record.row) for record in load(path).records()] == [("a", 2), ("d", 5)]


FIELD = "[fields.age]\ncolumn = 'age'\ntype = 'integer'\n"


@pytest.mark.parametrize(
    ("toml", "table", "message"),
    [
        (TABLE + FIELD, "file,Age\na,1\n", r"fields.age.column: table.csv has no column 'age'. Did you mean 'Age'\?"),
        (TABLE, "image\na\n", r"images.path \(\{file\}\): table.csv has no column 'file'. It has 1"),
        (TABLE + "[select]\nmod = 'X'\n", "file\na\n", "select.mod: table.csv has no column 'mod'"),
        (TABLE + FIELD, "file,age\na,1\nb,old\nc,old\n", r"column 'age', row 3: the value is no number \(2 rows"),
        (TABLE + FIELD, "file,age\na,1.5\n", "row 2: the value is no integer"),
        (
            TABLE + "[fields.d]\ncolumn = 'd'\ntype = 'date'\n",
            "file,d\na,2020-02-30\n",
            "column 'd', row 2: the value is no date of the form YYYY-MM-DD",
        ),
        (
            TABLE + "[fields.d]\ncolumn = 'd'\ntype = 'date'\n",
            "file,d\na,45321\n",
            r'row 2: the value is no date .*; as a day that Excel counted, formats = \["excel"\] reads it',
        ),
        (
            TABLE + "[fields.d]\ncolumn = 'd'\ntype = 'date'\nformats = 'excel'\n",
            "file,d\na,45321\nb,60\nc,3e6\n",
            "row 3: the value is no date of the form excel .*\n.*row 4: the value is no date",
        ),
        (
            TABLE + "[fields.b]\ncolumn = 'b'\ntype = 'boolean'\n",
            "file,b\na,perhaps\n",
            "row 2: the value is neither true",
        ),
        (
            TABLE + "[fields.f]\ncolumn = 'f'\ntype = 'float'\n",
            "file,f\na,-inf\n",
            "row 2: the value is no finite number",
        ),
        (TABLE + "[fields.f]\ncolum = 'f'\ntype = 'float'\n", "file\na\n", r"no such key. Did you mean 'column'\?"),
        (TABLE + "[fields.f]\ncolumn = 'f'\n", "file\na\n", "fields.f.type: Field required"),
        (TABLE + "[fields.f]\ntype = 'float'\n", "file\na\n", "exactly one of column, path, dicom, constant"),
        (TABLE + "[fields.patient]\ncolumn = 'f'\ntype = 'float'\n", "file\na\n", "used by cxrsearch itself"),
        (TABLE + "[fields.'a b']\ncolumn = 'f'\ntype = 'float'\n", "file\na\n", "small letters, digits and _"),
        (TABLE + "[fields.f]\ncolumn = 'f'\ntype = 'keyword'\npattern = '('\n", "file\na\n", "no regular expression"),
        (TABLE, "file\n", "no rows left after"),
        (TABLE, "", "not a table that can be read"),
        (TABLE, None, "no such table. Say with --root"),
        ("name = ", None, "not valid TOML"),
        ("name = 'x'\n[images]\nglob = '*.png'\n", None, "no files matching"),
        ("name = 'x'\n[images]\nglob = '*.toml'\n" + FIELD, None, "no table to take a column from"),
        ("name = '../x'\n[images]\nglob = '*.png'\n", None, "name: String should match"),
    ],
)
def test_a_wrong_mapping_says_where(tmp_path: Path, toml: str, table: str | None, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        load(write_mapping(tmp_path, toml, table))


def test_a_name_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=r"Did you mean 'darkcovidnet'\? Shipped: actualmed, brixia, covid"):
        load("darkcovid-net")
    with pytest.raises(MappingError, match=r"no such folder\. Say with --root"):
        load("darkcovidnet", tmp_path / "nowhere")


@pytest.mark.parametrize("cell", ["../secret.png", "/etc/passwd", "a/../../x.png", "..\\x.png", "link/x.png"])
def test_a_table_cannot_name_a_file_outside_the_dataset(tmp_path: Path, cell: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "secret.png").touch()
    (tmp_path / "set" / "link").symlink_to(tmp_path)
    (record,) = load(write_mapping(tmp_path / "set", TABLE, f"file\n{cell}\n")).records()
    assert record.problem is not None
    assert record.problem.reason is Reason.OUTSIDE_ROOT


def test_a_star_in_the_path_is_one_file_and_a_star_in_a_cell_is_text(tmp_path: Path) -> None:
    toml = 'name = "t"\n[images]\ntable = "table.csv"\npath = "images/{id}.*"\n'
    files = ("images/a.jpg", "images/b.jpg", "images/b.png")
    one, several, star = load(write_mapping(tmp_path, toml, "id\na\nb\n*\n", files)).records()
    assert (one.key, one.problem) == ("images/a.jpg", None)
    assert str(several.problem).startswith("2 files match 'images/{id}.*'; several = true")
    assert str(star.problem) == "0 files match 'images/{id}.*'"


ACTUALMED = (
    "patientid,offset,sex,age,finding,survival,temperature,pO2 saturation,view,modality,imagename,"
    "artifacts/distortion,notes\n"
    'P1,,,,No finding,,,,PA,X-ray,CR.1.png,,"Negative, date taken (YYYYMMDD): 20200317"\n'
)
FIGURE1 = (
    "patientid,offset,sex,age,finding,survival,temperature,pO2 saturation,view,modality,originalfile,"
    "artifacts/distortion,notes\n"
    "COVID-00003b,8,M,50+,COVID-19,,39.1,91-92,AP erect,X-ray,x.jpeg,,na\xefve\n"
)
HANNOVER = (
    "patient_id,image_id,sex,age,icu_admission_offset,death_offset,projection,crp_val\n"
    "p1,i1,m,,-2.0,,ap,-inf\np2,i2,f,60.0,,14.0,pa,5.0\n"
)


def test_the_shipped_mappings_read_their_tables(tmp_path: Path) -> None:
    """Rows in the form of the originals, which cannot be downloaded here."""
    tables = {
        "actualmed": ("metadata.csv", ACTUALMED, "utf-8"),
        "figure1": ("metadata.csv", FIGURE1, "latin-1"),
        "hannover": ("data.csv", HANNOVER, "utf-8"),
    }
    found = {}
    for name, (table, text, encoding) in tables.items():
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / table).write_bytes(text.encode(encoding))
        found[name] = list(load(name, tmp_path / name).records())
    (actualmed,), (figure1,) = found["actualmed"], found["figure1"]
    assert actualmed.payload == {"finding": "No Finding", "view": "PA", "study_date": "2020-03-17"}
    assert figure1.patient == "COVID-00003"
    assert figure1.payload == {
        "finding": "COVID-19",
        "view": "AP erect",
        "sex": "M",
        "day": 8,
        "temperature": 39.1,
        "notes": "naïve",
    }
    icu, died = found["hannover"]
    assert (icu.key, icu.payload["icu"], icu.payload["died"], icu.payload["days_to_icu"]) == (
        "png/i1.png",
        True,
        False,
        -2.0,
    )
    assert "crp" not in icu.payload
    assert (died.payload["icu"], died.payload["died"], died.payload["view"]) == (False, True, "PA")


@pytest.mark.data
def test_the_real_sets_are_read_whole(data: Path) -> None:
    chest = list(load("covid-chestxray", data / "covid-chestxray").records())
    dark = list(load("darkcovidnet", data / "darkcovidnet").records())
    bare = list(load("covid-cxnet", data / "covid-cxnet").records())
    assert (len(chest), len({record.patient for record in chest})) == (501, 305)
    assert sum("COVID-19" in record.payload.get("finding", []) for record in chest) == 344  # type: ignore[operator]
    assert (len(dark), sum(record.patient is None for record in dark)) == (1124, 124)
    assert (len(bare), {record.patient for record in bare}) == (834, {None})
    assert all(record.path.is_file() for record in (*chest, *dark, *bare))


def test_every_shipped_mapping_is_documented() -> None:
    page = (Path(__file__).parent.parent / "docs" / "reference" / "mapping.md").read_text("utf-8")
    assert [name for name in shipped() if f"`{name}`" not in page] == []


@given(cell=st.text(max_size=30), kind=st.sampled_from(["keyword", "integer", "float", "boolean", "date", "text"]))
def test_any_cell_gives_a_value_a_gap_or_a_value_error(cell: str, kind: str) -> None:
    import contextlib

    separator = None if kind == "text" else ","
    mapping = FieldMapping.model_validate({"column": "x", "type": kind, "separator": separator})
    with contextlib.suppress(ValueError):
        value = mapping.value(cell, frozenset())
        assert value is None or isinstance(value, str if kind == "text" else list)
