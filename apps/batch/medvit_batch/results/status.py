"""``medvit batch status``: the state of a batch, read from its journal, also while another process writes it."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from medvit.cli.common import Terminal
from medvit_batch.cases import State, case_name
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.execution.batch_folder import CATALOGUE
from medvit_batch.journal import Journal, RunRow, sends_by_state

__all__ = ["show_status"]

_REASONS = 10
_ALIAS = re.compile(r"\bd\d+(?:-[0-9a-f]{4})?/f\d+\b|\bd\d+\b")


def show_status(out: Path, shown: Terminal, cases: bool, paths: bool) -> None:
    """Print the state of a batch.

    Args:
        out: folder of the batch.
        shown: terminal, for text or JSON.
        cases: True to list each case.
        paths: True to list the paths of the aliases.
    """
    journal = Journal(out)
    content = _content(journal, cases)
    if paths and (out / CATALOGUE).is_file():
        catalogue = Catalogue(out / CATALOGUE)
        content["paths"] = _paths(content, catalogue)
        catalogue.close()
    journal.close()
    if shown.json:
        typer.echo(json.dumps(content, indent=2))
    else:
        _print(content)


def _content(journal: Journal, cases: bool) -> dict[str, Any]:
    rows = list(journal.cases())
    run: RunRow = journal.last_run() or {}
    reasons = Counter((row["state"], row["code"], row["reason"], row["remedy"]) for row in rows if row["state"] in (State.FAILED, State.SET_ASIDE))  # fmt: skip
    return {
        "cases": journal.counts(),
        "flagged": journal.flagged(),
        "sends": sends_by_state(journal),
        "run": {key: run.get(key) for key in ("started", "finished", "outcome")},
        "at_work": [
            {"case": case_name(row["folder"]), "stage": row["stage"], "seconds": _age(row["updated"])}
            for row in rows
            if row["state"] == State.RUNNING
        ],
        "reasons": [{"state": s, "code": c, "reason": r, "remedy": m, "cases": n} for (s, c, r, m), n in reasons.most_common()],
        "unused": json.loads(run.get("unused") or "[]"),
        "list": [
            {"case": case_name(row["folder"]), "state": row["state"], "file": json.loads(row["facts"])["file"], "rating": row["rating"], "flags": json.loads(row["flags"]),
             "stage": row["stage"], "code": row["code"], "reason": row["reason"]}
            for row in rows
        ] if cases else [],
    }  # fmt: skip


def _age(since: str) -> float:
    return round((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds(), 1)


def _paths(content: dict[str, Any], catalogue: Catalogue) -> dict[str, str]:
    found = dict.fromkeys(_ALIAS.findall(json.dumps(content)))
    return {name: path for name in found if (path := catalogue.path_of(name)) is not None}


def _print(content: dict[str, Any]) -> None:
    run = content["run"]
    counts = ", ".join(f"{n} {state}" for state, n in content["cases"].items()) or "none"
    typer.echo(f"Cases: {counts}; {content['flagged']} flagged.")
    if run["started"]:
        typer.echo(
            f"Last run: started {run['started']}, {run['outcome'] or 'not finished'}{' at ' + run['finished'] if run['finished'] else ''}."
        )
    if content["sends"]:
        typer.echo(f"Results sent on: {', '.join(f'{n} {state}' for state, n in sorted(content['sends'].items()))}.")
    for item in content["at_work"]:
        typer.echo(f"Running: {item['case']}, for {item['seconds']:.0f} s.")
    for item in content["reasons"][:_REASONS]:
        remedy = f" {item['remedy']}" if item["remedy"] and item["remedy"] not in item["reason"] else ""
        typer.echo(f"{item['cases']} {item['state']} ({item['code']}): {item['reason']}{remedy}")
    if len(content["reasons"]) > _REASONS:
        typer.echo(f"and {len(content['reasons']) - _REASONS} more reasons; --json has them all.")
    for item in content["list"]:
        words = item["reason"] or "; ".join(item["flags"])
        typer.echo(
            f"  {item['case']}  {item['state']}{'  ' + item['file'] if item['file'] else ''}{'  ' + words if words else ''}"
        )
    for name, path in content.get("paths", {}).items():
        typer.echo(f"  {name}  {path}")
