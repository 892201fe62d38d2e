"""Facts of images as columns, each of the type that its field is declared with, whatever rows there are."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cxrsearch.clinical.fields import DIGESTS, Field, FieldType, Payload, values_of

if TYPE_CHECKING:
    import pandas
    import pyarrow

VECTOR = "embedding"
_PANDAS = {
    FieldType.KEYWORD: "string",
    FieldType.TEXT: "string",
    FieldType.INTEGER: "Int64",
    FieldType.FLOAT: "Float64",
    FieldType.BOOLEAN: "boolean",
    FieldType.DATE: "datetime64[s]",
}


def shown_fields(fields: Mapping[str, Field]) -> list[Field]:
    """Those that people are given: all but the digests."""
    return [field for name, field in fields.items() if name not in DIGESTS]


def frame(payloads: Sequence[Payload], fields: Iterable[Field], index: Sequence[str] | None = None) -> pandas.DataFrame:
    """A row for each payload and a column for each field; a field of several values is a column of lists."""
    import pandas

    columns = {}
    for field in fields:
        if field.several:
            lists: list[Any] = [values_of(payload, field.name) for payload in payloads]
            columns[field.name] = pandas.Series(lists, dtype="object")
        else:
            cells = [payload.get(field.name) for payload in payloads]
            columns[field.name] = pandas.Series(cells, dtype="object").astype(_PANDAS[field.type])  # type: ignore[call-overload]
    made = pandas.DataFrame(columns)
    if index is not None:
        made.index = pandas.Index(list[Any](index), name="id", dtype="string")
    return made


def schema(fields: Iterable[Field], dimensions: int | None = None) -> pyarrow.Schema:
    """The Arrow types of fields, with the embedding as a list of ``dimensions`` float32 where that is given."""
    import pyarrow

    types = {
        FieldType.KEYWORD: pyarrow.string(),
        FieldType.TEXT: pyarrow.string(),
        FieldType.INTEGER: pyarrow.int64(),
        FieldType.FLOAT: pyarrow.float64(),
        FieldType.BOOLEAN: pyarrow.bool_(),
        FieldType.DATE: pyarrow.date32(),
    }
    made = [(f.name, pyarrow.list_(types[f.type]) if f.several else types[f.type]) for f in fields]
    if dimensions is not None:
        made.append((VECTOR, pyarrow.list_(pyarrow.float32(), dimensions)))
    return pyarrow.schema(made)


def arrow_rows(payloads: Iterable[Payload], fields: Sequence[Field]) -> list[dict[str, Any]]:
    """Rows that :func:`schema` takes: a missing fact is None, a date a date."""
    return [{field.name: _arrow_value(payload, field) for field in fields} for payload in payloads]


def _arrow_value(payload: Payload, field: Field) -> Any:
    values: list[Any] = list(values_of(payload, field.name))
    if field.type is FieldType.DATE:
        values = [datetime.date.fromisoformat(str(value)) for value in values]
    if field.several:
        return values or None
    return values[0] if values else None
