"""Whole processes, measured from outside: wall time and the most memory they held."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

# A process counts the memory of the one that started it until it runs its own program: so a small one starts it.
_LAUNCHER = """
import os, sys, time
started = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
print(time.perf_counter() - started, usage.ru_maxrss, file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Cost:
    """seconds of wall time; mebibytes: the peak of resident memory, children of the process not counted."""

    seconds: float
    mebibytes: float


def cost(command: Sequence[str], runs: int) -> Cost:
    """The median time and the largest memory of ``runs`` runs after one that warms the disk cache."""
    seconds, memory = [], []
    for _ in range(runs + 1):
        launched = [sys.executable, "-S", "-c", _LAUNCHER, *command]
        told = subprocess.run(launched, capture_output=True, text=True, check=True).stderr.splitlines()[-1].split()
        seconds.append(float(told[0]))
        memory.append(float(told[1]) / 1024)
    return Cost(sorted(seconds[1:])[runs // 2], max(memory[1:]))
