"""Searching goes on while a writer works, and on a read-only disk; a killed writer loses nothing it acknowledged."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, points

from cxrsearch.clinical.expression import Equals
from cxrsearch.clinical.fields import Field, FieldType
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import edge, problems, shard
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.edge import EdgeStore

D = 16
FACTS = IndexFacts(
    "model", "f" * 64, D, {"site": Field("site", FieldType.KEYWORD)}, {"set": DatasetFacts("hospital", "")}
)


def batch(first: int, count: int = 128) -> list[Point]:
    vectors = np.random.default_rng(first).normal(size=(count, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        Point(str(uuid.UUID(int=first + n + 1)), {"site": "ab"[n % 2], "dataset": "set"}, vector)
        for n, vector in enumerate(vectors)
    ]


READER = """
import json, sys, time
from pathlib import Path
import numpy as np
from cxrsearch.store.edge import EdgeStore
counts, seconds = [], []
for _ in range(int(sys.argv[2])):
    began = time.monotonic()
    store = EdgeStore.open(Path(sys.argv[1]))
    hits = store.query(np.eye(16, dtype=np.float32)[0], 10)
    counts.append(store.count())
    assert len(hits) == min(10, counts[-1])
    store.close()
    seconds.append(time.monotonic() - began)
print(json.dumps([counts, seconds]))
"""


@pytest.mark.parametrize("searches", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_eight_readers_search_without_a_failure_while_20_000_points_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, searches: int
) -> None:
    monkeypatch.setattr(edge, "PUBLISH_EVERY", 1.0)
    writer = EdgeStore.create(tmp_path / "index", FACTS)
    command = [sys.executable, "-c", READER, str(tmp_path / "index"), str(searches)]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    for first in range(0, 20_000, 1_000):
        writer.upsert(batch(first, 1_000))
    writer.close()
    seconds: list[float] = []
    for reader in readers:
        out, err = reader.communicate(timeout=600)
        assert reader.returncode == 0, err
        counts, own = json.loads(out)
        assert counts == sorted(counts)
        seconds += own
    if searches == 120:  # of few, on a machine with other things to do, it says nothing
        assert np.percentile(seconds, 99) <= 3 * np.percentile(seconds, 50)
    found = EdgeStore.open(tmp_path / "index")
    assert found.count() == 20_000
    found.close()


def test_a_long_run_publishes_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "PUBLISH_EVERY", 0.0)
    monkeypatch.setattr(edge, "_PUBLISH_SHARE", 0)
    writer = EdgeStore.create(tmp_path / "index", FACTS)
    for first in (0, 128):
        writer.upsert(batch(first))
        assert len(points(tmp_path / "index")) == first + 128
    assert len(list((tmp_path / "index" / "shard").iterdir())) == 2  # the published one and the draft
    writer.close()
    assert len(list((tmp_path / "index" / "shard").iterdir())) == 1


WRITER = """
import sys
from pathlib import Path
from test_generations import FACTS, EdgeStore, batch
store = EdgeStore.create(Path(sys.argv[1]), FACTS)
for first in range(0, 10**9, 128):
    for point in batch(first):
        store.thumbnails.put(point.id, b"\\xff\\xd8\\xff")
    store.upsert(batch(first))
    print(first + 128, flush=True)
"""


def test_journals_that_the_engine_takes_away_when_it_loads_again_are_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a writer left that was killed while it deleted, the engine puts in order in two loads: the first leaves
    journals. A published generation is past that, or its second reader would miss a file."""
    store = EdgeStore.create(tmp_path / "index", FACTS)
    store.upsert(batch(0))
    load, loads = shard.load, []

    def as_after_a_kill(path: Path) -> Any:
        loads.append(path)
        journal = path / "tracker_journal.dat"
        if len(loads) == 1:
            journal.write_bytes(b"as the engine does")
        else:
            journal.unlink(missing_ok=True)
        return load(path)

    monkeypatch.setattr(shard, "load", as_after_a_kill)
    store.close()
    for _ in range(3):
        again = EdgeStore.open(tmp_path / "index")
        assert again.count() == 128
        again.close()
    assert list(problems(str(tmp_path / "index"))) == []
    assert len(loads) >= 6


@pytest.mark.parametrize("next_one", ["reader", "writer"])
def test_what_a_killed_writer_acknowledged_is_there_for_whoever_comes_next(tmp_path: Path, next_one: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for kill in range(3):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "index")]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert writer.stdout is not None
        for _ in range(4 + kill):
            acknowledged = int(writer.stdout.readline())
        time.sleep(0.01 * kill)
        writer.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
        writer.wait()
        store = EdgeStore.open(tmp_path / "index", write=next_one == "writer")
        found = {point.id for point in store.scroll()}
        assert {point.id for point in batch(0)} <= found
        assert len(found) >= acknowledged
        assert set(store.thumbnails.ids()) == found  # no picture without its point
        store.close()
        assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
            "index.json",
            "lock",
            "shard",
            "thumbnails",
        ]


def test_a_writer_killed_before_its_draft_was_whole_leaves_the_published_one(
    cxrsearch: Run, cohort: Path, index: Path
) -> None:
    shutil.copytree(index / "shard" / published(index), index / "shard" / "99")
    next((index / "shard" / "99").rglob("matrix.dat"), index / "shard" / "99" / "edge_config.json").unlink()
    assert len(points(index)) == 32
    assert cxrsearch("index", cohort, "--index", index).out.startswith("0 indexed, 0 updated, 32 unchanged")
    assert [path.name for path in (index / "shard").iterdir()] == [published(index)]


def published(index: Path) -> str:
    return str(json.loads((index / "index.json").read_text("utf-8"))["generation"])


@pytest.fixture
def read_only(index: Path, tmp_path: Path) -> Iterator[Path]:
    """The index on a disk that cannot be written; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    for command in (
        ["mount", "--bind", str(tmp_path), str(place)],
        ["mount", "-o", "remount,ro,bind", str(place)],
    ):
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no read-only file system can be mounted here")
    yield place / "index"
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_an_index_on_a_read_only_disk_is_searched(
    cxrsearch: Run, cohort: Path, read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next(cohort.parent.rglob("*.dcm"))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    expected = cxrsearch("search", image, "--index", tmp_path / "index", "--format", "json").out
    assert cxrsearch("search", image, "--index", read_only, "--format", "json").out == expected
    store = EdgeStore.open(read_only)
    assert list(temporary.iterdir()) == []  # nothing that a killed reader could leave
    assert store.count() == 32
    store.close()
    assert cxrsearch("cohort", "--index", read_only).code == 0
    assert cxrsearch("backup", read_only, tmp_path / "b").code == 0
    ran = cxrsearch("index", cohort, "--index", read_only)
    assert ran.code in (4, 5), ran.err


def test_an_index_killed_while_written_is_searched_on_a_read_only_disk(index: Path, read_only: Path) -> None:
    """The draft cannot be published there; what was published is whole."""
    writer = EdgeStore.open(index, write=True)
    writer.delete(Equals("dataset", ("phantoms",)))
    generation = published(index)
    assert len(points(read_only)) == 32
    assert published(index) == generation
    writer.close()
    assert len(points(index)) == 0


def test_files_the_engine_makes_for_a_moment_are_no_damage(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    """A reader that was killed while it loaded leaves one; another may vanish while the folder is listed."""
    left = index / "shard" / published(index) / ".atomicwriteABCDEF"
    left.mkdir()
    (left / "tmpfile.tmp").write_text("{}")
    for command in (
        ["info", "--index", index],
        ["backup", index, tmp_path / "b"],
        ["forget", "PH0003", "--index", index],
    ):
        assert cxrsearch(*command).code == 0


@pytest.mark.parametrize("place", ["shard", "thumbnails", "index.json", "lock", "a file of the engine", "generation"])
def test_a_link_in_an_index_is_never_followed(cxrsearch: Run, cohort: Path, index: Path, place: str) -> None:
    generation = index / "shard" / published(index)
    path = {"a file of the engine": generation / "edge_config.json", "generation": generation}.get(place, index / place)
    elsewhere = path.rename(index.parent / "elsewhere")
    path.symlink_to(elsewhere)
    before = {p: p.read_bytes() for p in index.parent.rglob("*") if p.is_file()}
    for command in (["info"], ["index", cohort], ["forget", "PH0003"]):
        ran = cxrsearch(*command, "--index", index)
        assert (ran.code, "link" in ran.err) == (5, True), ran.err
    assert {p: p.read_bytes() for p in index.parent.rglob("*") if p.is_file()} == before


def test_damaged_facts_are_an_error(index: Path) -> None:
    content = (index / "index.json").read_text("utf-8")
    (index / "index.json").write_text(content.replace('"model": "', '"model": "x'), "utf-8")
    with pytest.raises(IndexUnavailable, match=r"index\.json: damaged"):
        EdgeStore.open(index)
