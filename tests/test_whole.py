"""Nothing half done looks whole: copies, restores and forgets that were killed, refused backups, bits that rot."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factories import Run, points

from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import edge, shard
from cxrsearch.store.edge import EdgeStore
from indexer.phantoms import write_cohort

# Runs a command and kills itself at the n-th file that is opened for writing, renamed, made or removed in a folder.
KILLED = """
import os, signal, sys
last, folder, seen = int(sys.argv[1]), sys.argv[2], 0
def hook(event, arguments):
    global seen
    if event == "open":
        if not isinstance(arguments[0], str) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
    elif event not in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree"):
        return
    if any(folder in str(argument) for argument in arguments):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
from cxrsearch.cli.app import run
code = run(sys.argv[3:])
print("STEPS", seen)
sys.exit(code)
"""


def killed(step: int, folder: Path, *command: object) -> tuple[bool, int]:
    """Whether the command was killed at that step, and how many it took."""
    code = [sys.executable, "-c", KILLED, str(step), str(folder), *map(str, command)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == -signal.SIGKILL:
        return True, step
    assert done.returncode == 0, done.stderr
    return False, int(done.stdout.rsplit("STEPS", 1)[1])


def thumbnails(index: Path) -> set[str]:
    return {path.stem for path in (index / "thumbnails").rglob("*") if path.is_file() and path.suffix}


def spread(steps: int, count: int) -> list[int]:
    return sorted({int(step) for step in np.linspace(1, steps, count)})


@pytest.mark.parametrize("kind", ["copy", "restore"])
def test_one_that_is_killed_is_no_index_and_the_same_command_begins_anew(
    cxrsearch: Run, index: Path, tmp_path: Path, kind: str
) -> None:
    target, source = tmp_path / "target", index
    if kind == "restore":
        source = tmp_path / "backup"
        assert cxrsearch("backup", index, source).code == 0
    _, steps = killed(0, target, kind, source, target)
    shutil.rmtree(target)
    for step in spread(steps, 6):
        assert killed(step, target, kind, source, target)[0]
        if (target / "index.json").exists():  # killed while it cleaned up
            assert points(target).keys() == points(index).keys() == thumbnails(target)
        else:
            ran = cxrsearch("info", "--index", target)
            assert (ran.code, "no such index" in ran.err or "not a cxrsearch index" in ran.err) == (5, True)
            ran = cxrsearch(kind, source, target)
            assert (ran.code, ran.err) == (0, "")
            assert points(target).keys() == points(index).keys() == thumbnails(target)
        shutil.rmtree(target)


def test_a_copy_is_compared_with_what_was_read(
    cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upsert = EdgeStore.upsert
    monkeypatch.setattr(EdgeStore, "upsert", lambda store, batch: upsert(store, batch[:-1]))  # an engine that loses one
    ran = cxrsearch("copy", index, tmp_path / "copied")
    assert (ran.code, "not what was read" in ran.err) == (5, True)
    assert not (tmp_path / "copied").exists()


def test_forgetting_is_all_or_nothing_wherever_it_is_killed(cxrsearch: Run, tmp_path: Path) -> None:
    toml, whole, index = write_cohort(tmp_path / "set", patients=6, size=96), tmp_path / "whole", tmp_path / "index"
    assert cxrsearch("index", toml, "--index", whole).code == 0
    mine = {id: point.payload for id, point in points(whole).items() if "PH0003" in str(point.payload["path"])}
    traces = [str(value) for id, p in mine.items() for value in (id, p["patient"], p["path"], p["image_sha256"])]

    def start() -> None:
        shutil.rmtree(index, ignore_errors=True)
        subprocess.run(["cp", "-Rp", whole, index], check=True)

    start()
    _, steps = killed(0, index, "forget", "PH0003", "--index", index)
    for step in spread(steps, 8):
        start()
        assert killed(step, index, "forget", "PH0003", "--index", index)[0]
        begun = (index / "forgetting.json").exists()
        assert cxrsearch("index", toml, "--index", index).code == 0  # not another forget: whoever writes next
        store = EdgeStore.open(index)
        there, forgotten = {point.id for point in store.scroll()}, store.facts.forgotten
        store.close()
        assert (mine.keys() <= there) is not bool(forgotten)
        assert not begun or forgotten
        assert thumbnails(index) == there
        if forgotten:
            stored = b"".join(path.read_bytes() for path in index.rglob("*") if path.is_file())
            names = " ".join(str(path) for path in index.rglob("*"))
            assert [trace for trace in traces if trace.encode() in stored or trace in names] == []


def test_forgetting_takes_the_pictures_of_images_that_were_never_stored(
    cxrsearch: Run, cohort: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left by 0.1.0 where storing failed after the thumbnails were written, or by a process killed in between."""
    orphan = index / "thumbnails" / "00" / "00000000-0000-4000-8000-000000000001.jpg"
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"\xff\xd8\xff of the patient")
    orphan.with_suffix(".jpg.new").write_bytes(b"\xff\xd8\xff a draft")
    assert cxrsearch("forget", "PH0003", "--index", index).code == 0
    assert thumbnails(index) == points(index).keys()
    assert orphan.stem not in (index / "thumbnails" / "sha256sums").read_text("ascii")


def test_where_storing_fails_no_picture_is_left(
    cxrsearch: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise IndexUnavailable("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(EdgeStore, "upsert", full)
        assert cxrsearch("index", cohort, "--index", tmp_path / "index").code == 5
    assert thumbnails(tmp_path / "index") == set()
    assert cxrsearch("index", cohort, "--index", tmp_path / "index").code == 0
    assert len(thumbnails(tmp_path / "index")) == 32


@pytest.mark.parametrize("command", ["forget", "copy", "restore"])
def test_on_a_full_disk_nothing_is_half_done(
    cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert cxrsearch("backup", index, tmp_path / "b").code == 0
    given = {"forget": ["PH0003", "--index", index], "copy": [index, tmp_path / "new"]}
    arguments = given.get(command, [tmp_path / "b", tmp_path / "new"])
    before = points(index)
    spaces = iter([2**40])  # room when it is opened, and none for the first that is written
    monkeypatch.setattr(shard, "free", lambda _: next(spaces, 2**20))
    ran = cxrsearch(command, *arguments)
    assert (ran.code, "the disk is full" in ran.err) == (5, True), ran.err
    monkeypatch.undo()
    assert points(index).keys() == before.keys() == thumbnails(index)
    assert not (tmp_path / "new").exists()
    assert cxrsearch(command, *arguments).code == 0


# ------------------------------------------------------------------ bits that rot


def rot(path: Path) -> None:
    """Change a bit and keep the date, as a disk does."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    content = bytearray(path.read_bytes())
    data = np.flatnonzero(np.frombuffer(bytes(content), np.uint8))
    content[data[len(data) // 2]] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=times)


@pytest.mark.parametrize("what", ["*.mmap", "page_0.dat", "segment.json", "*.jpg", "index.json"])
def test_a_bit_that_rotted_under_its_old_date_is_found_by_check_and_never_backed_up(
    cxrsearch: Run, index: Path, tmp_path: Path, what: str
) -> None:
    ran = cxrsearch("check", index)
    assert (ran.code, ran.out) == (0, "every file of which there is a checksum is what was written\n")
    path = max(index.rglob(what), key=lambda found: found.stat().st_blocks)
    rot(path)
    ran = cxrsearch("check", index)
    assert ran.code == 5
    assert str(path) in ran.out + ran.err
    ran = cxrsearch("backup", index, tmp_path / "b")
    assert ran.code == 5, ran.err
    assert not (tmp_path / "b").exists()


def test_payloads_that_the_engine_cannot_read_are_a_sentence(cxrsearch: Run, index: Path) -> None:
    """Bits that rotted under their old date, in the middle of what is stored: opening does not see them."""
    (page,) = index.rglob("payload_storage/page_0.dat")
    dates, content = page.stat(), bytearray(page.read_bytes())
    for at in (match.start() for match in re.finditer(rb"\"dataset\"", bytes(content))):
        content[at] ^= 0x20
    page.write_bytes(content)
    os.utime(page, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    ran = cxrsearch("cohort", "--index", index)
    assert (ran.code, len(ran.err.splitlines())) == (5, 1), ran.err
    assert f"cxrsearch check {index}" in ran.err


def test_a_picture_that_is_gone_or_a_link_is_said_by_check(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    first, second = sorted((index / "thumbnails").rglob("*.jpg"))[:2]
    first.unlink()
    second.rename(tmp_path / "elsewhere.jpg")
    second.symlink_to(tmp_path / "elsewhere.jpg")
    ran = cxrsearch("check", index)
    assert ran.out == f"{first}: missing\n{second}: damaged\n"
    assert "2 files damaged or missing" in ran.err


# ------------------------------------------------------------------ backups of strangers


def repacked(source: Path, target: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """A backup with other parts, and the sums of those."""
    import hashlib

    with zipfile.ZipFile(source) as archive:
        parts = {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}
    change(parts)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in parts.items()}
        archive.writestr("manifest.json", json.dumps(sums))


def bomb(parts: dict[str, bytes]) -> None:
    parts["points/000001.jsonl"] = parts["vectors/000001.f32"] = bytes(200 * 2**20)


def too_many_lines(parts: dict[str, bytes]) -> None:
    line, vector = parts["points/000000.jsonl"].split(b"\n")[0], parts["vectors/000000.f32"][: 128 * 4]
    parts["points/000000.jsonl"], parts["vectors/000000.f32"] = b"\n".join([line] * 1001), vector * 1001


def longer_vectors(parts: dict[str, bytes]) -> None:
    parts["vectors/000000.f32"] *= 2


def a_payload_of_objects(parts: dict[str, bytes]) -> None:
    parts["points/000000.jsonl"] = re.sub(rb'"site": "\w+"', b'"site": {"a": 1}', parts["points/000000.jsonl"])


def a_size_below_one(parts: dict[str, bytes]) -> None:
    parts["points/000000.jsonl"] = re.sub(rb'"width": \d+', b'"width": -5', parts["points/000000.jsonl"], count=1)


def not_a_number(parts: dict[str, bytes]) -> None:
    parts["vectors/000000.f32"] = np.full(32 * 128, np.nan, "<f4").tobytes()


def no_id(parts: dict[str, bytes]) -> None:
    parts["points/000000.jsonl"] = parts["points/000000.jsonl"].replace(b'"id": "', b'"id": "../', 1)


@pytest.mark.parametrize(
    "change", [bomb, too_many_lines, longer_vectors, a_payload_of_objects, a_size_below_one, not_a_number, no_id]
)
def test_a_hostile_backup_is_refused_and_leaves_nothing(
    cxrsearch: Run, index: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    assert cxrsearch("backup", index, tmp_path / "b").code == 0
    repacked(tmp_path / "b", tmp_path / "hostile", change)
    ran = cxrsearch("restore", tmp_path / "hostile", tmp_path / "new")
    assert ran.code == 4, ran.err
    assert "use another backup" in ran.err or "of cxrsearch" in ran.err
    assert not (tmp_path / "new").exists()


def test_publishing_is_out_of_the_way_of_a_restore(
    cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "PUBLISH_EVERY", 0.0)
    seen = []
    upsert = EdgeStore.upsert

    def watched(store: EdgeStore, batch: list[edge.Point]) -> None:
        upsert(store, batch)
        seen.append((tmp_path / "new" / "index.json").exists())

    monkeypatch.setattr(EdgeStore, "upsert", watched)
    assert cxrsearch("copy", index, tmp_path / "new").code == 0
    assert seen == [False]
