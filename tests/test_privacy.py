"""Identity stays out: of the index's bytes, of every output, of every message."""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import pydicom
import pytest
from factories import Run
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.clinical.identity import Identity
from cxrsearch.errors import MappingError
from indexer.dataset import load
from indexer.phantoms import draw, write_cohort, write_dicom

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
    import zipfile

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


def test_a_forget_that_was_killed_is_finished_by_the_next(cxrsearch: Run, index: Path) -> None:
    """Killed after the new shard was written and the old one put aside, before they changed places."""
    import shutil

    shutil.copytree(index / "shard", index / "shard.new")
    (index / "shard").rename(index / "shard.old")
    ran = cxrsearch("info", "--index", index)
    assert (ran.code, "run the same cxrsearch forget again" in ran.err) == (5, True)
    assert cxrsearch("forget", "PH0003", "--index", index).out.startswith("deleted 2 images")
    assert not (index / "shard.old").exists()
    assert cxrsearch("info", "--index", index).code == 0


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
