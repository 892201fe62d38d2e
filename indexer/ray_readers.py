"""Reading and embedding on the machines of a Ray cluster, by Ray Data, as an engine of the pipeline.

    this process: tasks, keys, the one writer  -- paths -->  the head: Ray Data  -->  an actor for each core

An actor is given paths and no more, as a reader process of this machine is, and reads in such a process itself: a file
that kills its decoder is found out there. On a machine with a GPU, the actor embeds there what that process prepares.
Ray Data gives the work out, holds it back where this process is slower, keeps its order, and starts an actor that was
killed again, which is asked again what it had not answered. It runs in an actor of its own on the cluster's head, as
Ray Data cannot be driven over ray://; its logs and progress stay there.

What it carries are bytes to it: of text and of objects it writes examples into its logs, file names among them. Answers
are pickled, as Ray pickles everything that it carries: its machines run what they are sent, and are trusted
(docs/reference/security.md). No file's content is ever unpickled.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from cxrsearch import __version__
from cxrsearch.device import Device
from cxrsearch.encoder import Encoder
from cxrsearch.errors import CxrSearchError, ImageError, InputError, UsageError
from cxrsearch.model_card import read_card
from indexer.readers import CHUNK, Digest, Outcome, ReaderConfig, Readers, Task, Wanted

# A cluster that has to start machines takes minutes.
_SECONDS_TO_START = 600
# For the first connection to its head.
_SECONDS_TO_REACH = 10
# Files that one execution of Ray Data is given. Their tasks are held here, a kilobyte or so each; the actors start
# once for so many, which takes them some seconds.
_AT_ONCE = 2**18
_A_MACHINE = "--engine ray: a machine of the cluster"
# The question whose answer is embeddings.
_EMBEDS = "outcomes"
# A little of what the head alone has.
_ON_THE_HEAD = {"node:__internal_head__": 0.001}


class Reading:
    """In an actor of Ray Data. question: the method of Readers that answers it; version, fingerprint: of the software
    and of the model that this machine has to have; device: what embeds."""

    def __init__(self, question: str, config: ReaderConfig, version: str, fingerprint: str, device: Device) -> None:
        encoder, self._problem = None, _problem(config, version, fingerprint)
        if self._problem is None and question == _EMBEDS and device is not Device.CPU:
            assert isinstance(config.model, Path)
            try:
                encoder = Encoder(config.model, device=device)
            except CxrSearchError as error:
                self._problem = InputError(f"{_A_MACHINE} says: {error}")
        self._ask = getattr(Readers(1, config, encoder=encoder), question)

    def __call__(self, files: dict[str, Any]) -> dict[str, list[bytes]]:
        asked = [Wanted(Path(path), label, header_only) for path, label, header_only in map(json.loads, files["file"])]
        try:
            answers = [self._problem] * len(asked) if self._problem else list(self._ask(asked))
        except CxrSearchError as error:
            answers = [error] * len(asked)
        return {"answer": [pickle.dumps(answer) for answer in answers]}


class Execution:
    """Ray Data, in an actor on the head of the cluster. workers: its actors; share: of a GPU, for each that embeds."""

    def __init__(self, workers: int, share: float, *of_each: Any) -> None:
        self._workers, self._share, self._of_each = workers, share, of_each
        self._batches: Iterator[dict[str, Any]] = iter(())

    def start(self, question: str, files: list[bytes]) -> None:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = _SECONDS_TO_START
        context.execution_no_progress_timeout_s = -1  # each file has its own, and many in a row may take long
        data = ray.data.from_items(
            [{"file": file} for file in files], override_num_blocks=math.ceil(len(files) / CHUNK)
        )
        answers = data.map_batches(
            Reading,
            fn_constructor_args=(question, *self._of_each),
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            batch_size=CHUNK,
            num_cpus=1,
            num_gpus=self._share if question == _EMBEDS else 0,
        )
        self._batches = iter(answers.iter_batches(batch_size=None))

    def next(self) -> list[bytes]:
        """Answers in the order of the files; none after the last."""
        batch = next(self._batches, None)
        return [] if batch is None else list(batch["answer"])


def connect(
    address: str | None, workers: int | None, device: Device
) -> Callable[[ReaderConfig, Callable[[str], str]], RayReaders]:
    """The engine of a cluster: ``address`` of one (ray://head:10001, host:6379), or of none for one that is started
    on this machine for the run. workers: actors, by default one for each core of the cluster. device: what embeds; a
    GPU is shared by the actors on its machine, and machines without one are left out.

    Raises UsageError where Ray is missing, InputError where no cluster answers or it has no GPU.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers of each cluster that it starts
    try:
        import ray
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'cxrsearch[ray]'") from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        if address is not None:
            _reach(address)
            # Of a port where something else listens: one try of 40 s. Ray makes twenty.
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
        with warnings.catch_warnings(action="ignore"):
            ray.init("local" if address is None else address, **options)
    except (OSError, OverflowError, RuntimeError, ValueError, AssertionError) as error:
        why = (getattr(error, "strerror", None) or str(error)).strip().split("\n")[0][:200]
        raise InputError(f"--address {address or 'of none'}: no Ray cluster that can be used ({why})") from None
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    share = 0.0
    if device is not Device.CPU:
        machines = [machine for machine in machines if machine.get("GPU")]
        if not machines:
            ray.shutdown()
            raise InputError(f"--device {device}: no machine of the Ray cluster has a GPU; leave it out")
        share = min(1.0, *(machine["GPU"] / max(1.0, machine.get("CPU", 1.0)) for machine in machines))
    workers = workers or max(1, int(sum(machine.get("CPU", 0.0) for machine in machines)))
    return lambda config, file: RayReaders(workers, share, device, config, file)


def _reach(address: str) -> None:
    """Raises OSError where nothing takes a connection, ValueError or OverflowError for what is no host or port: Ray
    would try for ten minutes, and write of each try. Addresses of other forms (auto) are left to it."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:([0-9]{1,5})", address)
    if found is not None:
        socket.create_connection((found[1], int(found[2])), _SECONDS_TO_REACH).close()


class RayReaders(Readers):
    """As :class:`Readers`, by the cluster that is connected. Reading raises InputError where that is gone, or its
    machines have other software or another model."""

    def __init__(
        self, workers: int, share: float, device: Device, config: ReaderConfig, file: Callable[[str], str]
    ) -> None:
        import ray

        assert isinstance(config.model, Path)
        model = config.model.resolve()
        super().__init__(workers, replace(config, model=model), file)
        make = ray.remote(num_cpus=0, resources=_ON_THE_HEAD)(Execution)
        self._execution = make.remote(workers, share, self.config, __version__, read_card(model).fingerprint, device)

    def read(self, tasks: Iterator[Task]) -> Iterator[tuple[Task, Outcome]]:
        while some := list(islice(tasks, _AT_ONCE)):
            yield from zip(some, self.each(some), strict=True)

    def digests(self, files: list[Wanted]) -> Iterator[Digest | ImageError]:
        return self._answers("digests", files)

    def outcomes(self, files: list[Wanted]) -> Iterator[Outcome]:
        return self._answers("outcomes", files)

    def stop(self) -> None:
        import ray

        ray.kill(self._execution)  # which ends the actors of Ray Data
        super().stop()
        ray.shutdown()

    def _answers(self, question: str, files: list[Wanted]) -> Iterator[Any]:
        import ray

        asked = [json.dumps([str(file.path.absolute()), file.label, file.header_only]).encode() for file in files]
        try:
            ray.get(self._execution.start.remote(question, asked))
            while batch := ray.get(self._execution.next.remote()):
                for answer in map(pickle.loads, batch):
                    if isinstance(answer, CxrSearchError) and not isinstance(answer, ImageError):
                        raise answer
                    yield answer
        except ray.exceptions.RayTaskError as error:  # of Ray Data; what it died of is a class of it too
            if isinstance(error, ray.exceptions.GetTimeoutError):
                minutes = _SECONDS_TO_START // 60
                what = f"did not start in {minutes} minutes; ask for fewer with --workers"
            elif isinstance(error, ray.exceptions.RayActorError):
                what = "could not start a reader; install the same cxrsearch and Python on all"
            else:
                raise
            raise InputError(f"{_A_MACHINE} {what}") from None
        except (ray.exceptions.RayActorError, ConnectionError):
            raise InputError(
                "--engine ray: the cluster is gone. What was stored is kept; run this again to go on from there."
            ) from None


def _problem(config: ReaderConfig, version: str, fingerprint: str) -> InputError | None:
    """Why this machine cannot do the work of one that has this version and model."""
    assert isinstance(config.model, Path)
    if version != __version__:
        what = f"has cxrsearch {__version__}, not {version}: install the same on all"
    else:
        try:
            found = read_card(config.model).fingerprint
        except CxrSearchError:
            found = None
        if found == fingerprint:
            return None
        what = f"has not this model in {config.model}: put it on all at one path"
    return InputError(f"{_A_MACHINE} {what}")
