"""Command ``medvit``; apps add their commands through the entry-point group ``medvit.commands``."""

from __future__ import annotations

from typing import Annotated

import typer

from medvit.cli import bundles
from medvit.cli.benchmark import benchmark
from medvit.cli.convert import convert
from medvit.cli.doctor import doctor
from medvit.cli.drr import drr
from medvit.cli.evaluate import evaluate
from medvit.cli.inspect import inspect
from medvit.cli.plugins import add_apps
from medvit.cli.reconstruct import reconstruct
from medvit.cli.restore import restore
from medvit.cli.segment import segment
from medvit.cli.train import train
from medvit.settings import wait_passively

__all__ = ["app"]

app = typer.Typer(
    help="Segment, restore and reconstruct medical images. For research use, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from medvit._version import __version__

        typer.echo(f"medvit {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Segment, restore and reconstruct medical images. For research use, not for diagnosis."""
    wait_passively()


app.command()(segment)
app.command()(restore)
app.command()(reconstruct)
app.command()(inspect)
app.command()(convert)
app.command()(train)
app.command()(evaluate)
app.command()(drr)
app.add_typer(bundles.app, name="bundles")
app.command()(doctor)
app.command()(benchmark)

add_apps(app)
