"""Folder and environment for the runs of the pins, without any file or setting of the developer."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SPARED = ("MEDVIT_SHARED",)
"""Variables of medvit that are kept."""


@contextmanager
def scratch(**more: str) -> Iterator[Path]:
    """Yield a folder with medvit's store and cache, and remove it in the end; ``more`` holds further variables."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        for name in before:
            if name.startswith("MEDVIT_") and name not in SPARED:
                del os.environ[name]
        os.environ.update({"MEDVIT_HOME": f"{folder}/home", "MEDVIT_CACHE": f"{folder}/cache"}, **more)
        try:
            yield Path(folder)
        finally:
            os.environ.clear()
            os.environ.update(before)


def invoke(*arguments: object) -> Any:
    """Run ``medvit`` in this process; return its outcome with exit code, output and exception."""
    from typer.testing import CliRunner

    from medvit.cli.main import app

    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="medvit")


def free_port() -> int:
    """Return an unused port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
