"""The plan of the house, held: imports only run down the floors, in no circle, and searching never imports torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("cxrsearch", "indexer", "trainer")
# From the roof to the ground. A module belongs to the longest name here that its own begins with, and imports
# modules of its own room and of rooms below it; rooms that share a floor do not import each other.
FLOORS = (
    {"cxrsearch.__main__"},
    {"cxrsearch.cli", "cxrsearch.serve"},
    {"trainer.run"},
    {"trainer.audit", "trainer.transfer"},
    {"trainer.evaluation"},
    {"trainer.importing"},
    {"trainer.learning"},
    {"trainer.data", "trainer.metrics"},
    {"trainer.config", "trainer.plots"},
    {"indexer", "cxrsearch.archive", "cxrsearch.doctor"},
    {"cxrsearch.results"},
    {"cxrsearch.report"},
    {"cxrsearch.retrieval"},
    {"cxrsearch.voting"},
    {"cxrsearch.cohort"},
    {"cxrsearch.store"},
    {"cxrsearch.encoder", "cxrsearch.text_encoder"},
    {"cxrsearch.model_card", "cxrsearch.onnx_session"},
    {"cxrsearch.imaging", "cxrsearch.clinical"},
    {"cxrsearch.clinical.fields"},  # value types, which imaging may use
    {
        "cxrsearch.settings",
        "cxrsearch.device",
        "cxrsearch.files",
        "cxrsearch.onnx_graph",
        "cxrsearch.tokenizer",
        "cxrsearch.validation",
    },
    {"cxrsearch.statistics"},
    {"cxrsearch.text"},
    {"cxrsearch.errors"},
)
LEARNING_LIBRARIES = {
    "accelerate",
    "open_clip",
    "pytorch_metric_learning",
    "safetensors",
    "timm",
    "torch",
    "torchvision",
    "torchxrayvision",
    "transformers",
}


def modules_of(root: Path) -> dict[str, Path]:
    """The file of every module, by its dotted name."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """What a module imports, in functions and for the type checker too: our modules, and libraries by their name."""

    def names() -> Iterator[str]:
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                yield from (f"{base}.{alias.name}" for alias in node.names)

    found = set()
    for imported in names():
        while imported not in modules and "." in imported:
            imported = imported.rpartition(".")[0]
        found.add(imported)
    return found - {name}


def floor_of(name: str) -> tuple[int, str] | None:
    """The floor of a module, counted from the roof, and its room; None where it has none."""
    if name in PACKAGES:
        return len(FLOORS), name  # a package itself holds its version and imports nothing
    rooms = [(n, room) for n, floor in enumerate(FLOORS) for room in floor if f"{name}.".startswith(f"{room}.")]
    return max(rooms, key=lambda place: len(place[1]), default=None)


def faults(root: Path) -> list[str]:
    """Every import under a root that the plan forbids, and the first circle."""
    modules = modules_of(root)
    graph = {name: imports_of(name, path, modules) for name, path in sorted(modules.items())}
    found = []
    for name, imported in graph.items():
        own = floor_of(name)
        if own is None:
            found.append(f"{name} has no floor: give it one here and in docs/architecture.md")
            continue
        for other in sorted(imported & modules.keys()):
            place = floor_of(other)
            if place is not None and place[1] != own[1] and place[0] <= own[0]:
                found.append(f"{name} imports {other}, which is not below it")
        if not name.startswith(("trainer.", "cxrsearch.cli.")):
            found += [f"{name} imports {library}" for library in sorted(imported & LEARNING_LIBRARIES)]
    try:
        TopologicalSorter({name: imported & modules.keys() for name, imported in graph.items()}).prepare()
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(reversed(error.args[1]))}")
    return found


def test_imports_run_down_the_floors_in_no_circle_and_searching_needs_no_torch() -> None:
    assert len(modules_of(ROOT)) > 100
    assert faults(ROOT) == []


def test_no_test_module_imports_from_another() -> None:
    """What several need is made in tests/factories.py; a fixture is asked for by its name."""
    found = []
    for path in sorted((ROOT / "tests").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name} imports {name}" for name in names if re.match(r"(tests\.)?(test_|conftest)", name)]
    assert found == []


HOUSE = {
    "cxrsearch/__init__.py": "__version__ = '1'",
    "cxrsearch/errors.py": "",
    "cxrsearch/store/__init__.py": "",
    "cxrsearch/store/contract.py": "from cxrsearch import __version__\nfrom cxrsearch.errors import InputError",
    "cxrsearch/store/edge.py": "from cxrsearch.store import contract",
    "cxrsearch/cli/search.py": "def command():\n    from cxrsearch.store.edge import EdgeStore",
    "indexer/pipeline.py": "import cxrsearch.store.edge as edge",
    "trainer/data/images.py": "import torch\nfrom indexer import pipeline",
    "trainer/learning/fit.py": "from trainer.data import images",
}


@pytest.mark.parametrize(
    ("file", "content", "fault"),
    [
        ("cxrsearch/errors.py", "import numpy", None),
        ("cxrsearch/errors.py", "import cxrsearch.store.contract", "cxrsearch.errors imports cxrsearch.store.contract"),
        ("cxrsearch/errors.py", "from cxrsearch.store import contract", "cxrsearch.errors imports cxrsearch.store.con"),
        ("cxrsearch/errors.py", "from .store import edge", "cxrsearch.errors imports cxrsearch.store.edge"),
        ("cxrsearch/errors.py", "def f():\n    import cxrsearch.store", "cxrsearch.errors imports cxrsearch.store"),
        ("cxrsearch/errors.py", "if TYPE_CHECKING:\n    from cxrsearch.cli.search import command", "cxrsearch.cli.sea"),
        ("cxrsearch/store/contract.py", "from cxrsearch.store.edge import EdgeStore", "a circle: "),
        ("cxrsearch/store/contract.py", "def f():\n    from . import edge", "a circle: "),
        (
            "cxrsearch/store/edge.py",
            "from indexer.pipeline import run",
            "cxrsearch.store.edge imports indexer.",
        ),
        ("cxrsearch/store/edge.py", "from torch import nn", "cxrsearch.store.edge imports torch"),
        (
            "cxrsearch/imaging/read.py",
            "import cxrsearch.clinical.where",
            "cxrsearch.imaging.read imports cxrsearch.",
        ),
        ("cxrsearch/imaging/read.py", "import cxrsearch.clinical.fields", None),
        ("indexer/pipeline.py", "import trainer.data.images", "indexer.pipeline imports trainer.data.images"),
        ("indexer/pipeline.py", "def f():\n    import open_clip", "indexer.pipeline imports open_clip"),
        ("trainer/data/images.py", "from trainer.learning.fit import fit", "trainer.data.images imports trainer.learn"),
        ("cxrsearch/utils.py", "", "cxrsearch.utils has no floor"),
    ],
)
def test_an_import_that_the_plan_forbids_is_found(tmp_path: Path, file: str, content: str, fault: str | None) -> None:
    more = {"cxrsearch/clinical/where.py": "", "cxrsearch/clinical/fields.py": ""} if "imaging" in file else {}
    for name, text in {**HOUSE, **more, file: content}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    found = faults(tmp_path)
    assert found == [] if fault is None else any(fault in line for line in found), found


def listed(text: str) -> set[str]:
    """The files and folders of a drawn listing; a name stands under the folder that is indented less."""
    found, folders = set(), {}
    for line in text.splitlines():
        depth = len(line) - len(line.lstrip())
        folders = {d: name for d, name in folders.items() if d < depth}
        for name in re.split(r" {2,}", line.strip()):
            if not re.fullmatch(r"\w+(\.py|/)", name):
                break  # what follows the names is what they are for
            found.add("".join(folders[d] for d in sorted(folders)) + name)
            if name.endswith("/"):
                folders[depth] = name
    return found


def blocks(page: str) -> list[str]:
    return re.findall(r"```text\n(.*?)```", (ROOT / page).read_text("utf-8"), re.DOTALL)


def test_the_listing_of_the_architecture_page_is_the_tree() -> None:
    """A module that was added, moved or deleted: change its line in docs/architecture.md."""
    names = listed(blocks("docs/architecture.md")[0])
    modules = {str(path.relative_to(ROOT)) for path in modules_of(ROOT).values()}
    modules = {name for name in modules if not name.endswith(("__init__.py", "__main__.py"))}
    assert sorted(modules - names) == [], "not in docs/architecture.md"
    assert sorted(name for name in names if not (ROOT / name).exists()) == [], "not in the tree"


def test_a_listing_is_read_by_its_indentation() -> None:
    text = "a/       the first.py of all\n  b/\n    c.py  d.py  two of them\n  e.py   f/\ng/\n  h.py\n"
    assert listed(text) == {"a/", "a/b/", "a/b/c.py", "a/b/d.py", "a/e.py", "a/f/", "g/", "g/h.py"}


def test_the_floors_of_the_architecture_page_are_those_that_are_held() -> None:
    drawn = [set(line.split()) for line in blocks("docs/architecture.md")[1].splitlines()]
    built = [{room for room in floor if floor_is_built(room)} - {"cxrsearch.__main__"} for floor in FLOORS]
    assert drawn == [{room.removeprefix("cxrsearch.") for room in floor} for floor in built if floor]


def floor_is_built(room: str) -> bool:
    return any(f"{name}.".startswith(f"{room}.") for name in modules_of(ROOT))


def test_the_readme_names_every_room() -> None:
    layout = (ROOT / "README.md").read_text("utf-8").split("## Layout")[1]
    rooms = {path.parent.relative_to(ROOT) for path in modules_of(ROOT).values()}
    for package in PACKAGES:
        line = next(line for line in layout.splitlines() if line.startswith(f"    {package}/"))
        missing = [room.name for room in rooms if room.parts[0] == package and room.name not in line]
        assert missing == [], package


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


def test_a_command_line_is_parsed_before_numpy_is_loaded() -> None:
    code = "import sys, cxrsearch.cli.app; print([name for name in ('numpy', 'onnxruntime') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_module_is_longer_than_one_sitting() -> None:
    modules = [p for package in ("cxrsearch", "indexer", "trainer") for p in (ROOT / package).rglob("*.py")]
    assert [str(p) for p in modules if len(p.read_text("utf-8").splitlines()) > 350] == []
