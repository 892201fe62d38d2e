"""Whole processes, measured from outside: wall time and the most memory they held."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """seconds of wall time; mebibytes: the peak of resident memory, children of the process not counted."""

    seconds: float
    mebibytes: float


def cost(command: Sequence[str], runs: int) -> Cost:
    """The median time and the largest memory of ``runs`` runs after one that warms the disk cache."""
    seconds, memory = [], []
    for _ in range(runs + 1):
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds.append(time.perf_counter() - started)
        memory.append(usage.ru_maxrss / 1024)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return Cost(sorted(seconds[1:])[runs // 2], max(memory[1:]))
