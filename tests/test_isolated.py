"""Files of other people are read in a process of its own; what one of them does there is its own business."""

import itertools
import json
import os
import pickle
import random
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import Run
from PIL import Image

from cxrsearch.errors import ImageError, Reason
from cxrsearch.imaging import isolated
from cxrsearch.imaging.isolated import Broken, Isolated
from cxrsearch.imaging.radiograph import DEFAULT_GATES
from cxrsearch.imaging.read import read_bytes
from cxrsearch.store.thumbnails import Thumbnails
from indexer import reader_process, readers
from indexer.phantoms import draw, write_dicom
from indexer.readers import ReaderConfig, Readers, ReadFile, Task
from indexer.record import Record

CONFIG = ReaderConfig(64, (), DEFAULT_GATES)


# ------------------------------------------------------------------ works for reader processes of these tests


def hungry_work(config: ReaderConfig) -> Any:
    """As a decoder that takes all memory for one file, and keeps it."""
    kept = []

    def read(path: Path, label: str) -> bytes:
        while path.name == "hungry.dcm":
            kept.append(bytes(2**28))
        return read_bytes(path, label)

    reader_process.read_bytes = read
    return reader_process.work(config)


def echo(_: object) -> Any:
    def answer(request: Any) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        yield {"pid": os.getpid(), "asked": request}, []
        if request == "busy":
            sum(itertools.repeat(0, 10**13))  # never lets another thread of the process run
        if request == "secret":
            raise ValueError("Doe^John")

    return answer


# ------------------------------------------------------------------ one file and its neighbours


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Good and bad files, by name."""
    folder = tmp_path_factory.mktemp("neighbours")
    for number in range(6):
        write_dicom(folder / f"good{number}.dcm", draw("Pneumonia", number, size=64))
    good = (folder / "good0.dcm").read_bytes()
    (folder / "hungry.dcm").write_bytes(good)
    (folder / "half.dcm").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    (folder / "inflates.dcm").write_bytes(inflating(2**28, preamble=True, before=2000))
    return {path.name: path for path in sorted(folder.iterdir())}


def element(group: int, number: int, kind: bytes, value: bytes) -> bytes:
    value += b"\0" * (len(value) % 2)
    long = b"\0\0" + struct.pack("<I", len(value)) if kind in (b"OB", b"SQ") else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + long + value


def inflating(size: int, preamble: bool, before: int) -> bytes:
    """A deflated file whose transfer syntax stands after ``before`` bytes."""
    body = element(2, 1, b"OB", b"\0\1" + bytes(before)) + element(2, 2, b"UI", b"1.2.840.10008.5.1.4.1.1.1.1")
    body += element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1.99")
    meta = element(2, 0, b"UL", struct.pack("<I", len(body))) + body
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(element(8, 0x60, b"CS", b"DX") + bytes(size)) + packer.flush()
    return (bytes(128) + b"DICM" if preamble else b"") + meta + packed


def verdicts(files: list[Path], workers: int = 1) -> dict[str, str]:
    pool = Readers(workers, CONFIG)
    try:
        tasks = [Task(Record(path.name, path, None, {}, None, None), path.name, "", None) for path in files]
        found = {task.label: outcome for task, outcome in pool.read(iter(tasks))}
    finally:
        pool.stop()
    assert list(found) == [path.name for path in files]  # in order
    return {name: one.sha256 if isinstance(one, ReadFile) else str(one.reason) for name, one in found.items()}


def test_a_file_gets_the_same_verdict_whatever_stood_beside_it(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_WORK", f"{__name__}:hungry_work")
    alone = verdicts(list(files.values()))
    assert {alone[f"good{number}.dcm"] for number in range(6)}.isdisjoint({str(reason) for reason in Reason})
    assert alone["hungry.dcm"] == alone["bomb.png"] == alone["inflates.dcm"] == str(Reason.TOO_LARGE)
    assert (alone["half.dcm"], alone["empty.png"]) == (str(Reason.TRUNCATED), str(Reason.EMPTY))
    order = random.Random(2).sample(list(files.values()), len(files))
    assert verdicts(order, workers=2) == alone


@pytest.mark.parametrize(("preamble", "before"), [(True, 0), (True, 2000), (False, 0)])
def test_an_inflated_stream_is_limited_wherever_the_transfer_syntax_stands(
    tmp_path: Path, preamble: bool, before: int
) -> None:
    (tmp_path / "bomb.dcm").write_bytes(inflating(2**28, preamble, before))
    with pytest.raises(ImageError) as caught:
        isolated.read(tmp_path / "bomb.dcm")
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_dicomdir_that_inflates_without_end_is_an_error_of_the_file(cxrsearch: Run, tmp_path: Path) -> None:
    (tmp_path / "DICOMDIR").write_bytes(inflating(2**28, True, 2000))
    ran = cxrsearch("index", tmp_path / "DICOMDIR", "--index", tmp_path / "index")
    assert ran.code == 4
    assert "inflates to more than" in ran.err


# ------------------------------------------------------------------ the process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("request_", ["idle", "busy"])
def test_no_reader_outlives_the_process_that_started_it(number: signal.Signals, request_: str) -> None:
    code = f"""
import sys, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
from cxrsearch.imaging.isolated import Isolated
for facts, _ in Isolated("test_isolated:echo").ask({request_!r}):
    print(facts["pid"], flush=True)
time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    reader = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.wait(30)
    deadline = time.monotonic() + 20
    while alive(reader):
        assert time.monotonic() < deadline, "the reader is still there"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text("utf-8")
    except OSError:
        return False


def test_a_reader_that_was_killed_is_replaced() -> None:
    reader = Isolated(f"{__name__}:echo")
    try:
        ((first, _),) = reader.ask("a")
        os.kill(first["pid"], signal.SIGKILL)
        with pytest.raises(Broken) as caught:
            list(reader.ask("b"))
        assert (caught.value.step, caught.value.fresh) == (0, False)
        ((second, _),) = reader.ask("c")
        assert second["pid"] != first["pid"]
        with pytest.raises(RuntimeError) as failed:
            list(reader.ask("secret"))
        assert "ValueError" in str(failed.value)
        assert "Doe" not in str(failed.value)
    finally:
        reader.stop()


def test_a_reader_is_given_no_key_and_no_patient(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file it is given the path; a decoder that a file has taken over finds nothing else worth taking."""
    sent = []

    def dumps(request: object) -> bytes:
        sent.append(pickle.dumps(request))
        return sent[-1]

    monkeypatch.setattr(isolated, "pickle", SimpleNamespace(dumps=dumps))
    (tmp_path / "set").mkdir()
    write_dicom(tmp_path / "set" / "one.dcm", draw("Pneumonia", 1, size=64), facts={"patient": "MRN-424242"})
    (tmp_path / "set" / "t.csv").write_text("file,mrn,sex\none.dcm,MRN-171717,F\n")
    (tmp_path / "set" / "set.toml").write_text(
        'name = "h"\nimages = { table = "t.csv", path = "{file}" }\npatient = { column = "mrn" }\n'
        'fields.sex = { column = "sex", type = "keyword" }\n'
        'fields.maker = { dicom = "Manufacturer", type = "keyword" }\n'
    )
    command = ("index", tmp_path / "set" / "set.toml", "--index", tmp_path / "index", "--workers", 1)
    assert cxrsearch(*command).out.startswith("1 indexed")
    (tmp_path / "set" / "t.csv").write_text("file,mrn,sex\none.dcm,MRN-171717,M\n")
    assert cxrsearch(*command).out.startswith("0 indexed, 1 updated")
    assert cxrsearch(*command).out.startswith("0 indexed, 0 updated, 1 unchanged")
    given = b"".join(sent)
    key = Path(os.environ["CXRSEARCH_KEY_FILE"]).read_text("ascii").strip()
    assert given.count(b"one.dcm") >= 2
    for secret in (key.encode(), bytes.fromhex(key), b"MRN-171717", b"MRN-424242", b"Identity"):
        assert secret not in given


def test_a_reader_is_not_given_the_key_of_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "the-key")
    monkeypatch.setenv("OTHER", "kept")
    reader = Isolated(f"{__name__}:echo")
    try:
        ((facts, _),) = reader.ask("a")
        environment = Path(f"/proc/{facts['pid']}/environ").read_bytes()
        assert b"OTHER=kept" in environment
        assert b"the-key" not in environment
    finally:
        reader.stop()


def test_a_search_decodes_nothing_in_its_own_process(
    cxrsearch: Run, index: Path, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded here")

    for name in ("read.decode", "read._decode", "read.read"):
        monkeypatch.setattr(f"cxrsearch.imaging.{name}", decoded)
    image = next(cohort.parent.rglob("*.dcm"))
    report = tmp_path / "page.html"
    ran = cxrsearch("search", image, "--index", index, "--report", report, "--format", "json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)
    assert report.stat().st_size > 10_000


# ------------------------------------------------------------------ thumbnails


def test_a_thumbnail_is_a_small_jpeg_of_its_own_or_nothing(tmp_path: Path) -> None:
    id = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"
    picture = tmp_path / "picture.jpg"
    Image.new("L", (20, 20), 100).save(picture)
    kept = Thumbnails(tmp_path / "thumbnails")
    kept.put(id, picture.read_bytes())
    assert kept.get(id) == picture.read_bytes()
    path = tmp_path / "thumbnails" / "3f" / f"{id}.jpg"
    for content in (b"II*\0" + bytes(100), picture.read_bytes() + bytes(2**20)):
        path.write_bytes(content)
        assert kept.get(id) is None
    path.unlink()
    path.symlink_to(picture)
    assert kept.get(id) is None
    path.unlink()
    os.mkfifo(path)
    assert kept.get(id) is None
    path.unlink()
    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / f"{id}.jpg").write_bytes(picture.read_bytes())
    path.parent.symlink_to(tmp_path / "elsewhere")
    assert kept.get(id) is None
