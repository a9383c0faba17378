"""Parts shared by all commands: error messages, pinned exit codes, common options, progress bar."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from medvit.cli.option_words import command_line_words

if TYPE_CHECKING:
    from medvit.errors import MedvitError
    from medvit.progress import Progress

__all__ = [
    "FLAGGED",
    "WRONG_USE",
    "Debug",
    "Geometry",
    "Json",
    "MemoryLimit",
    "OnIrregular",
    "Output",
    "Overwrite",
    "Quiet",
    "RepairTags",
    "Terminal",
    "Threads",
    "Verbose",
    "WrongUseError",
    "handle_errors",
    "named_files",
    "progress_bar",
    "rating_words",
    "split_values",
]

FAILED, WRONG_USE, FLAGGED = 1, 2, 3

_CANCELLED = "Cancelled"
"""The kind of an ending that is no error."""

_RUNNING: list[Progress] = []
"""Progress objects that a signal cancels, since some libraries swallow the interrupt itself (for example while they
import).
"""

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Folder for the results; created if it does not exist.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result.")]
RepairTags = Annotated[
    bool,
    typer.Option(
        "--repair-tags", help="Make consistent UIDs for slices whose UIDs are missing or contradict each other."
    ),
]


def _set_limit(context: typer.Context, value: str | None) -> str | None:
    """Set the memory limit while the command runs."""
    if value is not None and not context.resilient_parsing:
        from medvit.errors import SourceError
        from medvit.io import limit_memory

        try:
            context.with_resource(limit_memory(value))
        except SourceError as error:
            raise typer.BadParameter(error.sentence(command_line_words)) from error
    return value


MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        callback=_set_limit,
        help="Largest memory for one image, such as 4GB; larger images are refused by their header. Default: $MEDVIT_MEMORY_LIMIT, else a "
        "quarter of this machine's memory.",
        show_default=False,
    ),
]


def _set_threads(context: typer.Context, value: int | None) -> int | None:
    """Set the number of threads while the command runs."""
    if value is not None and not context.resilient_parsing:
        from medvit.errors import BackendError
        from medvit.settings import limit_threads

        try:
            context.with_resource(limit_threads(value))
        except BackendError as error:
            raise typer.BadParameter(error.sentence(command_line_words)) from error
    return value


Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        callback=_set_threads,
        help="Number of processor threads of a run; recorded in run.json. Default: $MEDVIT_THREADS, else one for each core.",
        show_default=False,
    ),
]
OnIrregular = Annotated[
    str,
    typer.Option(
        "--on-irregular",
        help="What to do with a tilted or uneven DICOM stack: fail, resample or split. See medvit inspect.",
    ),
]

Geometry = Annotated[
    str | None,
    typer.Option(
        "--geometry",
        help="Place a NIfTI by its sform or qform. Default: the sform if it is stated; flagged if the qform shows another side.",
        show_default=False,
    ),
]

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print the time of each stage.")]
Json = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Terminal:
    """Output settings of a command."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False
    debug: bool = False

    def say_seconds(self, progress: Progress) -> None:
        """Print the seconds of each stage, if ``--verbose`` is given."""
        if self.verbose:
            for stage, seconds in progress.seconds.items():
                self.say(f"{stage:>12}  {seconds:7.2f} s")

    def say(self, text: str) -> None:
        """Print a line for people, except with ``--quiet`` or ``--json``."""
        if not (self.quiet or self.json):
            typer.echo(text)

    def complain(self, text: str, kind: str) -> None:
        """Print an error on standard error, even with ``--quiet``; ``kind`` names its type for programs."""
        typer.echo(text if kind == _CANCELLED else f"Error: {text}", err=True)


def split_values(values: list[str] | None) -> tuple[str, ...]:
    """Return the values of a repeatable option, each of which may hold several values separated by commas."""
    return tuple(part.strip() for value in values or [] for part in value.split(",") if part.strip())


def named_files(files: tuple[str, ...]) -> list[str]:
    """Shorten a list of files for people: one entry for each folder."""
    flat = [name for name in files if "/" not in name]
    folders = Counter(name.partition("/")[0] for name in files if "/" in name)
    return [*flat, *(f"{folder}/ with {count} files" for folder, count in sorted(folders.items()))]


_REASONS = 3
"""Upper limit of a rating's reasons in a line for people."""


def rating_words(quality: dict[str, Any]) -> str:
    """Describe a rating and its first reasons in one line; the reasons of "poor" are printed as a separate warning."""
    if quality["rating"] == "poor":
        return "rating poor"
    reasons = quality["reasons"][:_REASONS]
    more = len(quality["reasons"]) - len(reasons)
    said = "; ".join([*reasons, *([f"{more} more in statistics.json"] if more > 0 else [])])
    return f"rating {quality['rating']}{f' ({said})' if said else ''}"


def _fail(text: str, shown: Terminal, kind: str, code: int = FAILED) -> NoReturn:
    """Print an error on standard error, with ``--json`` also as JSON on standard output; exit with a code."""
    if shown.json:
        typer.echo(json.dumps({"error": {"kind": kind, "message": text}}, indent=2))
    shown.complain(text, kind)
    raise typer.Exit(code)


class WrongUseError(Exception):
    """An error in what a command was given, for which it exits as for wrong use.

    Attributes:
        error: the error.
    """

    def __init__(self, error: MedvitError) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def handle_errors(shown: Terminal) -> Iterator[None]:
    """Print errors as one clear line and exit with code 1; treat a termination signal like Ctrl-C."""
    from medvit.errors import MedvitError
    from medvit.progress import Cancelled

    asked: list[int] = []

    def interrupt(number: int, _: Any) -> NoReturn:
        asked.append(number)
        for progress in _RUNNING:
            progress.cancel()
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except (Cancelled, KeyboardInterrupt):
        _fail("Cancelled: nothing was written.", shown, _CANCELLED)
    except MedvitError as error:
        if shown.debug:
            raise
        _fail(error.sentence(command_line_words), shown, type(error).__name__)
    except WrongUseError as wrong:
        if shown.debug:
            raise
        _fail(wrong.error.sentence(command_line_words), shown, type(wrong.error).__name__, WRONG_USE)
    except MemoryError:
        if shown.debug:
            raise
        text = "Found too little memory for this image; close other programs or use a machine with more."
        _fail(text, shown, "MemoryError")
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if asked:  # a library may wrap the interrupt in its own error, as MONAI does while it is imported
            _fail("Cancelled: nothing was written.", shown, _CANCELLED)
        if shown.debug:
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        text = f"Found something unforeseen ({type(error).__name__}: {first}). Run again with --debug and report it."
        _fail(text, shown, type(error).__name__)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def progress_bar(shown: Terminal) -> Iterator[Progress]:
    """Yield a ``Progress`` that a signal cancels; on a terminal, draw it as a bar with the time left."""
    with _drawn(shown) as progress:
        _RUNNING.append(progress)
        try:
            yield progress
        finally:
            _RUNNING.remove(progress)


@contextmanager
def _drawn(shown: Terminal) -> Iterator[Progress]:
    from medvit.progress import Progress

    if shown.quiet or shown.json:
        yield Progress()
        return
    if not sys.stderr.isatty():
        yield Progress(announce=lambda text: typer.echo(text, err=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield Progress(show, lambda text: bars.console.print(text, highlight=False))
