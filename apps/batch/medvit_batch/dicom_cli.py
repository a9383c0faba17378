"""``medvit dicom``: the batch as a node of the hospital's network (DIMSE and DICOMweb)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from medvit.cli.common import Debug, Json, Quiet, handle_errors
from medvit_batch.cli_options import LogFormat, Out, asks
from medvit_batch.events import Format, speaking
from medvit_batch.network.peers import Local, parse_peer, quiet_networking
from medvit_batch.options import BatchOptions

__all__ = ["app"]

app = typer.Typer(help="Receive, fetch and send over the network: DIMSE and DICOMweb.", no_args_is_help=True)

Host = Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is reachable from other machines.")]
Port = Annotated[int, typer.Option("--port", help="Port to listen on.")]
SendTo = Annotated[str | None, typer.Option("--send-to", help="Peer to send results to: AET@host:port, or a DICOMweb address.", show_default=False)]  # fmt: skip

Commit = Annotated[bool, typer.Option("--commit", help="Ask the peer of --send-to for storage commitment; it answers to --host and --port.")]  # fmt: skip


@app.command()
@asks
def listen(
    output: Out,
    asked: BatchOptions,
    local: Local,
    host: Host = "127.0.0.1",
    port: Port = 11112,
    allow: Annotated[list[str] | None, typer.Option("--allow", help="AE title that may call; repeatable. Default: any.")] = None,
    max_associations: Annotated[int, typer.Option("--max-associations", help="Number of associations at a time; further ones are refused.")] = 10,
    send_to: SendTo = None,
    commit: Commit = False,
    quiet_for: Annotated[float, typer.Option("--quiet-for", help="Seconds without a new object after which a series is complete.")] = 30,
    complete_at: Annotated[int, typer.Option("--complete-at", help="Number of slices at which a series is complete at once. 0 waits for --quiet-for.")] = 0,
    every: Annotated[float, typer.Option("--every", help="Seconds between two checks of what arrived.")] = 5,
    log_format: LogFormat = Format.TEXT,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Receive series (C-STORE), run a bundle on them and send results on, until stopped (Ctrl-C or SIGTERM)."""
    shown, code = speaking(log_format, quiet, False, debug), 0
    with handle_errors(shown):
        from medvit_batch.network.store_scp import Node
        from medvit_batch.node import listen as go
        from medvit_batch.node import target_of
        from medvit_batch.watch import Pace

        node = Node(
            local=local,
            host=host,
            port=port,
            callers=tuple(allow or ()),
            most=max_associations,
            min_free_gb=asked.min_free_gb,
        )
        code = go(asked, output, shown, node, Pace(quiet_for, every, complete_at), target_of(send_to, commit))
    raise typer.Exit(code)


@app.command()
@asks
def query(
    peer: Annotated[str, typer.Argument(help="AET@host:port, or the address of a DICOMweb server.", show_default=False)],
    asked: BatchOptions,
    local: Local,
    key: Annotated[list[str] | None, typer.Option("--key", "-k", help="KEYWORD=VALUE to search for; repeatable.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Fetch the series, run a bundle on them and write results here. Without it, series are only listed.", show_default=False)] = None,
    move: Annotated[bool, typer.Option("--move", help="Fetch by C-MOVE to --aet and --port, in place of C-GET.")] = False,
    host: Host = "127.0.0.1",
    port: Port = 11112,
    send_to: SendTo = None,
    commit: Commit = False,
    log_format: LogFormat = Format.TEXT,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Find series (C-FIND, QIDO). With -o, fetch them (C-GET, C-MOVE, WADO), run a bundle on them and send results back."""
    shown, code = speaking(log_format, quiet, as_json, debug), 0
    with handle_errors(shown):
        from medvit_batch.commands import run_batch
        from medvit_batch.network.query_retrieve import fetch, find, parse_keys
        from medvit_batch.network.store_scp import Node
        from medvit_batch.node import drain, inbox_of, say_unsent, target_of

        quiet_networking()
        source, target = parse_peer(peer), target_of(send_to, commit)
        found = find(source, parse_keys(key or []), local)
        if output is None:
            rows = [vars(item) for item in found]
            if as_json:
                typer.echo(json.dumps({"series": rows}, indent=2))
            for item in found:
                shown.say(f"{item.modality or '-':4} {item.objects or '?':>5}  {item.series}")
            shown.say(f"{len(found)} series. Give -o and -b to fetch and run them.")
            raise typer.Exit(0)
        inbox = inbox_of(output)
        node = Node(local=local, host=host, port=port, min_free_gb=asked.min_free_gb)
        lacking = 0
        for done in fetch(source, found, inbox, node, move):
            what = "a series" if asked.deidentify else f"series {done.item.series}"
            if done.error is None:
                shown.say(f"Fetched {done.objects} object(s) of {what}.")
            else:
                lacking += 1
                words = "It could not be fetched." if asked.deidentify else str(done.error)
                shown.say(f"Not fetched: {what}. {words}")
        code = run_batch(replace(asked, archive=str(inbox)), output, shown)
        if lacking:
            shown.say(f"{lacking} series could not be fetched. Give the same command again to try them once more.")
            code = code or 3
        if target is not None:
            drain(output, target, node)
            code = 3 if say_unsent(output, target, shown) and not code else code
    raise typer.Exit(code)
