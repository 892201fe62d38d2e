"""A file of embeddings: what `cxrsearch embed` makes of a part of a dataset on one machine, and `cxrsearch index
--embeddings` stores on another. Parquet, a row for each image, in the dataset's order.

    id         16 bytes: the id of the file's first image in an index, made of its path with the key of pseudonyms
    frame      1, 2, ... of the file's images; 0 where the file was rejected
    facts      JSON: size, projection, keyed digests, and what the mapping lets in of the header
    embedding  a list of float32 of one length, a unit vector
    thumbnail  a JPEG file, where the dataset keeps those
    reason, message   why the file was rejected

Nothing in it names a patient: no path, no row of the table, of the header no more than would enter an index. Its
metadata say which model, dataset, key and mapping it is of. Whoever opens one may have been given it by a stranger, so
it is read in a process of its own, and looked at before it is believed (from_embeddings.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from cxrsearch.errors import ImageError, UsageError
from cxrsearch.files import replacing
from indexer.points import EmbeddedImage

if TYPE_CHECKING:
    import pyarrow

FORMAT = 1
_METADATA = b"cxrsearch"
# Rows of a group, which is read at once: ten megabytes with thumbnails.
GROUP = 1024
# Parts of a dataset: what --part of cxrsearch embed takes, in six digits each.
MOST_PARTS = 999_999
# What a stranger's group may say that it holds.
_MOST_ROWS = 65_536
_LARGEST_GROUP = 2**28
_LARGEST_METADATA = 2**16


@dataclass(frozen=True)
class Provenance:
    """What a file of embeddings is of. key, reading: tokens of the key of pseudonyms and of how headers are read.
    part: which of how many; images: of the whole dataset."""

    dataset: str
    model: str
    fingerprint: str
    dimensions: int
    key: str
    reading: str
    part: tuple[int, int]
    images: int


class EmbeddingsWriter:
    """Writes rows, a group at a time."""

    def __init__(self, file: pyarrow.parquet.ParquetWriter, types: pyarrow.Schema) -> None:
        self._file, self._types = file, types
        self._rows: list[dict[str, Any]] = []

    def add(self, id: str, images: list[EmbeddedImage]) -> None:
        for frame, image in enumerate(images, start=1):
            facts = json.dumps(image.facts, ensure_ascii=False)
            row = {"frame": frame, "facts": facts, "embedding": image.array, "thumbnail": image.thumbnail}
            self._rows.append({"id": UUID(id).bytes, **row})
        self._write(GROUP)

    def reject(self, id: str, error: ImageError) -> None:
        self._rows.append({"id": UUID(id).bytes, "frame": 0, "reason": str(error.reason), "message": str(error)})
        self._write(GROUP)

    def end(self) -> None:
        self._write(1)

    def _write(self, least: int) -> None:
        if len(self._rows) >= least:
            import pyarrow

            self._file.write_table(pyarrow.Table.from_pylist(self._rows, self._types))
            self._rows = []


@contextmanager
def writing(path: Path, provenance: Provenance) -> Iterator[EmbeddingsWriter]:
    """A file that is there, whole and readable by its owner only, when the block ends without error.

    Raises UsageError where pyarrow is missing, InputError where it cannot be written.
    """
    try:
        from pyarrow import parquet
    except ImportError:
        raise UsageError("cxrsearch embed needs pyarrow: pip install 'cxrsearch[analysis]'") from None
    types = _schema(provenance.dimensions).with_metadata(
        {_METADATA: json.dumps({"format": FORMAT, **asdict(provenance)})}
    )
    with replacing(path, private=True) as draft, parquet.ParquetWriter(draft, types, compression="zstd") as file:
        writer = EmbeddingsWriter(file, types)
        yield writer
        writer.end()


def _schema(dimensions: int) -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema(
        [
            pyarrow.field("id", pyarrow.binary(16), nullable=False),
            pyarrow.field("frame", pyarrow.int32(), nullable=False),
            ("facts", pyarrow.string()),
            ("embedding", pyarrow.list_(pyarrow.float32(), dimensions)),
            ("thumbnail", pyarrow.binary()),
            ("reason", pyarrow.string()),
            ("message", pyarrow.string()),
        ]
    )


# ------------------------------------------------------------------ in a reader process

Answer = tuple[dict[str, Any], list[Any]]


def work(_: object) -> Callable[[tuple[Any, ...]], Iterator[Answer]]:
    """Answers ("open", path) with the metadata and then, for each group, its ids and frames, and ("group", path,
    number) with all of that group; {"problem": ...} for what cannot be such a file."""
    os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # others reserve a gigabyte, as much as a reader may grow by
    import pyarrow
    from pyarrow import parquet

    pyarrow.set_io_thread_count(1)
    pyarrow.set_cpu_count(1)

    def answer(request: tuple[Any, ...]) -> Iterator[Answer]:
        try:
            with parquet.ParquetFile(request[1], memory_map=False) as file:
                problem = _problem(file)
                if problem is not None:
                    yield {"problem": problem}, []
                elif request[0] == "open":
                    yield {"provenance": json.loads(file.schema_arrow.metadata[_METADATA])}, []
                    for number in range(file.num_row_groups):
                        yield _ids(file.read_row_group(number, ["id", "frame"], use_threads=False))
                else:
                    yield _group(file.read_row_group(request[2], use_threads=False))
        except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
            yield {"problem": "no file of embeddings, or a damaged one"}, []

    return answer


def _problem(file: Any) -> str | None:
    """What is wrong with what the file says of itself."""
    text = (file.schema_arrow.metadata or {}).get(_METADATA)
    if text is None or len(text) > _LARGEST_METADATA:
        return "no file of embeddings: cxrsearch embed makes them"
    said = json.loads(text)
    if said["format"] != FORMAT:
        return f"of format {str(said['format'])[:20]}; this version reads {FORMAT}"
    if type(said["dimensions"]) is not int or not file.schema_arrow.equals(_schema(said["dimensions"])):
        return "has other columns than a file of embeddings, or vectors of another length than it says"
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        if group.num_rows > _MOST_ROWS or group.total_byte_size > _LARGEST_GROUP:
            return f"says that one group of it holds {group.num_rows} rows of {group.total_byte_size} bytes"
    return None


def _ids(table: Any) -> Answer:
    ids = b"".join(table["id"].to_pylist())
    return {"rows": table.num_rows}, [ids, np.asarray(table["frame"].to_pylist(), np.int32)]


def _group(table: Any) -> Answer:
    answer, contents = _ids(table)
    vectors = table.combine_chunks()["embedding"].chunk(0)
    is_there = np.asarray(vectors.is_valid())
    numbers = vectors.flatten()
    if numbers.null_count:
        return {"problem": "a vector with numbers missing"}, []
    thumbnails = table["thumbnail"].to_pylist()
    texts = {name: table[name].to_pylist() for name in ("facts", "reason", "message")}
    answer |= {"texts": texts, "thumbnails": [one is not None for one in thumbnails]}
    pictures = [one for one in thumbnails if one is not None]
    return answer, [*contents, is_there, np.asarray(numbers, np.float32), *pictures]
