"""Batches that tests run in their own process fork all workers from one server."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _workers(one_fork_server: None) -> None:
    """Leave the choice between forked and spawned workers to ``test_fork_server.py``, which has processes of its own."""
