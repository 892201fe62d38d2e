"""A source -> its network, by the library that it names; each is loaded when it is needed."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import replace

from cxrsearch.errors import InputError, UsageError
from trainer.importing.source import HUBS, NOT_SAFE, Choices, LoadedEncoder

KINDS = ("open_clip:", *HUBS, "timm:", "hf:", "xrv:")
LIBRARIES = {"open_clip:": "open_clip_torch", "timm:": "timm", "hf:": "transformers", "xrv:": "torchxrayvision"}


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # to the programmers of the libraries
            found = loading(name, weights)
    except ImportError as error:
        library = LIBRARIES.get(kind, "open_clip_torch")
        raise InputError(f"{source}: needs {library} ({error.name} is not installed): pip install {library}") from None
    except (InputError, UsageError):
        raise
    except pickle.UnpicklingError:  # whose words say how to run what is in it
        raise InputError(f"{source}: {NOT_SAFE}") from None
    except Exception as error:  # the libraries, and the hubs that they ask, raise whatever went wrong
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: cannot be loaded ({type(error).__name__}: {reason})") from None
    return replace(found, input=choices.applied(found.input))
