"""Settings that come from the environment, each with its default, in one place.

CXRSEARCH_QDRANT_API_KEY   API key of a Qdrant server; none by default
CXRSEARCH_QDRANT_TIMEOUT   seconds before a request to a server is given up; 30
CXRSEARCH_KEY_FILE         the pseudonym key; <config folder>/cxrsearch/key
"""

from __future__ import annotations

import os
from pathlib import Path

from cxrsearch.errors import UsageError


def qdrant_api_key() -> str | None:
    return os.environ.get("CXRSEARCH_QDRANT_API_KEY") or None


def qdrant_timeout() -> int:
    text = os.environ.get("CXRSEARCH_QDRANT_TIMEOUT", "30")
    if not text.isdigit() or not 1 <= int(text) <= 3600:
        raise UsageError(f"CXRSEARCH_QDRANT_TIMEOUT={text[:20]!r}: give whole seconds from 1 to 3600")
    return int(text)


def key_file() -> Path:
    given = os.environ.get("CXRSEARCH_KEY_FILE")
    if given:
        return Path(given)
    config = os.environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "cxrsearch" / "key"
