"""``--dry-run``: a table of all decisions with their reasons."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from medvit.cli.common import Terminal
from medvit_batch.cases import Decision, State
from medvit_batch.journal import JOURNAL, Journal

if TYPE_CHECKING:
    from medvit_batch.catalogue.catalogue import Catalogue
    from medvit_batch.execution.batch import Batch

__all__ = ["show_decisions"]

_WIDTH = 180


def show_decisions(
    decisions: list[Decision], batch: Batch, catalogue: Catalogue, shown: Terminal, script: str = ""
) -> None:
    """Print the decisions as a table or as JSON, with the script of the jobs that would be submitted, if any."""
    journal = Journal(batch.out) if (batch.out / JOURNAL).is_file() else None
    rows = []
    for decision in decisions:
        action, reason = _action(decision, batch, journal)
        rows.append(
            {
                "case": decision.folder,
                "bundle": decision.bundle,
                "action": action,
                "reason": reason,
                **asdict(decision.facts),
            }
        )
    if journal is not None:
        journal.close()
    if shown.json:
        jobs = {"job_script": script} if script else {}
        typer.echo(json.dumps({"decisions": rows, "files": catalogue.counts(), **jobs}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Series", "Modality", "Slices", "Plane", "Action", "Bundle", "Reason")
    for decision, row in zip(decisions, rows, strict=True):
        facts = decision.facts
        part = f" ({facts.part})" if facts.part else ""
        table.add_row(
            decision.folder.partition("/")[0] + part, facts.modality or "-", str(facts.slices or "-"), facts.plane or "-",
            str(row["action"]), decision.bundle or "-", str(row["reason"]),
        )  # fmt: skip
    Console(width=None if typer.get_text_stream("stdout").isatty() else _WIDTH).print(table)
    counts = Counter(str(row["action"]) for row in rows)
    shown.say("; ".join(f"{n} {action}" for action, n in sorted(counts.items())) + ". Nothing was run or written.")
    if script:
        shown.say(f"Each of {batch.limits.where.workers if batch.limits.where else 0} job(s):\n\n{script}")


def _action(decision: Decision, batch: Batch, journal: Journal | None) -> tuple[str, str]:
    if decision.state is not State.PENDING:
        return decision.state, decision.reason
    if journal is None:
        return "run", decision.reason
    state, same = journal.known(decision, batch.plan.options_hash_of(decision))
    if state is None or state is State.PENDING:
        return "run", decision.reason
    if same:
        return "leave", f"{state} already, and nothing has changed"
    return "run again", f"{state} already, but its files, its bundle or the settings changed"
