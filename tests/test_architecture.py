"""The two rules of the design: imports point one way, and searching never imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEARNING = {"torch", "torchvision", "open_clip", "pytorch_metric_learning", "safetensors"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(
    "path", sorted((ROOT / "cxrsearch").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_cxrsearch_imports_neither_indexer_nor_trainer_nor_torch(path: Path) -> None:
    if path.parent.name != "cli":
        assert not imports(path) & ({"indexer", "trainer"} | LEARNING)


@pytest.mark.parametrize("path", sorted((ROOT / "indexer").rglob("*.py")), ids=lambda path: path.name)
def test_indexer_imports_neither_trainer_nor_torch(path: Path) -> None:
    assert not imports(path) & ({"trainer"} | LEARNING)


def test_a_search_loads_no_torch_no_pandas_and_no_client_it_does_not_need(cohort: Path, index: Path) -> None:
    image = next(cohort.parent.rglob("*.dcm"))
    code = f"""
import sys
from cxrsearch.cli.app import run
assert run(["search", {str(image)!r}, "--index", {str(index)!r}, "--where", "age > 1"]) == 0
print([name for name in ("torch", "pandas", "qdrant_client") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_front_page_is_what_typer_would_print() -> None:
    """cli/help.txt is printed without importing typer; this keeps the two the same."""
    code = "import sys; from cxrsearch.cli.app import run; sys.exit(run(['--help']))"
    environment = {"COLUMNS": "100", "PATH": "/usr/bin", "TERM": "dumb"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert (ROOT / "cxrsearch/cli/help.txt").read_text("utf-8") == done.stdout


def test_no_module_is_longer_than_one_sitting() -> None:
    modules = [p for package in ("cxrsearch", "indexer", "trainer") for p in (ROOT / package).rglob("*.py")]
    assert [str(p) for p in modules if len(p.read_text("utf-8").splitlines()) > 350] == []
