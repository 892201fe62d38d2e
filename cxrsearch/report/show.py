"""StoredImages in the terminal: kitty's or sixel's where the terminal has them, else half cells in colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from cxrsearch.imaging.canonical import grey
from cxrsearch.retrieval.answer import Answer
from cxrsearch.store.images import SHOWN
from cxrsearch.text import clean

if TYPE_CHECKING:
    from PIL.Image import Image

_COLUMNS = 26  # character cells of a picture


Captioned = tuple["Image | None", str]


def answer_images(answer: Answer) -> Iterator[Captioned]:
    """The query, where it is an image, and its hits, of an answer with pictures."""
    if (query := answer.result.query.image) is not None:
        yield grey(query.radiograph, SHOWN), "query"
    for hit, image in zip(answer.result.hits, answer.hit_images, strict=True):
        yield image.shown if image is not None else None, f"{hit.rank}   {hit.score:.4f}"


def show(pictures: Iterable[Captioned], stream: TextIO) -> None:
    """StoredImages with captions; nothing where ``stream`` is no terminal that shows colours (NO_COLOR, TERM=dumb)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return
    if os.get_terminal_size(stream.fileno()).columns == 0:  # a terminal that says it has no size, as of docker exec
        return
    with _keyboard() as there:
        if there:
            _print(pictures, stream)


def _print(pictures: Iterable[Captioned], stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream)
    cells = [_cell(image, caption) for image, caption in pictures]
    grid, in_a_row = Table.grid(padding=(0, 2, 1, 0)), max(1, console.width // (_COLUMNS + 2))
    for start in range(0, len(cells), in_a_row):
        grid.add_row(*cells[start : start + in_a_row])
    console.print(grid)


@contextmanager
def _keyboard() -> Iterator[bool]:
    """textual_image asks the terminal what it can do and listens on stdin; where paths come from there, on the terminal
    itself. Whether there is any to listen on."""
    stdin = sys.__stdin__
    if stdin is not None and stdin.isatty():
        yield True
        return
    try:
        with open("/dev/tty") as terminal:
            sys.__stdin__ = terminal  # type: ignore[misc]
            yield True
    except OSError:
        yield False
    finally:
        sys.__stdin__ = stdin  # type: ignore[misc]


def _cell(image: Image | None, caption: str) -> Any:
    from rich.console import Group
    from rich.text import Text
    from textual_image.renderable import Image as Shown  # asks the terminal, so only now

    words = Text(clean(caption))
    if image is None:
        return Group(Text("(no picture here)"), words)
    # Of an image's own height there is nothing left: without a height, the library takes that of its pixels.
    return Group(Shown(_at_most_twice_as_long(image), width=_COLUMNS, height="auto"), words)


def _at_most_twice_as_long(image: Image) -> Image:
    """A narrow strip gets a black border: it would fill many screens, or no line at all."""
    from PIL import ImageOps

    size = max(image.width, image.height // 2), max(image.height, image.width // 2)
    return image if size == image.size else ImageOps.pad(image, size)
