"""Commands of installed apps, found through the entry-point group ``medvit.commands``. A failing app disables only its
own command.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

import typer

__all__ = ["add_apps"]

_ANYTHING = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}
"""Click settings of a command that replaces a failed app: it accepts all options, so that its error message is always
shown.
"""


def add_apps(app: typer.Typer, found: Iterable[EntryPoint] | None = None) -> None:
    """Add each app's commands; if an app cannot be loaded, add a command that reports the error.

    Args:
        app: the ``medvit`` command.
        found: entry points; by default the installed ones.
    """
    for entry in entry_points(group="medvit.commands") if found is None else found:
        try:
            commands = entry.load()
            if not isinstance(commands, typer.Typer):
                raise TypeError(f"{entry.value} is a {type(commands).__name__} and no typer.Typer")
        except Exception as error:  # importing an app can raise any error
            _add_broken(app, entry, error)
        else:
            app.add_typer(commands, name=entry.name)


def _add_broken(app: typer.Typer, entry: EntryPoint, error: Exception) -> None:
    first = (str(error).strip().splitlines() or [""])[0]
    package = entry.dist.name if entry.dist is not None else entry.module.partition(".")[0]
    message = (
        f"Error: Found that medvit {entry.name} cannot be loaded ({type(error).__name__}: {first}); the app's package is needed "
        f"whole. Run pip install --force-reinstall {package}; the other commands work."
    )

    def broken(context: typer.Context) -> None:
        if "--debug" in context.args:
            raise error
        typer.echo(message, err=True)
        raise typer.Exit(1)

    words = f"Cannot be loaded ({type(error).__name__}); run it to see why."
    app.command(name=entry.name, help=words, context_settings=_ANYTHING)(broken)
