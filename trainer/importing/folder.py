"""An encoder of others -> a model folder that ``--model NAME`` finds, confirmed before it is there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxrsearch import files, settings
from cxrsearch.errors import InputError, ModelError, UsageError
from cxrsearch.model_card import MODEL_NAME, InputFormat, Pooling, installed_models
from cxrsearch.text_encoder import FILE, OUTPUT, encode_text
from cxrsearch.tokenizer import load_tokenizer
from trainer.importing import onnx_file
from trainer.importing.load import load
from trainer.importing.source import Choices, LoadedEncoder, LoadedText
from trainer.importing.trial import Trial

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

# The cosine of an exported encoder's embedding with the network's own.
AGREES = 0.9999
# Of everything that a tokenizer treats in its own way: cases, digits, signs, accents, words it does not have.
_TEXTS = ("bilateral consolidation", "No acute findings: 2.5 cm nodule (RUL), pas d'épanchement; pneumoperitoneum?")


@dataclass(frozen=True)
class Imported:
    """folder: the model's.

    agreement: the least cosine with the network on test pictures; None of an ONNX file, which is itself what runs.
    text_agreement: that of its text encoder on test texts; None without one. without_text: why an open_clip model has
    none.
    """

    folder: Path
    input: InputFormat
    dimensions: int
    agreement: float | None
    text_agreement: float | None = None
    without_text: str = ""


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
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as made, Trial(source) as trial:
        draft = Path(made) / "model"
        draft.mkdir()
        if source.lower().endswith(".onnx"):
            if weights is not None:
                raise UsageError("--weights: an ONNX file has its own")
            found = _import_file(Path(source), choices, name, draft, trial)
        else:
            if choices.output is not None or choices.pooling is not None:
                raise UsageError("--output and --pooling are for ONNX files")
            found = _import_network(load(source, weights, choices), name, source, draft, trial)
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


def _import_file(source: Path, choices: Choices, name: str, draft: Path, trial: Trial) -> Imported:
    if not source.is_file() or source.stat().st_size > onnx_file.LARGEST:
        raise InputError(f"{source}: {'too large for one ONNX file' if source.is_file() else 'no such file'}")
    shutil.copyfile(source, draft / "encoder.onnx")
    file = trial.inspect(draft / "encoder.onnx", choices)
    card = _card(name, _Origin(source.name, source.name, None), file.input, file.output, file.pooling, file.has_places)
    # A file need not say how long its vectors are: one picture does.
    _write_card(draft, card | {"dimensions": file.dimensions or 1})
    dimensions = file.dimensions or trial.dimensions(draft)
    _write_card(draft, card | {"dimensions": dimensions})
    trial.embed(draft)
    return Imported(draft, file.input, dimensions, None)


def _import_network(loaded: LoadedEncoder, name: str, source: str, draft: Path, trial: Trial) -> Imported:
    import torch

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

    def image_agreement() -> float:
        _write_card(draft, card)
        vectors, batches = trial.embed(draft)
        return _agreement(loaded.network, [torch.from_numpy(batch.copy()) for batch in batches], vectors)

    agreement = _export(loaded.network, given, draft / "encoder.onnx", "embedding", image_agreement, source)
    if (text := loaded.text) is None:
        return Imported(draft, taken, int(shape[1]), agreement, None, loaded.without_text)
    (draft / text.format.tokenizer).write_bytes(text.tokenizer)
    card |= {"text": text.format.as_json()}
    tokens = [torch.tensor([_checked_tokens(text, one)]) for one in _TEXTS]

    def text_agreement() -> float:
        _write_card(draft, card)
        vectors = np.stack([encode_text(draft, one).embedding for one in _TEXTS])
        return _agreement(text.network, tokens, vectors)

    of_text = _export(text.network, tokens[0], draft / FILE, OUTPUT, text_agreement, f"{source}, its text encoder")
    return Imported(draft, taken, int(shape[1]), agreement, of_text)


def _export(
    network: nn.Module, given: Tensor, path: Path, output: str, agreement: Callable[[], float], label: str
) -> float:
    """Write a network, and measure how far it is the one in the file. Raises ModelError where it is not."""
    from trainer.learning.export import export_onnx

    agrees = 0.0
    for halves in (True, False):  # a small file, unless its rounding can be seen
        export_onnx(network, given, [output], path, halves)
        agrees = agreement()
        if agrees >= AGREES:
            return agrees
    raise ModelError(f"{label}: what was exported is not the network (cosine {agrees:.5f}); nothing was imported")


def _checked_tokens(text: LoadedText, words: str) -> list[int]:
    """Raises ModelError where the tokenizer that is stored is not the one that was loaded."""
    numbers = load_tokenizer(text.format, text.tokenizer)(words).numbers
    if numbers != text.tokens(words):
        raise ModelError("its tokenizer, stored as data, gives other tokens than itself; nothing was imported")
    return numbers


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
    named = sorted(path for path in draft.iterdir() if path.name != "model.json")
    described = {**card, "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in named}}
    files.write(draft / "model.json", json.dumps(described, indent=2, ensure_ascii=False) + "\n")


def _agreement(network: nn.Module, given: Sequence[Tensor], vectors: NDArray[np.float32]) -> float:
    """The least cosine of a network's own vectors with those of unit length that its file gave."""
    import torch

    with torch.inference_mode():
        expected = torch.cat([network(one) for one in given]).numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    return float((expected * vectors).sum(axis=1).min())
