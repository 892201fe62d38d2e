"""An encoder of others -> a model folder that ``--model NAME`` finds, confirmed before it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrsearch import files, settings
from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError, ModelError, UsageError
from cxrsearch.model_card import MODEL_NAME, InputFormat, Pooling, installed_models
from trainer.importing import onnx_file
from trainer.importing.load import load
from trainer.importing.source import Choices, LoadedEncoder

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The cosine of an exported encoder's embedding with the network's own.
AGREES = 0.9999
_PICTURES = 4


@dataclass(frozen=True)
class Imported:
    """folder: the model's. agreement: the least cosine with the network on test pictures; None of an ONNX file, which
    is itself what runs."""

    folder: Path
    input: InputFormat
    dimensions: int
    agreement: float | None


@dataclass(frozen=True)
class _Origin:
    """What the card says of where an encoder comes from. licence: None where nobody says it."""

    backbone: str
    source: str
    licence: str | None


def import_model(source: str, name: str, weights: str | None = None, choices: Choices | None = None) -> Imported:
    """Make a model folder of a source (source.py). Raises UsageError, InputError."""
    choices = choices or Choices()
    folder = _new_folder(name)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as made:
        draft = Path(made) / "model"
        draft.mkdir()
        if source.lower().endswith(".onnx"):
            if weights is not None:
                raise UsageError("--weights: an ONNX file has its own")
            found = _import_file(onnx_file.inspect(Path(source), choices), name, source, draft)
        else:
            if choices.output is not None or choices.pooling is not None:
                raise UsageError("--output and --pooling are for ONNX files")
            found = _import_network(load(source, weights, choices), name, source, draft)
        shutil.move(draft, folder)
    return replace(found, folder=folder)


def _new_folder(name: str) -> Path:
    if not MODEL_NAME.match(name):
        raise UsageError(f"--as {name[:80]}: a name is of letters, digits, '.', '_' and '-', 64 at most")
    parent = settings.models_folder()
    folder = parent / name
    # In whatever case: some disks do not tell "a" from "A", and people do not.
    if folder.exists() or name.casefold() in {found.name.casefold() for found in installed_models()}:
        raise UsageError(f"--as {name}: there is a model of that name already; give another")
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{parent}: cannot be made ({error.strerror}); see CXRSEARCH_MODELS") from None
    return folder


def _import_file(file: onnx_file.InspectedFile, name: str, source: str, draft: Path) -> Imported:
    (draft / "encoder.onnx").write_bytes(file.content)
    origin = _Origin(Path(source).name, Path(source).name, None)
    card = _card(name, origin, file.input, file.output, file.pooling, file.has_places)
    # A file need not say how long its vectors are: one picture does.
    dimensions = file.dimensions or _vector_length(draft, card, file)
    _write_card(draft, card | {"dimensions": dimensions})
    _confirm(draft)
    return Imported(draft, file.input, dimensions, None)


def _vector_length(draft: Path, card: Mapping[str, Any], file: onnx_file.InspectedFile) -> int:
    _write_card(draft, {**card, "dimensions": 1})
    encoder = Encoder(draft)
    picture = np.zeros((file.input.size,) * 2, dtype=np.float32)
    return int(encoder.pooled([picture]).shape[1])


def _import_network(loaded: LoadedEncoder, name: str, source: str, draft: Path) -> Imported:
    import torch

    from trainer.learning.export import export_onnx

    taken = loaded.input
    with torch.inference_mode():
        given = torch.rand(2, taken.channels, taken.size, taken.size)
        shape = loaded.network(given).shape
    if len(shape) != 2:
        raise InputError(f"{source}: gives an array of shape {tuple(shape)}, no vector for each picture")
    kind, _, rest = source.partition(":")
    # A folder's place on this machine is nobody's business.
    named = f"{kind}:{Path(rest).name}" if Path(rest).expanduser().is_dir() else source
    origin = _Origin(loaded.backbone, named, loaded.licence)
    card = _card(name, origin, taken, "embedding", Pooling.NONE, False) | {"dimensions": int(shape[1])}
    agreement = 0.0
    for halves in (True, False):  # a small file, unless its rounding can be seen
        export_onnx(loaded.network, given, ["embedding"], draft / "encoder.onnx", halves)
        _write_card(draft, card)
        agreement = _agreement(loaded, _confirm(draft))
        if agreement >= AGREES:
            return Imported(draft, taken, int(shape[1]), agreement)
    raise ModelError(f"{source}: what was exported is not the network (cosine {agreement:.5f}); nothing was imported")


def _card(
    name: str, origin: _Origin, taken: InputFormat, output: str, pooling: Pooling, has_places: bool
) -> dict[str, Any]:
    outputs = {"embedding": output, **{one: one if has_places else None for one in ("places", "attention")}}
    return {
        "format": 2,
        "name": name,
        "backbone": origin.backbone,
        "source": origin.source,
        "weights_licence": origin.licence,
        "trained_on": [],
        "input": taken.as_json(),
        "outputs": outputs,
        "pooling": str(pooling),
    }


def _write_card(draft: Path, card: Mapping[str, Any]) -> None:
    sha256 = hashlib.sha256((draft / "encoder.onnx").read_bytes()).hexdigest()
    described = {**card, "sha256": {"encoder.onnx": sha256}}
    files.write(draft / "model.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def _confirm(draft: Path) -> Encoder:
    """The encoder of a folder, after it gave unlike vectors for unlike pictures. Raises ModelError, InputError."""
    encoder = Encoder(draft)
    pictures = _pictures(encoder.card.image_size)
    try:
        vectors = np.concatenate([encoder.embed_prepared([one]) for one in pictures])
    except ModelError:
        raise
    except Exception as error:  # onnxruntime's own errors share no public class
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"the encoder cannot embed a picture as its inputs say ({reason})") from None
    if float((vectors[0] - vectors[-1]).__abs__().max()) < 1e-6:
        raise InputError("the encoder gives the same vector for every picture; see --range, --mean and --output")
    return encoder


def _agreement(loaded: LoadedEncoder, encoder: Encoder) -> float:
    import torch

    pictures = _pictures(encoder.card.image_size)
    with torch.inference_mode():
        expected = loaded.network(torch.from_numpy(encoder.batch(pictures))).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    return float((expected * encoder.embed_prepared(pictures)).sum(axis=1).min())


def _pictures(size: int) -> list[NDArray[np.float32]]:
    """Unlike each other, smooth as radiographs are: (S, S) float32 in 0..1."""
    rng, steps = np.random.default_rng(0), np.linspace(0, 1, size, dtype=np.float32)
    waves = rng.uniform(1, 12, (_PICTURES, 2)).astype(np.float32)
    return [0.5 + 0.5 * np.outer(np.sin(a * steps), np.cos(b * steps)).astype(np.float32) for a, b in waves]
