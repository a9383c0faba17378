"""Process of a training run.

The process reads its arguments from standard input and ends when that closes, because the server stopped it or has
ended.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["OUTCOME", "STAGE", "main"]

OUTCOME, STAGE = "outcome.json", "stage.txt"
"""Names of the files in a run's folder that hold its outcome and its current stage."""


def main() -> int:
    """Fine-tune with the arguments on standard input; return 0 if training finished, 1 if it was refused."""
    arguments: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_server, daemon=True).start()
    folder = Path(arguments["folder"])
    from medvit.cli import command_line_words
    from medvit.errors import MedvitError
    from medvit.settings import wait_passively

    wait_passively()
    try:
        outcome = _fine_tune(arguments, folder)
    except MedvitError as error:
        _write(
            folder / OUTCOME, json.dumps({"error": error.sentence(command_line_words), "kind": type(error).__name__})
        )
        return 1
    _write(folder / OUTCOME, json.dumps(outcome))
    return 0


def _end_with_the_server() -> None:
    while sys.stdin.read(4096):
        pass
    # checkpoints are written aside and renamed, so the process may end at any time
    os._exit(3)


def _fine_tune(arguments: dict[str, Any], folder: Path) -> dict[str, Any]:
    import torch

    from medvit.bundles import Bundle
    from medvit.settings import thread_count
    from medvit.training import FineTuning, fine_tune
    from medvit.training.data import DataList

    if hasattr(os, "nice"):
        os.nice(10)  # an annotator's inference has priority
    torch.set_num_threads(thread_count() or max(1, (os.cpu_count() or 2) // 2))
    data = folder / "data"
    wanted = FineTuning(
        base=Bundle(Path(arguments["base"])), data=DataList(data / "datalist.json", data), folder=folder, version=arguments["version"], steps=arguments["steps"],
        learning_rate=arguments["learning_rate"], device=arguments["device"],
    )  # fmt: skip
    return fine_tune(wanted, lambda stage: _write(folder / STAGE, stage))


def _write(path: Path, text: str) -> None:
    from medvit.atomic_write import replace_file

    with replace_file(path) as aside:
        aside.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
