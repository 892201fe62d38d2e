"""Tables in any dialect: what is written is read back, cell by cell, or the file is refused in two lines."""

import csv
import datetime
import io
import resource
import struct
import time
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import openpyxl
import pandas
import pytest
import xlwt
from factories import Run
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.clinical.fields import FieldType
from cxrsearch.errors import MappingError
from cxrsearch.text import tidy
from indexer import column_values
from indexer.dialect import Detected, Dialect, detect
from indexer.numbers import plain, whole
from indexer.tables import read_header, read_table

HEADER = ["scan", "größe", "finding"]
LETTERS = "abcäöüß 0123456789.-/()"
CELL = st.text(st.sampled_from(LETTERS + ",;|\t\"'\n"), max_size=8)
# A first cell that every row has, so that no row is blank.
ROWS = st.lists(st.tuples(st.from_regex(r"[0-9]{3}", fullmatch=True), CELL, CELL), min_size=3, max_size=12)


def read(path: Path, dialect: Dialect) -> list[list[str]]:
    header = read_header(path, dialect)
    table = read_table(path, dialect, {name: name for name in header}, path.name)
    return [header, *([line.cells[name] for name in header] for line in table.rows)]


def written(rows: list[list[str]], separator: str, quote: str, end: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, quotechar=quote, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    return text.getvalue()


@given(
    rows=ROWS,
    separator=st.sampled_from(",;|\t"),
    quote=st.sampled_from("\"'"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"]),
)
def test_a_table_in_any_dialect_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    separator: str,
    quote: str,
    end: str,
    encoding: str,
) -> None:
    """The dialect is given: the reader takes nothing for something else."""
    path = tmp_path_factory.mktemp("dialect") / "t.csv"
    whole_table = [HEADER, *map(list, rows)]
    path.write_bytes(written(whole_table, separator, quote, end).encode(encoding))
    assert read(path, Dialect(encoding, separator, quote)) == whole_table


PLAIN = st.text(st.sampled_from(LETTERS), min_size=1, max_size=8).map(lambda text: f"x{text}")


@given(
    rows=st.lists(st.tuples(st.from_regex(r"[0-9]{3}", fullmatch=True), PLAIN, PLAIN), min_size=3, max_size=12),
    separator=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    titles=st.integers(0, 3),
)
def test_the_dialect_of_a_table_is_found_out(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str, str]],
    separator: str,
    end: str,
    encoding: str,
    titles: int,
) -> None:
    path = tmp_path_factory.mktemp("dialect") / "t.csv"
    whole_table = [HEADER, *map(list, rows)]
    above = [["Export of the clinic"]] * titles
    path.write_bytes(written([*above, *whole_table], separator, '"', end).encode(encoding))
    found = detect(path).dialect
    assert found.skip == titles
    assert read(path, found) == whole_table


@pytest.mark.parametrize("word", ["Größe", "déjà vu", "España", "Straße", "37 °C"])
def test_an_old_western_table_is_read_right_and_said_to_be_guessed(tmp_path: Path, word: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"scan,fact\n1,{word}\n2,none\n".encode("cp1252"))
    found = detect(path)
    assert found.guessed
    assert read(path, found.dialect)[1] == ["1", word]


def test_a_decimal_comma_is_no_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("scan;crp;temp\n1;12,5;38,1\n2;0,8;37,0\n3;7,1;36,9\n", "utf-8")
    assert detect(path) == Detected(Dialect(separator=";"))


def test_a_row_that_is_longer_is_refused_in_any_dialect(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("scan;crp\n1;2\n2;3;4\n3;4\n", "utf-8")
    with pytest.raises(MappingError, match="line 3 has 3"):
        read(path, detect(path).dialect)


# ---------------------------------------------------------------- workbooks and Parquet


def write_xlsx(path: Path, rows: list[list[object]]) -> None:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)


def write_ods(path: Path, rows: list[list[str]], more: str = "") -> None:
    """more: further rows, in XML."""
    cells = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="string"><text:p>{escape(cell)}</text:p></table:table-cell>'
            for cell in row
        )
        + "</table:table-row>"
        for row in rows
    )
    names = " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{short}:1.0"' for short in ("office", "table", "text")
    )
    body = (
        f'<office:body><office:spreadsheet><table:table table:name="T">{cells}{more}</table:table></office:spreadsheet>'
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "META-INF/manifest.xml",
            '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>',
        )
        archive.writestr(
            "content.xml",
            f'<?xml version="1.0" encoding="UTF-8"?><office:document-content {names}>{body}'
            "</office:body></office:document-content>",
        )


def write_xls(path: Path, rows: list[list[object]], first: int = 1900, at: tuple[int, int] | None = None) -> None:
    """BIFF8, of Excel 97 to 2003. at: a further cell there, from 0."""
    book = xlwt.Workbook()
    book.dates_1904 = first == 1904
    sheet = book.add_sheet("T")
    day = xlwt.easyxf(num_format_str="DD.MM.YYYY")
    for n, row in enumerate(rows):
        for m, value in enumerate(row):
            sheet.write(n, m, value, *([day] if isinstance(value, datetime.datetime) else []))
    if at is not None:
        sheet.write(*at, "x")
    book.save(str(path))


def write_xlsb(path: Path, rows: list[list[object]], at: tuple[int, int] | None = None) -> None:
    """The binary workbook of Excel 2007 on (MS-XLSB), as far as a sheet of texts and numbers needs it."""

    def record(kind: int, body: bytes = b"") -> bytes:
        number = bytes([kind]) if kind < 0x80 else bytes([kind & 0x7F | 0x80, kind >> 7])
        return number + bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode("utf-16-le")) // 2) + value.encode("utf-16-le")

    def cell(column: int, value: object) -> bytes:
        place = struct.pack("<II", column, 0)
        if isinstance(value, str):
            return record(6, place + text(value))
        return record(5, place + struct.pack("<d", value))

    placed = {(n, m): value for n, row in enumerate(rows) for m, value in enumerate(row)}
    if at is not None:
        placed[at] = "x"
    lines = b"".join(
        record(0, struct.pack("<I", n) + bytes(13)) + b"".join(cell(m, v) for (k, m), v in placed.items() if k == n)
        for n in sorted({n for n, _ in placed})
    )
    last = [max(place[axis] for place in placed) for axis in (0, 1)]
    size = record(148, struct.pack("<IIII", 0, last[0], 0, last[1]))
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "xl/_rels/workbook.bin.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="rId1" Type="{relation}/worksheet" Target="worksheets/sheet1.bin"/></Relationships>',
        )
        names = text("rId1") + text("T")
        sheets = record(143) + record(156, struct.pack("<II", 0, 1) + names) + record(144)
        archive.writestr("xl/workbook.bin", record(131) + sheets + record(132))
        body = record(129) + size + record(145) + lines + record(146) + record(130)
        archive.writestr("xl/worksheets/sheet1.bin", body)


TEXTS = [["scan", "größe"], ["007", "1e5"], ["0815", "=1+1"], ["4711.0", "31.02.2020"]]


@pytest.mark.parametrize("kind", ["xlsx", "xls", "xlsb", "ods", "parquet"])
def test_texts_of_a_workbook_stay_what_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "xlsx":
        book = openpyxl.Workbook()
        for n, row in enumerate(TEXTS, start=1):
            for m, text in enumerate(row, start=1):
                cell = book.active.cell(n, m)
                cell.value, cell.data_type = text, "s"
        book.save(path)
    elif kind == "ods":
        write_ods(path, TEXTS)
    elif kind in ("xls", "xlsb"):
        {"xls": write_xls, "xlsb": write_xlsb}[kind](path, TEXTS)
    else:
        pandas.DataFrame(TEXTS[1:], columns=TEXTS[0]).to_parquet(path)
    assert read(path, detect(path).dialect) == TEXTS


def test_numbers_and_dates_of_a_workbook_are_what_a_person_sees(tmp_path: Path) -> None:
    day = datetime.datetime(2020, 3, 31)
    rows: list[list[object]] = [["a", "b", "c", "d", "e"], [4711, 1e5, 0.25, day, True], [None, 2.0, -1.5, day, False]]
    write_xlsx(tmp_path / "t.xlsx", rows)
    frame = pandas.DataFrame(rows[1:], columns=["a", "b", "c", "d", "e"])
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.xlsx", "t.parquet"):
        path = tmp_path / name
        assert read(path, detect(path).dialect)[1:] == [
            ["4711", "100000", "0.25", "2020-03-31", "true"],
            ["", "2", "-1.5", "2020-03-31", "false"],
        ]


@pytest.mark.parametrize("first", [1900, 1904])
def test_numbers_and_dates_of_an_old_workbook_are_what_a_person_sees(tmp_path: Path, first: int) -> None:
    day = datetime.datetime(2020, 3, 31)
    rows: list[list[object]] = [
        ["a", "b", "größe", "d", "e"],
        [4711, 1e5, 0.25, day, True],
        ["", 2.0, -1.5, day, False],
    ]
    write_xls(tmp_path / "t.xls", rows, first)
    assert read(tmp_path / "t.xls", detect(tmp_path / "t.xls").dialect) == [
        ["a", "b", "größe", "d", "e"],
        ["4711", "100000", "0.25", "2020-03-31", "true"],
        ["", "2", "-1.5", "2020-03-31", "false"],
    ]


def write_far(path: Path, row: int, column: int) -> None:
    """A table of two rows and a cell that somebody touched far below it, rows and columns from 0."""
    table: list[list[object]] = [["scan", "age"], ["1", "50"]]
    match path.suffix:
        case ".xlsx":
            book = openpyxl.Workbook()
            for one in table:
                book.active.append(one)
            book.active.cell(row + 1, column + 1).value = "x"
            book.save(path)
        case ".xls":
            write_xls(path, table, at=(row, column))
        case ".xlsb":
            write_xlsb(path, table, at=(row, column))
        case ".ods":
            gap = f'<table:table-row table:number-rows-repeated="{row - 2}"><table:table-cell/></table:table-row>'
            before = f'<table:table-cell table:number-columns-repeated="{column}"/>' if column else ""
            cell = '<table:table-cell office:value-type="string"><text:p>x</text:p></table:table-cell>'
            write_ods(path, [["scan", "age"], ["1", "50"]], f"{gap}<table:table-row>{before}{cell}</table:table-row>")


@pytest.mark.parametrize("kind", ["xlsx", "ods", "xls"])
def test_a_cell_in_the_last_row_costs_neither_gigabytes_nor_minutes(tmp_path: Path, kind: str) -> None:
    path, last = tmp_path / f"t.{kind}", 65_535 if kind == "xls" else 1_048_575
    write_far(path, last, 1)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    assert [row for row in read(path, Dialect()) if any(row)] == [["scan", "age"], ["1", "50"], ["", "x"]]
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024  # kilobytes


@pytest.mark.parametrize(
    ("kind", "column"), [("xlsx", 16_383), ("xlsb", 16_383), ("ods", 1_023), ("xlsb", 30), ("ods", 60)]
)
def test_a_cell_too_far_off_is_refused_in_one_line(tmp_path: Path, kind: str, column: int) -> None:
    """The library asked for half a terabyte, and took the process down; of .ods it took minutes for 60 columns."""
    path, started = tmp_path / f"t.{kind}", time.monotonic()
    write_far(path, 1_048_575, column)
    with pytest.raises(MappingError, match=f"^t.{kind}: a cell lies far below or right of the table; delete it"):
        detect(path)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.ods", "t.parquet", "t.xlsb"])
@pytest.mark.parametrize(
    "content", [b"", b"no workbook", b"PK\x03\x04" + b"\0" * 60, b"\xd0\xcf\x11\xe0" + b"\0" * 600]
)
def test_a_file_that_is_no_workbook_is_refused_in_one_line(
    cxrsearch: Run, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / name).write_bytes(content)
    ran = cxrsearch("init", tmp_path / name, "--images", tmp_path / "scans")
    assert (ran.code, len(ran.err.splitlines())) == (4, 1), ran.err
    assert name in ran.err


def test_a_workbook_that_unpacks_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_xlsx(tmp_path / "t.xlsx", [["a", "b"], [1, 2]])
    monkeypatch.setattr("indexer.sheets._LARGEST_UNPACKED", 100)
    with pytest.raises(MappingError, match="unpacks to more than"):
        detect(tmp_path / "t.xlsx")


# ---------------------------------------------------------------- numbers


@given(st.floats(-1e9, 1e9).map(lambda number: round(number, 3)), st.sampled_from([(".", ","), (",", "."), (",", " ")]))
def test_a_number_with_marks_of_any_country_is_that_number(number: float, marks: tuple[str, str]) -> None:
    decimal, group = marks
    text = f"{number:,.3f}".translate(str.maketrans({",": group, ".": decimal}))
    assert float(plain(text, decimal)) == number


@pytest.mark.parametrize(
    ("text", "decimal"),
    [
        ("1,23", "."),
        ("1,2345", "."),
        ("12,34,567", "."),
        ("1.234.56", ","),
        ("0.512", ","),  # half a unit, and never 512
        ("-0.125", ","),
        ("0,512", "."),
        ("00,125", "."),
    ],
)
def test_a_mark_in_the_wrong_place_makes_no_number(text: str, decimal: str) -> None:
    with pytest.raises(ValueError, match=r"could not convert|is no number"):
        float(plain(text, decimal))


def test_a_point_where_decimals_have_a_comma_is_refused() -> None:
    with pytest.raises(ValueError, match="is no number with a decimal comma"):
        plain("12.5", ",")


@pytest.mark.parametrize(
    ("text", "number"),
    [("4711.0", "4711"), ("1e5", "100000"), ("1E+05", "100000"), ("007", "007"), ("1.5", "1.5"), ("x1.0", "x1.0")],
)
def test_a_whole_number_is_written_without_decimals(text: str, number: str) -> None:
    assert whole(text) == number


# ---------------------------------------------------------------- what a column holds


def reading(*texts: str, is_date: bool = False, decimal: str | None = None) -> column_values.Reading:
    cells: dict[str, list[int]] = {}
    for row, text in enumerate(texts, start=2):
        if tidy(text):
            cells.setdefault(tidy(text), []).append(row)
    found = column_values.read(cells, is_date, decimal)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("texts", "kind", "formats"),
    [
        (["2020-03-31", "2020-04-01"], FieldType.DATE, ["%Y-%m-%d"]),
        (["31.03.2020", "01.04.2020"], FieldType.DATE, ["%d.%m.%Y"]),
        (["03/31/2020", "04/01/2020"], FieldType.DATE, ["%m/%d/%Y"]),
        (["31/03/2020", "01/04/2020"], FieldType.DATE, ["%d/%m/%Y"]),
        (["20200331", "20200401"], FieldType.DATE, ["%Y%m%d"]),
        (["March 31, 2020", "April 1, 2020"], FieldType.DATE, ["%B %d, %Y"]),
        (["1", "2", "3"], FieldType.INTEGER, []),
        (["007", "012"], FieldType.KEYWORD, []),
        (["1.5", "2"], FieldType.FLOAT, []),
        (["1,5", "2"], FieldType.FLOAT, []),
        (["ja", "Nein", "k.A."], FieldType.BOOLEAN, []),
        (["0", "1", "1"], FieldType.BOOLEAN, []),
        (["0", "0"], FieldType.INTEGER, []),
        (["PA", "AP", "PA"], FieldType.KEYWORD, []),
        (["2020", "2019"], FieldType.INTEGER, []),
    ],
)
def test_the_type_of_a_column_is_that_of_its_cells(texts: list[str], kind: FieldType, formats: list[str]) -> None:
    found = reading(*texts)
    assert (found.type, found.formats, found.unreadable) == (kind, formats, [])


@pytest.mark.parametrize(
    ("texts", "is_date", "kind", "formats"),
    [
        (["45321", "45322.5"], True, FieldType.DATE, ["excel"]),
        (["45321", "45322"], False, FieldType.INTEGER, []),
        (["30.01.2024", "31.01.2024", "45323"], False, FieldType.DATE, ["%d.%m.%Y", "excel"]),
        (["1", "8", "45321"], True, FieldType.INTEGER, []),  # days after admission
        (["12", "14", "210"], True, FieldType.INTEGER, []),
        (["20240130", "20240131"], True, FieldType.DATE, ["%Y%m%d"]),
    ],
)
def test_days_that_excel_counted_are_dates_where_something_says_so(
    texts: list[str], is_date: bool, kind: FieldType, formats: list[str]
) -> None:
    found = reading(*texts, is_date=is_date)
    assert (found.type, found.formats) == (kind, formats)
    assert any("cells are numbers, read as the days that Excel counts" in note for note in found.notes) is (
        "excel" in formats
    )


def test_dates_that_may_be_of_two_countries_are_said_to_be() -> None:
    assert "check which" in " ".join(reading("03/04/2020", "05/06/2020").notes)
    assert reading("03/04/2020", "25/06/2020").notes == []


def test_a_comma_that_may_part_thousands_or_decimals_makes_no_number() -> None:
    found = reading("1,234", "5,678")
    assert (found.type, "thousands or decimals" in found.notes[0]) == (FieldType.KEYWORD, True)


@pytest.mark.parametrize("impossible", ["31.02.2020", "30.03.2020 24:00", "00.00.0000"])
def test_an_impossible_date_is_a_row_that_is_named(impossible: str) -> None:
    found = reading(*(f"{day:02}.03.2020" for day in range(1, 13)), impossible)
    assert (found.type, found.unreadable) == (FieldType.DATE, [14])


def test_a_column_with_another_mark_than_its_table_has_it_written_down() -> None:
    found = reading("0.512", "0.125", "1.230", "0.734", decimal=",")
    assert (found.type, found.decimal, found.unreadable) == (FieldType.FLOAT, None, [])


def test_numbers_with_their_unit_are_numbers() -> None:
    found = reading("12 mg/l", "7 mg/l", "101 mg/l")
    assert (found.type, found.unit) == (FieldType.INTEGER, "mg/l")
    assert reading("12 mg/l", "7 g/l").type is FieldType.KEYWORD


@pytest.mark.parametrize(
    "texts",
    [
        ["Müller, Hans", "Weiß, Ida", "Groß, Uwe"],
        ["SMITH^JOHN", "DOE^JANE"],
        ["a@b.de", "c@d.org"],
        [f"code {n}" for n in range(20)],
        ["Patient complains of a dry cough since Monday, and of fever."] * 3,
    ],
)
def test_what_may_be_of_a_person_is_left_out(texts: list[str]) -> None:
    assert reading(*texts).left_out
