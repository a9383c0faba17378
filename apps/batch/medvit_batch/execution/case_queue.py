"""Whose turn it is among the cases that wait, which come next, and which are run with nothing beside them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from medvit_batch.journal import CaseRow

__all__ = ["Turns", "was_interrupted"]

_LOOK = 64
"""How far ahead to look for a case that nobody has read yet."""


class Turns:
    """Cases in the order they were found; a case whose worker has read it already comes when that worker is free.

    Args:
        waiting: numbers of the cases.
    """

    def __init__(self, waiting: Iterable[int]) -> None:
        self._queue = deque(waiting)
        self.alone: set[int] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def pick(self, ahead: Mapping[int, bool]) -> int:
        """Take the case whose turn it is.

        Args:
            ahead: as ``Dispatcher.ahead`` gives it.
        """
        near = list(islice(self._queue, _LOOK))
        ready = (case for case in near if ahead.get(case, False))
        unread = (case for case in near if case not in ahead)
        case = next(ready, None) or next(unread, near[0])
        self._queue.remove(case)
        return case

    def coming(self, ahead: Mapping[int, bool]) -> Iterator[int]:
        """Cases that a worker may read before their turn."""
        return (case for case in list(islice(self._queue, _LOOK)) if case not in ahead and case not in self.alone)

    def again(self, case: int) -> None:
        """Put a case back, behind the others."""
        self._queue.append(case)

    def suspect(self, case: int, concurrent_cases: frozenset[int]) -> bool:
        """Whether a case may have ended because of another in the same worker; it and the others are then run alone."""
        if not concurrent_cases or case in self.alone:
            return False
        self.alone |= {case, *concurrent_cases}
        return True


def was_interrupted(row: CaseRow) -> bool:
    """Whether a case of the journal was at work when a worker or a run ended; it is run alone, so that it is seen whose fault it is."""
    return bool(row["tries"] or row["interrupted"])
