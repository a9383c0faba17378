"""Queue of the waiting cases: which case is next, which may be read ahead, and which run alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from medvit_batch.journal import CaseRow

__all__ = ["Turns", "was_interrupted"]

_LOOK = 64
"""Number of waiting cases that are searched for one that no worker has read yet."""


class Turns:
    """Waiting cases in the order they were found; a case that a worker has read ahead is preferred when that worker is
    free.

    Args:
        waiting: numbers of the cases.
    """

    def __init__(self, waiting: Iterable[int]) -> None:
        self._queue = deque(waiting)
        self.alone: set[int] = set()

    def __len__(self) -> int:
        return len(self._queue)

    def pick(self, ahead: Mapping[int, bool]) -> int:
        """Remove the next case from the queue and return it.

        Args:
            ahead: cases read ahead and whether their workers are free; see ``Dispatcher.ahead``.
        """
        near = list(islice(self._queue, _LOOK))
        ready = (case for case in near if ahead.get(case, False))
        unread = (case for case in near if case not in ahead)
        case = next(ready, None) or next(unread, near[0])
        self._queue.remove(case)
        return case

    def coming(self, ahead: Mapping[int, bool]) -> Iterator[int]:
        """Yield the cases that a worker may read ahead of their turn."""
        return (case for case in list(islice(self._queue, _LOOK)) if case not in ahead and case not in self.alone)

    def again(self, case: int) -> None:
        """Append a case to the queue again."""
        self._queue.append(case)

    def suspect(self, case: int, concurrent_cases: frozenset[int]) -> bool:
        """Return True if another case of the same worker may have ended this one; mark it and the others to run alone."""
        if not concurrent_cases or case in self.alone:
            return False
        self.alone |= {case, *concurrent_cases}
        return True


def was_interrupted(row: CaseRow) -> bool:
    """Return True if the case was running when a worker or a run ended; it is then run alone, so that the responsible case is known."""
    return bool(row["tries"] or row["interrupted"])
