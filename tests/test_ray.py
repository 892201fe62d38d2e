"""index --engine ray, on a cluster of two workers that is started on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import psutil
import pytest
from factories import Run
from qdrant_loopback import Loopback, loopback

from cxrsearch.store import open_store
from indexer.phantoms import write_cohort
from indexer.readers import Outcome, Wanted


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


def workers() -> list[int]:
    """The actors of Ray Data below this process."""
    found = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # of one that has just ended
            if " ".join(one.cmdline()).startswith("ray::MapWorker"):
                found.append(one.pid)
    return found


def points(address: str) -> dict[str, tuple[object, bytes]]:
    with open_store(address) as store:
        return {p.id: (p.payload, p.vector.tobytes()) for p in store.scroll(vectors=True) if p.vector is not None}


@pytest.mark.slow
def test_a_cluster_gives_the_points_of_one_process_though_a_worker_is_killed(
    cxrsearch: Run, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray, which is not installed: pip install 'cxrsearch[ray]'")
    from indexer.ray_readers import RayReaders

    toml = write_cohort(tmp_path / "set", patients=60, size=96)
    images = sorted(toml.parent.rglob("*.dcm"))
    images[0].write_bytes(b"")  # the first of a batch is what a log would give as an example
    images[40].write_bytes(images[40].read_bytes()[:3000])
    common = ["index", toml, "--rejected"]
    plain = cxrsearch(*common, tmp_path / "plain.jsonl", "--index", f"{server.url}/plain")
    assert plain.out.startswith("78 indexed, 0 updated, 0 unchanged, 2 rejected")

    killed: list[int] = []
    logged: list[bytes] = []
    original, stop = RayReaders.outcomes, RayReaders.stop

    def killing(readers: RayReaders, files: list[Wanted]) -> Iterator[Outcome]:
        for number, outcome in enumerate(original(readers, files)):
            if number == 0 and not killed:  # the others are being read
                killed.append(workers()[0])
                os.kill(killed[0], signal.SIGKILL)
            yield outcome

    def stopping(readers: RayReaders) -> None:
        logs = Path(ray._private.worker._global_node.get_logs_dir_path())
        logged.extend(path.read_bytes() for path in logs.rglob("*") if path.is_file())
        stop(readers)

    monkeypatch.setattr(RayReaders, "outcomes", killing)
    monkeypatch.setattr(RayReaders, "stop", stopping)
    by_ray = [*common, tmp_path / "ray.jsonl", "--index", f"{server.url}/ray", "--engine", "ray", "--workers", "2"]
    ran = cxrsearch(*by_ray)
    assert killed, ran
    assert (ran.code, plain.out.split(" in ")[0] in ran.out) == (3, True), ran
    assert points(f"{server.url}/ray") == points(f"{server.url}/plain")
    assert (tmp_path / "ray.jsonl").read_bytes() == (tmp_path / "plain.jsonl").read_bytes()
    assert any(b"MapBatches(Reading)" in text for text in logged)
    assert not any(image.stem.encode() in text for image in images for text in logged)
    assert "0 indexed, 0 updated, 78 unchanged, 2 rejected" in cxrsearch(*by_ray).out


@pytest.mark.slow
def test_a_gpu_that_a_cluster_has_not_or_cannot_use_is_said(
    cxrsearch: Run, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs Ray, which is not installed: pip install 'cxrsearch[ray]'")
    toml = write_cohort(tmp_path / "set", patients=2, size=96)
    asked = ["index", toml, "--index", f"{server.url}/gpu", "--engine", "ray", "--workers", "1", "--device", "cuda"]
    asked += ["--rejected", tmp_path / "rejected.jsonl"]
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 0}')
    none = cxrsearch(*asked)
    assert (none.code, "no machine of the Ray cluster has a GPU" in none.err) == (4, True), none
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"GPU": 1}')
        useless = cxrsearch(*asked)
        said = "--engine ray: a machine of the cluster says: --device cuda: this ONNX Runtime"
        assert (useless.code, said in useless.err) == (4, True), useless


def test_what_ray_cannot_be_asked_for_is_refused(cxrsearch: Run, tmp_path: Path) -> None:
    folder = cxrsearch("index", tmp_path, "--index", tmp_path / "index", "--engine", "ray")
    assert (folder.code, "a folder is written and searched on one machine" in folder.err) == (2, True)
    stray = cxrsearch("index", tmp_path, "--index", tmp_path / "index", "--address", "ray://head:10001")
    assert (stray.code, "give --engine ray with it" in stray.err) == (2, True)
    stored = ["--engine", "ray", "--embeddings", "x.parquet"]
    both = cxrsearch("index", tmp_path, "--index", "http://127.0.0.1:9/x", *stored)
    assert (both.code, "leave one of them out" in both.err) == (2, True)


def test_an_address_that_is_empty_or_where_nothing_answers_is_said_at_once(cxrsearch: Run, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, which is not installed: pip install 'cxrsearch[ray]'")
    toml = write_cohort(tmp_path / "set", patients=2, size=96)
    asked = ["index", toml, "--index", "http://127.0.0.1:9/x", "--engine", "ray", "--address"]
    for unset in ("", " "):
        empty = cxrsearch(*asked, unset)
        assert (empty.code, "--address: is empty; leave it out, or give" in empty.err) == (2, True), empty
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        for address in (place, f"ray://{place}"):
            started = time.monotonic()
            ran = cxrsearch(*asked, address)
            said = f"cxrsearch: --address {address}: no Ray cluster that can be used (Connection refused)\n"
            assert (ran.code, ran.err) == (4, said)
            assert time.monotonic() - started < 20
    for impossible in ("127.0.0.1:99999", "no such host:6379"):
        ran = cxrsearch(*asked, impossible)
        assert (ran.code, f"--address {impossible}: no Ray cluster that can be used" in ran.err) == (4, True), ran


@pytest.mark.slow
def test_a_port_of_something_else_is_tried_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, which is not installed: pip install 'cxrsearch[ray]'")
    toml = write_cohort(tmp_path / "set", patients=2, size=96)
    with socket.create_server(("0.0.0.0", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "cxrsearch", "index", toml, "--index", "http://127.0.0.1:9/x"]
        # A process of its own: Ray reads this when it is loaded. One try takes 13 s by it in place of 41.
        shorter = {**os.environ, "RAY_py_gcs_connect_timeout_s": "2"}
        started = time.monotonic()
        ran = subprocess.run(
            [*command, "--engine", "ray", "--address", address], capture_output=True, text=True, env=shorter
        )
    assert (ran.returncode, f"--address {address}: no Ray cluster that can be used" in ran.stderr) == (4, True), ran
    assert time.monotonic() - started < 60
