"""``medvit label users``: accounts of an annotation server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import Debug, Json, Terminal, handle_errors

__all__ = ["app"]

app = typer.Typer(help="Add, list and remove accounts of annotators.", no_args_is_help=True)

Users = Annotated[
    Path, typer.Option("--users", "-u", help="File of accounts; the first add creates it.", show_default=False)
]
Name = Annotated[str, typer.Argument(help="Name for the login.", show_default=False)]


def _password() -> str:
    """Ask twice at a terminal, else read one line of standard input; a command line option would show the password to
    others.
    """
    from medvit_label.errors import AccountError

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    import getpass

    first = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != first:
        raise AccountError("two different passwords", "the same one is needed twice", "Run the command again.")
    return first


@app.command()
def add(
    name: Name,
    users: Users,
    role: Annotated[str, typer.Option("--role", "-r", help="annotator, reviewer or admin.")] = "annotator",
    debug: Debug = False,
) -> None:
    """Add an account. The password is asked for, or read as one line of standard input."""
    shown = Terminal(debug=debug)
    with handle_errors(shown):
        from medvit_label.accounts import add_account

        add_account(users, name, role, _password())
        shown.say(f"Added {name} as {role}. Serve with: medvit label start --users {users}")


@app.command("list")
def list_accounts(users: Users, as_json: Json = False, debug: Debug = False) -> None:
    """List the names and roles of all accounts."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit_label.accounts import read_accounts

        rows = [{"name": account.name, "role": account.role} for account in read_accounts(users).values()]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
        for row in rows:
            shown.say(f"{row['name']}  {row['role']}")


@app.command()
def remove(name: Name, users: Users, debug: Debug = False) -> None:
    """Remove an account and end its logins. Its labels and corrections stay."""
    shown = Terminal(debug=debug)
    with handle_errors(shown):
        from medvit_label.accounts import remove_account

        remove_account(users, name)
        shown.say(f"Removed {name}.")
