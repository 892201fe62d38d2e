"""A text -> the numbers of its tokens, as the tokenizer of the model's makers gives them.

MODEL/merges.txt       the byte-pair encoding of CLIP: pairs that become one, the most frequent first (open_clip's
                       SimpleTokenizer, after Radford et al., "Learning Transferable Visual Models From Natural
                       Language Supervision", 2021)
MODEL/tokenizer.json   a tokenizer of the `tokenizers` library

Both are data and are never run as code. A tokenizer.json has patterns, though, that may take for ever:
text_encoder.py reads it in a process of its own.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any

from cxrsearch.errors import InputError

MERGES, TOKENIZERS = "merges.txt", "tokenizer.json"
_MOST_TOKENS = 4096
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_LAST = "</w>"  # behind the last letter of a word
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Cleaning(StrEnum):
    """What becomes of a text before it is cut into tokens, in open_clip's words: its white space is made one; it is
    made lower case; its punctuation is removed."""

    WHITESPACE = "whitespace"
    LOWER = "lower"
    CANONICALIZE = "canonicalize"


@dataclass(frozen=True)
class TextFormat:
    """What a text encoder takes: (1, context) int64, numbers of tokens.

    context: how many tokens.
    tokenizer: the name of its file, MERGES or TOKENIZERS.
    cleaning: what comes before.
    padding: the number that fills up what a text leaves empty.
    zeroed: a number that becomes 0; None for none.
    """

    context: int
    tokenizer: str
    cleaning: Cleaning
    padding: int = 0
    zeroed: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"cleaning": str(self.cleaning)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TextFormat:
        """Raises ValueError, KeyError or TypeError."""
        zeroed = None if data["zeroed"] is None else int(data["zeroed"])
        found = cls(
            int(data["context"]), str(data["tokenizer"]), Cleaning(data["cleaning"]), int(data["padding"]), zeroed
        )
        if found.tokenizer not in (MERGES, TOKENIZERS) or not 3 <= found.context <= _MOST_TOKENS:
            raise ValueError("a tokenizer or a length that cannot be")
        if not all(0 <= number < 2**31 for number in (found.padding, found.zeroed or 0)):
            raise ValueError("a token that cannot be")
        return found


@dataclass(frozen=True)
class Tokens:
    """numbers: ``context`` of them. length: how many the whole text has, of which only the first were taken where they
    are more. is_empty: whether there is none of the text itself."""

    numbers: list[int]
    length: int
    is_empty: bool


def load_tokenizer(taken: TextFormat, content: bytes) -> Callable[[str], Tokens]:
    """Of a model, by its tokenizer's file. Raises InputError where a library is not installed, ValueError for a file
    that is none."""
    return _byte_pairs(taken, content) if taken.tokenizer == MERGES else _library(taken, content)


def cleaned(text: str, cleaning: Cleaning) -> str:
    """As open_clip cleans it."""
    import html

    try:
        import ftfy
    except ImportError:
        raise _missing("ftfy") from None
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    if cleaning is Cleaning.CANONICALIZE:
        text = text.replace("_", " ").translate(_PUNCTUATION)
    text = text if cleaning is Cleaning.WHITESPACE else text.lower()
    return " ".join(text.split())


def _library(taken: TextFormat, content: bytes) -> Callable[[str], Tokens]:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise _missing("tokenizers") from None
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    except Exception as error:  # the library's errors are of no public class
        raise ValueError(" ".join(str(error).split())[:160]) from None
    tokenizer.no_padding()

    def tokens(text: str) -> Tokens:
        text = cleaned(text, taken.cleaning)
        tokenizer.no_truncation()
        length = len(tokenizer.encode(text).ids)
        is_empty = not tokenizer.encode(text, add_special_tokens=False).ids
        tokenizer.enable_truncation(taken.context)
        numbers = tokenizer.encode(text).ids
        numbers += [taken.padding] * (taken.context - len(numbers))
        return Tokens([0 if number == taken.zeroed else number for number in numbers], length, is_empty)

    return tokens


def _byte_pairs(taken: TextFormat, content: bytes) -> Callable[[str], Tokens]:
    import regex

    pairs = [tuple(line.split(" ")) for line in content.decode("utf-8").rstrip("\n").split("\n")]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a line that is no pair")
    letters = _letters()
    of_words = [f"{letter}{_LAST}" for letter in letters.values()]
    vocabulary = [*letters.values(), *of_words, *("".join(pair) for pair in pairs), _START, _END]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    ranks = {pair: rank for rank, pair in enumerate(pairs)}
    words = regex.compile(_WORDS, regex.IGNORECASE)

    def parts(word: str) -> list[str]:
        """A word's tokens: of all neighbours that may become one, those of the lowest rank do, again and again."""
        if word in (_START, _END):
            return [word]
        spelt = [letters[byte] for byte in word.encode()]
        found = [*spelt[:-1], f"{spelt[-1]}{_LAST}"]
        while len(found) > 1:
            best = min(pairwise(found), key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            found = list(_joined(found, best))
        return found

    def tokens(text: str) -> Tokens:
        own = [numbers[part] for word in words.findall(cleaned(text, taken.cleaning)) for part in parts(word)]
        whole = [numbers[_START], *own, numbers[_END]]
        first = [*whole[: taken.context - 1], numbers[_END]] if len(whole) > taken.context else whole
        return Tokens(first + [taken.padding] * (taken.context - len(first)), len(whole), not own)

    return tokens


def _joined(parts: list[str], pair: tuple[str, str]) -> Iterator[str]:
    """Wherever the pair stands, it is one part."""
    at = 0
    while at < len(parts):
        is_pair = tuple(parts[at : at + 2]) == pair
        yield "".join(pair) if is_pair else parts[at]
        at += 2 if is_pair else 1


def _letters() -> dict[int, str]:
    """A visible character for each byte, in the order of CLIP's vocabulary: itself, or one from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _missing(library: str) -> InputError:
    return InputError(f"--text needs {library}, which is not installed: pip install 'cxrsearch[text]'")
