"""Reading and embedding on the machines of a Ray cluster, as an engine of the pipeline.

    this process: tasks, keys, the one writer  -- paths -->  an actor for each core: a reader process of its own

An actor is given paths and no more, as a reader process of this machine is, and reads in such a process itself: a file
that kills its decoder is found out there. Ray starts an actor that was killed again, and asks it again what it had not
answered; what was stored was stored here. Actors of Ray, not Ray Data: that cannot be driven from another machine
(ray://), and the bounded window in the dataset's order is that of readers.py.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cxrsearch import __version__
from cxrsearch.errors import CxrSearchError, ImageError, InputError, UsageError
from cxrsearch.model_card import read_card
from indexer.readers import Digest, Outcome, ReaderConfig, Readers, Wanted

# A cluster that has to start machines takes minutes.
_SECONDS_TO_START = 600


class RemoteReader:
    """In an actor."""

    def __init__(self, config: ReaderConfig) -> None:
        self._config, self._readers = config, Readers(1, config)

    def problem(self, version: str, fingerprint: str) -> str | None:
        """Why this machine cannot do the work of one that has this version and model."""
        if version != __version__:
            return f"has cxrsearch {__version__}, not {version}: install the same on all"
        assert isinstance(self._config.model, Path)
        try:
            found = read_card(self._config.model).fingerprint
        except CxrSearchError:
            found = None
        if found != fingerprint:
            return f"has not this model in {self._config.model}: put it on all at one path"
        return None

    def process(self) -> int:
        return os.getpid()

    def digests(self, files: list[Wanted]) -> list[Digest | ImageError]:
        return self._readers.digests(files)

    def outcomes(self, files: list[Wanted]) -> list[Outcome]:
        return self._readers.outcomes(files)


def connect(address: str | None, workers: int | None) -> Callable[[ReaderConfig, Callable[[str], str]], RayReaders]:
    """The engine of a cluster: ``address`` of one (ray://head:10001, host:6379), or of none for one that is started
    on this machine for the run. workers: actors, by default one for each core of the cluster.

    Raises UsageError where Ray is missing, InputError where no cluster answers.
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
        ray.init(address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        why = str(error).strip().split("\n")[0][:200]
        raise InputError(f"--address {address or 'of none'}: no Ray cluster that can be used ({why})") from None
    cores = int(ray.cluster_resources().get("CPU", 1))
    return lambda config, file: RayReaders(workers or cores, config, file)


class RayReaders(Readers):
    """As :class:`Readers`, by actors of the cluster that is connected. Each thread has one of them do its work.

    Raises InputError where the machines of the cluster have other software or another model.
    """

    def __init__(self, workers: int, config: ReaderConfig, file: Callable[[str], str]) -> None:
        import ray

        assert isinstance(config.model, Path)
        model = config.model.resolve()
        config = replace(config, model=model)
        super().__init__(workers, config, file)
        make = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(RemoteReader)
        self._actors = [make.remote(config) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        fingerprint = read_card(model).fingerprint
        try:
            asked = [actor.problem.remote(__version__, fingerprint) for actor in self._actors]
            problems = set(ray.get(asked, timeout=_SECONDS_TO_START)) - {None}
        except ray.exceptions.GetTimeoutError:
            problems = {f"did not start in {_SECONDS_TO_START // 60} minutes; ask for fewer with --workers"}
        except ray.exceptions.RayError:
            problems = {"could not start a reader; install the same cxrsearch and Python on all"}
        if problems:
            self.stop()
            raise InputError(f"--engine ray: a machine of the cluster {min(problems)}")
        for actor in self._actors:
            self._idle.put(actor)

    def processes(self) -> list[int]:
        """The numbers of the actors' processes, each on its own machine."""
        import ray

        return list(ray.get([actor.process.remote() for actor in self._actors]))

    def digests(self, files: list[Wanted]) -> list[Digest | ImageError]:
        return list(self._asked("digests", files))

    def outcomes(self, files: list[Wanted]) -> list[Outcome]:
        return list(self._asked("outcomes", files))

    def stop(self) -> None:
        import ray

        for actor in self._actors:  # which ends the threads that wait for one
            ray.kill(actor)
        super().stop()
        ray.shutdown()

    def _asked(self, what: str, files: list[Wanted]) -> Any:
        import ray

        actor = self._idle.get()
        try:
            return ray.get(getattr(actor, what).remote([replace(one, path=one.path.absolute()) for one in files]))
        except (ray.exceptions.RayActorError, ConnectionError):
            raise InputError(
                "--engine ray: the cluster is gone. What was stored is kept; run this again to go on from there."
            ) from None
        finally:
            self._idle.put(actor)
