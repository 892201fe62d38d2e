"""The facts of a cohort's images, and their embeddings, as a file for other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import Field
from cxrsearch.errors import UsageError
from cxrsearch.files import replacing
from cxrsearch.report.frames import VECTOR, arrow_rows, schema, shown_fields
from cxrsearch.report.rows import write_csv
from cxrsearch.store.contract import Point, VectorStore

# Images written at once: a few MB of vectors.
_BATCH = 5000


def write(store: VectorStore, expression: Expression | None, file: Path, embeddings: bool = False) -> int:
    """Write .csv or .parquet, by the file's name, readable by its owner only; how many images.

    embeddings: with each image's vector, as a column of lists of float32 of one length; .parquet only.
    Raises UsageError, InputError.
    """
    fields = shown_fields(store.facts.all_fields)
    if embeddings and file.suffix.lower() != ".parquet":
        raise UsageError(f"--export {file}: embeddings are written to a file that ends in .parquet")
    if embeddings and VECTOR in store.facts.all_fields:
        raise UsageError(f"--embeddings: the index has a field {VECTOR!r} of its own; export without them")
    points = store.scroll(expression, vectors=embeddings)
    with replacing(file, private=True) as draft:
        match file.suffix.lower():
            case ".csv":
                rows = [point.payload for point in points]
                with draft.open("w", encoding="utf-8", newline="") as stream:
                    write_csv(rows, [field.name for field in fields], stream)
                return len(rows)
            case ".parquet":
                return _parquet(points, fields, store.facts.dimensions if embeddings else None, draft)
            case _:
                raise UsageError(f"--export {file}: write to a file that ends in .csv or .parquet")


def _parquet(points: Iterator[Point], fields: Sequence[Field], dimensions: int | None, file: Path) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("--export .parquet needs pyarrow: pip install 'cxrsearch[analysis]', or write .csv") from None
    written, types = 0, schema(fields, dimensions)
    with parquet.ParquetWriter(file, types) as writer:
        while batch := list(islice(points, _BATCH)):
            rows = arrow_rows((point.payload for point in batch), fields)
            if dimensions is not None:
                rows = [{**row, VECTOR: point.vector} for row, point in zip(rows, batch, strict=True)]
            writer.write_table(pyarrow.Table.from_pylist(rows, types))
            written += len(batch)
    return written
