"""Pictures in the terminal: kitty's or sixel's where the terminal has them, else half cells in colour."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import numpy as np

from cxrsearch.answer import Answer
from cxrsearch.pictures import Pictures
from cxrsearch.radiograph import Radiograph
from cxrsearch.store.contract import VectorStore

_COLUMNS = 26  # character cells of a picture
_SIDE = 512


def show(answer: Answer, store: VectorStore, stream: TextIO) -> None:
    """The query and its hits; nothing where ``stream`` is no terminal that shows colours (NO_COLOR, TERM=dumb)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return
    if os.get_terminal_size(stream.fileno()).columns == 0:  # a terminal that says it has no size, as of docker exec
        return
    with _keyboard() as there:
        if there:
            _show(answer, Pictures(store), stream)


def _show(answer: Answer, pictures: Pictures, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=stream)
    cells: list[Any] = [_cell(answer.result.query.image, "query")]
    for hit in answer.result.hits:
        picture, words = pictures.of(hit.id, hit.payload), f"{hit.rank}   {hit.score:.4f}"
        cells.append(Text(f"{words}\n(no picture)") if picture is None else _cell(picture.image, words))
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


def _cell(image: Radiograph, words: str) -> Any:
    from PIL import Image
    from rich.console import Group
    from rich.text import Text
    from textual_image.renderable import Image as Shown  # asks the terminal, so only now

    step = max(1, max(image.pixels.shape) // _SIDE)
    grey = np.rint(image.pixels[::step, ::step] * 255).astype(np.uint8)
    return Group(Shown(Image.fromarray(grey), width=_COLUMNS), Text(words))
