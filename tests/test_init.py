"""cxrsearch init: from a folder of images and the ugliest table to a search with facts that names nobody."""

import json
import time
import tomllib
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from factories import Ran, Run, points, write_picture

from cxrsearch.clinical.identity import load_identity
from cxrsearch.settings import key_file
from indexer.column_names import Role, role_of
from indexer.dataset import load
from indexer.phantoms import draw

PEOPLE = ("Müller, Hans", "Weiß, Ida", "Groß, Uwe", "Jäger, Eva", "Bär, Jo", "Löw, Mia", "Koß, Rex", "Zürn, Lea")
# Titles, semicolons, decimal commas, thousands, bounds, codes, impossible dates, numbers as 4711.0 and 1E+05.
UGLY = "\r\n".join(
    [
        "Thoraxröntgen-Export;;;;;;;;;;",
        "Klinik für Radiologie;;;;;;;;;;",
        "Bildnr;Patientenname;Pat.-Nr.;Geb.-Datum;Aufnahmedatum;Alter;CRP (mg/l);Thrombozyten;Befund;verstorben;"
        "Bemerkung",
        *(
            f"{n:05};{PEOPLE[n - 1]};{88304710 + n}.0;0{n}.02.1950;{date};{age};{crp};{platelets};{finding};{died};"
            f"Herr oder Frau {PEOPLE[n - 1].partition(',')[0]} klagt"
            for n, (date, age, crp, platelets, finding, died) in enumerate(
                [
                    ("03.04.2020", "61", "12,5", "210.000", "Pneumonie", "ja"),
                    ("13.04.2020", "47", "<5", "1.250.000", "Pneumonie, Erguss", "nein"),
                    ("31.02.2020", "52", "0,8", "198.000", "Erguss", "nein"),
                    ("24.04.2020", "999", "101,25", "k.A.", "unauffällig", "nein"),
                    ("25.04.2020", "70", "7", "90.000", "unauffällig", "k.A."),
                    ("26.04.2020", "33", "9,9", "87.500", "Pneumonie", "nein"),
                    ("27.04.2020", "58", "1.012,5", "250.000", "Erguss", "ja"),
                    ("28.04.2020", "64", "3,1", "301.000", "Pneumonie", "nein"),
                ],
                start=1,
            )
        ),
        "00099;Nagel, Ken;1E+05;01.01.1960;29.04.2020;40;1,5;200.000;Erguss;nein;",
        "",
    ]
)


def scans(folder: Path, names: list[str]) -> Path:
    for n, name in enumerate(names):
        path = folder / "scans" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(path, draw("Pneumonia", n, size=64))
    return folder / "scans"


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    """A table as a hospital exports it, in cp1252, beside eight scans of its nine rows and one of nobody."""
    scans(tmp_path, [f"{n:05}.png" for n in range(1, 9)] + ["stray.png"])
    (tmp_path / "klinik.csv").write_bytes(UGLY.encode("cp1252"))
    return tmp_path / "klinik.csv"


def init(cxrsearch: Run, table: Path, *more: object) -> Ran:
    return cxrsearch("init", table, "--images", table.parent / "scans", *more)


def drafted(table: Path) -> dict[str, Any]:
    return tomllib.loads(table.with_suffix(".toml").read_text("utf-8"))


def payloads(index: Path) -> dict[str, Any]:
    return {str(point.payload["path"]): point.payload for point in points(index).values()}


def read_from(table: Path, field: str = "site") -> dict[str, object]:
    """What index would read by the draft of a table: a field of each image that is there."""
    records = load(str(table.with_suffix(".toml"))).records()
    return {record.key: record.payload[field] for record in records if record.problem is None and record.path.exists()}


def test_from_the_ugliest_table_to_a_search_with_facts_in_two_commands(
    cxrsearch: Run, ugly: Path, tmp_path: Path
) -> None:
    index, start = tmp_path / "index", time.monotonic()
    made = init(cxrsearch, ugly, "--yes", "--index", index)
    assert made.code == 3, made.err  # the row without a scan is rejected
    assert "8 indexed, 0 updated, 0 unchanged, 1 rejected" in made.out
    found = cxrsearch(
        "search", tmp_path / "scans/stray.png", "--index", index, "--where", "crp > 100 and verstorben = true"
    )
    assert (found.code, found.out.count(".png")) == (0, 2), found.err
    assert time.monotonic() - start < 60
    facts = payloads(index)
    assert facts["00007.png"]["crp"] == 1012.5
    assert facts["00002.png"]["thrombozyten"] == 1_250_000
    assert facts["00002.png"]["finding"] == ["Pneumonie", "Erguss"]
    assert (
        facts["00001.png"]["aufnahmedatum" if "aufnahmedatum" in facts["00001.png"] else "study_date"] == "2020-04-03"
    )
    assert "crp" not in facts["00002.png"]  # a bound is no number
    assert "age" not in facts["00004.png"]  # nor is 999 an age
    assert "study_date" not in facts["00003.png"]  # nor 31 February a date


def test_what_was_left_out_or_not_read_is_said_with_counts_and_rows(cxrsearch: Run, ugly: Path) -> None:
    ran = init(cxrsearch, ugly)
    toml = ugly.with_suffix(".toml").read_text("utf-8")
    assert ran.code == 0
    assert "8 of 9 rows name an image, by column Bildnr" in ran.out
    assert "1 rows have no image: row 12" in ran.out
    assert "1 images have no row: stray.png" in ran.out
    for column, why in (("Patientenname", "names"), ("Geb.-Datum", "birth dates"), ("Bemerkung", "free text")):
        assert f"column {column} is left out: {why}" in ran.err
        assert f"# - {column}: {why}" in toml
    assert "field study_date: 1 cells are no date and are missing, the first in row 6" in ran.err
    assert "1 patient numbers are written as 1E+05, have lost digits, and are missing" in ran.err
    assert "field crp: 1 cells are bounds" in ran.err
    assert "klinik.csv is no UTF-8; read as cp1252" in ran.err
    assert "8 of 9 cells that are not blank read as dates (%d.%m.%Y)" in toml
    assert 'unreadable = "missing" # 1 cells: row 6' in toml


def test_the_draft_is_what_a_person_would_have_written(cxrsearch: Run, ugly: Path) -> None:
    init(cxrsearch, ugly)
    mapping = drafted(ugly)
    assert mapping["name"] == "klinik"
    assert mapping["images"] == {
        "root": "scans",
        "table": "../klinik.csv",
        "separator": ";",
        "skip": 2,
        "encoding": "cp1252",
        "decimal": ",",
        "path": "{Bildnr}.png",
    }
    assert mapping["patient"] == {"column": "Pat.-Nr.", "pattern": r"^(\d+)(?:[.,]0+)?$"}
    fields = mapping["fields"]
    assert {name: field["type"] for name, field in fields.items()} == {
        "study_date": "date",
        "age": "integer",
        "crp": "float",
        "thrombozyten": "integer",
        "finding": "keyword",
        "verstorben": "boolean",
    }
    assert fields["crp"] == {"column": "CRP (mg/l)", "type": "float", "unit": "mg/l", "missing": ["<5"]}
    assert fields["age"]["missing"] == ["999"]
    assert fields["verstorben"]["later"] is True
    assert fields["verstorben"]["values"] == {"ja": True, "nein": False}
    assert fields["finding"]["separator"] == ","


def test_nothing_that_names_a_person_reaches_the_draft_the_terminal_or_the_index(
    cxrsearch: Run, ugly: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    ran = init(cxrsearch, ugly, "--yes", "--index", index)
    written = [path.read_bytes() for path in index.rglob("*") if path.is_file()]
    written += [ugly.with_suffix(".toml").read_bytes(), ran.out.encode(), ran.err.encode()]
    names = [name for person in PEOPLE for name in person.split(", ") if len(name) > 3]
    secrets = [*names, *(str(88304710 + n) for n in range(1, 9)), "02.1950", "klagt", "31.02.2020"]
    for secret in secrets:
        assert not any(secret.encode(code) in text for text in written for code in ("utf-8", "cp1252")), secret


def test_a_number_written_with_decimals_is_the_patient_it_was(cxrsearch: Run, ugly: Path, tmp_path: Path) -> None:
    init(cxrsearch, ugly, "--yes", "--index", tmp_path / "index")
    identity = load_identity(key_file())
    assert identity is not None
    patients = {name: payload.get("patient") for name, payload in payloads(tmp_path / "index").items()}
    assert patients == {f"{n:05}.png": identity.patient("klinik", str(88304710 + n)) for n in range(1, 9)}


# ---------------------------------------------------------------- which column names the image


@pytest.mark.parametrize(
    ("files", "cells", "template", "several"),
    [
        (["007.png", "08.png", "9.png"], ["007", "08", "9"], "{scan}.png", False),
        (["007.png", "08.png", "9.png"], ["007.png", "08.png", "9.png"], "{scan}", False),
        (["a/x1.png", "a/x2.png"], ["x1.png", "x2.png"], "a/{scan}", False),
        (["a/x1.png", "b/x2.png"], ["x1", "x2"], "**/{scan}.png", False),
        (["a/x1.png", "b/x2.jpg"], ["x1", "x2"], "**/{scan}.*", False),
        (["x1.png", "x2.png"], ["D:\\pacs\\x1.dcm", "D:\\pacs\\x2.dcm"], "{scan:stem}.png", False),
        (["x1.png", "x2.png"], ["D:\\pacs\\x1.png", "D:\\pacs\\x2.png"], "{scan:name}", False),
        (["00004711.png", "00000012.png"], ["4711.0", "12.0"], "{scan:08}.png", False),
        (["00001.png", "00002.png", "Müller-x.png"], ["1", "2", "Müller-x"], "{scan:05}.png", False),
        (["4711.png", "12.png"], ["4711.0", "1.2E+01"], "{scan}.png", False),
        (["p1/a.png", "p1/b.png", "p2/a.png"], ["p1", "p2"], "{scan}/*", True),
        (["p1_a.png", "p1_b.png", "p2_a.png"], ["p1", "p2"], "{scan}_*", True),
    ],
)  # fmt: skip
def test_the_files_are_found_whichever_way_a_cell_names_them(
    cxrsearch: Run, tmp_path: Path, files: list[str], cells: list[str], template: str, several: bool
) -> None:
    scans(tmp_path, files)
    table = tmp_path / "t.csv"
    table.write_text("scan,site\n" + "".join(f"{cell},north\n" for cell in cells), "utf-8")
    ran = init(cxrsearch, table)
    assert ran.code == 0, ran.err
    images = drafted(table)["images"]
    assert (images["path"], images.get("several", False)) == (template, several)
    assert read_from(table) == dict.fromkeys(files, "north")


def test_several_files_in_a_cell_or_in_several_columns_are_all_of_the_row(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
    table = tmp_path / "t.csv"
    for text in ("site,scans\nnorth,a.png;b.png\nsouth,c.png; d.png\n", "site,pa,lat\nnorth,a,b\nsouth,c,d\n"):
        table.write_text(text, "utf-8")
        assert init(cxrsearch, table, "--overwrite").code == 0
        assert read_from(table) == {"a.png": "north", "b.png": "north", "c.png": "south", "d.png": "south"}


def test_equal_names_in_two_folders_are_told_apart_by_the_column_of_the_folder(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["north/1.png", "north/2.png", "south/1.png", "south/2.png"])
    table = tmp_path / "t.csv"
    table.write_text("scan,site,age\n1,north,50\n2,north,60\n1,south,70\n2,south,80\n", "utf-8")
    assert init(cxrsearch, table).code == 0
    assert read_from(table, "age") == {"north/1.png": 50, "north/2.png": 60, "south/1.png": 70, "south/2.png": 80}


def test_equal_names_that_nothing_tells_apart_are_rejected_and_not_guessed(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["a/1.png", "b/1.png", "b/2.png"])
    table = tmp_path / "t.csv"
    table.write_text("scan,age\n1,50\n2,60\n", "utf-8")
    assert init(cxrsearch, table, "--yes", "--index", tmp_path / "index").code == 3
    assert list(payloads(tmp_path / "index")) == ["b/2.png"]


def test_files_named_by_the_patient_enter_as_tokens(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["MRN1001_pa.png", "MRN1002_pa.png"])
    table = tmp_path / "t.csv"
    table.write_text("scan,mrn\nMRN1001_pa,MRN1001\nMRN1002_pa,MRN1002\n", "utf-8")
    ran = init(cxrsearch, table, "--yes", "--index", tmp_path / "index")
    assert ran.code == 0
    assert drafted(table)["privacy"] == {"paths": "hashed"}
    assert "MRN100" not in ran.out + ran.err + (tmp_path / "index/index.json").read_text("utf-8")
    assert not any("MRN" in name for name in payloads(tmp_path / "index"))


@pytest.mark.parametrize(
    ("header", "cells"),
    [
        ("Bez", [f"{first} {last}" for last, first in (person.split(", ") for person in PEOPLE)]),
        ("Bez", [person.partition(",")[0] for person in PEOPLE]),
        ("Bez", [str(88304711 + 7919 * n) for n in range(8)]),
        ("Bez", [f"{7919 * n + 1234:08}" for n in range(8)]),
        ("Bez", [f"K{7919 * n + 12345:06}" for n in range(8)]),
        ("Bez", [f"0{n}.02.19{n}1" for n in range(1, 9)]),
        ("Bez", [f"{n:02}.02.{n + 40}" for n in range(1, 9)]),
        ("F. Nac.", [f"0{n}.02.2012" for n in range(1, 9)]),
        ("FecNac", [f"0{n}.02.2012" for n in range(1, 9)]),
        ("Jahrgang", [f"{2004 + n}" for n in range(1, 9)]),
        ("Bez", [f"{1931 + 7 * n}" for n in range(1, 9)]),
        ("Aufnahmenummer", [f"{48213 + 37 * n}" for n in range(1, 9)]),
        ("DNI", [str(n * 7919) for n in range(1, 9)]),
        ("Radi\u00f3logo", [f"r{n % 3}" for n in range(8)]),
        ("Observaciones", [f"sra {n % 3}" for n in range(8)]),
        ("Names", [f"n{n % 3}" for n in range(8)]),
    ],
)
def test_a_column_that_tells_who_a_patient_is_stays_out_whatever_it_is_called(
    cxrsearch: Run, tmp_path: Path, header: str, cells: list[str]
) -> None:
    scans(tmp_path, [f"{n}-{side}.png" for n in range(8) for side in "ab"])
    table = tmp_path / "t.csv"
    rows = [f'{n}-{side}.png,P{n},"{cell}",{60 + n % 3}' for n, cell in enumerate(cells) for side in "ab"]
    table.write_text("\n".join([f"scan,PatientID,{header},age", *rows]), "utf-8")
    ran = init(cxrsearch, table)
    assert list(drafted(table)["fields"]) == ["age"]
    told = ran.out + ran.err + table.with_suffix(".toml").read_text("utf-8")
    assert not [cell for cell in cells if cell in told]
    assert f"column {header} is left out: " in ran.err


@pytest.mark.parametrize(
    ("names", "role"),
    [
        ("D.O.B.|dateofbirth|Date naiss.|Data de nascimento|Data urodzenia|Doğum tarihi|Geboortedatum", Role.BIRTH),
        ("Födelsedatum|Fødselsdato|Дата рождения|出生日期", Role.BIRTH),
        ("Medical Record No.|Patient MRN|MRN_No|Chart number|Unit number|N° dossier|Numéro de dossier", Role.PATIENT),
        ("NIP|Nº historia|Nº de expediente|Codice paziente|Prontuário|Numer pacjenta|Hasta No", Role.PATIENT),
        ("Numéro de sécurité sociale|IEP|Cédula|RUT|Aktenzeichen|NHI|Health card|BSN|PESEL", Role.NUMBER),
        ("Consultant|Hausarzt|Huisarts|Reported by|GP|Lekarz|Läkare|Врач|医生", Role.STAFF),
        ("Acc. No.|AccNo", Role.STUDY),
        ("Cognome|Nome|Sobrenome|Imię|Nazwisko|Ad|Soyad|Achternaam|Efternamn|Фамилия|姓名", Role.NAME),
        ("Observações|Uwagi|Opmerkingen|Anteckningar|A\u00e7\u0131klama", Role.FREE_TEXT),
        ("Bestand|Nome do arquivo|charts|parts|Gebiet|urea", None),
    ],
)
def test_what_a_column_is_for_is_known_by_its_name_in_many_languages(names: str, role: Role | None) -> None:
    assert {name: role_of(name) for name in names.split("|")} == dict.fromkeys(names.split("|"), role)


@pytest.mark.parametrize("patient", ["Betegszám (TAJ)", "PatientID"])
def test_a_name_or_birth_date_on_five_images_a_patient_stays_out_whatever_it_is_called(
    cxrsearch: Run, tmp_path: Path, patient: str
) -> None:
    """Of children, and with columns in words that nobody listed."""
    people = [(100 + 37 * n, *PEOPLE[n].split(", "), f"201{n}-0{n + 1}-11", 2010 + n, "MF"[n % 2]) for n in range(8)]
    scans(tmp_path, [f"{n}-{m}.png" for n in range(8) for m in range(5)])
    rows = [",".join(map(str, (f"{n}-{m}.png", *person, m))) for n, person in enumerate(people) for m in range(5)]
    header = f"kép,{patient},Család,Utónév,Szül,Év,Nem,CRP"
    table = tmp_path / "t.csv"
    table.write_text("\n".join([header, *rows]), "utf-8")
    ran = init(cxrsearch, table)
    assert set(drafted(table)["fields"]) == {"nem", "crp"}, ran.err
    if patient != "PatientID":
        why = "may name a person: no column of patients was found to tell it from a fact"
        assert all(f"column {name} is left out: {why}" in ran.err for name in ("Család", "Szül"))
        why = "may number persons or documents: no column of patients was found to tell"
        assert all(f"column {name} is left out: {why}" in ran.err for name in (patient, "Év"))
    told = ran.out + ran.err + table.with_suffix(".toml").read_text("utf-8")
    assert not [cell for person in people for cell in person[1:4] if str(cell) in told]


def test_names_and_notes_without_a_column_of_patients_stay_out(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, [f"{n}.png" for n in range(60)])
    names = [f"{person.split(', ')[1]}{'abc'[n]} meier".lower() for n in range(3) for person in PEOPLE[:7]]
    rows = [f"{n}.png,{names[n // 3]},{names[n // 3].split()[0]} hustet seit gestern,{n % 5}" for n in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["scan,Bez,Grund,age", *rows]), "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv")
    assert list(drafted(tmp_path / "t.csv")["fields"]) == ["age"]
    assert "meier" not in ran.out + ran.err
    assert "hustet" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("names", "rows_of_each"),
    [(("Koss", "Bauer", "Huber"), 1), (("koss", "bauer"), 2), (("Koss", "Bauer Mia", "Löw"), 3)],
)
@pytest.mark.parametrize("patient", ["", "PatientID"])
def test_words_of_a_small_table_that_may_be_surnames_stay_out_and_facts_by_name_stay_in(
    cxrsearch: Run, tmp_path: Path, names: tuple[str, ...], rows_of_each: int, patient: str
) -> None:
    count = len(names) * rows_of_each
    scans(tmp_path, [f"{n}.png" for n in range(count)])
    rows = [
        f"{n}.png,P{n // rows_of_each},{names[n // rows_of_each]},view{n % 2},{'LR'[n % 2]},Erguss"
        for n in range(count)
    ]
    (tmp_path / "t.csv").write_text("\n".join([f"scan,{patient or 'group'},Bez,View,side,Befund", *rows]), "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv")
    assert (
        {"view", "side", "finding"}
        <= set(drafted(tmp_path / "t.csv")["fields"])
        <= {"view", "side", "finding", "group"}
    )
    assert "column Bez is left out: too few rows for each value to tell facts from names" in ran.err
    told = ran.out + ran.err + (tmp_path / "t.toml").read_text("utf-8")
    assert not [name for name in names if name in told]


def test_findings_and_measures_with_capitals_and_large_numbers_stay_in(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, [f"{n}.png" for n in range(20)])
    table = tmp_path / "t.csv"
    kinds = ("Pleural Effusion", "Normal", "Lung Opacity", "Atelectasis")
    rows = [f"{n}.png,P{n},{kinds[n % 4]},{kinds[n % 3]},{4_100_000 + 1000 * n},2{n:03}-01-01" for n in range(20)]
    table.write_text("\n".join(["scan,PatientID,finding,other,erythrocytes,seen", *rows]), "utf-8")
    assert init(cxrsearch, table).code == 0
    assert list(drafted(table)["fields"]) == ["finding", "other", "erythrocytes", "seen"]


def test_a_title_is_one_only_before_a_name(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, [f"{n}.png" for n in range(40)])
    table = tmp_path / "t.csv"
    rows = [f"{n}.png,P{n},{('DR', 'CR')[n % 3 == 0]},{('med', 'low')[n % 2]},dr. koss" for n in range(40)]
    table.write_text("\n".join(["scan,PatientID,acquisition,dose,Bez", *rows]), "utf-8")
    ran = init(cxrsearch, table)
    assert list(drafted(table)["fields"]) == ["acquisition", "dose"]
    assert "column Bez is left out: looks like names" in ran.err
    assert "koss" not in ran.out + ran.err


def test_sizes_that_may_be_years_and_dates_of_events_stay_in_with_one_image_a_patient(
    cxrsearch: Run, tmp_path: Path
) -> None:
    scans(tmp_path, [f"{n}.png" for n in range(40)])
    table = tmp_path / "t.csv"
    events = ["year", "Jahr", "Procedure Date", "SeriesDate", "content date", "collected", "OP-Datum", "timestamp"]
    events += ["vaccinated on", "swab"]
    dates = [",".join([str(2008 + n % 12)] * 2 + [f"{2008 + n % 12}-03-{n % 28 + 1:02}"] * 8) for n in range(40)]
    rows = [
        f"{n}.png,P{n},{(2022, 2010)[n % 2]},2022,{(2022, 2010)[n % 3 == 0]},{2008 + n % 12},{1950 + n % 30},{dates[n]}"
        for n in range(40)
    ]
    header = ["scan,PatientID,rows,columns,detector,Bez,annee", *events]
    table.write_text("\n".join([",".join(header), *rows]), "utf-8")
    ran = init(cxrsearch, table)
    fields = {field["column"] for field in drafted(table)["fields"].values()}
    assert fields == {"rows", "columns", "detector", *events}
    assert "column Bez is left out: a date or year of which each patient has one" in ran.err
    assert "column annee is left out: mostly dates or years before 1990" in ran.err


def test_a_column_called_as_numbers_of_people_are_is_a_fact_where_it_says_yes_and_no(
    cxrsearch: Run, tmp_path: Path
) -> None:
    scans(tmp_path, [f"{n}.png" for n in range(8)])
    table = tmp_path / "t.csv"
    header = "scan,patient,cpr,cpr_performed,medicare,ad,consultant_read,nir,rut"
    answers = ("yes,1,true,no,y,0,ja", "no,0,false,yes,n,1,nein")
    table.write_text("\n".join([header, *(f"{n}.png,P{n},{answers[n % 2]}" for n in range(8))]), "utf-8")
    assert init(cxrsearch, table).code == 0
    assert list(drafted(table)["fields"]) == header.split(",")[2:]
    persons = ("311280-1234,Koss,41,Bauer,Huber,7,9", "010190-4321,Löw,42,Weiß,Jäger,8,6")
    table.write_text("\n".join([header, *(f"{n}.png,P{n},{persons[n % 2]}" for n in range(8))]), "utf-8")
    init(cxrsearch, table, "--overwrite")
    assert drafted(table).get("fields", {}) == {}


@pytest.mark.parametrize("other", ["Unit No", "folder no", "journal no", "URN"])
@pytest.mark.parametrize("patient", ["patient_id", "MRN"])
def test_a_column_with_a_word_for_patients_is_theirs_before_one_of_any_number(
    cxrsearch: Run, tmp_path: Path, other: str, patient: str
) -> None:
    scans(tmp_path, ["1.png", "2.png"])
    table = tmp_path / "t.csv"
    table.write_text(f"scan,{other},{patient},age\n1,7,P1,60\n2,7,P2,61\n", "utf-8")
    ran = init(cxrsearch, table)
    assert drafted(table)["patient"]["column"] == patient
    assert f"column {other} is left out: numbers of persons or documents" in ran.err


def test_measurements_and_common_words_stay_in_without_a_column_of_patients(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["pa0.png", "pa1.png"])
    table = tmp_path / "t.csv"
    header = "scan,crp,heart_rate,ldh,leukocytes,brixia_total,country,icd10,Év,Bez,Referenz,code of chart,visits"
    rows = [
        f"pa{n % 2},{n * 7 % 300},{50 + n * 11 % 130},{100 + n * 13 % 900},{100 * (n * 17 % 200)},{n * 17 // 2000},"
        f"Land {chr(97 + n % 26)},J{n % 36:02},{2001 + n * 7 % 20 if n % 4 else 'unknown'},"
        f"{'Koss' if n == 5 else f'w{n % 19}x'},{200 + n // 4},{200 + n * 7 % 300},{n % 9 * 1000}"
        for n in range(2000)
    ]
    table.write_text("\n".join([header, *rows]), "utf-8")
    ran = init(cxrsearch, table)
    fields = {field["column"] for field in drafted(table)["fields"].values()}
    assert fields == {"crp", "heart_rate", "ldh", "leukocytes", "brixia_total", "country", "icd10", "visits"}
    why = "may number persons or documents: no column of patients was found to tell"
    assert all(f"column {name} is left out: {why}" in ran.err for name in ("Év", "Referenz", "code of chart"))
    assert "column Bez is left out: may name a person" in ran.err
    assert "Koss" not in ran.out + ran.err


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (["Koss_Rex_1", "Bauer_Mia_1"], "scan,Nachname\nKoss_Rex_1,Koss\nBauer_Mia_1,Bauer\n"),
        (["Koss_Rex", "Bauer_Mia"], "Patientenname,age\nKoss_Rex,60\nBauer_Mia,61\n"),
        (["00004711_pa", "00004712_pa"], "scan,PatientID\n00004711_pa,4711.0\n00004712_pa,4712.0\n"),
        (["MRN4711_pa", "MRN4712_pa"], "scan,PatientID\nMRN4711_pa,4711\nMRN4712_pa,4712\n"),
        (["88304711_pa", "88304712_pa"], "scan,NHC\n88304711_pa,88304711\n88304712_pa,88304712\n"),
        (["88304711_pa", "88304712_pa"], "scan,Bez\n88304711_pa,88304711\n88304712_pa,88304712\n"),
    ],
)
def test_files_named_by_names_or_numbers_of_people_enter_as_tokens(
    cxrsearch: Run, tmp_path: Path, names: list[str], table: str
) -> None:
    scans(tmp_path, [f"{name}.png" for name in names])
    (tmp_path / "t.csv").write_text(table, "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv")
    assert drafted(tmp_path / "t.csv")["privacy"] == {"paths": "hashed"}
    assert not [name for name in names if name in ran.out + ran.err]


# ---------------------------------------------------------------- rows that repeat and contradict


def test_rows_of_one_image_are_counted_and_named(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["1.png", "2.png", "3.png"])
    table = tmp_path / "t.csv"
    table.write_text("scan,age\n1,50\n1,50\n2,60\n2,61\n3,70\n", "utf-8")
    ran = init(cxrsearch, table)
    assert "rows 4, 5 are of one file and differ in age; the file is rejected until they agree" in ran.err
    assert "have no image" not in ran.out
    assert "1 files are on several rows, whose facts are joined: rows 2, 3" in ran.err
    assert "5 rows in t.csv: 3 read, 2 refused" in ran.out


# ---------------------------------------------------------------- other kinds of tables


def test_a_workbook_with_titles_and_numbers_as_floats(cxrsearch: Run, tmp_path: Path) -> None:
    import datetime

    scans(tmp_path, ["00012.png", "04711.png"])
    book = openpyxl.Workbook()
    book.active.title = "Deckblatt"
    sheet = book.create_sheet("Fälle '1'")
    for row in (
        ["Export", None, None, None],
        ["Bild", "Patient ID", "Date", "Temp [°C]"],
        [12.0, 100000.0, datetime.datetime(2020, 3, 31), 38.5],
        [4711.0, 7.0, datetime.datetime(2020, 4, 1, 13, 5), 37],
    ):
        sheet.append(row)
    book.save(tmp_path / "t.xlsx")
    table = tmp_path / "t.xlsx"
    ran = init(cxrsearch, table, "--yes", "--index", tmp_path / "index")
    assert ran.code == 0, ran.err
    assert drafted(table)["images"]["sheet"] == "Fälle '1'"
    facts = payloads(tmp_path / "index")
    assert (facts["00012.png"]["study_date"], facts["04711.png"]["study_date"]) == ("2020-03-31", "2020-04-01")
    assert (facts["00012.png"]["temp"], facts["04711.png"]["temp"]) == (38.5, 37.0)
    identity = load_identity(key_file())
    assert identity is not None
    assert facts["00012.png"]["patient"] == identity.patient("t", "100000")
    unit = json.loads((tmp_path / "index/index.json").read_text("utf-8"))["fields"]["temp"]["unit"]
    assert unit == "°C"


@pytest.mark.parametrize("first", [1900, 1904])
def test_days_of_excel_are_the_dates_that_its_workbook_counts(cxrsearch: Run, tmp_path: Path, first: int) -> None:
    """By the cell's number format or, where that was lost, by the column's name; a table of text cannot say which."""
    import datetime

    scans(tmp_path, ["1.png", "2.png"])
    book = openpyxl.Workbook()
    book.epoch = datetime.datetime(1899, 12, 30) if first == 1900 else datetime.datetime(1904, 1, 1)
    number = (datetime.datetime(2024, 1, 30) - book.epoch).days
    for row in (["scan", "seen", "study date"], [1, datetime.datetime(2024, 1, 30), number], [2, None, number + 1]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    ran = init(cxrsearch, tmp_path / "t.xlsx")
    assert ran.code == 0, ran.err
    assert read_from(tmp_path / "t.xlsx", "study_date") == {"1.png": "2024-01-30", "2.png": "2024-01-31"}
    assert drafted(tmp_path / "t.xlsx")["fields"]["seen"]["formats"] == ["%Y-%m-%d"]
    evidence = f"2 cells are numbers, read as the days that Excel counts from {first}: of the years 2024 to 2024"
    assert f"note: field study_date: {evidence}\n" in ran.err
    assert f"# {evidence}\n" in (tmp_path / "t.toml").read_text("utf-8")
    (tmp_path / "t.csv").write_text("scan,study date\n1,45321\n2,45322\n", "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv", "--overwrite")
    assert 'a Mac may have counted from 1904 (formats = ["excel-1904"])' in ran.err
    assert read_from(tmp_path / "t.csv", "study_date") == {"1.png": "2024-01-30", "2.png": "2024-01-31"}


def test_a_hidden_sheet_is_not_what_is_drafted(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["1.png", "2.png"])
    book = openpyxl.Workbook()
    for row in (["scan", "age"], ["1", 50], ["2", 60]):
        book.active.append(row)
    hidden = book.create_sheet("all")
    hidden.sheet_state = "hidden"
    for row in (["scan", "ward"], *[[str(n % 2 + 1), f"w{n % 2}"] for n in range(9)]):
        hidden.append(row)
    book.save(tmp_path / "t.xlsx")
    assert init(cxrsearch, tmp_path / "t.xlsx").code == 0
    assert list(drafted(tmp_path / "t.xlsx")["fields"]) == ["age"]
    assert init(cxrsearch, tmp_path / "t.xlsx", "--sheet", "all", "--overwrite").code == 0
    assert list(drafted(tmp_path / "t.xlsx")["fields"]) == ["ward"]


def test_parquet_columns_of_records_and_of_far_dates_are_no_facts(cxrsearch: Run, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    scans(tmp_path, ["1.png", "2.png"])
    person = [{"name": "Weiß, Ida", "ward": "3"}] * 2
    given = {"scan": ["1", "2"], "age": [50, 60], "who": person, "more": [[person[0]]] * 2}
    parquet.write_table(pyarrow.table(given), tmp_path / "t.parquet")
    ran = init(cxrsearch, tmp_path / "t.parquet")
    assert list(drafted(tmp_path / "t.parquet")["fields"]) == ["age"]
    assert "Ida" not in ran.out + ran.err
    far = pyarrow.array([2**62] * 2, pyarrow.timestamp("us"))
    parquet.write_table(pyarrow.table({"scan": ["1", "2"], "seen": far}), tmp_path / "t.parquet")
    ran = init(cxrsearch, tmp_path / "t.parquet", "--overwrite")
    assert (ran.code, len(ran.err.splitlines())) == (4, 1)
    assert "a date out of the years 1 to 9999" in ran.err


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("scan,age\nx,50\n", "no column names a file"),
        ("scan,age\n", "no rows below its header"),
        ("1.png,50\n2.png,60\n", "its first line has values where names of columns belong"),
        ("", "names no columns"),
        ("scan,age\n1,50\n2,60,7\n", "line 3 has 3"),
        ("scan,scan,age\n1,1,50\n2,2,60\n", "Rename columns of one name: scan"),
    ],
)
def test_a_table_that_cannot_be_drafted_says_why_and_quotes_no_cell(
    cxrsearch: Run, tmp_path: Path, table: str, message: str
) -> None:
    scans(tmp_path, ["1.png", "2.png"])
    (tmp_path / "t.csv").write_text(table, "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv")
    assert ran.code == 4
    assert message in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert not (tmp_path / "t.toml").exists()


def test_a_table_or_a_folder_whose_name_is_no_text_is_refused(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["1.png", "2.png"])
    (tmp_path / "t.csv").write_text("scan,age\n1,50\n2,60\n", "utf-8")
    (tmp_path / "t\udcff.csv").write_bytes((tmp_path / "t.csv").read_bytes())
    (tmp_path / "s\udcff").symlink_to(tmp_path / "scans")
    (tmp_path / "d\udcff").mkdir()
    for arguments in (("t\udcff.csv", "scans"), ("t.csv", "d\udcff")):
        table, images = (tmp_path / name for name in arguments)
        ran = cxrsearch("init", table, "--images", images, "--out", tmp_path / "t.toml")
        assert (ran.code, "is no text in UTF-8; rename it" in ran.err) == (4, True), ran.err
    assert not (tmp_path / "t.toml").exists()


def test_a_picture_in_place_of_a_table_is_none(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["1.png"])
    ran = cxrsearch("init", tmp_path / "scans/1.png", "--images", tmp_path / "scans", "--out", tmp_path / "t.toml")
    assert ran.code == 4
    assert ran.err.startswith("cxrsearch: 1.png: no table, nor any text; name the CSV")


def test_a_mapping_that_is_there_is_kept(cxrsearch: Run, ugly: Path) -> None:
    ugly.with_suffix(".toml").write_text("mine", "utf-8")
    ran = init(cxrsearch, ugly)
    assert (ran.code, "--overwrite" in ran.err) == (4, True)
    assert ugly.with_suffix(".toml").read_text("utf-8") == "mine"
    assert init(cxrsearch, ugly, "--overwrite").code == 0


def test_index_of_a_table_says_the_command_that_drafts_a_mapping(cxrsearch: Run, ugly: Path, tmp_path: Path) -> None:
    ran = cxrsearch("index", ugly, "--index", tmp_path / "index")
    assert ran.code == 4
    assert f"cxrsearch init {ugly} --images DIR" in ran.err
    (tmp_path / "scans" / "klinik.csv").write_bytes(ugly.read_bytes())
    folder = cxrsearch("index", tmp_path / "scans", "--index", tmp_path / "index", "--workers", 1)
    assert f"cxrsearch init {tmp_path}/scans/klinik.csv --images {tmp_path}/scans" in folder.err


def test_names_of_columns_are_never_markup(cxrsearch: Run, tmp_path: Path) -> None:
    scans(tmp_path, ["1.png", "2.png"])
    evil = "[red]x[/red]\"'\n[privacy]\nthumbnails = false #\x1b[31m"
    quoted = evil.replace('"', '""')
    (tmp_path / "t.csv").write_text(f'scan,"{quoted}","more\n[x]"\n1,5,a\n2,6,a\n', "utf-8")
    ran = init(cxrsearch, tmp_path / "t.csv", "--yes", "--index", tmp_path / "index")
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out + ran.err
    mapping = drafted(tmp_path / "t.csv")
    assert "privacy" not in mapping
    assert len(mapping["fields"]) == 2
    assert "[red]x[/red]" in next(iter(mapping["fields"].values()))["column"]


@pytest.mark.parametrize("name", ["nih", "covid-chestxray", "covid-chestxray-more", "rsna-normal"])
@pytest.mark.data
def test_the_tables_of_public_sets_are_drafted_whole(cxrsearch: Run, data: Path, tmp_path: Path, name: str) -> None:
    folder = data / name
    ran = cxrsearch("init", folder / "metadata.csv", "--images", folder, "--out", tmp_path / "t.toml")
    assert ran.code == 0, ran.err
    assert "; 0 files are missing" in ran.out
    mapping = tomllib.loads((tmp_path / "t.toml").read_text("utf-8"))
    assert "finding" in mapping["fields"]
    assert not {"clinical_notes", "url", "licence_note"} & set(mapping["fields"])
