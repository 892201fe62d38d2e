"""Identity stays out: of the index's bytes, of every output, of every message."""

import base64
import datetime
import hashlib
import json
import re
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import Run, configuration
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxrsearch.clinical.identity import Identity
from cxrsearch.errors import MappingError
from cxrsearch.store.edge import EdgeStore
from indexer.dataset import load
from indexer.phantoms import draw, write_cohort, write_dicom
from indexer.points import PointMaker
from trainer.config import Config
from trainer.data.claim import claim
from trainer.data.training_set import load as load_images

MARKERS = [
    "Marker",
    "Planted",
    "MRN-424242",
    "ACC-77123",
    "19511103",
    "Elmstreet",
    "Dr-Referrer",
    "PrivateSecret",
    "Saint-Planted-Hospital",
    "file-of-smith",
    "folder-of-smith",
]


DAY = datetime.date(2020, 3, 1)


def planted(folder: Path, name: str, body: int) -> Path:
    """A DICOM file full of identities: headers, private tags, file and folder name."""
    path = folder / "folder-of-smith" / f"{name}-file-of-smith.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_dicom(
        path, draw("Pneumonia", body, size=96), facts={"patient": "MRN-424242", "day": datetime.date(2020, 3, 1)}
    )
    dataset: Any = pydicom.dcmread(path)
    dataset.PatientName, dataset.PatientBirthDate, dataset.AccessionNumber = "Marker^Planted", "19511103", "ACC-77123"
    dataset.PatientAddress, dataset.ReferringPhysicianName = "1 Elmstreet", "Dr-Referrer"
    dataset.InstitutionName = "Saint-Planted-Hospital"
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "PrivateSecret")
    dataset.save_as(path)
    return path


def test_planted_identities_are_found_nowhere(cxrsearch: Run, tmp_path: Path) -> None:
    archive, index = tmp_path / "archive", tmp_path / "index"
    paths = [planted(archive, f"{n}", n) for n in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:2000])  # errors on the way, of several kinds
    broken: Any = pydicom.dcmread(paths[1])
    broken.Rows = 7
    broken.save_as(paths[1])
    other: Any = pydicom.dcmread(paths[2])
    other.Modality = "CT"
    other.save_as(paths[2])
    outputs = [cxrsearch("index", archive, "--index", index), cxrsearch("index", archive, "--index", index)]
    assert outputs[0].code == 3
    uid = str(pydicom.dcmread(paths[3]).StudyInstanceUID)
    query = tmp_path / "query.dcm"
    paths[3].rename(query)
    for format in ("table", "json", "jsonl", "csv"):
        outputs += [
            cxrsearch("search", query, "--index", index, "--same-patient", "--format", format),
            cxrsearch("cohort", "--index", index, "--format", format),
            cxrsearch("cohort", "--index", index, "--by", "sex", "--format", format),
            cxrsearch("info", "--index", index, "--format", format),
        ]
    smith = query.rename(tmp_path / "file-of-smith.dcm")  # a page does not name the file that was asked about
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    search = cxrsearch("search", smith, "--index", index, "--same-patient", "--like", smith, "--report", page)
    assert search.code == 0, search.err
    outputs += [
        cxrsearch("cohort", "--index", index, "--export", table),
        cxrsearch("duplicates", "--index", index),
        cxrsearch("doctor", "--index", index),
        cxrsearch("backup", index, tmp_path / "b"),
        cxrsearch("forget", "MRN-424243", "--index", index),
    ]
    printed = "".join(ran.out + ran.err for ran in outputs) + page.read_text("utf-8") + table.read_text("utf-8")
    printed = printed.replace(str(archive), "").replace(str(index), "")
    stored = b"".join(file.read_bytes() for file in index.rglob("*") if file.is_file())
    with zipfile.ZipFile(tmp_path / "b") as archive_file:
        stored += b"".join(archive_file.read(name) for name in archive_file.namelist())
    for marker in (*MARKERS, uid):
        assert marker not in printed
        assert marker.encode() not in stored, marker


def test_forgetting_leaves_no_byte_and_indexing_does_not_bring_it_back(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=9, size=96)
    index = tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    rows = json.loads(cxrsearch("cohort", "--index", index, "--format", "json").out)
    mine = [row for row in rows if "PH0003" in row["path"]]
    traces = [mine[0]["patient"], *(row["path"] for row in mine), *(row["image_sha256"] for row in mine)]
    content = b"".join(file.read_bytes() for file in index.rglob("*") if file.is_file())
    assert all(trace.encode() in content for trace in traces)
    assert cxrsearch("forget", "PH0003", "--index", index).out.startswith("deleted 2 images")
    content = b"".join(file.read_bytes() for file in index.rglob("*") if file.is_file())
    assert not [trace for trace in traces if trace.encode() in content]
    again = cxrsearch("index", toml, "--index", index)
    assert again.code == 0
    assert "2 files of forgotten patients were left out; --again takes them in" in again.out
    assert len(json.loads(cxrsearch("cohort", "--index", index, "--format", "json").out)) == 10
    assert cxrsearch("index", toml, "--index", index, "--again").out.startswith("2 indexed")
    assert cxrsearch("index", toml, "--index", index).out.startswith("0 indexed, 0 updated, 12 unchanged")


DICOM_FIELD = 'name = "d"\nimages.glob = "*.dcm"\n[fields.f]\ndicom = "{keyword}"\ntype = "{kind}"\n'


@pytest.mark.parametrize(
    "keyword",
    [
        "PatientName",
        "PatientBirthDate",
        "AccessionNumber",
        "PatientID",
        "StudyInstanceUID",
        "InstitutionName",
        "ReferringPhysicianName",
        "PatientAddress",
        "StudyDescription",
        "StationName",
        "OtherPatientIDs",
    ],
)
def test_an_identifying_attribute_is_refused_unless_allowed(cxrsearch: Run, tmp_path: Path, keyword: str) -> None:
    toml = tmp_path / "set.toml"
    toml.write_text(DICOM_FIELD.format(keyword=keyword, kind="keyword"))
    planted(tmp_path, "x", 1).rename(tmp_path / "x.dcm")
    with pytest.raises(MappingError, match=f"{keyword} can identify a patient.*allow_identifiers"):
        load(str(toml))
    toml.write_text(toml.read_text() + "[privacy]\nallow_identifiers = true\n")
    ran = cxrsearch("index", toml, "--index", tmp_path / "index")
    assert ran.code == 0
    assert f"note: {keyword} can identify patients" in ran.err
    assert f"identifiers d: {keyword} (allow_identifiers)" in cxrsearch("info", "--index", tmp_path / "index").out


def payload_of(cxrsearch: Run, toml: Path, index: Path) -> dict[str, Any]:
    assert cxrsearch("index", toml, "--index", index).code == 0
    (row,) = json.loads(cxrsearch("cohort", "--index", index, "--format", "json").out)
    return dict(row)


@pytest.mark.parametrize(
    ("dates", "header", "table"),
    [(None, "shifted", "kept"), ("keep", "kept", "kept"), ("shift", "shifted", "shifted"), ("year", "year", "year")],
)
def test_dates_are_kept_shifted_or_reduced(
    cxrsearch: Run, tmp_path: Path, dates: str | None, header: str, table: str
) -> None:
    write_dicom(
        tmp_path / "a.dcm", draw("Pneumonia", 1, size=96), facts={"patient": "P", "day": datetime.date(2020, 3, 1)}
    )
    (tmp_path / "t.csv").write_text("file,day,told\na.dcm,2020-03-11,secret words\n")
    privacy = f"[privacy]\ndates = '{dates}'\n" if dates else ""
    (tmp_path / "set.toml").write_text(
        "name = 's'\nimages = { table = 't.csv', path = '{file}' }\npatient = { dicom = 'PatientID' }\n"
        "fields.told = { column = 'told', type = 'text' }\nfields.day = { column = 'day', type = 'date' }\n"
        "fields.taken = { dicom = 'StudyDate', type = 'date', formats = '%Y%m%d' }\n" + privacy
    )
    payload = payload_of(cxrsearch, tmp_path / "set.toml", tmp_path / "index")
    assert "told" not in payload  # free text is off unless the mapping turns it on
    for name, way, real in (("taken", header, "2020-03-01"), ("day", table, "2020-03-11")):
        expected = {"kept": real, "year": "2020-01-01"}.get(way)
        if expected:
            assert payload[name] == expected
        else:
            back = (datetime.date.fromisoformat(real) - datetime.date.fromisoformat(payload[name])).days
            assert 1 <= back <= 3652
    if header == table == "shifted":
        apart = datetime.date.fromisoformat(payload["day"]) - datetime.date.fromisoformat(payload["taken"])
        assert apart.days == 10


@given(key=st.binary(min_size=32, max_size=32), patient=st.text(max_size=8), days=st.lists(st.dates(), min_size=2))
def test_shifting_keeps_the_days_between_and_never_stands_still(
    key: bytes, patient: str, days: list[datetime.date]
) -> None:
    identity = Identity(key)
    later = [day for day in days if day.year > 20]
    moved = [datetime.date.fromisoformat(identity.shift_date("n", patient, day.isoformat())) for day in later]
    assert all(a - b == later[0] - moved[0] for a, b in zip(later, moved, strict=True))
    assert all(a > b for a, b in zip(later, moved, strict=True))


def test_very_old_patients_are_ninety(cxrsearch: Run, tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", draw("Pneumonia", 1, size=96), facts={"patient": "P", "age": 97})
    assert payload_of(cxrsearch, tmp_path, tmp_path.parent / f"{tmp_path.name}-index")["age"] == 90


# Of a field its name, its column, its type and what else is declared -> cells, and what of them enters.
AGES: dict[tuple[str, str, str, str], dict[str, object]] = {
    ("age", "a", "integer", ""): {"97": 90, "89": 89},
    ("edad", "b", "float", ""): {"97.5": 90.0},
    ("age_years", "c", "integer", ""): {"97": 90},
    ("lived", "Alter (Jahre)", "integer", ""): {"97": 90},
    ("old", "Patientenalter", "integer", ""): {"97": 90},
    ("months", "Alter (Monate)", "integer", ""): {"132": 132, "1300": 1080},
    ("of_unit", "Age", "integer", 'unit = "months"'): {"132": 132, "1300": 1080},
    ("days", "age in days", "integer", ""): {"4000": 4000},
    ("age_words", "d", "keyword", ""): {
        "094Y": "90+", "89Y": "89Y", "006M": "006M", "132 Monate": "132 Monate", "97 Jahre": "90+", "90-94": "90+",
        "\u00fcber 90": "90+", "young": "young", "94 years 2 months": "90+", "94 Jahre 2 Monate": "90+", "94M": "90+",
        "94F": "90+", "10 ans 3 mois": "10 ans 3 mois",
    },
    ("at_exam", "Age at day of exam", "integer", ""): {"95": 90},
    ("bei_aufnahme", "Alter am Tag der Aufnahme", "integer", ""): {"95": 90},
    ("age_months", "Alter", "integer", ""): {"120": 120},
    ("in_tagen", "Alter in Tagen", "integer", ""): {"10000": 10000},
    ("dative", "Alter bei Scan", "integer", 'unit = "Monaten"'): {"120": 120},
    ("patientage", "i", "integer", ""): {"95": 90},
    ("d_dimer", "age_adjusted_d_dimer", "integer", ""): {"500": 500},
    ("age_group", "e", "keyword", ""): {"95+": "90+", "60-69": "60-69"},
    ("ages", "f", "integer", 'separator = ";"'): {"94;97;50": [90, 50]},
    ("years_lived", "g", "integer", ""): {"97": 97},
    ("stage", "h", "integer", ""): {"97": 97},
}  # fmt: skip


def test_an_age_of_any_name_and_form_is_capped_and_what_is_none_is_not(cxrsearch: Run, tmp_path: Path) -> None:
    rows = max(map(len, AGES.values()))
    columns = {column: [*cells, *[""] * (rows - len(cells))] for (_, column, _, _), cells in AGES.items()}
    for number in range(rows):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
    table = [
        ["image", *columns],
        *([f"{n}.png", *cells] for n, cells in enumerate(zip(*columns.values(), strict=True))),
    ]
    (tmp_path / "t.csv").write_text("\n".join(",".join(row) for row in table), "utf-8")
    fields = (f'[fields.{name}]\ntype = "{kind}"\ncolumn = "{column}"\n{more}\n' for name, column, kind, more in AGES)
    (tmp_path / "d.toml").write_text(
        'name = "d"\n[images]\nroot = "."\ntable = "t.csv"\npath = "{image}"\n' + "".join(fields), "utf-8"
    )
    assert cxrsearch("index", tmp_path / "d.toml", "--index", tmp_path / "index").code == 0
    stored = json.loads(cxrsearch("cohort", "--index", tmp_path / "index", "--format", "json").out)
    of_image = {int(one["path"].removesuffix(".png")): one for one in stored}
    found = {field: {cell: of_image[n].get(field[0]) for n, cell in enumerate(cells)} for field, cells in AGES.items()}
    assert found == AGES


def test_what_entered_before_ages_were_capped_is_stored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("image,age,icu\n1.png,95,yes\n")
    for field, again in (("age", True), ("icu", False)):
        toml = tmp_path / f"{field}.toml"
        toml.write_text(
            f'name = "d"\n[images]\nroot = "."\ntable = "t.csv"\npath = "{{image}}"\n'
            f'[fields.{field}]\ntype = "keyword"\ncolumn = "{field}"\n'
        )
        dataset, identity = load(toml), Identity(b"k" * 32)
        (record,) = dataset.records()
        now = (dataset.row_hash(record, identity), PointMaker(dataset, identity).reading())
        with monkeypatch.context() as earlier:
            earlier.setattr("indexer.ages.VERSION", 1)
            before = (dataset.row_hash(record, identity), PointMaker(dataset, identity).reading())
        assert [a != b for a, b in zip(now, before, strict=True)] == [again, again]


def test_very_old_patients_of_a_header_are_ninety_in_words_too(cxrsearch: Run, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_dicom(folder / "a.dcm", draw("Pneumonia", 1, size=96), facts={"patient": "P", "age": 97})
    (folder / "d.toml").write_text(
        'name = "d"\n[images]\nroot = "."\nglob = ["*.dcm"]\n'
        '[fields.lived]\ntype = "keyword"\ndicom = "PatientAge"\n[fields.years]\ntype = "float"\ndicom = "PatientAge"\n'
    )
    found = payload_of(cxrsearch, folder / "d.toml", tmp_path / "index")
    assert (found["lived"], found["years"]) == ("90+", 90.0)


def test_paths_are_tokens_where_asked_and_for_folders_of_dicom(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_dicom(tmp_path / "set" / "smith.dcm", draw("Pneumonia", 1, size=96))
    hashed = payload_of(cxrsearch, tmp_path / "set", tmp_path / "a")
    assert hashed["path"].isalnum()
    assert "smith" not in (tmp_path / "a" / "index.json").read_text()
    assert str(tmp_path) not in (tmp_path / "a" / "index.json").read_text()
    ran = cxrsearch("index", tmp_path / "set", "--index", tmp_path / "b", "--paths", "relative")
    assert ran.code == 0
    (row,) = json.loads(cxrsearch("cohort", "--index", tmp_path / "b", "--format", "json").out)
    assert row["path"] == "smith.dcm"


def test_a_token_is_looked_up_where_the_key_and_the_files_are(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("set", "other"):
        (tmp_path / folder).mkdir()
        write_dicom(tmp_path / folder / "smith.dcm", draw("Pneumonia", 1, size=96))
    token = str(payload_of(cxrsearch, tmp_path / "set", tmp_path / "a")["path"])
    shown = cxrsearch("cohort", "--index", tmp_path / "a")
    assert "paths are tokens; cxrsearch locate DATASET TOKEN names the file, where the key is" in shown.out
    ran = cxrsearch("locate", tmp_path / "set", token)
    assert (ran.code, ran.out) == (0, f"{token}  {tmp_path}/set/smith.dcm\n")
    for unknown in (["MZXW6YTBOI2DKNRX"], [token, "--name", "renamed"]):
        refused = cxrsearch("locate", tmp_path / "set", *unknown)
        assert (refused.code, f"{unknown[0]}: of no file of" in refused.err, refused.out) == (4, True, "")
    monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(tmp_path / "nowhere"))
    refused = cxrsearch("locate", tmp_path / "set", token)
    assert (refused.code, "no pseudonym key here" in refused.err, refused.out) == (4, True, "")
    assert not (tmp_path / "nowhere").exists()


@given(a=st.text(max_size=5), b=st.text(max_size=5), c=st.text(max_size=5), d=st.text(max_size=5))
def test_pseudonyms_differ_by_namespace_identifier_kind_and_key(a: str, b: str, c: str, d: str) -> None:
    one, other = Identity(b"k" * 32), Identity(b"l" * 32)
    assert (one.patient(a, b) == one.patient(c, d)) == ((a, b) == (c, d))
    assert len({one.patient(a, b), one.study(a, b), one.path(a, b), other.patient(a, b)}) == 4


@pytest.mark.parametrize("study", [None, "A-17"])
def test_a_row_fingerprint_is_not_reversed_without_the_key(tmp_path: Path, study: str | None) -> None:
    (tmp_path / "t.csv").write_text(f"file,mrn,acc\na.png,0004711,{study or ''}\n")
    (tmp_path / "set.toml").write_text(
        'name = "h"\nimages = { table = "t.csv", path = "{file}" }\n'
        'patient = { column = "mrn" }\nstudy = { column = "acc" }\n'
    )
    dataset = load(tmp_path / "set.toml", root=tmp_path)
    (record,) = dataset.records()
    assert record.patient == "0004711"
    facts = [record.payload, record.patient, record.study, {}, dataset.mapping.privacy.model_dump(mode="json")]
    message = json.dumps(facts, sort_keys=True, ensure_ascii=True)
    stored = dataset.row_hash(record, Identity(b"a" * 32))
    assert stored != hashlib.sha256(message.encode()).hexdigest()
    assert stored != dataset.row_hash(record, Identity(b"b" * 32))
    assert stored == dataset.row_hash(record, Identity(b"a" * 32))


# ---------------------------------------------------------------- digests


_HASHES = ("md5", "sha1", "sha256", "sha512", "blake2b", "blake2s", "sha3_256")


def reversed_numbers(content: bytes, numbers: list[str], said_of_each: dict[str, list[str]]) -> set[str]:
    """The numbers that some unkeyed hash of some plausible text gives away in ``content``, without any key."""
    tokens = {token.lower().replace(b"-", b"") for token in re.findall(rb"[0-9a-fA-F-]{16,}", content)}
    tokens |= {token.lower() for token in re.findall(rb"[A-Z2-7]{16}", content)}
    known: set[bytes] = {token[:length] for token in tokens for length in (16, 32) if len(token) >= length}
    found = set()
    for number in numbers:
        texts = {number, number.lstrip("0"), f"{number}\n", json.dumps(number), *said_of_each.get(number, [])}
        for prefix in ("patient", "path", "forgotten:", "h", "h/", "set/", "row", "study", "point"):
            texts |= {f"{prefix}{number}", f"{prefix}:{number}", f"{number}.png"}
        for text in texts:
            for name in _HASHES:
                digest = hashlib.new(name, text.encode()).digest()
                forms = {digest.hex().encode(), base64.b32encode(digest[:10]).lower()}
                forms |= {uuid.UUID(bytes=digest[:16], version=version).hex.encode() for version in (3, 4, 5)}
                if any(form[:length] in known for form in forms for length in (16, 32) if len(form) >= length):
                    found.add(number)
    return found


def everything(folder: Path) -> bytes:
    """Every file; the engine's are mostly holes, which say nothing."""
    files = (file.read_bytes() for file in folder.rglob("*") if file.is_file())
    return b"\n".join(content.replace(bytes(64), b"") for content in files)


TRAINING = """
name = "small"
label = "sex"
[[data]]
mapping = "data/set.toml"
[classes]
m = ["M"]
f = ["F"]
[network]
tower = "cxr-RN14-w8"
image_size = 64
dimensions = 16
[learning]
epochs = 1
images_per_class = 6
[held_out]
validation = 0.2
test = 0.2
"""


def test_no_number_can_be_found_again_without_the_key(cxrsearch: Run, tmp_path: Path) -> None:
    """A thousand candidates, the true ones among them, by every unkeyed hash of what could have been hashed, against
    everything that the program writes."""
    rng, out = np.random.default_rng(7), tmp_path / "out"
    out.mkdir()
    numbers = [f"{n:07d}" for n in rng.choice(10**7, 1000, replace=False)]
    true = numbers[:60]
    data = tmp_path / "data"
    data.mkdir()
    rows = ["file,mrn,acc,sex,age"]
    for n, number in enumerate(true):
        Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(data / f"{n}.png")
        rows.append(f"{n}.png,{number},{number[::-1]},{'MF'[n % 2]},{40 + n % 40}")
    (data / "59.png").write_bytes(b"broken")
    (data / "t.csv").write_text("\n".join(rows) + "\n")
    (data / "set.toml").write_text(
        'name = "h"\nimages = { table = "t.csv", path = "{file}" }\npatient = { column = "mrn" }\n'
        'study = { column = "acc" }\nfields.sex = { column = "sex", type = "keyword" }\n'
        'fields.age = { column = "age", type = "integer" }\nprivacy.paths = "hashed"\n'
    )
    (tmp_path / "training.toml").write_text(TRAINING)
    index, run = out / "index", out / "run"
    assert cxrsearch("index", data / "set.toml", "--index", index, "--workers", 1).code == 3
    query = ("search", data / "0.png", "--index", index)
    assert cxrsearch("forget", true[5], "--index", index).code == 0
    transfer = ("transfer", "--index", index, "--target", "sex", "--repeats", 1)
    printed = [
        cxrsearch(*query, "--format", "json", "--report", out / "page.html", "--same-patient"),
        cxrsearch("cohort", "--index", index, "--format", "json"),
        cxrsearch("cohort", "--index", index, "--export", out / "cohort.csv"),
        cxrsearch("backup", index, tmp_path / "backup"),
        cxrsearch("audit", data / "set.toml", "--label", "sex", "--format", "json", "--out", out / "audit.html"),
        cxrsearch(*transfer, "--out", out / "transfer.html", "--save", out / "transfer.json"),
        cxrsearch("train", tmp_path / "training.toml", "--out", run),
        cxrsearch("evaluate", tmp_path / "training.toml", "--model", run / "model", "--out", out / "evaluation"),
    ]
    assert [ran.code for ran in printed] == [0] * len(printed), [ran.err for ran in printed]
    (out / "printed").write_text("".join(ran.out + ran.err for ran in printed))
    with zipfile.ZipFile(tmp_path / "backup") as archive:
        archive.extractall(out / "backup")
    store = EdgeStore.open(index)
    stored = [point.payload for point in store.scroll()]
    (out / "payloads").write_text(json.dumps(stored))
    store.close()
    written = {path.relative_to(out).as_posix() for path in out.rglob("*")}
    pages = {"page.html", "audit.html", "transfer.html", "evaluation/evaluation.html"}
    assert pages | {"index/rejected.jsonl", "run/model/model.json", "run/config.json"} <= written
    # What the 0.1.0 attack tried: the row as it was hashed, and of files the digest of their own bytes.
    said = {
        number: [
            json.dumps([{"age": 40 + n % 40, "sex": "MF"[n % 2]}, number, acc, {}, privacy], sort_keys=True)
            for acc in (None, number[::-1])
            for privacy in ({}, {"dates": None, "paths": "hashed", "free_text": False})
        ]
        for n, number in enumerate(true)
    }
    content = everything(out)
    assert reversed_numbers(content, numbers, said) == set()
    # Between digits it is a part of some other number: there are tens of thousands of digits of embeddings.
    assert not [number for number in true if re.search(rb"(?<!\d)%b(?!\d)" % number.encode(), content)]
    for file in data.glob("*.png"):
        assert hashlib.sha256(file.read_bytes()).hexdigest().encode() not in content
    for planted_hash in (  # the same eyes see an unkeyed one
        hashlib.sha256(true[3].encode()).hexdigest(),
        base64.b32encode(hashlib.sha1(f"forgotten:{true[3]}".encode()).digest()[:10]).decode(),
        str(uuid.UUID(bytes=hashlib.sha256(said[true[3]][0].encode()).digest()[:16], version=5)),
    ):
        assert reversed_numbers(f'"{planted_hash}"'.encode(), true, said) == {true[3]}


def test_a_run_folder_is_known_again_by_a_keyed_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its images and whose they are: with another key the same images are others."""
    config = Config.load(configuration(tmp_path, patients=12, epochs=1))
    images, digests = load_images(config)[0], []
    for number, letters in enumerate(("ab", "ab", "cd")):
        key = tmp_path / letters
        key.write_text(letters * 32)
        key.chmod(0o600)
        monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(key))
        claim(tmp_path / f"run{number}", config, images, "held out", False)
        digests.append(json.loads((tmp_path / f"run{number}" / "config.json").read_text("utf-8"))["images"])
    assert digests[0] == digests[1] != digests[2]


def test_an_index_with_unkeyed_digests_is_refused_with_what_to_do(cxrsearch: Run, index: Path) -> None:
    facts = json.loads((index / "index.json").read_text("utf-8"))
    (index / "index.json").write_text(json.dumps({**facts, "format": 1}))
    for command in ("info", "calibrate"):
        ran = cxrsearch(command, "--index", index)
        assert (ran.code, "Index the images again into a new index" in ran.err) == (5, True)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_is_refused(
    cxrsearch: Run, cohort: Path, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(mode)
    monkeypatch.setenv("CXRSEARCH_KEY_FILE", str(key))
    ran = cxrsearch("search", next(cohort.parent.rglob("*.dcm")), "--index", index)
    assert (ran.code, f"chmod 600 {key}" in ran.err) == (4, True)


def test_small_groups_of_a_cohort_can_be_left_out(cxrsearch: Run, index: Path) -> None:
    count = ("cohort", "--index", index, "--by", "finding", "--by", "outcome", "--format", "json")
    every, ran = json.loads(cxrsearch(*count).out), cxrsearch(*count, "--min-cell", 5)
    assert json.loads(ran.out) == [row for row in every if row["patients"] >= 5]
    small = sum(row["patients"] < 5 for row in every)
    assert small
    assert f"{small} groups of fewer than 5 patients are not shown" in ran.err
    table = cxrsearch(*count[:-1], "table", "--min-cell", 5)
    assert "32 images" not in table.out  # a total, less what is shown, is what is not shown
    assert cxrsearch("cohort", "--index", index, "--min-cell", 5).code == 2
