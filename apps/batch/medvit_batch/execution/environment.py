"""Temporary changes of environment variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["restored_environment"]


@contextmanager
def restored_environment() -> Iterator[None]:
    """Restore the environment variables when a block ends, including those that the block set or removed."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
