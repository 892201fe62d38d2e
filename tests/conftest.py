"""Fixtures build real things: a cohort of DICOM phantoms, an index in Qdrant Edge, a model folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from factories import Ran, Run

from cxrsearch.model_card import DEFAULT_MODEL
from indexer.phantoms import write_cohort

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True, scope="session")
def _own_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests make their own pseudonym key and never touch the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXRSEARCH_KEY_FILE", str(tmp_path_factory.mktemp("key") / "key"))
        yield


@pytest.fixture
def cxrsearch(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line, run in this process: ``cxrsearch("search", path, ...)``."""
    from cxrsearch.cli.app import run

    def call(*arguments: object) -> Ran:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def cxrsearch_process() -> Run:
    """The command line in a process of its own."""

    def call(*arguments: object, input: str | None = None) -> Ran:
        command = [sys.executable, "-m", "cxrsearch", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, input=input, check=False)
        return Ran(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset TOML of 24 phantom patients (32 DICOM files, two sites). Not to be written to."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), patients=24, size=192)


@pytest.fixture(scope="session")
def _indexed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cxrsearch.cli.app import run

    index = tmp_path_factory.mktemp("indexed") / "index"
    assert run(["index", str(cohort), "--index", str(index), "--workers", "2"]) == 0
    return index


@pytest.fixture
def index(_indexed: Path, tmp_path: Path) -> Path:
    """An index of the cohort, to do with as the test likes."""
    # The engine's files are mostly holes, which cp keeps and shutil fills: an index of 2 MB would take 224.
    subprocess.run(["cp", "-Rp", _indexed, tmp_path / "index"], check=True)
    return tmp_path / "index"


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """A model folder that works like the shipped one and is another: one byte of its metadata differs."""
    import hashlib
    import json

    import onnx

    folder = Path(shutil.copytree(DEFAULT_MODEL, tmp_path / "other-model"))
    model = onnx.load(folder / "encoder.onnx")
    model.doc_string = "another"
    onnx.save(model, folder / "encoder.onnx")
    card = json.loads((folder / "model.json").read_text("utf-8"))
    card["name"] = "other"
    card["sha256"]["encoder.onnx"] = hashlib.sha256((folder / "encoder.onnx").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """The real radiographs; the test is skipped where they are not."""
    if not DATA.is_dir():
        pytest.skip(f"needs the real images of {DATA}, which are not here")
    return DATA


@pytest.fixture(scope="session")
def server_address(qdrant_server: str) -> Iterator[Callable[[], str]]:
    """Gives addresses of new indexes on the server; what was made there is deleted when the tests end."""
    import httpx

    made: list[str] = []

    def new() -> str:
        made.append(f"cxrsearch-test-{uuid.uuid4().hex}")
        return f"{qdrant_server}/{made[-1]}"

    yield new
    key = os.environ.get("CXRSEARCH_QDRANT_API_KEY")
    for name in made:
        httpx.delete(f"{qdrant_server}/collections/{name}", headers={"api-key": key} if key else {}, timeout=30)


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[str]:
    """The address of a Qdrant server: the one CXRSEARCH_TEST_QDRANT_URL names, or a container of its own.

    The container's image is the one docker/compose.yaml starts, or CXRSEARCH_TEST_QDRANT_IMAGE. The test is
    skipped, saying why, where there is no Docker engine, or no image and no way to pull it.
    """
    if given := os.environ.get("CXRSEARCH_TEST_QDRANT_URL"):
        yield given.rstrip("/")
        return
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs

    import docker

    compose = (ROOT / "docker" / "compose.yaml").read_text("utf-8")
    composed = re.search(r"image: \$\{CXRSEARCH_QDRANT_IMAGE:-(qdrant/\S+)\}", compose)
    assert composed
    image = os.environ.get("CXRSEARCH_TEST_QDRANT_IMAGE") or composed[1]
    try:
        engine = docker.from_env()
        engine.ping()
    except docker.errors.DockerException:
        pytest.skip("no Docker engine here, and CXRSEARCH_TEST_QDRANT_URL names no server")
    try:
        engine.images.get(image)
    except docker.errors.ImageNotFound:
        try:
            engine.images.pull(image)
        except (docker.errors.DockerException, OSError) as error:
            reason = getattr(error, "explanation", None) or error
            pytest.skip(f"the image {image} is not here and cannot be pulled: {reason}")
    testcontainers_config.ryuk_disabled = True  # its helper is one more image to pull; the container is stopped below
    with DockerContainer(image).with_exposed_ports(6333) as container:
        wait_for_logs(container, "gRPC listening", timeout=60)
        yield f"http://{container.get_container_host_ip()}:{container.get_exposed_port(6333)}"
