"""Keyed pseudonyms: what stands in the index instead of a patient's or a study's identifier.

HMAC-SHA-256 (RFC 2104) with a key that stays on this machine, outside every index. An unkeyed hash of
a record number is reversed by trying all numbers; this is not, without the key.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import os
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxrsearch.clinical.expression import And, Equals, Expression, Not
from cxrsearch.errors import InputError

_KEY_BYTES = 32


def forgotten(pseudonym: str) -> str:
    """What is remembered of a pseudonym that was forgotten: enough to know it again, not to tell it."""
    return hashlib.sha256(b"forgotten:" + pseudonym.encode("utf-8")).hexdigest()[:32]


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

    def point(self, dataset: str, key: str) -> str:
        """The id of the image ``key`` of a dataset: a UUID laid out as version 5 of RFC 9562, a name-based one."""
        return str(uuid.UUID(bytes=self._digest("point", dataset, key)[:16], version=5))

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


def other_patients(files: Iterable[str], patients: Iterable[str]) -> Expression:
    """What is neither one of these files, by sha256, nor of one of these patients."""
    other_file, who = Not(Equals("image_sha256", tuple(dict.fromkeys(files)))), tuple(sorted(set(patients)))
    return And((other_file, Not(Equals("patient", who)))) if who else other_file
