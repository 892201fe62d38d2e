"""One self-contained HTML page: no network, no script of others, text from data escaped.

Every page is a template of report/templates that extends page.html. The content security policy allows what is in
the file and nothing else.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxrsearch import __version__, files
from cxrsearch.errors import UsageError
from cxrsearch.imaging.canonical import jpeg
from cxrsearch.text import clean

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def check_name(path: Path | None, option: str) -> None:
    """Raises UsageError for the name of a file that is no page's: it would be HTML under another name."""
    if path is not None and path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {path}: is an HTML page; write to a file that ends in .html")


def write(path: Path, template: str, **facts: Any) -> None:
    """Fill ``templates/<template>.html`` with ``facts`` and write it to ``path``, readable by its owner only: pages
    show pictures of patients. Raises InputError."""
    files.write(path, render(template, version=__version__, **facts), private=True)


def render(template: str, **facts: Any) -> str:
    """``templates/<template>.html`` filled with ``facts``, which are escaped."""
    return _environment().get_template(f"{template}.html").render(**facts)


def png_uri(data: bytes) -> str:
    """A data URI of PNG bytes."""
    return "data:image/png;base64," + base64.b64encode(data).decode()


def jpeg_uri(pixels: NDArray[np.uint8], side: int = 160) -> str:
    """A data URI of a grey picture (H, W) uint8, its longer side brought down to ``side``."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((side, side))
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(picture)).decode()


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.finalize = lambda value: _clean(value) if type(value) is str else value
    return environment


def _clean(text: str) -> str:
    """As clinical.clean, but for the spaces at both ends: a template may print a sentence piece by piece."""
    inside = clean(text)
    return " " * text.startswith(" ") + inside + " " * (text.endswith(" ") and bool(inside))
