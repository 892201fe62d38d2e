"""Files that other people wrote, decoded in a process of its own, within limits of time and memory.

A decoder is where a hostile file does its harm. So no process that holds an index or a session decodes one:

    this process  -- pickled request -->  reader process  -- JSON and arrays -->  this process

Requests are this process's own objects, on a pipe that nobody else writes to; what comes back may have been shaped by
the file, so nothing of it is unpickled. A reader that is killed, takes too long or is refused memory costs the file it
was at, and is replaced. It ends when the process that started it does, however that ends.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cxrsearch.errors import ImageError, InputError, ModelError, Reason, UsageError

if TYPE_CHECKING:
    from cxrsearch.imaging.radiograph import Gates, Radiograph

# The slowest syntax takes half a second for a large radiograph.
SECONDS_PER_FILE = 60
# Address space of a reader; reading the largest allowed image takes under 3 GiB.
MEMORY_BYTES = 6 * 2**30
# Of the environment a reader is not given these: the API key of a server is among them.
_SETTINGS = "CXRSEARCH_"
# Nothing that a reader answers is longer: 64 million float32.
_LONGEST = 2**28 + 2**20

# Errors that the work may raise for whoever asked, the narrowest first; what else it raises is a fault of ours.
RAISED = {kind.__name__: kind for kind in (ModelError, InputError, UsageError)}

Answer = tuple[dict[str, Any], list[bytearray]]


class Broken(Exception):
    """A reader that ended. step: how many answers of the request had come; fresh: whether it was its first request;
    memory: whether it was refused memory."""

    def __init__(self, step: int, fresh: bool, memory: bool) -> None:
        self.step, self.fresh, self.memory = step, fresh, memory
        super().__init__("a reader process ended")

    def verdict(self, label: str) -> ImageError:
        """What becomes of the file it was at."""
        if self.memory:
            what = f"reading it takes more than {MEMORY_BYTES // 2**30} GiB of memory"
            return ImageError(Reason.TOO_LARGE, f"{label}: {what}")
        what = f"reading it ended the process that did, or took more than {SECONDS_PER_FILE} s"
        return ImageError(Reason.READER_DIED, f"{label}: {what}")

    def of_model(self, what: str) -> str:
        """What is said of a part of a model that was tried."""
        memory = f"asks for more than {MEMORY_BYTES // 2**30} GiB of memory"
        others = "" if self.memory else f", takes more than {SECONDS_PER_FILE} s, or crashes"
        return f"{what} {memory}{others}"


class Isolated:
    """One reader process. It starts at the first request, or by :meth:`prepare`; again after it broke.

    work: ``module:name`` of what makes, in that process, a function from ``setup``. It is given each request, and
    yields answers: a dictionary that JSON can hold, and arrays or bytes. Each answer has its own SECONDS_PER_FILE, and
    so has what is made from ``setup``.
    """

    def __init__(self, work: str, setup: object = None) -> None:
        self._work, self._setup = work, setup
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1
        self._asked = self._owed = 0

    def prepare(self, request: object) -> None:
        """A request whose answers nobody waits for."""
        with contextlib.suppress(OSError):
            self._send(request)
            self._owed += 1

    def ask(self, request: object) -> Iterator[Answer]:
        """The answers, as they come. Raises Broken, and what of RAISED the work raises."""
        step, raised = 0, None
        fresh = self._asked == 0
        try:
            while self._process is not None and self._owed:
                self._owed -= "end" in self._receive()[0]
            fresh = self._asked == 0
            self._send(request)
            self._asked += 1
            while True:
                answer = self._receive()
                if "refused" in answer[0]:
                    raise Broken(step, fresh, memory=True)
                if "raised" in answer[0]:
                    raised = RAISED[answer[0]["raised"]](str(answer[0]["message"]))
                    break
                if "end" in answer[0]:
                    break
                yield answer
                step += 1
        except (OSError, EOFError, ValueError, KeyError):
            self.stop()
            raise Broken(step, fresh, memory=False) from None
        except BaseException:  # answers that nobody took would be taken for the next ones
            self.stop()
            raise
        if raised is not None:
            self.stop()
            raise raised
        if answer[0]["end"] == "full":
            self.stop()

    def kill(self) -> None:
        """End the process, from whatever thread: who waits for it gets Broken."""
        if (process := self._process) is not None:
            process.kill()

    def stop(self) -> None:
        """End the process at once, and forget it."""
        process, self._process = self._process, None
        self._asked = self._owed = 0
        if process is not None:
            process.kill()
            os.close(self._life)
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            process.wait()

    def _send(self, request: object) -> None:
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None
        self._process.stdin.write(pickle.dumps(request))
        self._process.stdin.flush()

    def _start(self) -> subprocess.Popen[bytes]:
        # Started, not forked: a fork of a process with threads may deadlock. In a process group of its own, as Ctrl-C
        # is this process's to answer. -P: a module in the current folder is nobody's.
        kept, self._life = os.pipe()
        code = (
            "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline());"
            " from cxrsearch.imaging.isolated_process import serve; serve()"
        )
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(kept)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders' warnings quote the file's own text
            pass_fds=(kept,),
            env={name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS)},
            process_group=0,
        )
        os.close(kept)
        assert process.stdin is not None
        process.stdin.write(json.dumps(sys.path).encode() + b"\n" + pickle.dumps((self._work, self._setup)))
        return process

    def _receive(self) -> Answer:
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout
        facts = json.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, 4), "big")))
        if "fault" in facts:
            raise RuntimeError(f"a reader process failed: {facts['fault']}")
        return facts, [_exactly(pipe, length) for length in facts.pop("lengths", ())]


def _exactly(pipe: IO[bytes], length: int) -> bytearray:
    """Raises EOFError where the pipe ends before."""
    if not 0 <= length <= _LONGEST:
        raise ValueError("an answer of a length that cannot be")
    content = bytearray(length)
    view = memoryview(content)
    while view:
        count = pipe.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        view = view[count:]
    return content


# ------------------------------------------------------------------ one reader for this process


_reader = Isolated("cxrsearch.imaging.isolated_process:answers")
_taken = threading.Lock()
atexit.register(_reader.stop)


def prepare(path: Path) -> None:
    """Start the reader and let it import what such a file needs, while this process does other things."""
    with _taken:
        _reader.prepare(("prepare", path.absolute()))


def read(path: Path, keywords: Sequence[str] = (), gates: Gates | None = None) -> list[Radiograph]:
    """As ``cxrsearch.imaging.read.read``, in the reader. Raises ImageError."""
    return _radiographs(("read", path.absolute(), path.name, tuple(keywords), gates), path.name)


def decode(data: bytes, name: str, keywords: Sequence[str] = (), gates: Gates | None = None) -> list[Radiograph]:
    """As ``cxrsearch.imaging.read.decode``, in the reader. Raises ImageError."""
    return _radiographs(("decode", data, name, tuple(keywords), gates), name)


def referenced_files(path: Path) -> list[str]:
    """The files that a DICOMDIR lists, relative to its folder. Raises ImageError."""
    ((facts, _),) = _answers(("directory", path.absolute()), path.name)
    return [str(name) for name in facts["files"]]


def _radiographs(request: object, name: str) -> list[Radiograph]:
    import numpy as np

    from cxrsearch.imaging.radiograph import Radiograph

    images = []
    for facts, (content,) in _answers(request, name):
        pixels = np.frombuffer(content, dtype=np.float32).reshape(facts.pop("shape"))
        images.append(Radiograph(pixels, **facts))
    return images


def _answers(request: object, name: str) -> list[Answer]:
    """Raises ImageError. A file gets the verdict that a reader gives that has read nothing before."""
    while True:
        try:
            with _taken:
                answers = list(_reader.ask(request))
        except Broken as broken:
            if broken.fresh:
                raise broken.verdict(name) from None
            continue
        if answers and "reason" in answers[0][0]:
            raise ImageError(Reason(answers[0][0]["reason"]), answers[0][0]["message"])
        return answers
