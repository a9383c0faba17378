"""Curves of a training run: CSV always, TensorBoard if it is installed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from medvit.atomic_write import replace_file

__all__ = ["Log"]


class Log:
    """Writer of rows of numbers to ``<name>.csv`` in a folder, to TensorBoard and to the screen.

    Args:
        folder: folder of the files.
        first: True for the first process, the only one that writes.
    """

    def __init__(self, folder: Path, first: bool = True) -> None:
        self.folder, self.first = folder, first
        self._board: Any = None

    def write(self, name: str, step: int, row: dict[str, float], beside: str = "") -> None:
        """Add a row with the columns of the first row; ``beside`` is only printed."""
        if not self.first:
            return
        path = self.folder / f"{name}.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, ["step", *row])
            if new:
                writer.writeheader()
            writer.writerow({"step": step, **row})
        board = self._open_board()
        for key, value in row.items():
            if board:
                board.add_scalar(f"{name}/{key}", value, step)
        self.say(f"step {step}  " + "  ".join(f"{key} {value:g}" for key, value in row.items()) + beside)

    def say(self, text: str) -> None:
        """Print a line, from the first process only."""
        if self.first:
            print(text, flush=True)

    def cut(self, step: int) -> None:
        """Remove rows after a step, which a resumed run computes again."""
        if not self.first:
            return
        for path in (self.folder / "curve.csv", self.folder / "scores.csv"):
            if path.exists():
                head, *rows = path.read_text().splitlines(keepends=True)
                kept = [row for row in rows if row.split(",")[0].isdigit() and int(row.split(",")[0]) <= step]
                with replace_file(path) as aside:
                    aside.write_text("".join([head, *kept]))

    def close(self) -> None:
        """Close TensorBoard's writer."""
        if self._board:
            self._board.close()

    def _open_board(self) -> Any:
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._board = False
                self.say("TensorBoard is not installed, so curves go to CSV alone: pip install 'medvit[train]'.")
            else:
                self._board = SummaryWriter(self.folder / "tensorboard")
        return self._board
