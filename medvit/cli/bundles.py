"""``medvit bundles``: list, show, verify, fetch, import, export and remove bundles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.common import FLAGGED, Debug, Json, Terminal, handle_errors, progress_bar
from medvit.cli.export import export
from medvit.cli.imports import app as imports

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.bundles.remote import FetchSummary

__all__ = ["app"]

app = typer.Typer(help="List, show, verify, fetch, import, export and remove bundles.", no_args_is_help=True)
app.command()(export)
app.add_typer(imports, name="import")

_KEPT = (
    "Found that the download was stopped; what has arrived is kept. Start the same command again to go on from there."
)

Name = Annotated[str, typer.Argument(help="Bundle: name or folder.", show_default=False)]


def _summary(bundle: Bundle) -> dict[str, Any]:
    facts = bundle.facts
    state = bundle.state
    there = state in ("trained", "fetched", "imported")
    from medvit.reports import standing_of

    standing = standing_of(bundle)
    return {
        "name": bundle.name,
        "version": bundle.version,
        "task": facts.task,
        "modalities": list(facts.modalities),
        "state": state,
        "scores": bundle.metadata.get("eval_metrics", {}),
        "licence": facts.licence,
        "size_mb": round(bundle.weights.stat().st_size / 1e6, 1) if there else 0.0,
        "best_rating": standing.best_rating,
        "standing": {key: value for key, value in asdict(standing).items() if value is not None},
    }


def _standing_lines(standing: dict[str, Any], task: str) -> Iterator[str]:
    """Describe the evidence behind a bundle's ratings, one line at a time."""
    made = f", {standing['synthetic_cases']} synthetic" if standing["synthetic_cases"] else ""
    dice = f", mean Dice {standing['mean_dice']:.3f}" if "mean_dice" in standing else ""
    asked = (
        "" if task == "restoration" else f" (acceptable {standing['acceptable']:.2f})"
    )  # the acceptable value is a Dice, which restoration does not have
    yield f"Calibration: {standing['real_cases']} cases of real patients{made}{dice}{asked}"
    if standing["body_parts"]:
        yield f"Validated anatomy: {', '.join(standing['body_parts'])}"
    if "field_of_view_mm" in standing:
        from medvit.reports import field_words

        yield f"Validated field of view: {field_words(standing['field_of_view_mm'])} mm (right-left, front-back, head-foot)"
    yield from (f"Results are uncalibrated: {reason}" for reason in standing["missing"])


@app.command("list")
def list_bundles(as_json: Json = False, debug: Debug = False) -> None:
    """List every bundle with its score, licence, size and state."""
    with handle_errors(Terminal(json=as_json, debug=debug)):
        from medvit.bundles import bundle_folders, open_bundle

        rows = [_summary(open_bundle(name)) for name in bundle_folders()]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table("Bundle", "Version", "Task", "State", "Score", "Best rating", "Licence", "MB")
        for row in rows:
            score = next(
                (f"{k.replace('_', ' ')} {v:.3f}" for k, v in row["scores"].items() if isinstance(v, float)), "-"
            )
            table.add_row(
                row["name"],
                row["version"],
                row["task"],
                row["state"],
                score,
                row["best_rating"],
                row["licence"],
                f"{row['size_mb']}",
            )
        # one line for each bundle, also if output is piped and no width is known
        Console(width=None if typer.get_text_stream("stdout").isatty() else 160).print(table)


@app.command()
def show(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Show one bundle: intended use, labels, scores, data and licence."""
    with handle_errors(Terminal(json=as_json, debug=debug)):
        from medvit.bundles import open_bundle

        bundle = open_bundle(name)
        if as_json:
            typer.echo(json.dumps(bundle.metadata, indent=2))
            return
        data = bundle.metadata
        typer.echo(f"{bundle.name} {bundle.version}: {data['description']}")
        typer.echo(f"Intended use: {bundle.intended_use}")
        summary = _summary(bundle)
        for key, value in summary.items():
            if key not in ("name", "version", "scores", "standing"):
                typer.echo(
                    f"{key.replace('_', ' ').capitalize()}: {', '.join(value) if isinstance(value, list) else value}"
                )
        for line in _standing_lines(summary["standing"], summary["task"]):
            typer.echo(line)
        origin = bundle.facts.weights.origin
        if origin is not None:
            typer.echo(f"Weights: from {origin.address} ({origin.checksum}), {origin.licence}")
        typer.echo(f"Data: {data.get('data_source', 'not stated')}")
        for key, value in data.get("eval_metrics", {}).items():
            typer.echo(f"Score: {key.replace('_', ' ')} {value}")
        for label in bundle.facts.labels:
            typer.echo(f"Label {label.id}: {label.name} ({label.title}, {label.type.scheme} {label.type.value})")


@app.command()
def verify(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Check a bundle's configs and the checksum of its weights."""
    with handle_errors(Terminal(json=as_json, debug=debug)):
        from medvit.bundles import open_bundle

        bundle = open_bundle(name)
        digest = bundle.verify()
        if as_json:
            typer.echo(json.dumps({"name": bundle.name, "version": bundle.version, "sha256": digest, "intact": True}))
        else:
            typer.echo(f"{bundle.name} {bundle.version} is intact (weights sha256 {digest}).")


@app.command("gate", hidden=True)  # the command's name in earlier versions
@app.command("precision-check")
def precision_check(
    name: Name,
    case: Annotated[Path, typer.Option("--case", help="A scan that the bundle is made for.", show_default=False)],
    precision: Annotated[str, typer.Option("--precision", help="Precision to check: bf16 or int8.")] = "bf16",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compare only; record nothing.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare a bundle's labels in a lower precision with fp32 on a scan, and record whether it is allowed; exit 3 if not."""
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.bundles import MIN_DICE, open_bundle, record_precision_check
        from medvit.segmentation import run_precision_check

        bundle = open_bundle(name)
        with progress_bar(shown) as progress:
            found = run_precision_check(bundle, case, precision, progress)
        if not dry_run:
            record_precision_check(bundle, found)
        if as_json:
            typer.echo(json.dumps({**found.model_dump(), "lowest": found.lowest, "passed": found.passed}, indent=2))
        for label, dice in found.dice.items():
            shown.say(f"Dice {dice:.5f}  {label}")
        word = "passed" if found.passed else "did not pass"
        where = "nothing was recorded" if dry_run else "recorded in the bundle's metadata"
        shown.say(
            f"{bundle.name}: {precision} by {found.backend} {word} (lowest {found.lowest:.5f}, needed {MIN_DICE}); {where}."
        )
    if not found.passed:
        raise typer.Exit(FLAGGED)


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="Bundle: its name.", show_default=False)],
    given: Annotated[
        Path | None,
        typer.Option(
            "--from", help="A file to install from, without a network: the published weights, or the bundle's zip."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Agree to the licence that is shown.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Fetch again, even if it is installed and intact.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch a bundle, or the weights of a bundle that ships without them. Its licence is shown and agreed to first.

    Stopped or broken off, it goes on where it was when started again. MEDVIT_MIRROR, a folder or a base address, stands
    for every address; MEDVIT_HOME is where it all goes.
    """
    shown = Terminal(json=as_json, debug=debug)
    with handle_errors(shown):
        from medvit.bundles.remote import FetchRequest
        from medvit.bundles.remote import fetch as fetch_bundle
        from medvit.errors import FetchError
        from medvit.progress import Cancelled

        request = FetchRequest(name, given, overwrite, "--yes" if yes else "asked")
        try:
            outcome = fetch_bundle(request, lambda card: _agree(card, yes, as_json), lambda: progress_bar(shown))
        except (KeyboardInterrupt, Cancelled):
            raise FetchError(_KEPT) from None
        bundle, entry = outcome.bundle, outcome.entry
        if as_json:
            row = {"name": bundle.name, "version": bundle.version, "state": bundle.state, "fetched": entry is not None}
            typer.echo(json.dumps(row | {"sha256": bundle.weights_sha256}, indent=2))
        elif entry is None:
            shown.say(f"{bundle.name} {bundle.version} is installed and intact; nothing was fetched.")
        else:
            shown.say(f"{bundle.name} {bundle.version} is ready (weights sha256 {entry.sha256}).")


def _agree(card: FetchSummary, yes: bool, as_json: bool) -> bool:
    """Show the download and its licence and ask for agreement; on standard error if standard output holds JSON."""
    from medvit.errors import FetchError

    inside = "stated in the archive; shown and asked again before it is installed"
    rows = {
        "Fetch": f"{card.name} {card.version or ''}".strip()
        + (" (weights)" if card.kind == "weights" else " (bundle)"),
        "From": card.source,
        "Size": f"{card.size / 1e6:.1f} MB" if card.size else "not stated by the publisher",
        "Licence": card.licence or inside,
        "Intended use": card.intended_use or inside,
    }
    for title, value in rows.items():
        typer.echo(f"{title}: {value}", err=as_json)
    if yes:
        return True
    if not typer.get_text_stream("stdin").isatty():
        raise FetchError(
            "no terminal to ask at",
            "the licence above must be agreed to, and nothing was fetched",
            "Run again with --yes to agree.",
        )
    return typer.confirm("Agree to the licence and go on?", err=as_json)


@app.command()
def remove(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Remove a fetched bundle or fetched weights. Shipped bundles stay."""
    with handle_errors(Terminal(json=as_json, debug=debug)):
        from medvit.bundles.remote import remove as remove_bundle

        remove_bundle(name)
        typer.echo(json.dumps({"name": name, "removed": True}) if as_json else f"{name} was removed from the store.")
