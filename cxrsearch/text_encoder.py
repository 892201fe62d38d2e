"""A text -> an embedding beside those of images, by the text encoder of a model folder; no torch needed.

    this process  -- text -->  a process of its own: tokenizer, text.onnx  -- embedding -->  this process

Both files may be a stranger's, and a tokenizer has patterns that may take for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch.errors import ModelError, UsageError
from cxrsearch.imaging.isolated import SECONDS_PER_FILE, Broken, Isolated
from cxrsearch.model_card import read_card, read_file
from cxrsearch.onnx_session import Session, fits
from cxrsearch.text import tidy
from cxrsearch.tokenizer import load_tokenizer

# A page and more; no text encoder reads as much.
LONGEST_TEXT = 4000
FILE, OUTPUT = "text.onnx", "text_embedding"


@dataclass(frozen=True)
class EncodedText:
    """text: as it was read, without characters that cannot be seen.

    embedding: (D,) float32 of unit length.
    tokens: how many it has, those of its ends included; context: how many the model reads, the first ones.
    """

    text: str
    embedding: NDArray[np.float32]
    tokens: int
    context: int


def encode_text(model: Path, text: str) -> EncodedText:
    """By a model folder, in a process of its own. Raises UsageError for a text that says nothing, ModelError."""
    card = read_card(model)
    if card.text is None:
        raise UsageError(f"--text: {card.without_text}")
    text = tidy(text)
    if not text:
        raise UsageError("--text: is empty; say what to look for")
    if len(text) > LONGEST_TEXT:
        raise UsageError(f"--text: has {len(text)} characters, at most {LONGEST_TEXT} are taken")
    process = Isolated(f"{__name__}:work", model.absolute())
    try:
        ((facts, (vector,)),) = process.ask(text)
    except Broken as broken:
        raise ModelError(f"model {card.name}: {broken.of_model('its text encoder')}") from None
    finally:
        process.stop()
    embedding = np.frombuffer(vector, dtype=np.float32)
    return EncodedText(text, embedding, int(facts["tokens"]), card.text.context)


def work(model: Path) -> Callable[[str], Iterator[tuple[dict[str, Any], list[Any]]]]:
    """In that process: embeds texts."""
    card = read_card(model)
    assert card.text is not None
    taken, file = card.text, model / card.text.tokenizer
    try:
        tokenize = load_tokenizer(taken, read_file(card, file))
    except ValueError as error:
        raise ModelError(f"{file}: no tokenizer that can be read ({error})") from None
    session = Session(read_file(card, model / FILE), str(model / FILE), threads=1)
    if not fits(session.inputs, (taken.context,)) or OUTPUT not in session.outputs:
        raise ModelError(f"{model / FILE}: not what its card says (other inputs or outputs)")

    def answer(text: str) -> Iterator[tuple[dict[str, Any], list[Any]]]:
        tokens = tokenize(text)
        if tokens.is_empty:
            raise UsageError(f"--text: nothing of {text[:80]!r} is a word to model {card.name}")
        given = {session.inputs[0].name: np.array([tokens.numbers], dtype=np.int64)}
        (found,) = session.run([OUTPUT], [given], SECONDS_PER_FILE)
        length = float(np.linalg.norm(found))
        if found.shape != (1, card.dimensions) or not 0 < length < np.inf:
            raise ModelError(f"{model / FILE}: gives no vector of {card.dimensions} numbers")
        yield {"tokens": tokens.length}, [np.ascontiguousarray(found[0] / length)]

    return answer
