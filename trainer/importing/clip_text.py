"""The text tower of an open_clip model, with its tokenizer as data."""

from __future__ import annotations

from collections.abc import Callable

import open_clip
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer, get_clean_fn
from torch import Tensor, nn

from cxrsearch.errors import InputError
from cxrsearch.tokenizer import MERGES, TOKENIZERS, Cleaning, TextFormat
from trainer.importing.source import LoadedText


class _TextTower(nn.Module):
    """model: without its image tower, which would be exported too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        made: Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
        return made


def load_clip_text(model: nn.Module, name: str) -> LoadedText:
    """name: of the model, as open_clip has it. Raises InputError for a tokenizer that cannot be taken along."""
    tokenizer = open_clip.get_tokenizer(name)
    cleaning = next((one for one in Cleaning if get_clean_fn(one) is tokenizer.clean_fn), None)
    if cleaning is None or tokenizer.context_length is None:
        raise InputError("its tokenizer cleans texts in a way of its own")
    if isinstance(tokenizer, SimpleTokenizer):
        taken, file = _byte_pairs(tokenizer, cleaning)
    elif isinstance(tokenizer, HFTokenizer):
        taken, file = _library(tokenizer, cleaning)
    else:
        raise InputError(f"its tokenizer is a {type(tokenizer).__name__}, which is not known here")
    known = tokenizer.vocab_size if isinstance(tokenizer, SimpleTokenizer) else len(tokenizer.tokenizer)
    if known > getattr(model, "vocab_size", known):
        raise InputError("its tokenizer has more tokens than it")
    return LoadedText(_TextTower(model).eval(), taken, file, _tokens(tokenizer))


def _tokens(tokenizer: Callable[[str], Tensor]) -> Callable[[str], list[int]]:
    return lambda text: [int(number) for number in tokenizer(text)[0]]


def _byte_pairs(tokenizer: SimpleTokenizer, cleaning: Cleaning) -> tuple[TextFormat, bytes]:
    if tokenizer.reduction_fn is not None or len(tokenizer.all_special_ids) != 2:
        raise InputError("its tokenizer leaves words out at random, or has signs of its own")
    pairs = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    file = "".join(f"{first} {second}\n" for first, second in pairs)
    return TextFormat(tokenizer.context_length, MERGES, cleaning), file.encode()


def _library(tokenizer: HFTokenizer, cleaning: Cleaning) -> tuple[TextFormat, bytes]:
    own = tokenizer.tokenizer
    backend = getattr(own, "backend_tokenizer", None)
    if backend is None or tokenizer.tokenizer_mode or own.padding_side != "right" or own.truncation_side != "right":
        raise InputError("its tokenizer is not one that the tokenizers library runs as it is")
    zeroed = own.sep_token_id if tokenizer.strip_sep_token else None
    taken = TextFormat(tokenizer.context_length, TOKENIZERS, cleaning, own.pad_token_id, zeroed)
    return taken, backend.to_str().encode()
