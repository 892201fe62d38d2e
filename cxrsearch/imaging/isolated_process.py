"""The inside of a reader process (``isolated.py``): its limits, and what it answers."""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import pickle
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from cxrsearch.errors import ImageError
from cxrsearch.imaging.isolated import MEMORY_BYTES, RAISED, SECONDS_PER_FILE

# A reader that holds this much more than when it began is replaced: what a file may take is not to depend on others.
_SPARE_BYTES = 2**30

Given = tuple[dict[str, Any], list[Any]]


def serve() -> None:
    """Answers requests from standard input until that ends."""
    _end_with_parent(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold patients' images
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    work, setup = pickle.load(requests)
    module, name = work.split(":")
    answers: Callable[[Any], Iterator[Given]] | None = None
    began = 0
    while True:
        try:
            request = pickle.load(requests)
        except EOFError:
            return
        try:
            if answers is None:
                make = getattr(importlib.import_module(module), name)
                answers = _limited(make, setup)
                began = _address_space()
            steps = answers(request)
            del request
            while (step := _limited(next, steps, None)) is not None:
                _send(replies, *step)
                del step
        except tuple(RAISED.values()) as error:
            kind = next(name for name, kind in RAISED.items() if isinstance(error, kind))
            _send(replies, {"raised": kind, "message": str(error)}, [])
            return
        except MemoryError:
            _send(replies, {"refused": "memory"}, [])
            return
        except Exception as error:
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            place = "" if trace is None else f", {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            _send(replies, {"fault": f"{type(error).__name__}{place}"}, [])  # the message may quote the file
            return
        gc.collect()
        _send(replies, {"end": "full" if _address_space() > began + _SPARE_BYTES else "ready"}, [])


def _limited(call: Callable[..., Any], *arguments: Any) -> Any:
    signal.alarm(SECONDS_PER_FILE)  # unanswered, it ends the process: also inside a decoder's own code
    try:
        return call(*arguments)
    finally:
        signal.alarm(0)


def _end_with_parent(life: int) -> None:
    """The kernel ends this process, whatever code it is in, when nobody holds the other end of the pipe any more."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)


def _send(pipe: IO[bytes], facts: dict[str, Any], arrays: list[Any]) -> None:
    views = [memoryview(array).cast("B") for array in arrays]
    header = json.dumps(facts | {"lengths": [view.nbytes for view in views]}).encode()
    try:
        pipe.write(len(header).to_bytes(4, "big") + header)
        for view in views:
            pipe.write(view)
        pipe.flush()
    except BrokenPipeError:
        os._exit(0)


def _address_space() -> int:
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
    except OSError:  # not on Linux
        return 0


def answers(_: object) -> Callable[[tuple[Any, ...]], Iterator[Given]]:
    """What the reader of a single process answers."""
    return _answer


def _answer(request: tuple[Any, ...]) -> Iterator[Given]:
    try:
        match request:
            case ("prepare", path):
                _prepare(path)
            case ("read", path, name, keywords, gates):
                from cxrsearch.imaging import read

                yield from _images(read.read_bytes(path, name), name, keywords, gates)
            case ("decode", data, name, keywords, gates):
                yield from _images(data, name, keywords, gates)
            case ("directory", path):
                from cxrsearch.imaging import read
                from cxrsearch.imaging.dicom import referenced_files

                data = read.read_bytes(path)
                yield {"files": referenced_files(data, path.name)}, []
    except ImageError as error:
        yield {"reason": str(error.reason), "message": str(error)}, []


def _prepare(path: Path) -> None:
    """Import what a file that begins like this one will need."""
    from cxrsearch.imaging import read

    try:
        with path.open("rb") as file:
            is_dicom = read.is_dicom(file.read(132))
    except (OSError, ValueError):
        return
    importlib.import_module("cxrsearch.imaging.dicom" if is_dicom else "cxrsearch.imaging.picture")


def _images(data: bytes, name: str, keywords: tuple[str, ...], gates: Any) -> Iterator[Given]:
    import numpy as np

    from cxrsearch.imaging.radiograph import OPEN
    from cxrsearch.imaging.read import decode

    for image in decode(data, name, keywords, OPEN if gates is None else gates):
        facts = {"sha256": image.sha256, "format": image.format, "frame": image.frame}
        facts |= {"projection": image.projection, "header": dict(image.header), "shape": list(image.pixels.shape)}
        yield facts, [np.ascontiguousarray(image.pixels)]
