"""Reading of headers in several processes, in the order of the walk and with a limited number of chunks in memory."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from itertools import chain
from multiprocessing import get_context

from medvit_batch.catalogue.file_headers import Record, Want, read_all
from medvit_batch.parent_watch import follow_parent

__all__ = ["in_processes"]

_PATIENCE = 3.0
"""Seconds of reading in this process before others are started. Most walks find few new files, and a fast disk delivers
those before a process has started.
"""

_AHEAD = 4
"""Number of chunks that wait for each process."""

Chunk = list[tuple[int, list[Record]]]


def in_processes(stack: ExitStack, chunks: Iterator[list[Want]], readers: int) -> Iterator[Chunk]:
    """Apply ``read_all`` to each chunk and yield the results in order.

    Args:
        stack: stops the processes when it closes.
        chunks: files to read.
        readers: number of processes.
    """
    start, first = time.monotonic(), None
    for chunk in chunks:
        if time.monotonic() - start > _PATIENCE:
            first = chunk
            break
        yield read_all(chunk)
    if first is None:
        return
    pool = ProcessPoolExecutor(readers, mp_context=get_context("spawn"), initializer=follow_parent)
    stack.callback(pool.shutdown, wait=True, cancel_futures=True)
    waiting: deque[Future[Chunk]] = deque()
    for chunk in chain([first], chunks):
        waiting.append(pool.submit(read_all, chunk))
        if len(waiting) >= _AHEAD * readers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
