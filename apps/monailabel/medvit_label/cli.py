"""``medvit label``: a server for annotators who use 3D Slicer, OHIF or MONAI Label's own client."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medvit.cli.common import Debug, Geometry, Json, MemoryLimit, Quiet, Terminal, Threads, handle_errors
from medvit_label.users_cli import app as users_app

if TYPE_CHECKING:
    from medvit_label.settings import ServerSettings

__all__ = ["app"]

app = typer.Typer(
    help="Serve images and models to annotators (3D Slicer, OHIF, MONAI Label's client).", no_args_is_help=True
)
app.add_typer(users_app, name="users")

LoginFile = Annotated[
    Path | None,
    typer.Option(
        "--login-file",
        help="File with the login for the DICOMweb service: MEDVIT_DICOMWEB_USER=... and MEDVIT_DICOMWEB_PASSWORD=..., or MEDVIT_DICOMWEB_TOKEN=...; or set these.",
        show_default=False,
    ),
]


def _token(file: Path | None, host: str, users: Path | None, shown: Terminal) -> str:
    from medvit.errors import SourceError
    from medvit_label.settings import is_loopback

    if file is not None:
        try:
            return file.read_text().strip()
        except OSError as error:
            raise SourceError(
                f"no readable token in {file} ({error.strerror})",
                "a file with one line is needed",
                "Check --token-file.",
            ) from error
    given = os.environ.get("MEDVIT_LABEL_TOKEN", "")
    if given or is_loopback(host) or users is not None:
        return given
    made = secrets.token_urlsafe(32)
    shown.say(f"Token (clients send it as 'Authorization: Bearer ...', or as the password of any user): {made}")
    return made


def _reach(settings: ServerSettings, shown: Terminal) -> None:
    """Refuse a login that the archive refuses; print a note if the archive does not answer now, which may be temporary."""
    from medvit_label.settings import is_url

    if is_url(settings.studies):
        from medvit_label.images.dicomweb import require_login

        words = require_login(settings.studies, settings.login)
        if words:
            shown.say(f"Note: {words} It is asked again with every request.")


@app.command()
def start(
    studies: Annotated[str, typer.Option("--studies", "-s", help="Folder with images, or the URL of a DICOMweb service.", show_default=False)],
    bundle: Annotated[list[str] | None, typer.Option("--bundle", "-b", help="Bundle to offer; repeatable. Default: all that are trained.", show_default=False)] = None,
    port: Annotated[int, typer.Option("--port", "-p", help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on. A token is needed for any but a loopback address.")] = "127.0.0.1",
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File with the token that clients must show; or set MEDVIT_LABEL_TOKEN.", show_default=False)] = None,
    login_file: LoginFile = None,
    state: Annotated[Path | None, typer.Option("--state", help="Folder for labels and the journal. Default: medvit-labels in the studies' folder.", show_default=False)] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, gpu, gpu:N or mps.")] = "auto",
    allow_origin: Annotated[list[str] | None, typer.Option("--allow-origin", help="Address of a web viewer (OHIF) whose requests are allowed; repeatable.", show_default=False)] = None,
    upload_limit: Annotated[int, typer.Option("--upload-limit", help="Largest request in MB.", min=1)] = 1024,
    users: Annotated[Path | None, typer.Option("--users", "-u", help="File of accounts (medvit label users add): everyone logs in with a name and password.", show_default=False)] = None,
    login_hours: Annotated[float, typer.Option("--login-hours", help="Hours for which a login is valid.", min=0.0001)] = 12.0,
    keep_corrections: Annotated[int, typer.Option("--keep-corrections", help="Corrected images to keep, counted for each annotator and model.", min=1)] = 1000,
    waiting: Annotated[int, typer.Option("--waiting", help="Number of inferences that may wait; more are refused.", min=1)] = 16,
    memory_limit: MemoryLimit = None,
    threads: Threads = None,
    geometry: Geometry = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Serve images and models until stopped (Ctrl-C), on this machine only unless --host is given."""
    shown = Terminal(quiet=quiet, debug=debug)
    with handle_errors(shown):
        from medvit.io.dicom import read_login
        from medvit_label.dependencies import require_server
        from medvit_label.settings import Limits, ServerSettings, state_folder

        require_server()
        limits = Limits(
            upload_mb=upload_limit, waiting=waiting, corrections=keep_corrections, login_s=login_hours * 3600
        )
        settings = ServerSettings(
            studies=studies, state=state_folder(studies, state), bundles=tuple(bundle or ()), host=host, port=port, token=_token(token_file, host, users, shown), device=device,
            origins=tuple(allow_origin or ()), limits=limits, login=read_login(login_file), users=users, geometry=geometry,
        ).check()  # fmt: skip
        _reach(settings, shown)
        from medvit_label.server import serve

        shown.say(f"Serving on http://{host}:{port} (for research use, not for diagnosis). Stop with Ctrl-C.")
        serve(settings)


@app.command()
def check(
    studies: Annotated[str | None, typer.Option("--studies", "-s", help="Also check this folder or DICOMweb service.", show_default=False)] = None,
    login_file: LoginFile = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Check the server: start it on a free port, infer through MONAI Label's own client, and stop it."""
    shown, code = Terminal(json=as_json, debug=debug), 0
    with handle_errors(shown):
        from medvit.io.dicom import read_login
        from medvit_label.dependencies import require_client, require_server
        from medvit_label.self_test import run_check
        from medvit_label.settings import ServerSettings, state_folder

        require_server()
        require_client()
        login = read_login(login_file)
        if studies is not None:
            # before the self-test, which takes half a minute
            _reach(ServerSettings(studies=studies, state=state_folder(studies, None), login=login).check(), shown)
        found = run_check(studies, login_file)
        code = 0 if found["passed"] else 1
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        for line in found["lines"]:
            shown.say(line)
    raise typer.Exit(code)


Studies = Annotated[
    str,
    typer.Option(
        "--studies", "-s", help="Folder or DICOMweb service that the project was started with.", show_default=False
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Folder of labels and journal. Default: medvit-labels in the studies' folder.",
        show_default=False,
    ),
]
Named = Annotated[str, typer.Argument(help="Name of the bundle.", show_default=False)]


@app.command()
def versions(model: Named, studies: Studies, state: State = None, as_json: Json = False, debug: Debug = False) -> None:
    """List a model's versions in a project, with their scores."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit_label.models.versions import open_versions

        found = open_versions(studies, state).listing(model)
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        for row in found:
            score = f"{row['metric']} {row['before']:.3f} -> {row['after']:.3f}" if row["version"] else "as installed"
            shown.say(f"{row['version']}  {score}{'  (serves)' if row['serving'] else ''}")


@app.command()
def rollback(
    model: Named,
    studies: Studies,
    to: Annotated[
        int | None,
        typer.Option(
            "--to",
            help="Number of the version; 0 is the installed one. Default: the one that this version was trained from.",
        ),
    ] = None,
    state: State = None,
    debug: Debug = False,
) -> None:
    """Return to an earlier version of a model, also while the project is served. Nothing is deleted."""
    shown = Terminal(debug=debug)
    with handle_errors(shown):
        from medvit_label.models.versions import open_versions

        number = open_versions(studies, state).roll_back(model, to)
        shown.say(f"From now on version {number} of {model} answers{'' if number else ', as installed'}.")
