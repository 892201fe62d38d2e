"""What is wrong with a TOML that pydantic refused, in the words of its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cxrsearch.text import nearest

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError


def first_problem(error: ValidationError, whole: type[BaseModel], parts: Mapping[str, type[BaseModel]]) -> str:
    """``key.of.it: what is wrong``, of the first; a misspelt key with the nearest that there is.

    whole: the schema; parts: the schemas of its tables, by their key.
    """
    first = error.errors(include_url=False)[0]
    location = first["loc"]
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        schema = parts.get(str(location[0]), whole) if len(location) > 1 else whole
        what = f"no such key.{nearest(str(location[-1]), list(schema.model_fields))}"
    return f"{'.'.join(map(str, location)) or 'the whole'}: {what}"
