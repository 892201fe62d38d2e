"""What ``make demo`` runs: a cohort of phantoms (or your dataset TOML) indexed, searched and counted.

Every line that begins with $ is a command that can be typed again.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cxrsearch.clinical.fields import DIGESTS
from indexer import dataset as datasets
from indexer.phantoms import write_cohort

FOLDER = Path("demo")


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    cxrsearch = _shown(Path(sys.executable).parent / "cxrsearch")
    if arguments:
        toml = Path(arguments[0])
    else:
        toml = write_cohort(FOLDER / "phantoms")
        print(
            f"Wrote a cohort of synthetic chest phantoms, as DICOM files with a clinical table, into {toml.parent}/\n"
        )
    index = str(FOLDER / f"index-{toml.resolve().parent.name}")
    if code := _run(cxrsearch, "index", str(toml), "--index", index):
        return code
    _run(cxrsearch, "info", "--index", index)
    data = datasets.load(str(toml))
    first = next(str(record.path) for record in data.records() if record.problem is None and record.path.is_file())
    _run(cxrsearch, "search", first, "--index", index, "-k", "5")
    where, by = _filter(cxrsearch, index)
    _run(cxrsearch, "calibrate", "--index", index)
    page = FOLDER / "report.html"
    filtered = ["--where", where] if where else []
    vote = ["--vote", by[-1]] if by else []
    _run(cxrsearch, "search", first, "--index", index, "-k", "5", *filtered, *vote, "--explain", "--report", str(page))
    counted = [part for name in by for part in ("--by", name)]
    _run(cxrsearch, "cohort", "--index", index, *counted)
    print(f"Done in {time.monotonic() - started:.0f} s. The index is {index}/; every command above can be typed again.")
    if page.exists():
        print(f"Open {page} in a browser: the pictures side by side, with place maps, facts and the vote.")
    return 0


def _filter(cxrsearch: str, index: str) -> tuple[str, list[str]]:
    """A filter by site, and site and outcome to count by; where these are not, the first two keyword fields."""
    info = subprocess.run([cxrsearch, "info", "--index", index, "--format", "json"], capture_output=True, check=True)
    system = {"dataset", "patient", "study", "path", *DIGESTS}
    keywords = [
        field["field"]
        for field in json.loads(info.stdout)["fields"]
        if "keyword" in field["type"] and field["images"] and field["field"] not in system
    ]
    by = [name for name in ("site", "outcome") if name in keywords] or keywords[:2]
    for name in by[:1]:
        answer = subprocess.run(
            [cxrsearch, "cohort", "--index", index, "--by", name, "--format", "json"], capture_output=True, check=True
        )
        value = next((row[name] for row in json.loads(answer.stdout) if row[name] is not None), None)
        if isinstance(value, str):
            quoted = value.replace('"', '""')
            return f'{name} = "{quoted}"', by
    return "", by


def _run(*command: str) -> int:
    print("$ " + shlex.join(command), flush=True)
    code = subprocess.run(command).returncode
    print(flush=True)
    return code


def _shown(program: Path) -> str:
    """The program as a person would type it here."""
    here = Path.cwd()
    return str(program.relative_to(here)) if program.is_relative_to(here) else str(program)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
