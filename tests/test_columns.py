"""Tables of results: the facts that are known, findings and outcomes first, whole words, as many as fit."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from factories import ROOT, Run, planted, write_mapping, write_picture

from cxrsearch.clinical.fields import Field, FieldType
from cxrsearch.report.columns import choose
from indexer.phantoms import draw

FACTS = """scan,crp,weight,befund,died_later,site,nothing
1,12.5,170,Pneumonia,yes,north,
2,7,,Normal,no,north,
3,101,,Effusion,,south,
"""
MAPPING = """
name = "t"
[images]
table = "table.csv"
path = "{scan}.png"
[fields.weight]
column = "weight"
type = "integer"
unit = "kg"
[fields.site]
column = "site"
type = "keyword"
[fields.crp]
column = "crp"
type = "float"
unit = "mg/l"
[fields.nothing]
column = "nothing"
type = "keyword"
[fields.died_later]
column = "died_later"
type = "boolean"
later = true
[fields.befund]
column = "befund"
type = "keyword"
"""


@pytest.fixture
def chest(cxrsearch: Run, tmp_path: Path) -> Path:
    """An index whose fields have names of their own, with units."""
    for n in (1, 2, 3):
        write_picture(tmp_path / f"{n}.png", draw("Pneumonia", n, size=64))
    path = write_mapping(tmp_path, MAPPING, FACTS)
    assert cxrsearch("index", path, "--index", tmp_path / "index", "--workers", 1).code == 0
    return tmp_path / "index"


def header(out: str) -> list[str]:
    line = next(line for line in out.splitlines() if " path" in line)
    return re.split(r" {2,}", line.strip())


def test_findings_and_outcomes_come_first_then_what_most_have_and_nothing_that_none_has(
    cxrsearch: Run, chest: Path, tmp_path: Path
) -> None:
    ran = cxrsearch("search", tmp_path / "1.png", "--index", chest, "--same-patient")
    assert header(ran.out)[-6:] == ["befund", "died_later", "site", "crp (mg/l)", "weight (kg)", "path"]
    assert f"paths are below {tmp_path}" in ran.out
    listed = cxrsearch("cohort", "--index", chest)
    assert header(listed.out) == ["befund", "died_later", "site", "crp (mg/l)", "weight (kg)", "path"]
    known = cxrsearch("cohort", "--index", chest, "--where", 'site = "south"')
    assert header(known.out) == ["site", "befund", "crp (mg/l)", "path"]


def test_fields_are_those_that_are_named_and_are_remembered(
    cxrsearch: Run, chest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = cxrsearch("cohort", "--index", chest, "--fields", "crp, nothing")
    assert header(named.out) == ["crp (mg/l)", "nothing", "path"]
    wrong = cxrsearch("search", tmp_path / "1.png", "--index", chest, "--fields", "befunt")
    assert wrong.code == 2
    assert wrong.err == "cxrsearch: --fields befunt: no such field in this index. Did you mean 'befund'?\n"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cxrsearch.toml").write_text('fields = "weight,of_another_index"', "utf-8")
    assert header(cxrsearch("cohort", "--index", chest).out) == ["weight (kg)", "path"]
    assert header(cxrsearch("cohort", "--index", chest, "--fields", "site").out) == ["site", "path"]


def test_what_goes_into_a_pipe_is_not_padded_and_not_cut(cxrsearch: Run, chest: Path, tmp_path: Path) -> None:
    ran = cxrsearch("search", tmp_path / "1.png", "--index", chest, "--same-patient")
    assert [line for line in ran.out.splitlines() if line != line.rstrip()] == []
    assert "…" not in ran.out


def in_a_terminal(columns: int, *arguments: object) -> str:
    """What a command prints in a terminal of this many columns."""
    code = f"""
import fcntl, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 40, {columns}, 0, 0))
    from cxrsearch.cli.app import run
    os._exit(run({[str(argument) for argument in arguments]!r}))
while True:
    try:
        part = os.read(terminal, 4096)
    except OSError:
        break
    if not part:
        break
    sys.stdout.buffer.write(part)
"""
    command, environment = [sys.executable, "-c", code], {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=ROOT, env=environment)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout.decode("utf-8"))


@pytest.mark.parametrize("columns", [30, 50, 80, 200])
def test_a_narrow_terminal_drops_columns_and_parts_no_word(chest: Path, columns: int) -> None:
    out = in_a_terminal(columns, "cohort", "--index", chest)
    shown = header(out)
    everything = ["befund", "died_later", "site", "crp (mg/l)", "weight (kg)", "path"]
    assert shown == [*everything[: len(shown) - 1], "path"]
    assert len(shown) == {30: 2, 50: 4, 80: 6, 200: 6}[columns]
    for word in ("Pneumonia", "Effusion", "1.png", "2.png", "3.png"):
        assert re.search(rf"(?<!\S){re.escape(word)}(?!\S)", out), word


def test_equally_known_facts_stay_in_the_order_they_were_declared() -> None:
    fields = {name: Field(name, FieldType.KEYWORD) for name in ("b", "a", "labels")}
    assert choose(fields, [{"a": "x", "b": "y", "labels": "z"}]) == ["labels", "b", "a"]


# ---------------------------------------------------------------- counts in steps


def test_ages_and_dates_are_counted_in_steps(cxrsearch: Run, index: Path) -> None:
    plain, stepped = (cxrsearch("cohort", "--index", index, "--by", by, "--format", "csv") for by in ("age", "age:10"))
    expected: dict[str, int] = {}
    for age, images, *_ in (line.split(",") for line in plain.out.splitlines()[1:]):
        low = int(age) // 10 * 10 if age else None
        name = "" if low is None else f"{low} to {low + 9}"
        expected[name] = expected.get(name, 0) + int(images)
    counted = {line.split(",")[0]: int(line.split(",")[1]) for line in stepped.out.splitlines()[1:]}
    assert counted == expected
    names = [name for name in counted if name]
    assert len(names) > 2
    assert names == sorted(names, key=lambda name: int(name.split()[0]))
    months = cxrsearch("cohort", "--index", index, "--by", "study_date:month", "--format", "csv").out
    assert all(re.match(r"\d{4}-\d\d,|,", line) for line in months.splitlines()[1:])
    assert len(months.splitlines()) > 3


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("age:x", "numbers are grouped by a width: --by age:10"),
        ("age:0", "numbers are grouped by a width"),
        ("age:-5", "numbers are grouped by a width"),
        ("study_date:10", "dates are grouped by year or month"),
        ("site:2", "only numbers and dates are grouped"),
        ("agee:10", "no such field in this index. Did you mean 'age'?"),
    ],
)
def test_a_step_that_is_none_says_what_is(cxrsearch: Run, index: Path, by: str, message: str) -> None:
    ran = cxrsearch("cohort", "--index", index, "--by", by)
    assert (ran.code, message in ran.err) == (2, True), ran.err


def test_steps_of_large_numbers_are_told_apart(cxrsearch: Run, tmp_path: Path) -> None:
    for n in range(4):
        write_picture(tmp_path / f"{n}.png", draw("Pneumonia", n, size=64))
    cells = "\n".join(f"{n},{4_100_001 + 2 * n}.5" for n in range(4))
    (tmp_path / "table.csv").write_text(f"scan,cells\n{cells}\n", "utf-8")
    mapping = tmp_path / "t.toml"
    mapping.write_text(
        'name = "t"\n[images]\ntable = "table.csv"\npath = "{scan}.png"\n'
        '[fields.cells]\ncolumn = "cells"\ntype = "float"\n',
        "utf-8",
    )
    assert cxrsearch("index", mapping, "--index", tmp_path / "index").code == 0
    out = cxrsearch("cohort", "--index", tmp_path / "index", "--by", "cells:2", "--format", "csv").out
    assert [line.split(",")[:2] for line in out.splitlines()[1:]] == [
        [f"{4_100_000 + 2 * n} to {4_100_002 + 2 * n}", "1"] for n in range(4)
    ]


def test_images_without_the_fact_are_a_group_of_their_own(cxrsearch: Run, tmp_path: Path) -> None:
    planted(tmp_path / "index", patients=4).close()
    ran = cxrsearch("cohort", "--index", tmp_path / "index", "--by", "age:0.5")
    assert (ran.code, "(missing)" in ran.out) == (0, True)
