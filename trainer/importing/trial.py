"""What was imported, tried in a process of its own within limits of memory and time (cxrsearch/imaging/isolated.py).

A stranger's graph may ask for all memory, or compute for hours, while it is loaded already. Indexing embeds within the
same limits, so what passes here is not refused there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.encoder import Encoder
from cxrsearch.errors import InputError
from cxrsearch.imaging.isolated import Answer, Broken, Isolated
from cxrsearch.model_card import InputFormat, Pooling
from trainer.importing import onnx_file
from trainer.importing.onnx_file import InspectedFile
from trainer.importing.source import Choices

_PICTURES = 4
_WORK = f"{__name__}:work"


class Trial:
    """Of one source, which messages name ``label``. Every question raises InputError, UsageError or ModelError."""

    def __init__(self, label: str) -> None:
        self._label, self._process = label, Isolated(_WORK)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stop()

    def inspect(self, file: Path, choices: Choices) -> InspectedFile:
        """What an ONNX file takes and gives."""
        ((facts, _),) = self._ask("inspect", file.absolute(), self._label, choices)
        taken, pooling = InputFormat.from_json(facts["input"]), Pooling(facts["pooling"])
        return InspectedFile(taken, facts["output"], pooling, facts["dimensions"], facts["has_places"])

    def dimensions(self, draft: Path) -> int:
        """The length of a model folder's vectors, whatever its card says."""
        ((facts, _),) = self._ask("dimensions", draft.absolute())
        return int(facts["dimensions"])

    def embed(self, draft: Path) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
        """By a model folder: the embeddings of test pictures, (N, D) of unit length, after unlike pictures gave unlike
        ones; and what the encoder's file was given of each, (1, channels, S, S)."""
        answers = self._ask("embed", draft.absolute())
        vectors = np.stack([np.frombuffer(vector, dtype=np.float32) for _, (vector, _) in answers])
        given = [np.frombuffer(batch, dtype=np.float32).reshape(facts["shape"]) for facts, (_, batch) in answers]
        if float(np.abs(vectors[0] - vectors[-1]).max()) < 1e-6:
            raise InputError("the encoder gives the same vector for every picture; see --range, --mean and --output")
        return vectors, given

    def _ask(self, *request: object) -> list[Answer]:
        try:
            return list(self._process.ask(request))
        except Broken as broken:
            raise InputError(f"{self._label}: cannot be imported: {broken.of_model('its graph')}") from None


def work(_: object) -> Callable[[tuple[Any, ...]], Iterator[tuple[dict[str, Any], list[Any]]]]:
    """In that process."""
    return _answer


def _answer(request: tuple[Any, ...]) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    match request:
        case ("inspect", file, label, choices):
            found = onnx_file.inspect(file, label, choices)
            facts = {"input": found.input.as_json(), "output": found.output, "pooling": str(found.pooling)}
            yield facts | {"dimensions": found.dimensions, "has_places": found.has_places}, []
        case ("dimensions", draft):
            encoder = Encoder(draft, threads=1)
            yield {"dimensions": encoder.pooled(_pictures(encoder.card.image_size)[:1]).shape[1]}, []
        case ("embed", draft):
            encoder = Encoder(draft, threads=1)
            for picture in _pictures(encoder.card.image_size):
                batch = encoder.batch([picture])
                yield {"shape": list(batch.shape)}, [encoder.embed_prepared([picture]), np.ascontiguousarray(batch)]


def _pictures(size: int) -> list[NDArray[np.float32]]:
    """Unlike each other, smooth as radiographs are: (S, S) float32 in 0..1."""
    rng, steps = np.random.default_rng(0), np.linspace(0, 1, size, dtype=np.float32)
    waves = rng.uniform(1, 12, (_PICTURES, 2)).astype(np.float32)
    return [0.5 + 0.5 * np.outer(np.sin(a * steps), np.cos(b * steps)).astype(np.float32) for a, b in waves]
