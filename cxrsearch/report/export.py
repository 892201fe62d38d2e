"""The facts of a cohort's images as a file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxrsearch.clinical.expression import Expression
from cxrsearch.clinical.fields import DIGESTS, Field, Payload, values_of
from cxrsearch.cohort.counts import rows
from cxrsearch.errors import UsageError
from cxrsearch.files import replacing
from cxrsearch.report.rows import write_csv
from cxrsearch.store.contract import VectorStore


def write(store: VectorStore, expression: Expression | None, file: Path) -> int:
    """Write .csv or .parquet, by the file's name, readable by its owner only; how many images.

    Raises UsageError, InputError.
    """
    payloads = list(rows(store, expression))
    columns = [name for name in store.facts.all_fields if name not in DIGESTS]
    with replacing(file, private=True) as draft:
        match file.suffix.lower():
            case ".csv":
                with draft.open("w", encoding="utf-8", newline="") as stream:
                    write_csv(payloads, columns, stream)
            case ".parquet":
                _parquet(payloads, [store.facts.all_fields[name] for name in columns], draft)
            case _:
                raise UsageError(f"--export {file}: write to a file that ends in .csv or .parquet")
    return len(payloads)


def _parquet(payloads: Sequence[Payload], fields: Sequence[Field], file: Path) -> None:
    """A field that may have several values is a column of lists; the others have their own type."""
    import pandas

    table = [{f.name: (values_of(p, f.name) or None) if f.several else p.get(f.name) for f in fields} for p in payloads]
    frame = pandas.DataFrame(table, columns=[field.name for field in fields]).convert_dtypes()
    try:
        frame.to_parquet(file, index=False)
    except ImportError:
        raise UsageError("--export .parquet needs pyarrow: pip install 'cxrsearch[analysis]', or write .csv") from None
