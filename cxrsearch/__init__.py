"""cxrsearch: find the chest radiographs most like this one, and what happened to those patients.

import cxrsearch

with cxrsearch.open("chest") as archive:
    hits = archive.search("scan.dcm", where="age >= 50", k=10)

What is imported from here is loaded when it is first used; ``__init__.pyi`` has its types.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Archive", "Cohort", "CxrSearchError", "Embeddings", "Encoder", "Hits", "__version__", "open"]

_PLACES = {
    "Archive": "archive.Archive",
    "Cohort": "results.Cohort",
    "CxrSearchError": "errors.CxrSearchError",
    "Embeddings": "results.Embeddings",
    "Encoder": "encoder.Encoder",
    "Hits": "results.Hits",
    "open": "archive.open_archive",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(".")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
