"""cxrsearch index: what a user can do with it, on the real engine."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from factories import Ran, Run, points
from PIL import Image

from cxrsearch.clinical.expression import Equals
from cxrsearch.imaging.radiograph import DEFAULT_GATES, Radiograph
from cxrsearch.imaging.read import read_bytes
from cxrsearch.store.edge import EdgeStore
from indexer import reader_process, readers
from indexer.phantoms import draw, write_cohort, write_dicom
from indexer.readers import ReaderConfig, Wanted


def facts(ran: Ran) -> dict[str, object]:
    assert ran.code == 0, ran.err
    return dict(json.loads(ran.out))


def test_a_cohort_goes_in_and_is_described(cxrsearch: Run, index: Path) -> None:
    told = facts(cxrsearch("info", "--index", index, "--format", "json"))
    assert (told["images"], told["patients"], told["datasets"]) == (32, 24, {"phantoms": 32})
    fields = {field["field"]: field for field in told["fields"]}  # type: ignore[union-attr,attr-defined]
    assert fields["finding"]["type"] == "list of keyword"
    assert fields["study_date"]["type"] == "date"
    assert fields["view"]["coverage"] == 1.0
    assert 0 < fields["outcome"]["coverage"] < 1


def test_indexing_again_embeds_nothing(
    cxrsearch: Run, cohort: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = points(index)
    monkeypatch.setattr(EdgeStore, "upsert", lambda *_: pytest.fail("embedded again"))
    ran = cxrsearch("index", cohort, "--index", index)
    assert ran.code == 0
    assert ran.out.startswith("0 indexed, 0 updated, 32 unchanged, 0 rejected")
    after = points(index)
    assert {i: p.payload for i, p in before.items()} == {i: p.payload for i, p in after.items()}


def test_a_changed_row_updates_its_facts_without_embedding(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = write_cohort(tmp_path / "set", patients=4, size=96)
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    before = points(tmp_path / "index")
    table = toml.parent / "clinical.csv"
    table.write_text(table.read_text("utf-8").replace("Lungs are clear", "Lungs are very clear"), "utf-8")
    table.write_text(table.read_text("utf-8").replace(",North,", ",Northwest,", 1), "utf-8")
    monkeypatch.setattr(EdgeStore, "upsert", lambda *_: pytest.fail("embedded again"))
    ran = cxrsearch("index", toml, "--index", tmp_path / "index")
    assert "0 indexed" in ran.out
    changed = [after.payload for i, after in points(tmp_path / "index").items() if after.payload != before[i].payload]
    assert f"{len(changed)} updated" in ran.out
    assert any(payload["site"] == "Northwest" for payload in changed)
    for i, after in points(tmp_path / "index").items():
        np.testing.assert_array_equal(after.vector, before[i].vector)
        assert (after.payload["width"], after.payload.get("view")) == (before[i].payload["width"], "PA")


def test_a_changed_image_is_embedded_again(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=3, size=96)
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    before = points(tmp_path / "index")
    image = sorted(toml.parent.rglob("*.dcm"))[0]
    write_dicom(image, draw("COVID-19", 99, size=96), facts={"patient": "PH0000"})
    assert cxrsearch("index", toml, "--index", tmp_path / "index").out.startswith("1 indexed, 0 updated, 3 unchanged")
    after = points(tmp_path / "index")
    assert set(after) == set(before)
    assert sum(not np.array_equal(after[i].vector, before[i].vector) for i in after) == 1


def test_bad_files_are_rejected_with_their_reason_and_the_rest_goes_in(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=6, size=96)
    images = sorted(toml.parent.rglob("*.dcm"))
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:3000])
    images[2].unlink()
    images[3].write_text("no image")
    ran = cxrsearch("index", toml, "--index", tmp_path / "index")
    assert ran.code == 3
    assert f"{len(images) - 4} indexed, 0 updated, 0 unchanged, 4 rejected" in ran.out
    lines = [json.loads(line) for line in (tmp_path / "index" / "rejected.jsonl").read_text("utf-8").splitlines()]
    reasons = {line["path"]: line["reason"] for line in lines}
    relative = [image.relative_to(toml.parent).as_posix() for image in images[:4]]
    assert [reasons[name] for name in relative] == ["empty", "truncated", "missing", "not-an-image"]
    assert all(line["row"] >= 2 and line["message"] for line in lines)
    assert (tmp_path / "index" / "rejected.jsonl").stat().st_mode & 0o777 == 0o600
    assert "rejected: 1 empty" in ran.err


def test_a_file_on_which_the_reader_fails_is_rejected_and_the_others_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        Image.fromarray((draw("Pneumonia", ord(name), size=64) * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
    squared = reader_process.canonical

    def fail_once(image: Radiograph, side: int) -> Any:
        monkeypatch.setattr(reader_process, "canonical", squared)
        raise RuntimeError("no cell or header is quoted")

    monkeypatch.setattr(reader_process, "canonical", fail_once)
    read = reader_process.work(ReaderConfig(64, (), DEFAULT_GATES))
    monkeypatch.setattr(reader_process.signal, "alarm", lambda seconds: None)
    bad, good, _ = (facts for facts, _ in read([Wanted(tmp_path / f"{n}.png", f"{n}.png", False) for n in "ab"]))
    assert bad == {
        "reason": "reader-died",
        "message": "a.png: the reader failed, which is a bug of ours (RuntimeError)",
    }
    assert good == {"embedding": True}


def test_a_folder_of_dicom_needs_no_table(cxrsearch: Run, tmp_path: Path) -> None:
    write_cohort(tmp_path / "set", patients=5, size=96)
    (tmp_path / "set" / "clinical.csv").unlink()
    (tmp_path / "set" / "dataset.toml").unlink()
    assert cxrsearch("index", tmp_path / "set", "--index", tmp_path / "index").code == 0
    for point in points(tmp_path / "index").values():
        assert {"patient", "study", "sex", "age"} <= set(point.payload)
        assert point.payload["modality"] == "DX"
        assert "PH0" not in str(point.payload["patient"])


def test_a_header_value_that_cannot_be_used_is_missing_and_counted(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    write_dicom(tmp_path / "set" / "a.dcm", draw("Pneumonia", 1, size=96))
    toml = tmp_path / "set" / "dataset.toml"
    toml.write_text('name = "s"\nimages.glob = "*.dcm"\nfields.bits = { dicom = "Modality", type = "integer" }\n')
    ran = cxrsearch("index", toml, "--index", tmp_path / "index")
    assert ran.code == 0
    assert "field bits: 1 DICOM values could not be used and are missing" in ran.err
    (point,) = points(tmp_path / "index").values()
    assert "bits" not in point.payload


def test_two_datasets_share_an_index_and_their_equal_patient_numbers_stay_apart(cxrsearch: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        toml = write_cohort(tmp_path / name, patients=3, size=96, seed=ord(name))
        toml.write_text(toml.read_text("utf-8").replace('name = "phantoms"', f'name = "{name}"'), "utf-8")
        assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    told = facts(cxrsearch("info", "--index", tmp_path / "index", "--format", "json"))
    assert (told["images"], told["patients"], told["datasets"]) == (8, 6, {"a": 4, "b": 4})


def test_limit_and_dry_run(cxrsearch: Run, cohort: Path, tmp_path: Path) -> None:
    dry = cxrsearch("index", cohort, "--index", tmp_path / "index", "--dry-run")
    assert dry.code == 0
    assert "32 images of 24 patients" in dry.out
    assert "read from each file" in dry.out
    assert not (tmp_path / "index").exists()
    assert cxrsearch("index", cohort, "--index", tmp_path / "index", "--limit", "5").out.startswith("5 indexed")
    assert cxrsearch("index", cohort, "--index", tmp_path / "index").out.startswith("27 indexed, 0 updated, 5 unch")


def test_what_cannot_be_used_gives_exit_code_4_and_one_or_two_lines(
    cxrsearch: Run, cohort: Path, tmp_path: Path
) -> None:
    (tmp_path / "no-model").mkdir()
    (tmp_path / "bad.toml").write_text("name = 'x'\n[images]\ntable = 'clinical.csv'\npath = '{image}'\n")
    shutil.copy(cohort.parent / "clinical.csv", tmp_path)
    for arguments, message in (
        (["nowhere.toml"], "nowhere.toml: cannot be read (No such file or directory)"),
        ([tmp_path / "bad.toml"], "clinical.csv has no column 'image'"),
        ([cohort, "--model", tmp_path / "no-model"], "not a model folder"),
    ):
        ran = cxrsearch("index", *arguments, "--index", tmp_path / "index")
        assert (ran.code, ran.out) == (4, "")
        assert message in ran.err
        assert len(ran.err.splitlines()) <= 2


def test_an_index_of_another_model_is_refused(cxrsearch: Run, cohort: Path, index: Path, other_model: Path) -> None:
    ran = cxrsearch("index", cohort, "--index", index, "--model", other_model)
    assert ran.code == 6
    assert "made by model cxr-1" in ran.err
    assert "not by other" in ran.err


def test_a_file_that_kills_its_reader_costs_that_file_alone(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml = write_cohort(tmp_path / "set", patients=9, size=96)
    images = sorted(toml.parent.rglob("*.dcm"))
    monkeypatch.setattr(readers, "_WORK", f"{__name__}:deadly_work")
    monkeypatch.setenv("DEADLY_FILE", images[2].name)
    ran = cxrsearch("index", toml, "--index", tmp_path / "index")
    assert ran.code == 3
    assert f"{len(images) - 1} indexed" in ran.out
    (line,) = (tmp_path / "index" / "rejected.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["reason"] == "reader-died"


def deadly_work(config: readers.ReaderConfig) -> Any:
    """Reads like a decoder with a memory error: on one file the process is gone."""

    def deadly_read(path: Path, label: str) -> bytes:
        if path.name == os.environ["DEADLY_FILE"]:
            os.kill(os.getpid(), signal.SIGSEGV)
        return read_bytes(path, label)

    reader_process.read_bytes = deadly_read
    return reader_process.work(config)


def start(toml: Path, index: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cxrsearch", "index", str(toml), "--index", str(index), "--workers", "1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def large_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("large"), patients=180, size=128)


@pytest.mark.slow
def test_ctrl_c_leaves_a_usable_index_and_the_same_command_goes_on(
    cxrsearch: Run, large_cohort: Path, tmp_path: Path
) -> None:
    process = start(large_cohort, tmp_path / "index")
    while process.poll() is None and not (tmp_path / "index" / "rejected.jsonl.new").exists():
        time.sleep(0.02)
    time.sleep(1.2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "of 240 images are in the index, which can be used. The same command goes on from here." in err
    assert "Traceback" not in err
    there = len(points(tmp_path / "index"))
    assert f"stopped: {there} of 240" in err
    again = cxrsearch("index", large_cohort, "--index", tmp_path / "index")
    assert again.code == 0
    assert again.out.startswith(f"{240 - there} indexed, 0 updated, {there} unchanged")


def test_an_index_being_written_is_searched_and_busy_for_another_writer(
    cxrsearch: Run, cxrsearch_process: Run, cohort: Path, index: Path
) -> None:
    image = next(cohort.parent.rglob("*.dcm"))
    writer = EdgeStore.open(index, write=True)
    try:
        writer.delete(Equals("dataset", ("phantoms",)))
        for command in (["search", image], ["cohort"], ["info"]):
            assert cxrsearch_process(*command, "--index", index).code == 0
        for command in (["index", cohort], ["forget", "X"]):
            ran = cxrsearch_process(*command, "--index", index)
            assert ran.code == 5
            assert "being written by another process" in ran.err
            assert len([line for line in ran.err.splitlines() if not line.startswith("note: ")]) == 1
    finally:
        writer.close()
    assert cxrsearch("info", "--index", index).code == 0


def test_changed_rows_are_stored_a_batch_at_a_time(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each image's own flush took a tenth of a second: 29 s for 300 rows."""
    toml, index = write_cohort(tmp_path / "set", patients=24, size=96), tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    with (toml.parent / "clinical.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with (toml.parent / "clinical.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "age": "44"} for row in rows)
    calls, original = [], EdgeStore.set_payloads
    monkeypatch.setattr(EdgeStore, "set_payloads", lambda store, new: (calls.append(len(new)), original(store, new)))
    assert " 32 updated, 0 unchanged" in cxrsearch("index", toml, "--index", index).out
    assert calls == [32]
    assert {point.payload["age"] for point in points(index).values()} == {44}


def test_a_lateral_view_of_a_table_is_left_out_on_request(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        Image.fromarray((draw("Pneumonia", ord(name), size=96) * 255).astype("uint8")).save(
            tmp_path / "set" / f"{name}.png"
        )
    (tmp_path / "set" / "t.csv").write_text("file,view\na,PA\nb,Lateral\n")
    toml = tmp_path / "set" / "set.toml"
    toml.write_text(
        "name = 's'\nimages = { table = 't.csv', path = '{file}.png' }\n"
        "fields.view = { column = 'view', type = 'keyword' }\n"
    )
    assert cxrsearch("index", toml, "--index", tmp_path / "all").out.startswith("2 indexed")
    assert {p.payload["projection"] for p in points(tmp_path / "all").values()} == {"frontal", "lateral"}
    ran = cxrsearch("index", toml, "--index", tmp_path / "frontal", "--views", "frontal")
    assert (ran.code, "rejected: 1 view" in ran.err) == (3, True)
    assert [p.payload["view"] for p in points(tmp_path / "frontal").values()] == ["PA"]


def test_no_identity_of_a_header_enters_the_index(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "a.dcm"
    write_dicom(path, draw("Pneumonia", 1, size=96), facts={"patient": "MRN-424242"})
    dataset = pydicom.dcmread(path)
    dataset.PatientName, dataset.AccessionNumber, dataset.PatientBirthDate = "Marker^Planted", "ACC-77123", "19511103"
    dataset.save_as(path)
    assert cxrsearch("index", tmp_path / "set", "--index", tmp_path / "index").code == 0
    content = b"".join(file.read_bytes() for file in (tmp_path / "index").rglob("*") if file.is_file())
    for marker in (b"MRN-424242", b"Planted", b"ACC-77123", b"19511103", str(dataset.StudyInstanceUID).encode()):
        assert marker not in content
