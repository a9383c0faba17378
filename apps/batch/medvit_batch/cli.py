"""``medvit batch``: run a bundle over a whole archive and write a result for each suitable series, and a report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from medvit.cli.common import Debug, Json, MemoryLimit, Quiet, Terminal, Threads, handle_errors
from medvit_batch.cli_options import LogFormat, Out, asks
from medvit_batch.events import Format, speaking
from medvit_batch.options import BatchOptions

__all__ = ["app"]

app = typer.Typer(
    help="Run a bundle over whole archives, unattended; nothing that is finished is done twice or lost.",
    no_args_is_help=True,
)

Archive = Annotated[
    Path, typer.Argument(help="Folder with DICOM series, zips and image files at any depth.", show_default=False)
]
Done = Annotated[Path, typer.Argument(help="Folder that a batch wrote its results to.", show_default=False)]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only show what would be done with each series, and why; write nothing.")
]


@app.command()
@asks
def run(
    archive: Archive,
    output: Out,
    asked: BatchOptions,
    dry_run: DryRun = False,
    log_format: LogFormat = Format.TEXT,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a bundle on every suitable series of an archive. Give the same command again to continue."""
    asked = replace(asked, archive=str(archive))
    shown, code = speaking(log_format, quiet, as_json, debug), 0
    with handle_errors(shown):
        from medvit_batch.commands import run_batch, show_plan

        code = show_plan(asked, output, shown) if dry_run else run_batch(asked, output, shown)
    raise typer.Exit(code)


@app.command()
@asks
def watch(
    inbox: Annotated[Path, typer.Argument(help="Folder in which series arrive.", show_default=False)],
    output: Out,
    asked: BatchOptions,
    quiet_for: Annotated[float, typer.Option("--quiet-for", help="Seconds without a new or changed file after which a series is complete.")] = 60,
    every: Annotated[float, typer.Option("--every", help="Seconds between two checks of the folder.")] = 10,
    log_format: LogFormat = Format.TEXT,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Run a bundle on series as they arrive in a folder, until stopped (Ctrl-C or SIGTERM)."""
    asked = replace(asked, archive=str(inbox))
    shown, code = speaking(log_format, quiet, False, debug), 0
    with handle_errors(shown):
        from medvit_batch.watch import Pace, watch_folder

        code = watch_folder(asked, output, shown, Pace(quiet_for, every))
    raise typer.Exit(code)


@app.command()
def retry(
    output: Done,
    reason: Annotated[str | None, typer.Option("--reason", help="Only cases whose reason or kind of error contains this text.", show_default=False)] = None,
    set_aside: Annotated[bool, typer.Option("--set-aside", help="Also cases that a worker set aside.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Number of processes. Default: as in the last run.", show_default=False)] = None,
    time_limit: Annotated[float | None, typer.Option("--time-limit", help="Seconds that a case may take. Default: as in the last run.", show_default=False)] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps. Default: as in the last run.", show_default=False)] = None,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    log_format: LogFormat = Format.TEXT,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Try failed cases again, with the settings of the last run."""
    shown, code = speaking(log_format, quiet, as_json, debug), 0
    other: dict[str, Any] = {k: v for k, v in {"workers": workers, "time_limit": time_limit}.items() if v is not None}
    with handle_errors(shown):
        from medvit_batch.commands import Again, retry_batch

        code = retry_batch(output, Again(reason, set_aside, other, device), shown)
    raise typer.Exit(code)


@app.command()
def status(
    output: Done,
    cases: Annotated[bool, typer.Option("--cases", help="List every case.")] = False,
    paths: Annotated[
        bool, typer.Option("--paths", help="Also print the paths of files; paths may name patients.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the state of a batch, also while it runs."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit_batch.results.status import show_status

        show_status(output, shown, cases or paths, paths)


@app.command()
def report(output: Done, quiet: Quiet = False, debug: Debug = False) -> None:
    """Write cases.csv, measurements.csv and report.html again, also during a run."""
    shown = Terminal(quiet=quiet, debug=debug)
    with handle_errors(shown):
        from medvit_batch.commands import write_reports
        from medvit_batch.journal import Journal

        journal = Journal(output)
        write_reports(journal, output)
        journal.close()
        shown.say(f"Report: {output / 'report.html'}")
