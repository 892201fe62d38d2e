"""A source -> its network, by the library that it names; each is loaded when it is needed."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace

from cxrsearch.errors import InputError, UsageError
from trainer.importing.failures import failure
from trainer.importing.source import HUBS, NOT_SAFE, Choices, LoadedEncoder

KINDS = ("open_clip:", *HUBS, "timm:", "hf:", "xrv:")


def load(source: str, weights: str | None, choices: Choices) -> LoadedEncoder:
    """The network of a source that is no ONNX file. weights: a file, or ``package:NAME``, in place of the source's own.

    Raises UsageError for what is no source, InputError for one that cannot be loaded.
    """
    kind = next((kind for kind in KINDS if source.startswith(kind)), None)
    if kind is None:
        raise UsageError(f"{source[:80]}: no source; give FILE.onnx or one of {', '.join(f'{k}...' for k in KINDS)}")
    name = source if kind in HUBS else source.removeprefix(kind)
    try:
        if kind == "timm:":
            from trainer.importing.timm_models import load_timm as loading
        elif kind == "hf:":
            from trainer.importing.hugging_face import load_hugging_face as loading
        elif kind == "xrv:":
            from trainer.importing.xray_vision import load_xray_vision as loading
        else:
            from trainer.importing.clip_models import load_clip as loading
        with _silence():
            found = loading(name, weights)
    except ImportError as error:
        how = "pip install 'cxrsearch[train,encoders]'"
        raise InputError(f"{source}: needs {error.name}, which is not installed: {how}") from None
    except (InputError, UsageError):
        raise
    except pickle.UnpicklingError:  # whose words say how to run what is in it
        raise InputError(f"{source}: {NOT_SAFE}") from None
    except Exception as error:  # the libraries, and the hubs that they ask, raise whatever went wrong
        raise InputError(f"{source}: cannot be loaded ({failure(error, kind)})") from None
    return replace(found, input=choices.applied(found.input))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """What the libraries say to their programmers, and of each new try: what comes of it is said once."""
    former = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(former)
