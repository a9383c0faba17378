"""``medvit bundles``: what is installed, what it is, whether it is intact."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medvit.cli.common import Debug, Json, Shown, guarded

if TYPE_CHECKING:
    from medvit.bundles import Bundle

__all__ = ["app"]

app = typer.Typer(help="List, show and verify bundles.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Bundle: name or folder.", show_default=False)]


def _summary(bundle: Bundle) -> dict[str, Any]:
    facts = bundle.facts
    there = bundle.weights.is_file()
    return {
        "name": bundle.name,
        "version": bundle.version,
        "task": facts.task,
        "modalities": list(facts.modalities),
        "state": facts.state if there else "not trained",
        "scores": bundle.metadata.get("eval_metrics", {}),
        "licence": facts.licence,
        "size_mb": round(bundle.weights.stat().st_size / 1e6, 1) if there else 0.0,
    }


@app.command("list")
def list_bundles(as_json: Json = False, debug: Debug = False) -> None:
    """Every bundle that can be found, with its score, licence, size and state."""
    with guarded(Shown(json=as_json, debug=debug)):
        from medvit.bundles import bundle_folders, open_bundle

        rows = [_summary(open_bundle(name)) for name in bundle_folders()]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        from rich.console import Console
        from rich.table import Table

        table = Table("Bundle", "Version", "Task", "State", "Score", "Licence", "MB")
        for row in rows:
            score = next(
                (f"{k.replace('_', ' ')} {v:.3f}" for k, v in row["scores"].items() if isinstance(v, float)), "-"
            )
            table.add_row(
                row["name"], row["version"], row["task"], row["state"], score, row["licence"], f"{row['size_mb']}"
            )
        # one line a bundle also where output is piped and no width is known
        Console(width=None if typer.get_text_stream("stdout").isatty() else 140).print(table)


@app.command()
def show(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """One bundle: intended use, labels, scores, data and licence."""
    with guarded(Shown(json=as_json, debug=debug)):
        from medvit.bundles import open_bundle

        bundle = open_bundle(name)
        if as_json:
            typer.echo(json.dumps(bundle.metadata, indent=2))
            return
        data = bundle.metadata
        typer.echo(f"{bundle.name} {bundle.version}: {data['description']}")
        typer.echo(f"Intended use: {bundle.intended_use}")
        for key, value in _summary(bundle).items():
            if key not in ("name", "version", "scores"):
                typer.echo(
                    f"{key.replace('_', ' ').capitalize()}: {', '.join(value) if isinstance(value, list) else value}"
                )
        typer.echo(f"Data: {data.get('data_source', 'not stated')}")
        for key, value in data.get("eval_metrics", {}).items():
            typer.echo(f"Score: {key.replace('_', ' ')} {value}")
        for label in bundle.facts.labels:
            typer.echo(f"Label {label.id}: {label.name} ({label.title}, {label.type.scheme} {label.type.value})")


@app.command()
def verify(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Check a bundle's configs and the checksum of its weights."""
    with guarded(Shown(json=as_json, debug=debug)):
        from medvit.bundles import open_bundle

        bundle = open_bundle(name)
        digest = bundle.verify()
        if as_json:
            typer.echo(json.dumps({"name": bundle.name, "version": bundle.version, "sha256": digest, "intact": True}))
        else:
            typer.echo(f"{bundle.name} {bundle.version} is intact (weights sha256 {digest}).")
