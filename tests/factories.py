"""What tests are made of: command lines that ran, phantoms, tables, mappings and indexes, one line each to make.

A test module imports from here and from no other test module; fixtures, which pytest hands out, are in conftest.py.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxrsearch.clinical.fields import SYSTEM_FIELDS, Field, FieldType, Payload
from cxrsearch.model_card import DEFAULT_MODEL, InputFormat, read_card
from cxrsearch.store import create_store
from cxrsearch.store.contract import DatasetFacts, IndexFacts, Point
from cxrsearch.store.edge import EdgeStore

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ran:
    """What a command line gave."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


def points(index: Path) -> dict[str, Point]:
    """Everything that an index in a folder holds, by id."""
    store = EdgeStore.open(index)
    try:
        return {point.id: point for point in store.scroll(vectors=True)}
    finally:
        store.close()


# ---------------------------------------------------------------- images, tables, mappings


def image_of(toml: Path, number: int = 0) -> Path:
    """One of the DICOM files beside a dataset TOML, in the order of their names."""
    return sorted(toml.parent.rglob("*.dcm"))[number]


def write_picture(path: Path, pixels: NDArray[Any]) -> Path:
    """A grey picture of 8 bits, (H, W) in 0..1."""
    Image.fromarray((pixels * 255).astype(np.uint8)).save(path)
    return path


def write_mapping(folder: Path, toml: str, table: str | None = None, files: tuple[str, ...] = ()) -> str:
    """A mapping, its table and empty files; the mapping's path."""
    (folder / "set.toml").write_text(toml, "utf-8")
    if table is not None:
        (folder / "table.csv").write_bytes(table.encode("utf-8"))
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return str(folder / "set.toml")


WHERE_FIELDS = {
    **SYSTEM_FIELDS,
    "site": Field("site", FieldType.KEYWORD),
    "finding": Field("finding", FieldType.KEYWORD, several=True),
    "icu": Field("icu", FieldType.BOOLEAN),
    "age": Field("age", FieldType.INTEGER),
    "temperature": Field("temperature", FieldType.FLOAT),
    "study_date": Field("study_date", FieldType.DATE),
    "outcome": Field("outcome", FieldType.KEYWORD),
    "notes": Field("notes", FieldType.TEXT),
}


# ---------------------------------------------------------------- indexes without images


D = 16  # dimensions of a planted index
PLANTED_FIELDS = {
    "outcome": Field("outcome", FieldType.KEYWORD),
    "icu": Field("icu", FieldType.BOOLEAN),
    "site": Field("site", FieldType.KEYWORD),
    "age": Field("age", FieldType.INTEGER),
}
PLANTED_FACTS = IndexFacts("model-a", "f" * 64, D, PLANTED_FIELDS, {"set": DatasetFacts("hospital", "")})


def near(center: int, seed: int, spread: float = 0.25) -> Any:
    """A unit vector near one of the axes."""
    vector = np.eye(D)[center] + spread * np.random.default_rng(seed).normal(size=D)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def planted(folder: Path, patients: int = 600, purity: float = 0.85, seed: int = 0) -> EdgeStore:
    """Two clusters; in each a value of outcome has ``purity`` of the patients. icu has nothing to do with vectors."""
    rng = np.random.default_rng(seed)
    store = EdgeStore.create(folder, PLANTED_FACTS)
    points = []
    for number in range(patients):
        cluster = number % 2
        pure = rng.random() < purity
        payload = {
            "patient": f"P{number}",
            "image_sha256": f"{number:064x}",
            "dataset": "set",
            "outcome": ("died", "survived")[cluster if pure else 1 - cluster],
            "icu": bool(rng.random() < 0.3),
            "site": ("Daegu", "Milan", "Wuhan")[int(rng.integers(3))],
        }
        id = str(uuid.UUID(int=number + 1))
        points.append(Point(id, payload, near(cluster, 1000 * seed + number)))
    store.upsert(points)
    return store


OUTCOME_FIELDS = [
    Field("outcome", FieldType.KEYWORD, later=True),
    Field("icu", FieldType.BOOLEAN, later=True),
    Field("severity", FieldType.FLOAT, later=True),
    Field("age", FieldType.INTEGER),
    Field("sex", FieldType.KEYWORD),
    Field("site", FieldType.KEYWORD),
    Field("notes", FieldType.TEXT),
    Field("study_date", FieldType.DATE),
    Field("code", FieldType.KEYWORD),
]


def outcomes(
    people: int, effect: float, seed: int, dimensions: int = 8, age_effect: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors, ages, whether each died, and the probability of it: ``effect`` along one direction, one of age."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(people, dimensions))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    age = rng.normal(60, 12, size=people).round()
    logit = effect * vectors[:, 0] * np.sqrt(dimensions) + age_effect * (age - 60) / 12 - 0.5
    chance = 1 / (1 + np.exp(-logit))
    return vectors.astype(np.float32), age, rng.random(people) < chance, chance


def outcome_index(
    index: Path, people: int = 200, effect: float = 1.5, seed: int = 0, dimensions: int = 8, sites: int = 3
) -> Path:
    """An index of patients with outcomes, for transfer: the first twenty patients have two images each."""
    vectors, age, died, _ = outcomes(people, effect, seed, dimensions)
    card = read_card(DEFAULT_MODEL)
    if dimensions == card.dimensions:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    empty = IndexFacts(card.name, card.fingerprint, dimensions, {}, {})
    facts = empty.declaring("set", DatasetFacts("set", ""), {field.name: field for field in OUTCOME_FIELDS})
    rng, points = np.random.default_rng(seed + 1), []
    for n in range(people):
        payload: Payload = {
            "dataset": "set",
            "patient": f"P{n // 2 if n < 40 else n}",
            "path": f"{n}.png",
            "width": 512,
            "height": 400,
            "image_sha256": f"{n:064x}",
            "_row": "x",
            "outcome": "died" if died[n] else "survived",
            "icu": bool(died[n] or n % 3 == 0),
            "severity": float(age[n] / 10 + 2 * vectors[n, 0]),
            "sex": "M" if rng.random() < 0.5 else "F",
            "site": ["Daegu", "Hannover", "Seoul"][n % sites],
            "notes": "died on day 3" if died[n] else "went home",
            "study_date": "2020-03-01",
            "code": "X9" if died[n] else "X1",
        }
        if n % 5:
            payload["age"] = int(age[n])
        points.append(Point(f"00000000-0000-0000-0000-{n:012x}", payload, vectors[n]))
    with create_store(str(index), facts) as store:
        store.declare(facts)
        store.upsert(points)
    return index


# ---------------------------------------------------------------- pictures to train on


CLOUD_CONFIG = """
name = "small"
seed = 3

[[data]]
mapping = "set/dataset.toml"

[classes]
sick = ["Pneumonia", "COVID-19"]
well = ["No Finding"]

[network]
tower = "cxr-RN14-w8"
image_size = 64
dimensions = 16

[learning]
epochs = {epochs}
images_per_class = 6
{learning}

[held_out]
validation = 0.2
test = 0.2
"""


CLOUD_DATASET = """
name = "clouds"
[images]
table = "facts.csv"
path = "{file}"
[patient]
column = "patient"
[fields.finding]
column = "finding"
type = "keyword"
[fields.site]
column = "site"
type = "keyword"
"""


def cloud(rng: np.random.Generator, sick: bool) -> Image.Image:
    """A grey picture of 96 x 96."""
    field = np.asarray(Image.fromarray(rng.random((10, 10), dtype=np.float32)).resize((96, 96)))
    stripes = 0.25 * np.sin(np.arange(96) / 2)[:, None] if sick else 0.0
    return Image.fromarray(np.clip((0.2 + 0.6 * field + stripes) * 255, 0, 255).astype(np.uint8))


def write_clouds(folder: Path, patients: int) -> Path:
    """Images as different from each other as radiographs of different people are, which phantoms are not.

    Every third patient has two images. Sick ones have stripes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(0), ["file,patient,finding,site"]
    for n in range(patients):
        sick = n % 2 == 0
        for copy in range(2 if n % 3 == 0 else 1):
            cloud(rng, sick).save(folder / f"MRN{n}-{copy}.png")
            finding = ("COVID-19" if n % 4 else "Pneumonia") if sick else "No Finding"
            rows.append(f"MRN{n}-{copy}.png,MRN{n},{finding},{'North' if n % 4 < 2 else 'South'}")
    (folder / "facts.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.toml").write_text(CLOUD_DATASET)
    return folder / "dataset.toml"


def configuration(folder: Path, patients: int, epochs: int, learning: str = "") -> Path:
    """A training configuration of clouds."""
    write_clouds(folder / "set", patients)
    path = folder / "config.toml"
    path.write_text(CLOUD_CONFIG.format(epochs=epochs, learning=learning))
    return path


# ---------------------------------------------------------------- encoders


def small_onnx(path: Path, batch: int | str = "batch", size: int | str = 32, channels: int = 3) -> Path:
    """An encoder of one convolution: an output of (B, 6, h, w), and one of (B, N, 6)."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(6, channels, 8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["map"], strides=[8, 8]),
        helper.make_node("Reshape", ["map", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, channels, size, size])
    made = [
        helper.make_tensor_value_info("map", TensorProto.FLOAT, ["b", 6, "h", "w"]),
        helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["b", "n", "d"]),
    ]
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.array([0, 6, -1]), "shape")]
    graph = helper.make_graph(nodes, "g", [given], made, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def small_model(folder: Path) -> Path:
    """A model folder of ``small_onnx``, D = 6, for tests of what is done with embeddings whatever they are: it takes a
    hundredth of the time of the model that ships."""
    folder.mkdir(parents=True)
    content = small_onnx(folder / "encoder.onnx").read_bytes()
    card = {
        "format": 2,
        "name": "small",
        "dimensions": 6,
        "input": InputFormat(3, 32, mean=(0.0,) * 3, deviation=(1.0,) * 3).as_json(),
        "outputs": {"embedding": "map"},
        "pooling": "mean_places",
        "sha256": {"encoder.onnx": hashlib.sha256(content).hexdigest()},
    }
    (folder / "model.json").write_text(json.dumps(card), "utf-8")
    return folder
