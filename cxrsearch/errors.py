"""Every way to fail that a user can cause.

    CxrSearchError                 exit code
    ├── UsageError                 2   a flag, an option or an argument cannot be used as given; also a ValueError
    │   ├── WhereError             2   a --where expression; points at the place with a caret
    │   └── WrongTypeError         2   an argument in Python that is none of the types it may have; also a TypeError
    ├── InputError                 4   something the user gave cannot be used
    │   ├── ImageError             4   a file that is no radiograph we can read (carries a reason code)
    │   │   └── ArrayError         4   an array that is none; also a ValueError
    │   ├── MappingError           4   a dataset TOML or its table
    │   └── ModelError             4   a model folder
    ├── IndexUnavailable           5   no index there, a damaged one, another format, no answer
    │   └── IndexInUse             5   another process is writing it
    └── ModelMismatch              6   the index was made by another model

The message is what the user sees: what is wrong, where, and what to do next, in one or two lines.
Code raises these where the fact is known and wraps nothing else.
"""

from __future__ import annotations

from enum import StrEnum

INTERRUPTED = 130  # what Ctrl-C gives: 128 + SIGINT, as shells have it


class CxrSearchError(Exception):
    """An error the user can cause; ``str(error)`` is the sentence shown."""

    exit_code = 1


class UsageError(CxrSearchError, ValueError):
    exit_code = 2


class WhereError(UsageError):
    """An expression, of --where or the ``option`` named, that cannot be understood.

    ``position`` is the 0-based offset of the offending text; ``str(error)`` shows it with a caret.
    """

    def __init__(self, text: str, position: int, message: str, option: str = "--where") -> None:
        self.position = position
        # A long expression is cut to the words around the caret, so that the message stays two lines.
        start = max(0, position - 60)
        shown = text[start : position + 40].replace("\n", " ").replace("\t", " ")
        super().__init__(f"{option}: {message}\n  {shown}\n  {' ' * (position - start)}^")


class WrongTypeError(UsageError, TypeError):
    """``wanted`` completes "give ...": "a text, as --where takes it"."""

    def __init__(self, argument: str, wanted: str, given: object) -> None:
        super().__init__(f"{argument}: give {wanted}, not {type(given).__name__}")


class InputError(CxrSearchError):
    exit_code = 4


class Reason(StrEnum):
    """Why a file was left out: the closed list used in ``rejected.jsonl``."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    OUTSIDE_ROOT = "outside-root"
    EMPTY = "empty"
    TOO_LARGE = "too-large"
    NOT_AN_IMAGE = "not-an-image"
    TRUNCATED = "truncated"
    UNSUPPORTED = "unsupported"
    NO_PIXELS = "no-pixels"
    CINE = "cine"
    BLANK = "blank"
    MODALITY = "modality"
    BODY_PART = "body-part"
    VIEW = "view"
    PRESENTATION_STATE = "presentation-state"
    REPORT = "report"
    DOCUMENT = "document"
    DIRECTORY = "directory"
    CONTRADICTION = "contradiction"
    READER_DIED = "reader-died"


class ImageError(InputError):
    """A file that gives no radiograph. ``reason`` is one of :class:`Reason`."""

    def __init__(self, reason: Reason, message: str) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        return ImageError, (self.reason, str(self))


class ArrayError(ImageError, ValueError):
    def __init__(self, message: str) -> None:
        super().__init__(Reason.NOT_AN_IMAGE, message)


class MappingError(InputError):
    pass


class ModelError(InputError):
    pass


class IndexUnavailable(CxrSearchError):
    exit_code = 5


class IndexInUse(IndexUnavailable):
    pass


class ModelMismatch(CxrSearchError):
    exit_code = 6
