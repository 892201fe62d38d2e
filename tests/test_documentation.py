"""The README's and the pages' commands are run, and what they promise is there."""

import json
import re
import shlex
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from factories import Run

from cxrsearch.model_card import DEFAULT_MODEL
from indexer.phantoms import write_cohort

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
]


def test_the_commands_of_the_readme_run(cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cohort(Path("demo/phantoms"), size=160)
    text = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 3
    commands.sort(key=lambda command: "cxrsearch search" in command)  # the README shows a search before it indexes
    for command in commands:
        ran = cxrsearch(*shlex.split(command)[1:])
        assert ran.code == 0, (command, ran.err)
        assert ran.out


def test_the_search_that_is_shown_is_what_is_printed(
    cxrsearch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cohort(Path("demo/phantoms"))
    block = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[0]
    shown = re.split(r"^\$ cxrsearch (.*)\n", block, flags=re.MULTILINE)[1:]
    for command, expected in zip(shown[::2], shown[1::2], strict=True):
        printed = cxrsearch(*shlex.split(command)).out
        if expected:
            assert differences(printed, expected) == []


def differences(printed: str, shown: str) -> list[str]:
    """What differs between two outputs, but for pseudonyms, which depend on the key, and the last digits of scores
    and shares, which depend on the processor."""

    def parts(text: str) -> list[str]:
        """Texts and the scores and shares between them, in turn."""
        text = re.sub(r"[A-Z2-7]{16}", "PATIENT", re.sub(r"[^\x20-\x7e\n]+", "", text))
        return re.split(r"(\d\.\d{3,4}|\d+%)", " ".join(text.split()))

    def same(one: str, other: str) -> bool:
        if one.endswith("%") and other.endswith("%"):
            return abs(int(one[:-1]) - int(other[:-1])) <= 1
        scores = re.fullmatch(r"(\d\.\d+) (\d\.\d+)", f"{one} {other}")
        return one == other or (scores is not None and abs(float(scores[1]) - float(scores[2])) <= 0.001)

    pairs = zip_longest(parts(printed), parts(shown), fillvalue="")
    return [f"{one!r} is not {other!r}" for one, other in pairs if not same(one, other)]


@pytest.mark.parametrize(
    ("printed", "differs"),
    [
        ("1 0.9987 YEOVGM7R4ATFMR4I died 66% 9", False),
        ("1   0.9989   AAAAAAAAAAAAAAAA   died 65%\n9", False),
        ("1 0.9289 YEOVGM7R4ATFMR4I died 66% 9", True),
        ("1 0.9989 YEOVGM7R4ATFMR4I died 60% 9", True),
        ("1 0.9989 YEOVGM7R4ATFMR4I died 66% 8", True),
        ("1 0.9989 YEOVGM7R4ATFMR4I icu 66% 9", True),
        ("1 0.9989 YEOVGM7R4ATFMR4I died", True),
    ],
)
def test_a_wrong_number_in_the_readme_would_be_seen(printed: str, differs: bool) -> None:
    assert bool(differences(printed, "1 0.9989 GTNASXFFYFA23TVK died 66% 9")) is differs


def test_the_page_of_commands_is_what_they_say() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import reference; print(reference.page(), end='')"],
        capture_output=True,
        text=True,
        cwd=ROOT / "docs",
        check=True,
    )
    assert (ROOT / "docs/reference/commands.md").read_text("utf-8") == done.stdout


def test_the_site_builds_and_no_link_of_it_is_broken(tmp_path: Path) -> None:
    """mkdocs.yml is strict: a page or an anchor that is not there fails the build."""
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--config-file",
        str(ROOT / "mkdocs.yml"),
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    pages = [path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")]
    assert all((tmp_path / "site" / page / "index.html").exists() for page in pages if page.name != "index")
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    assert [page for page in pages if f"{page}.md" not in navigation] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in re.findall(
        r"`((?:cxrsearch|indexer|trainer|benchmarks|docs|docker|tests)/[\w./-]+)`", page.read_text("utf-8")
    ):
        assert (ROOT / name).exists(), name


def test_every_command_has_help_with_an_example_of_itself(cxrsearch: Run) -> None:
    from cxrsearch.cli.app import app

    names = [[str(command.name)] for command in app.registered_commands]
    for group in app.registered_groups:
        names += [[str(group.name), str(command.name)] for command in group.typer_instance.registered_commands]
    assert ["models", "import"] in names
    for name in names:
        ran = cxrsearch(*name, "--help")
        assert ran.code == 0
        assert f"Example: cxrsearch {' '.join(name)} " in f"{' '.join(ran.out.split())} "


def test_the_figures_of_the_readme_are_those_of_the_page_of_results() -> None:
    page = (ROOT / "docs/reference/cxr-1.md").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| (0\.\d+ \(.*\)) \|$", readme, re.MULTILINE)
    assert len(rows) == 4
    external = page[: page.index("## Severity")]
    assert [row for row in rows if row not in external] == []


def test_the_page_of_results_has_the_figures_of_the_card() -> None:
    card = json.loads((DEFAULT_MODEL / "model.json").read_text("utf-8"))
    page = (ROOT / "docs/reference/cxr-1.md").read_text("utf-8")
    for methods in card["figures"]["by source"].values():
        for method, figures in methods.items():
            cells = [figures[name] for name in ("auc", "map", "ndcg_at_10") if name in figures]
            assert " | ".join(f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in cells) in page, method
    assert f"`{card['name']}`" in (ROOT / "README.md").read_text("utf-8")


def test_the_error_of_the_where_page_is_the_error(cxrsearch: Run, index: Path) -> None:
    page = (ROOT / "docs/reference/where.md").read_text("utf-8")
    command, *shown = re.search(r"    \$ (cxrsearch cohort.*?)\n\n", page, re.DOTALL)[1].split("\n")  # type: ignore[index]
    arguments = [str(index) if word == "chest" else word for word in shlex.split(command)[1:]]
    assert cxrsearch(*arguments).err.rstrip("\n").split("\n") == [line.removeprefix("    ") for line in shown]


CLAIMS = [ROOT / "docs" / "reference" / "security.md", ROOT / "docs" / "how-to" / "privacy.md"]


@pytest.mark.parametrize("page", CLAIMS, ids=lambda page: page.name)
def test_every_claim_about_safety_names_a_test_that_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", text)
    assert [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")] == []
    tables = [block.splitlines() for block in text.split("\n\n") if "| held by |" in block]
    rows = [row for head, _, *table in tables for row in [*table]]
    assert len(rows) >= 5
    assert [row for row in rows if "::test_" not in row] == []
    sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert [part.splitlines()[0] for part in sections if "::test_" not in part and "make soak" not in part] == []
