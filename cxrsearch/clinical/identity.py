"""Whose image this is: the number in a header, a cell or a path -> the keyed pseudonym that stands in the index.

index, search, forget and evaluate all read a number by :class:`Numbering`, so that one text is one patient to all.
Pseudonyms are HMAC-SHA-256 (RFC 2104) with a key that stays on this machine, outside every index. An unkeyed hash of
a record number is reversed by trying all numbers; this is not, without the key.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import os
import re
import secrets
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cxrsearch.clinical.expression import And, Equals, Expression, Not
from cxrsearch.clinical.pattern import check, part_of
from cxrsearch.errors import InputError
from cxrsearch.text import tidy

_KEY_BYTES = 32
# A whole number as data frames write it where other cells are blank, and spreadsheets with two decimals. Three zeros
# may be thousands.
_WHOLE = re.compile(r"([0-9]+)[.,]0{1,2}")


@dataclass(frozen=True)
class Numbering:
    """Where a dataset has the numbers of its patients, or studies, and how they are read; kept with its facts.

    dicom: the header's keyword. path: "stem", "folder" or "full". Neither: a table's column.
    pattern: its first group, or all that it finds, is the number.
    missing: texts that stand for no number.
    ``12.0`` and ``12.00`` are ``12``, as tables have them; a header's number is taken as it stands.
    """

    dicom: str | None = None
    path: str | None = None
    pattern: str | None = None
    missing: tuple[str, ...] = ()

    def number(self, text: str) -> str | None:
        """The number in a text; None where there is none. Raises MappingError for a pattern that takes too long."""
        unknown = {"", *map(tidy, self.missing)}
        text = tidy(text)
        if self.pattern is not None and text not in unknown:
            text = tidy(part_of(self.pattern, text))
        number = text if self.dicom is not None else whole_number(text)
        return None if {text, number} & unknown else number

    def as_json(self) -> dict[str, Any]:
        return {"dicom": self.dicom, "path": self.path, "pattern": self.pattern, "missing": list(self.missing)}

    @classmethod
    def from_json(cls, data: Any) -> Numbering | None:
        """Raises KeyError, TypeError, ValueError for what is none."""
        if data is None:
            return None
        dicom, path, pattern = (None if data[n] is None else str(data[n]) for n in ("dicom", "path", "pattern"))
        if pattern is not None:
            check(pattern)
        return cls(dicom, path, pattern, tuple(map(str, data["missing"])))


def whole_number(text: str) -> str:
    """``12`` for ``12.0`` and ``12,00``; any other text as it is."""
    found = _WHOLE.fullmatch(text)
    return found[1] if found else text


def as_written(number: str) -> set[str]:
    """A number of a table, and where it is whole as tables may have it: older versions took each for another patient,
    whose images, or a mark that they were forgotten, an index may still have."""
    whole = whole_number(number)
    is_whole = whole.isascii() and whole.isdigit()
    return {number, *(whole + decimals for decimals in ("", ".0", ".00", ",0", ",00") if is_whole)}


def part_of_path(key: str, part: str) -> str:
    """The "stem", the "folder" or all of an image's path in its dataset."""
    path = PurePosixPath(key)
    return {"stem": path.stem, "folder": path.parent.name}.get(part, key)


@dataclass(frozen=True)
class Identity:
    """Makes pseudonyms with one key. The same identifier gives the same pseudonym, on every machine
    that has the key. Each kind of identifier has its own domain, so that equal texts do not match."""

    key: bytes

    def patient(self, namespace: str, identifier: str) -> str:
        """16 capital letters and digits (80 bits). ``namespace``: whose numbers these are."""
        return self._text("patient", namespace, identifier)

    def study(self, namespace: str, identifier: str) -> str:
        return self._text("study", namespace, identifier)

    def path(self, dataset: str, key: str) -> str:
        """A token in place of a path that may name a patient."""
        return self._text("path", dataset, key)

    def place(self, root: Path) -> str:
        """A token of a dataset's folder, which tells two folders apart and names neither."""
        return self._text("place", str(root.resolve()))

    def file(self, sha256: str) -> str:
        """What stands in the index for the bytes of a file, whose header may hold anything."""
        return self._text("file", sha256)

    def picture(self, digest: str) -> str:
        """What stands in the index for the pixels of an image."""
        return self._text("picture", digest)

    def embeddings(self, dataset: str) -> str:
        """A token of the key itself, by which a file of embeddings tells whose ids it holds."""
        return self._text("embeddings", dataset)

    def images(self, digest: str) -> str:
        """What a training run keeps of its images and of whose they are: enough to know them again."""
        return self._digest("images", digest).hex()

    def forgotten(self, pseudonym: str) -> str:
        """What is remembered of a pseudonym that was forgotten: enough to know it again, not to tell it."""
        return self._text("forgotten", pseudonym)

    def row(self, facts: str) -> str:
        """A fingerprint of a row that tells a changed row from the same one. Keyed, because the facts hold the
        patient's and the study's own number, which an unkeyed hash gives away to whoever tries all numbers."""
        return self._digest("row", facts).hex()

    def shift_date(self, namespace: str, identifier: str, date: str) -> str:
        """The date (YYYY-MM-DD) moved back by this patient's own number of days, 1 to 3,652.

        The days between two dates of one patient stay what they are. Before year 1 it stays at its beginning.
        """
        days = 1 + int.from_bytes(self._digest("date", namespace, identifier)[:8], "big") % 3652
        ordinal = datetime.date.fromisoformat(date).toordinal() - days
        return datetime.date.fromordinal(max(1, ordinal)).isoformat()

    def point(self, dataset: str, key: str, frame: int = 1) -> str:
        """The id of an image of the file ``key`` of a dataset: a UUID laid out as version 5 of RFC 9562, a name-based
        one."""
        frames = [str(frame)] if frame > 1 else []
        return str(uuid.UUID(bytes=self._digest("point", dataset, key, *frames)[:16], version=5))

    def _text(self, *parts: str) -> str:
        return base64.b32encode(self._digest(*parts)[:10]).decode("ascii")

    def _digest(self, *parts: str) -> bytes:
        # Length-prefixed, so that ("ab", "c") and ("a", "bc") differ.
        message = b"".join(len(p.encode()).to_bytes(4, "big") + p.encode("utf-8") for p in parts)
        return hmac.new(self.key, message, hashlib.sha256).digest()


def load_identity(path: Path, create: bool = False) -> Identity | None:
    """The identity of a key file; None when there is no file. ``create`` makes one, readable by its owner only.

    Raises InputError for a file that is no key.
    """
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Written beside and linked into place: two processes starting at once agree on one key.
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        if path.stat().st_mode & 0o077:
            raise InputError(f"{path}: others can read the pseudonym key. Run: chmod 600 {path}")
        text = path.read_text("ascii").strip()
        key = bytes.fromhex(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "not a key"
        raise InputError(f"{path}: the pseudonym key cannot be used ({what}). Set CXRSEARCH_KEY_FILE.") from None
    if len(key) != _KEY_BYTES:
        raise InputError(f"{path}: not a pseudonym key ({_KEY_BYTES * 2} hexadecimal digits). Set CXRSEARCH_KEY_FILE.")
    return Identity(key)


def other_patients(files: Collection[str], pictures: Collection[str], patients: Collection[str]) -> Expression | None:
    """What is none of these files and pictures, by their keyed digests, nor of one of these patients."""
    left_out = {"image_sha256": files, "picture": pictures, "patient": patients}
    parts = [Not(Equals(name, tuple(sorted(set(values))))) for name, values in left_out.items() if values]
    return And(tuple(parts)) if parts else None
