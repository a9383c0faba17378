"""Number of processor threads of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medvit.settings import thread_count

__all__ = ["computing_threads"]


@contextmanager
def computing_threads(threads: int | None = None) -> Iterator[None]:
    """Set PyTorch's number of threads until the block ends; OpenVINO and numba take the same number from PyTorch.

    Args:
        threads: at least 1; None takes ``MEDVIT_THREADS``, and leaves PyTorch's number if that is not set.

    Yields:
        None.

    Raises:
        BackendError: the number is below 1.

    Examples:
        >>> import torch
        >>> from medvit.inference import computing_threads
        >>> with computing_threads(1):
        ...     torch.get_num_threads()
        1
    """
    count = thread_count(threads)
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
