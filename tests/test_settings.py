"""Feeling at home: settings, doctor, completion, quiet and verbose, pictures in a terminal, examples that run."""

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import Run, image_of, write_picture

from indexer.phantoms import write_cohort


@pytest.fixture(autouse=True)
def _a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cxrsearch("info").code == 2
    Path("cxrsearch.toml").write_text(f'index = "{index}"\n', "utf-8")
    assert cxrsearch("info").code == 0
    monkeypatch.setenv("CXRSEARCH_INDEX", str(tmp_path / "nowhere"))
    ran = cxrsearch("info")
    assert (ran.code, "nowhere: no such index" in ran.err) == (5, True)
    assert cxrsearch("info", "--index", index).code == 0
    rows = {row["setting"]: row for row in json.loads(cxrsearch("config", "--format", "json").out)}
    assert (rows["index"]["value"], rows["index"]["from"]) == (str(tmp_path / "nowhere"), "CXRSEARCH_INDEX")
    monkeypatch.delenv("CXRSEARCH_INDEX")
    rows = {row["setting"]: row for row in json.loads(cxrsearch("config", "--format", "json").out)}
    assert (rows["index"]["value"], rows["index"]["from"]) == (str(index), "cxrsearch.toml")


def test_the_config_folder_is_looked_in_last(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    (tmp_path / "config/cxrsearch").mkdir(parents=True)
    (tmp_path / "config/cxrsearch/cxrsearch.toml").write_text(f'index = "{index}"\n', "utf-8")
    assert cxrsearch("info").code == 0
    Path("cxrsearch.toml").write_text('index = "elsewhere"\n', "utf-8")
    assert cxrsearch("info").code == 5


def test_a_secret_is_never_shown_and_never_in_the_file(cxrsearch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXRSEARCH_QDRANT_API_KEY", "very-secret")
    ran = cxrsearch("config")
    assert "very-secret" not in ran.out
    assert "(set, not shown)" in ran.out
    Path("cxrsearch.toml").write_text('qdrant_api_key = "very-secret"\n', "utf-8")
    ran = cxrsearch("config")
    assert (ran.code, "comes from CXRSEARCH_QDRANT_API_KEY only" in ran.err) == (4, True)
    assert "very-secret" not in ran.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index = ", "not valid TOML"),
        ('indx = "a"', "no such setting. Did you mean 'index'?"),
        ("_cli_parse_args = true", "no such setting"),
        ('key_file = "key"', "not taken from a working folder"),
        ('thumbnails = "pictures"', "not taken from a working folder"),
        ('model = "model"', "not taken from a working folder"),
        ("index = true", "give a text in quotes"),
        ('index = "http://evil.example/chest"', "a server is named in"),
        ("x = " + "[" * 90_000, "not valid TOML"),
        ("#" * 200_000, "larger than any settings file"),
    ],
)
def test_a_settings_file_that_cannot_be_used(cxrsearch: Run, text: str, message: str) -> None:
    """A file in the working folder may come with an unpacked archive: it cannot send anything to a server."""
    Path("cxrsearch.toml").write_text(text, "utf-8")
    ran = cxrsearch("info")
    assert (ran.code, message in ran.err) == (4, True), ran.err
    assert len(ran.err.splitlines()) <= 2
    assert cxrsearch("info", "--help").code == 0


def test_the_users_own_file_sets_everything_and_the_working_folders_goes_before_it(
    cxrsearch: Run, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXRSEARCH_KEY_FILE")
    own = tmp_path / "config/cxrsearch/cxrsearch.toml"
    own.parent.mkdir(parents=True)
    own.write_text('index = "elsewhere"\nkey_file = "mine"\nqdrant_timeout = 5\n', "utf-8")
    Path("cxrsearch.toml").write_text(f'index = "{index}"\n', "utf-8")
    rows = {row["setting"]: row for row in json.loads(cxrsearch("config", "--format", "json").out)}
    assert (rows["index"]["value"], rows["index"]["from"]) == (str(index), "cxrsearch.toml")
    assert (rows["key_file"]["value"], rows["key_file"]["from"]) == ("mine", str(own))
    assert rows["qdrant_timeout"]["value"] == "5"
    named = tmp_path / "named.toml"
    named.write_text('model = "nowhere"\n', "utf-8")
    monkeypatch.setenv("CXRSEARCH_CONFIG", str(named))
    rows = {row["setting"]: row for row in json.loads(cxrsearch("config", "--format", "json").out)}
    assert (rows["index"]["value"], rows["model"]["from"]) == (None, str(named))


def test_doctor_shows_a_broken_settings_file_and_which_file_set_what(cxrsearch: Run) -> None:
    Path("cxrsearch.toml").write_text("index = ", "utf-8")
    ran = cxrsearch("doctor")
    assert ran.code == 4
    assert "cxrsearch.toml: not valid TOML" in ran.out
    Path("cxrsearch.toml").write_text("qdrant_timeout = 9", "utf-8")
    assert "qdrant_timeout from cxrsearch.toml" in cxrsearch("doctor", "--format", "json").out


def test_a_model_in_the_environment_is_not_one_to_evaluate(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXRSEARCH_MODEL", "model")
    ran = cxrsearch("evaluate", "nowhere.toml", "--folds", 2, "--out", tmp_path / "out")
    assert (ran.code, "nowhere.toml" in ran.err) == (4, True), ran.err


def test_doctor_finds_nothing_wrong_and_says_what_is(cxrsearch: Run, index: Path, tmp_path: Path) -> None:
    ran = cxrsearch("doctor", "--index", index, "--format", "json")
    assert ran.code == 0, ran.out
    checks = {row["what"]: row for row in json.loads(ran.out)}
    assert {"versions", "DICOM decoders", "model", "one query", "pictures", "calibration"} <= set(checks)
    assert checks["calibration"]["to do"].startswith("cxrsearch calibrate")
    assert "32 images" in checks["index"]["found"]
    ran = cxrsearch("doctor", "--index", tmp_path / "nowhere", "--model", tmp_path / "none")
    assert ran.code == 4
    assert "no such index" in ran.out
    assert "no model folder" in ran.out
    key = Path(os.environ["CXRSEARCH_KEY_FILE"])
    key.chmod(0o644)
    try:
        assert "others can read the pseudonym key" in cxrsearch("doctor").out
    finally:
        key.chmod(0o600)


def test_doctor_sees_another_model(cxrsearch: Run, index: Path, other_model: Path) -> None:
    ran = cxrsearch("doctor", "--index", index, "--model", other_model)
    assert (ran.code, "give that model with --model" in ran.out) == (4, True)


def test_quiet_and_verbose(cxrsearch: Run, cohort: Path, tmp_path: Path, index: Path) -> None:
    """Data go to stdout whatever is told on stderr."""
    toml = write_cohort(tmp_path / "set", patients=3, size=96)
    (tmp_path / "set/broken.dcm").write_bytes(b"DICM")
    with (tmp_path / "set/clinical.csv").open("a") as table:
        table.write("broken.dcm,P9,North,Pneumonia,,,50,F,2020-03-01,\n")
    normal = cxrsearch("index", toml, "--index", tmp_path / "a")
    quiet = cxrsearch("index", toml, "--index", tmp_path / "b", "--quiet")
    assert normal.code == quiet.code == 3
    assert "rejected: 1" in normal.err
    assert quiet.err == ""
    assert "1 rejected" in quiet.out
    loud = cxrsearch("search", image_of(cohort), "--index", index, "--report", tmp_path / "r.html", "-v")
    for said in (
        r"opened .*index",
        "loaded cxr-1",
        "read and embedded",
        "found 10 images",
        r"wrote .*r.html",
    ):
        assert re.search(rf"\d\.\d\d s  {said}", loud.err)
    failing = cxrsearch("search", "nowhere.png", "--index", index, "-q")
    assert "nowhere.png: does not exist" in failing.err


def complete(words: str, cursor: int) -> list[str]:
    environment = {**os.environ, "_CXRSEARCH_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(cursor)}
    code = "import sys; sys.argv = ['cxrsearch']; from cxrsearch.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_shell_completes_commands_fields_and_values(index: Path) -> None:
    assert "search" in complete("cxrsearch sea", 1)
    assert set(complete(f"cxrsearch search a.png --index {index} --vote o", 6)) == {"outcome"}
    assert "site" in complete(f"cxrsearch cohort --index {index} --by si", 5)
    assert complete(f"cxrsearch cohort --index {index} --where 'si", 5)[0].startswith("si")
    values = complete(f"cxrsearch cohort --index {index} --where 'site = \"S", 5)
    assert values == ['site = "South"']
    assert 'site = "North"' in complete(f"cxrsearch cohort --index {index} --where 'site = ", 5)
    assert complete("cxrsearch cohort --index /nowhere --by si", 5) in ([], [""])


def test_a_shell_is_offered_nothing_that_it_would_run(index: Path) -> None:
    from cxrsearch.store.edge import EdgeStore

    store = EdgeStore.open(index, write=True)
    point = next(iter(store.scroll(vectors=True)))
    for number, evil in enumerate(("S$(touch x)", "S`id`", "S; rm -rf", "S' || x", "S\nx")):
        store.upsert([replace(point, id=str(uuid.UUID(int=number)), payload={**point.payload, "site": evil})])
    store.close()
    offered = complete(f"cxrsearch cohort --index {index} --where 'site = \"S", 5)
    assert offered == ['site = "South"']


def in_a_terminal(*arguments: object, width: int = 120, **environment: str) -> str:
    """What the command prints where stdout is a terminal of so many columns."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))  # rows, columns, no pixels told
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "cxrsearch", *map(str, arguments)],
        stdin=writer,
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env={**kept, "COLUMNS": str(width), "LINES": "40", **environment},
        cwd=Path(__file__).parent.parent,
    )
    os.close(writer)
    shown = b""
    while True:
        try:
            more = os.read(reader, 65536)
        except OSError:  # the terminal was closed: the process is done
            break
        if not more:
            break
        shown += more
    os.close(reader)
    assert process.wait(timeout=60) == 0
    return shown.decode("utf-8", "replace")


def test_pictures_are_shown_in_a_terminal_and_nowhere_else(cxrsearch: Run, cohort: Path, index: Path) -> None:
    arguments = ["search", image_of(cohort), "--index", index, "-k", 3, "--show"]
    shown = in_a_terminal(*arguments, TERM="xterm-256color", COLORTERM="truecolor")
    assert shown.count("▀") > 4 * 26 * 5  # four pictures of 26 cells a line
    greys = set(re.findall(r"38;2;(\d+);\1;\1", shown)) | set(re.findall(r"38;5;(\d+)", shown))
    assert len(greys) > 10
    where = ["--where", 'notes contains "opacities"']
    found = in_a_terminal("cohort", "--index", index, *where, "--show", TERM="xterm-256color", COLORTERM="truecolor")
    assert found.count("▀") > 26 * 5
    assert "peripheral" in found
    for dull in ({"TERM": "dumb"}, {"TERM": "xterm-256color", "NO_COLOR": "1"}):
        assert "▀" not in in_a_terminal(*arguments, **dull)
    assert "▀" not in cxrsearch(*arguments).out


def test_init_shows_its_images_as_they_are_and_facts_as_far_as_they_fit(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    pixels = np.random.default_rng(0).random((200, 100))
    for name, shape in (("tall", pixels), ("wide", pixels.T), ("strip", np.tile(pixels, (1, 40)))):
        write_picture(tmp_path / "scans" / f"{name}.png", shape)
    table, out = tmp_path / "t.csv", tmp_path / "scans" / ".." / "t.toml"
    names = [f"ward_number_{n}" for n in range(9)]
    rows = [f"{name},x,{','.join('1' * 9)},Effusion" for name in ("tall", "wide", "strip")]
    table.write_text("\n".join([f"scan,group,{','.join(names)},finding", *rows]), "utf-8")
    init = ["init", table, "--images", tmp_path / "scans", "--out", out, "--overwrite"]
    colours = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    for width in (80, 40):
        shown = in_a_terminal(*init, **colours, width=width)
        # Pictures of 26 cells, which are twice as high as wide: 26 lines, 6, and 6 of a strip with its border.
        assert shown.count("▀") == 26 * (26 + 6 + 6)
        words = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert max(len(line.rstrip()) for line in words.split("\n") if "Effusion" in line) <= width
        assert "…" not in words
        assert (len(re.findall("ward_number_", words)) == 9) is (width == 40)
    assert f"in {tmp_path}/scans; 0 files are missing" in shown


def test_the_example_of_every_help_runs(cxrsearch: Run, tmp_path: Path) -> None:
    """As it is written there, on an index ``chest``; those that need real images have the next test, those that need a
    server, a token, another model or an hour (copy, locate, reembed, train, evaluate) tests of their own."""
    import pandas

    from cxrsearch.cli.app import app

    toml = write_cohort(tmp_path / "set", patients=70, size=96)
    assert cxrsearch("index", toml, "--index", "chest").code == 0
    next(toml.parent.rglob("*.dcm")).rename("scan.dcm")
    pandas.read_csv(toml.parent / "clinical.csv").to_excel("facts.xlsx", index=False)
    shutil.copytree(toml.parent, "scans")
    rows = json.loads(cxrsearch("cohort", "--index", "chest", "--format", "json").out)
    ran = 0
    for command in app.registered_commands:
        if command.name in ("index", "audit", "transfer", "copy", "locate", "reembed", "train", "evaluate"):
            continue
        words = (word.replace("Daegu", "South").replace("set.toml", str(toml)) for word in example(command))
        result = cxrsearch(*(word.replace("MZXW6YTBOI2DKNRX", rows[0]["patient"]) for word in words))
        assert result.code == 0, (command.name, result.err)
        ran += 1
    assert ran >= 9


@pytest.mark.slow
@pytest.mark.data
def test_the_examples_that_need_real_images_run_and_the_collection_goes_in_whole(
    cxrsearch: Run, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of index and transfer; audit's is run by test_evaluate.py."""
    from cxrsearch.cli.app import app
    from trainer.transfer import models

    monkeypatch.setattr(models, "_STRENGTHS", (0.1,))  # what it finds is not looked at
    monkeypatch.setattr(models, "_IMAGE_WEIGHTS", (1.0,))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/data").symlink_to(data)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    commands = {command.name: command for command in app.registered_commands}
    ran = cxrsearch(*example(commands["index"]))
    assert ran.code == 0
    assert ran.err.splitlines() == [
        "note: free text (notes) enters the index as it is, names and all (docs/how-to/privacy.md)",
        "note: field study_date: 314 values do not match its pattern and are missing",
        "note: field study_year: 10 values do not match its pattern and are missing",
    ]
    assert ran.out.startswith("501 indexed, 0 updated, 0 unchanged, 0 rejected")
    told = json.loads(cxrsearch("cohort", "--index", "chest", "--by", "icu", "--format", "json").out)
    assert {row["icu"]: row["images"] for row in told} == {None: 316, True: 142, False: 43}
    ran = cxrsearch(*example(commands["transfer"]))
    assert ran.code == 0, ran.err


def example(command: Any) -> list[str]:
    """The words of the example in a command's help, behind ``cxrsearch``."""
    help_text = " ".join((command.callback.__doc__ or "").split())
    return shlex.split(re.search(r"Example: cxrsearch (.*)$", help_text).group(1))  # type: ignore[union-attr]
