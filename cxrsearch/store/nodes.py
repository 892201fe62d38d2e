"""The nodes of one cluster, asked as one server: the one that answered last, and the next where it does not.

A server alone is a cluster of one node. Of several, one is asked for the first time, or again after it failed, only
when it says that it has caught up with the others (/readyz): a node that was restarted believes for a moment that it
is up to date, and would leave out what was written meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

from cxrsearch.errors import IndexUnavailable
from cxrsearch.store.refusals import NoAnswer, Refusal, unanswered_by_all

# Requests without an answer are made again after these pauses, in seconds.
PAUSES = (0.5, 1.0, 2.0, 4.0)
# How often requests are made whose answer takes too long: each time costs the whole time-out.
_TRIES_TOO_LATE = 2
# For how many seconds a node that took a connection and gave no answer in time is not asked again, where every node is
# asked what it knows: each time costs the whole time-out.
_SILENT_SECONDS = 15.0

T = TypeVar("T")


class Nodes:
    """Which of ``urls`` is asked.

    accept: of a node that was not asked before; raises NoAnswer where it cannot be asked now, and IndexUnavailable
    where it must not be.
    """

    def __init__(self, place: str, urls: tuple[str, ...]) -> None:
        self.urls, self._place = urls, place
        self.accept: Callable[[int], None] = lambda node: None
        self._next = 0
        self._accepted: int | None = None
        self._silent_at: dict[int, float] = {}

    @property
    def is_cluster(self) -> bool:
        return len(self.urls) > 1

    @property
    def were_away(self) -> bool:
        """Whether the first one could not be asked."""
        return self._next > 0

    def is_silent(self, node: int) -> bool:
        """Whether it gave no answer in time a moment ago."""
        return time.monotonic() - self._silent_at.get(node, -math.inf) < _SILENT_SECONDS

    def no_answer(self, node: int, error: NoAnswer) -> None:
        if error.too_late:
            self._silent_at[node] = time.monotonic()

    def ask(self, request: Callable[[int, bool], T]) -> T:
        """The answer to ``request(node, hurried)``; hurried: the next node is tried if it takes more than a moment.

        A request may be made several times, and of several nodes, so it has to be one that does no harm twice. A server
        alone is never asked again for what it answered; of a cluster, a failure of one node is no answer of all.
        Raises IndexUnavailable.
        """
        too_late = 0
        for tries, pause in enumerate((*PAUSES, None), start=1):
            failures: list[NoAnswer | Refusal] = []
            for _ in self.urls:
                node = self._next
                try:
                    if self._accepted != node and self.is_cluster:
                        self.accept(node)
                    self._accepted = node
                    answer = request(node, self.is_cluster and tries == 1)
                    self._silent_at.pop(node, None)
                    return answer
                except NoAnswer as error:  # of a long request in a hurry: the node may be well
                    failures.append(error)
                except Refusal as error:
                    if not (self.is_cluster and error.is_of_one_node):
                        raise
                    failures.append(error)
                self._accepted, self._next = None, (node + 1) % len(self.urls)
            refused = [one for one in failures if isinstance(one, Refusal)]
            missing = [one for one in refused if one.status == 404]
            if len(missing) == len(self.urls):
                raise missing[0]
            too_late += any(isinstance(one, NoAnswer) and one.too_late for one in failures)
            if pause is None or too_late == _TRIES_TOO_LATE:
                if len(missing) > len(self.urls) // 2:
                    raise missing[0]
                if missing:
                    raise IndexUnavailable(
                        f"{self._place}: of {len(self.urls)} nodes only {len(refused)} answered, and has no such index."
                        " Start the others, or correct --index."
                    )
                if refused:
                    raise refused[-1]
                raise unanswered_by_all(self._place, len(self.urls), bool(too_late), tries)
            time.sleep(pause)
        raise AssertionError("unreachable: the last pause is None")


def each(nodes: Nodes, request: Callable[[int], T]) -> dict[str, T | IndexUnavailable | None]:
    """What every node answers, asked once: by its address; None where it does not answer, now or a moment ago."""
    found: dict[str, T | IndexUnavailable | None] = {}
    for node, url in enumerate(nodes.urls):
        found[url] = None
        if nodes.is_cluster and nodes.is_silent(node):
            continue
        try:
            found[url] = request(node)
        except NoAnswer as error:
            nodes.no_answer(node, error)
        except IndexUnavailable as error:
            found[url] = error
    return found
