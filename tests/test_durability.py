"""Nothing acknowledged is lost, nothing is stored twice, and damage is never an answer."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, points, small_model
from PIL import Image

from cxrsearch.store.contract import Point
from indexer.phantoms import draw, write_cohort


def assert_same(found: dict[str, Point], expected: dict[str, Point]) -> None:
    assert {i: p.payload for i, p in found.items()} == {i: p.payload for i, p in expected.items()}
    for i, point in expected.items():
        np.testing.assert_allclose(found[i].vector, point.vector, atol=1e-5)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 600 small pictures, and a mapping of them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(600):
        pixels = (np.roll(draw("COVID-19", number % 7, size=48), number, axis=1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    (folder / "set.toml").write_text(
        'name = "p"\nimages.glob = "*.png"\nfields.n = {path = "stem", type = "integer"}\n'
    )
    return folder / "set.toml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So small that most of a run is writing, which is what these tests are about."""
    return small_model(tmp_path_factory.mktemp("model") / "small")


@pytest.mark.slow
def test_killed_at_thirty_random_moments_an_index_ends_as_if_it_never_was(
    cxrsearch: Run, pictures: Path, model: Path, tmp_path: Path
) -> None:
    """What was there before a kill is there after it, and in the end there is everything, once."""
    common = ["index", str(pictures), "--model", str(model), "--index"]
    assert cxrsearch(*common, tmp_path / "whole").code == 0
    whole = points(tmp_path / "whole")
    command = [sys.executable, "-m", "cxrsearch", *common, str(tmp_path / "killed")]
    rng, kept, ended = random.Random(4), 0, 0
    for kill in range(30):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(timeout=rng.uniform(0.5, 2.0))
            ended += 1
            shutil.rmtree(tmp_path / "killed")  # it was whole: begin anew
            kept = 0
            continue
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if (tmp_path / "killed" / "index.json").exists():
            now = points(tmp_path / "killed")
            assert len(now) >= kept, f"kill {kill} lost points"
            assert set(now) <= set(whole)
            kept = len(now)
    assert ended < 25
    assert cxrsearch(*common, tmp_path / "killed").code == 0
    assert_same(points(tmp_path / "killed"), whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 160 MiB in a file; skips where none can be mounted."""
    place, file = tmp_path / "disk", tmp_path / "disk.img"
    place.mkdir()
    with file.open("wb") as image:
        image.truncate(160 * 2**20)
    for command in (["mkfs.ext4", "-q", str(file)], ["mount", "-o", "loop", str(file), str(place)]):
        if shutil.which(command[0]) is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_a_message_and_the_run_goes_on_when_there_is_room(
    cxrsearch: Run, pictures: Path, model: Path, small_disk: Path
) -> None:
    ballast = small_disk / "ballast"
    index = small_disk / "index"
    command = ["index", pictures, "--model", model, "--index", index]
    assert cxrsearch(*command, "--limit", "128").code == 0
    with ballast.open("wb") as file:
        free = shutil.disk_usage(small_disk).free
        file.write(bytes(free - 30 * 2**20))
    ran = cxrsearch(*command)
    assert ran.code == 5
    assert "the disk is full" in ran.err
    assert len(points(index)) == 128
    ballast.unlink()
    assert cxrsearch(*command).out.startswith("472 indexed, 0 updated, 128 unchanged")


def test_a_removed_row_is_reported_and_deleted_on_request(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=6, size=96)
    index = tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index).code == 0
    table = toml.parent / "clinical.csv"
    lines = table.read_text("utf-8").splitlines()
    table.write_text("\n".join(lines[:-2]) + "\n", "utf-8")
    ran = cxrsearch("index", toml, "--index", index)
    assert "2 images that the dataset no longer has are still in the index; --prune deletes them" in ran.out
    assert len(points(index)) == 8
    assert (
        "2 images that the dataset no longer has were deleted"
        in cxrsearch("index", toml, "--index", index, "--prune").out
    )
    assert len(points(index)) == 6
    partial = cxrsearch("index", toml, "--index", index, "--limit", "1", "--prune")
    assert "no longer has" not in partial.out  # a part of the dataset says nothing of the rest
    assert len(points(index)) == 6


def test_the_same_file_under_two_names_is_two_points_and_leaves_both_out(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=4, size=96)
    (tmp_path / "set" / "dataset.toml").write_text('name = "s"\nimages.glob = "*/*.dcm"\n')
    first = sorted(toml.parent.rglob("*.dcm"))[0]
    shutil.copy(first, first.with_name("copy.dcm"))
    assert cxrsearch("index", toml, "--index", tmp_path / "index").code == 0
    hits = json.loads(cxrsearch("search", first, "--index", tmp_path / "index", "--format", "json").out)[0]["hits"]
    assert len(points(tmp_path / "index")) == 7
    assert len(hits) == 5


@pytest.mark.parametrize("damage", ["changed", "missing", "foreign", "cut"])
def test_a_damaged_index_names_the_file_and_gives_no_answer(
    cxrsearch: Run, cohort: Path, index: Path, damage: str
) -> None:
    rng = random.Random(1)
    image = next(cohort.parent.rglob("*.dcm"))
    for path in rng.sample([p for p in sorted((index / "shard").rglob("*")) if p.is_file() and p.stat().st_size], 4):
        content = path.read_bytes()
        if damage == "changed":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        elif damage == "missing":
            path.unlink()
        elif damage == "cut":
            path.write_bytes(content[:-1])
        else:
            path.with_name("foreign.bin").write_bytes(b"x")
        ran = cxrsearch("search", image, "--index", index)
        assert (ran.code, ran.out) == (5, "")
        named = path.with_name("foreign.bin") if damage == "foreign" else path
        assert str(named) in ran.err
        assert "cxrsearch restore" in ran.err
        named.unlink(missing_ok=True)
        path.write_bytes(content)
    assert cxrsearch("search", image, "--index", index).code == 0


def test_a_backup_taken_while_searches_go_on_gives_the_same_answers(
    cxrsearch: Run, cxrsearch_process: Run, cohort: Path, index: Path, tmp_path: Path
) -> None:
    image = next(cohort.parent.rglob("*.dcm"))
    stop, codes = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            codes.append(cxrsearch_process("search", image, "--index", index).code)

    searching = threading.Thread(target=search)
    searching.start()
    time.sleep(0.3)
    ran = cxrsearch_process("backup", index, tmp_path / "b.backup")
    stop.set()
    searching.join()
    assert (ran.code, set(codes)) == (0, {0}), ran.err
    assert (tmp_path / "b.backup").stat().st_mode & 0o777 == 0o600
    assert cxrsearch("restore", tmp_path / "b.backup", tmp_path / "restored").out == "restored 32 images\n"
    assert_same(points(tmp_path / "restored"), points(index))
    answers = [cxrsearch("search", image, "--index", i, "--format", "json").out for i in (index, tmp_path / "restored")]
    assert answers[0] == answers[1]
    assert cxrsearch("backup", index, tmp_path / "b.backup").code == 2
    assert cxrsearch("restore", tmp_path / "b.backup", tmp_path / "restored").code == 2


def test_a_damaged_backup_restores_nothing_wrong(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    """A bit that carries nothing (a date in the ZIP's directory, say) may be wrong; the points may not."""
    assert cxrsearch("backup", index, tmp_path / "b").code == 0
    content = bytearray((tmp_path / "b").read_bytes())
    rng, refused = random.Random(2), 0
    for at in (rng.randrange(len(content)) for _ in range(25)):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        (tmp_path / "damaged").write_bytes(damaged)
        ran = cxrsearch("restore", tmp_path / "damaged", tmp_path / "out")
        assert ran.code in (0, 4), ran.err
        if ran.code == 0:
            assert_same(points(tmp_path / "out"), points(index))
            shutil.rmtree(tmp_path / "out")
        refused += ran.code == 4
        assert not (tmp_path / "out").exists()
    assert refused > 20
    (tmp_path / "damaged").write_bytes(content[: len(content) // 2])
    assert cxrsearch("restore", tmp_path / "damaged", tmp_path / "out").code == 4
    assert cxrsearch("restore", tmp_path / "nowhere", tmp_path / "out").code == 4
    (tmp_path / "text").write_text("no zip")
    assert cxrsearch("restore", tmp_path / "text", tmp_path / "out").code == 4


# ------------------------------------------------------------------ rejections


def test_retry_rejected_reads_only_those(cxrsearch: Run, tmp_path: Path) -> None:
    toml = write_cohort(tmp_path / "set", patients=6, size=96)
    images = sorted(toml.parent.rglob("*.dcm"))
    content = images[1].read_bytes()
    images[1].write_bytes(b"")
    images[2].unlink()
    index = tmp_path / "index"
    assert cxrsearch("index", toml, "--index", index, "--rejected", tmp_path / "bad.jsonl").code == 3
    assert not (index / "rejected.jsonl").exists()
    images[1].write_bytes(content)
    ran = cxrsearch("index", toml, "--index", index, "--rejected", tmp_path / "bad.jsonl", "--retry-rejected")
    assert (ran.code, ran.out[:45]) == (3, "1 indexed, 0 updated, 0 unchanged, 1 rejected")
    (line,) = (tmp_path / "bad.jsonl").read_text("utf-8").splitlines()
    assert set(json.loads(line)) == {"path", "reason", "message", "row"}
    assert cxrsearch("index", toml, "--index", tmp_path / "other", "--retry-rejected").code == 4


def test_a_run_of_mostly_rejected_files_stops_early(
    cxrsearch: Run, pictures: Path, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "set"
    shutil.copytree(pictures.parent, folder)
    for number, path in enumerate(sorted(folder.glob("*.png"))):
        if number % 3:
            path.write_text("no image")
    command = ["index", folder / "set.toml", "--model", model, "--index", tmp_path / "index"]
    ran = cxrsearch(*command)
    assert ran.code == 4
    assert re.search(r"of the first 10\d files were rejected", ran.err)
    assert "the mapping or --root is probably wrong" in ran.err
    assert 0 < len(points(tmp_path / "index")) < 60
    patient = cxrsearch(*command, "--max-rejected", "70")
    assert patient.code == 3
    assert len(points(tmp_path / "index")) == 200


# ------------------------------------------------------------------ memory


@pytest.mark.slow
def test_memory_hardly_grows_with_the_number_of_files(pictures: Path, model: Path, tmp_path: Path) -> None:
    """Peak of the main process, which alone sees every file and holds the engine. A run of more than half a minute
    publishes in between, for which a second shard is loaded: some 60 MiB once."""
    source = sorted(pictures.parent.glob("*.png"))
    peaks = {}
    for count, bad in ((1_000, 0), (1_000, 1_000), (8_000, 0)):
        folder = tmp_path / f"{count}-{bad}"
        folder.mkdir()
        for number in range(count):
            os.link(source[number % len(source)], folder / f"{number:05d}.png")
        for number in range(bad):
            (folder / f"bad{number:05d}.png").write_text("no image")
        (folder / "set.toml").write_text('name = "m"\nimages.glob = "*.png"\n')
        code = (
            "import sys, re, pathlib\nfrom cxrsearch.cli.app import run\n"
            "code = run(sys.argv[1:])\n"
            "print('PEAK', re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])\n"
            "sys.exit(code)"
        )
        command = [
            sys.executable,
            "-c",
            code,
            "index",
            folder / "set.toml",
            "--index",
            folder / "index",
            "--model",
            model,
            "--max-rejected",
            "100",
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        assert done.returncode == (3 if bad else 0), done.stderr
        peaks[count, bad] = int(done.stdout.split("PEAK")[1]) / 1024
    assert peaks[8_000, 0] - peaks[1_000, 0] < 110, peaks  # MiB
    assert peaks[1_000, 1_000] < 1.1 * peaks[1_000, 0], peaks
