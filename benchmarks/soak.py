"""Kills, rotted bits, damaged files, odd filters and parallel searches, for as long as is given; one table at the end.

    python -m benchmarks.soak --minutes 10

Random, from a seed. Exit code 1 when anything failed; each failure is a line on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.uid import JPEG2000Lossless, RLELossless

from benchmarks.random_index import FIELDS, payloads, unit_vectors
from cxrsearch.clinical.where import parse
from cxrsearch.errors import ImageError, IndexUnavailable, Reason, WhereError
from cxrsearch.imaging import isolated
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.edge import EdgeStore
from cxrsearch.store.manifest import OF_A_MOMENT
from indexer.phantoms import draw, write_dicom

_PICTURES = 150
_TOKENS = """age site and or not in is missing contains ( ) , = != <= > 1 -2.5 2020-01-01 'a' "b true é --"""


@dataclass
class Row:
    """One line of the table. failures: what happened, in words."""

    what: str
    means: str
    attempts: int
    failures: list[str]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    rng, rows = random.Random(given.seed), []
    parts: tuple[tuple[float, Callable[[Path, float, random.Random], Row]], ...] = (
        (0.4, kills),
        (0.25, flips),
        (0.15, files),
        (0.05, filters),
        (0.15, searches),
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ["CXRSEARCH_KEY_FILE"] = str(Path(folder) / "key")
        _whole(Path(folder))
        for share, part in parts:
            rows.append(part(Path(folder), time.monotonic() + share * given.minutes * 60, rng))
    print(f"{given.minutes:g} minutes, seed {given.seed}, {os.cpu_count()} cores:\n")
    print("| what was done | how often | failures | what would be one |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.what} | {row.attempts:,} | {len(row.failures)} | {row.means} |")
        for failure in row.failures:
            print(f"{row.what}: {failure}", file=sys.stderr)
    return 1 if any(row.failures for row in rows) else 0


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cxrsearch", *map(str, arguments)]


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)


def _whole(folder: Path) -> None:
    """A dataset of pictures, every third patient with its own, its index ``whole``, and a backup of that."""
    (folder / "set").mkdir()
    drawn = [draw("COVID-19", n, size=48) for n in range(7)]
    rows = ["file,mrn,site"]
    for n in range(_PICTURES):
        Image.fromarray((np.roll(drawn[n % 7], n, axis=1) * 255).astype(np.uint8)).save(folder / "set" / f"{n:04d}.png")
        rows.append(f"{n:04d}.png,MRN-{n // 3:05d},{'AB'[n % 2]}")
    (folder / "set" / "t.csv").write_text("\n".join(rows) + "\n")
    (folder / "set" / "set.toml").write_text(
        'name = "s"\nimages = { table = "t.csv", path = "{file}" }\npatient = { column = "mrn" }\n'
        'fields.site = { column = "site", type = "keyword" }\n'
    )
    for arguments in (
        ("index", folder / "set" / "set.toml", "--index", folder / "whole", "--workers", 1),
        ("backup", folder / "whole", folder / "backup"),
    ):
        ran = _run(*arguments)
        if ran.returncode:
            raise SystemExit(ran.stderr)


def _points(index: Path) -> dict[str, Any]:
    """Of an index its payloads by id, those without a thumbnail left out."""
    store = EdgeStore.open(index)
    try:
        return {point.id: point.payload for point in store.scroll() if store.thumbnails.has(point.id)}
    finally:
        store.close()


# ------------------------------------------------------------------ writers are killed


def kills(folder: Path, until: float, rng: random.Random) -> Row:
    """SIGKILL at a random moment; then what is there is looked at, and the same command is given again."""
    whole, target = _points(folder / "whole"), folder / "killed"
    victim = sorted({str(payload["patient"]) for payload in whole.values()})[0]
    others = {id: payload for id, payload in whole.items() if payload["patient"] != victim}
    commands: dict[str, tuple[list[object], list[dict[str, Any]]]] = {
        "index": (["index", folder / "set" / "set.toml", "--index", target, "--workers", 1], [whole]),
        "copy": (["copy", folder / "whole", target], [whole]),
        "restore": (["restore", folder / "backup", target], [whole]),
        "forget": (["forget", victim, "--index", target], [whole, others]),
    }
    seconds = {}
    for name, (command, _) in commands.items():
        _fresh(folder, target, name)
        began = time.monotonic()
        _run(*command)
        seconds[name] = time.monotonic() - began
    failures: list[str] = []
    killed = 0
    while time.monotonic() < until:
        name = rng.choice(list(commands))
        command, ends = commands[name]
        _fresh(folder, target, name)
        process = subprocess.Popen(
            _command(*command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            process.wait(rng.uniform(0.3, 1.0) * seconds[name])
            continue  # it was quicker than the kill
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        killed += 1
        if (wrong := _half_done(name, target, ends)) is not None:
            failures.append(wrong)
        ran = _run(*command)
        allowed = (0, 4) if name == "forget" else (0, 2)  # it was forgotten, or there, already
        if ran.returncode not in allowed or _points(target) != ends[-1]:
            failures.append(f"{name}: the same command again gives {ran.returncode} {ran.stderr.strip()[-200:]}")
    return Row(
        "a writer killed (`index`, `copy`, `restore`, `forget`)", "points lost, or half a result", killed, failures
    )


def _fresh(folder: Path, target: Path, name: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    if name == "forget":
        shutil.copytree(folder / "whole", target)


def _half_done(name: str, target: Path, ends: list[dict[str, Any]]) -> str | None:
    """What is wrong with what a killed command left; None when nothing is."""
    try:
        left = _points(target)
    except IndexUnavailable:
        return f"{name}: no index any more" if name == "forget" else None
    if name == "index":  # it stores batch by batch
        wrong = [id for id, payload in left.items() if ends[0].get(id) != payload]
        return f"index: {len(wrong)} points that are not the dataset's" if wrong else None
    return None if left in ends else f"{name}: {len(left)} points of {len(ends[0])}"


# ------------------------------------------------------------------ bits rot

_PROBE = """
import sys
from pathlib import Path
from cxrsearch.errors import IndexUnavailable
from cxrsearch.store import problems
from cxrsearch.store.edge import EdgeStore
try:
    print("FOUND", sum(1 for _ in problems(sys.argv[1])), flush=True)
    store = EdgeStore.open(Path(sys.argv[1]))
    print("POINTS", sum(1 for _ in store.scroll(vectors=True)))
    store.close()
except IndexUnavailable:
    print("REFUSED")
"""


def flips(folder: Path, until: float, rng: random.Random) -> Row:
    """One to four bits of one file, whose date stays what it was."""
    target, failures, count = folder / "rotten", [], 0
    while time.monotonic() < until:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / "whole", target)
        file = rng.choice([p for p in sorted(target.rglob("*")) if p.is_file() and p.stat().st_size and _kept(p)])
        dates, content = file.stat(), bytearray(file.read_bytes())
        places = np.flatnonzero(np.frombuffer(content, np.uint8))
        for place in rng.sample(places.tolist(), min(len(places), rng.randint(1, 4))) or [0]:
            content[place] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        os.utime(file, ns=(dates.st_atime_ns, dates.st_mtime_ns))
        count += 1
        try:
            ran = subprocess.run(
                [sys.executable, "-c", _PROBE, str(target)], capture_output=True, text=True, timeout=60, check=False
            )
        except subprocess.TimeoutExpired:
            failures.append(f"{file.relative_to(target)}: no end")
            continue
        if "FOUND 0" in ran.stdout:
            failures.append(f"{file.relative_to(target)}: not found by check")
        if ran.returncode:
            failures.append(f"{file.relative_to(target)}: {ran.returncode} {ran.stderr.strip()[-200:]}")
    return Row("bits of an index flipped, dates kept", "`check` does not see it; a crash", count, failures)


def _kept(path: Path) -> bool:
    """Whether a file is of the index: no lock, no list of rejected files, none that the engine has for a moment."""
    return path.name not in ("lock", "rejected.jsonl") and not path.parent.name.startswith(OF_A_MOMENT)


# ------------------------------------------------------------------ files and filters that are none


def files(folder: Path, until: float, rng: random.Random) -> Row:
    """Small files of every kind, bytes of them changed and their ends cut off, read as any stranger's file is."""
    place = folder / "files"
    place.mkdir()
    small = draw("COVID-19", 3, size=40)
    write_dicom(place / "1.dcm", small, window=True)
    write_dicom(place / "2.dcm", small, "MONOCHROME1", 12, RLELossless)
    write_dicom(place / "3.dcm", small, bits=12, syntax=JPEG2000Lossless)
    for name in ("4.png", "5.jpg", "6.tiff", "7.bmp", "8.webp"):
        Image.fromarray((small * 255).astype(np.uint8)).save(place / name)
    good = [path.read_bytes() for path in sorted(place.iterdir())]
    count, died, failures = 0, 0, []
    while time.monotonic() < until:
        content = bytearray(rng.choice(good))
        for _ in range(rng.randint(0, 12)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.3:
            del content[rng.randrange(len(content)) :]
        count += 1
        try:
            images = isolated.decode(bytes(content), "file")
        except ImageError as error:
            died += error.reason is Reason.READER_DIED
        except Exception as error:
            failures.append(f"{type(error).__name__} {error}")
        else:
            if not all(np.isfinite(i.pixels).all() and i.pixels.min() >= 0 and i.pixels.max() <= 1 for i in images):
                failures.append("pixels outside 0..1")
    means = f"another error than that of the file; pixels outside 0..1 ({died} ended their reader, and no more)"
    return Row("damaged image files read", means, count, failures)


def filters(folder: Path, until: float, rng: random.Random) -> Row:
    count, failures = 0, []
    while time.monotonic() < until:
        words = [rng.choice(_TOKENS.split()) for _ in range(rng.randint(0, 25))]
        text = " ".join(words) if rng.random() < 0.7 else "".join(chr(rng.randrange(1, 0x3000)) for _ in words)
        count += 1
        try:
            parse(text, FIELDS)
        except WhereError:
            pass
        except Exception as error:
            failures.append(f"{text!r}: {type(error).__name__}")
    return Row("random texts as `--where`", "another error than that of `--where`", count, failures)


# ------------------------------------------------------------------ many search while one writes

_SEARCHES = """
import json, sys, time
from pathlib import Path
import numpy as np
from cxrsearch.store.edge import EdgeStore
until, failures, counts = time.monotonic() + float(sys.argv[2]), [], [0]
while time.monotonic() < until:
    try:
        store = EdgeStore.open(Path(sys.argv[1]))
        hits = store.query(np.eye(64, dtype=np.float32)[0], 10)
        counts.append(store.count())
        store.close()
        if len(hits) != min(10, counts[-1]) or counts[-1] < counts[-2]:
            failures.append(f"{len(hits)} hits, {counts[-2:]} points")
    except Exception as error:
        failures.append(f"{type(error).__name__} {error}")
print(json.dumps([len(counts) - 1, failures]))
"""


def searches(folder: Path, until: float, rng: random.Random) -> Row:
    """Four processes open and search the index again and again, while one fills it."""
    index = folder / "searched"
    facts = IndexFacts("m", "f", 64, FIELDS, {"random": DatasetFacts("r", "/archive")})
    writer = EdgeStore.create(index, facts)
    command = [sys.executable, "-c", _SEARCHES, str(index), str(max(1.0, until - time.monotonic() - 2))]
    readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    number = 0
    while any(reader.poll() is None for reader in readers):
        vectors = unit_vectors(200, 64, seed=number)
        given = zip(vectors, payloads(200, seed=number), strict=True)
        numbers = iter(range(number * 200, number * 200 + 200))
        writer.upsert([Point(f"00000000-0000-5000-8000-{next(numbers):012x}", p, v) for v, p in given])
        number += 1
        time.sleep(0.2)
    writer.close()
    count, failures = 0, []
    for reader in readers:
        out, _ = reader.communicate()
        if reader.returncode:
            failures.append(f"a reader ended with {reader.returncode}")
            continue
        done, own = json.loads(out)
        count, failures = count + done, failures + own
    what = f"searches by 4 processes while a writer stored {number * 200:,} points"
    return Row(what, "an error, a missing hit, fewer points than before", count, failures)


if __name__ == "__main__":
    sys.exit(main())
