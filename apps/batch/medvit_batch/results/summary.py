"""Summary of a batch, from which ``cases.csv``, ``measurements.csv`` and the report are made. It holds no patient data."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.atomic_write import os_errors_as_output_errors, replace_file
from medvit_batch.cases import State, case_name, sequential_seconds
from medvit_batch.journal import CaseRow, Journal, RunRow
from medvit_batch.results.parquet import write_parquet

__all__ = ["Summary", "summarize", "write_tables"]

_COLUMNS = (
    "case bundle version state flagged rating modality slices rows columns plane part study_uid series_uid stage code reason remedy flags "
    "rating_reasons seconds peak_mb weights_sha256 updated folder"
).split()
_MEASURES = ("volume_ml", "mean", "std", "voxels", "touches_border")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Tables and counts of a batch.

    Attributes:
        cases: rows of ``cases.csv``.
        measurements: one row for each label of each published case.
        counts: number of cases by state.
        run: newest run in the journal.
        intended_use: statement of intended use of each bundle that ran.
    """

    cases: list[dict[str, Any]]
    measurements: list[dict[str, Any]]
    counts: dict[str, int]
    run: RunRow
    intended_use: tuple[str, ...]


def summarize(journal: Journal, out: Path) -> Summary:
    """Collect the contents of the journal and of the results."""
    cases = [_row(case) for case in journal.cases()]
    measurements: list[dict[str, Any]] = []
    uses: dict[str, None] = {}
    for row in cases:
        content = _statistics(out / row["folder"]) if row["state"] == State.PUBLISHED else None
        if content is None:
            continue
        if "intended_use" in content:
            uses[content["intended_use"]] = None
        for label in content.get("labels", ()):  # a restored image has no labels
            kept = {name: label[name] for name in _MEASURES}
            measurements.append({"case": row["case"], "bundle": row["bundle"], "label": label["name"], **kept})
    return Summary(
        cases=cases,
        measurements=measurements,
        counts=journal.counts(),
        run=journal.last_run() or {},
        intended_use=tuple(uses),
    )


def _row(case: CaseRow) -> dict[str, Any]:
    facts, flags = json.loads(case["facts"]), json.loads(case["flags"])
    published = case["state"] == State.PUBLISHED
    name = case_name(case["folder"])
    return {
        "case": name.partition("/")[0], "bundle": case["bundle"], "version": case["version"] if published else "", "state": case["state"],
        "flagged": "yes" if published and flags else "no", "rating": case["rating"] if published else "", "modality": facts["modality"],
        "slices": facts["slices"], "rows": facts["rows"], "columns": facts["columns"], "plane": facts["plane"], "part": facts["part"],
        "study_uid": facts["study"], "series_uid": facts["series"], "stage": case["stage"], "code": case["code"],
        "reason": case["reason"], "remedy": case["remedy"], "flags": "; ".join(flags) if published else "",
        "rating_reasons": "; ".join(json.loads(case["rating_reasons"])) if published else "",
        "seconds": round(sum(sequential_seconds(json.loads(case["seconds"])).values()), 2), "peak_mb": case["peak_mb"],
        "weights_sha256": case["weights"] if published else "", "updated": case["updated"], "folder": case["folder"],
    }  # fmt: skip


def _statistics(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / "statistics.json").read_text())
    except (OSError, ValueError):  # the file is being replaced, or was removed
        return None
    return content


def write_tables(summary: Summary, out: Path) -> None:
    """Write ``cases.csv`` and ``measurements.csv``, and both as Parquet if pyarrow is installed."""
    _table(out / "cases.csv", _COLUMNS, summary.cases)
    _table(out / "measurements.csv", ("case", "bundle", "label", *_MEASURES), summary.measurements)


def _table(path: Path, columns: Sequence[str], rows: list[dict[str, Any]]) -> None:
    with (
        os_errors_as_output_errors(path.parent),
        replace_file(path) as aside,
        aside.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    write_parquet(path.with_suffix(".parquet"), columns, rows)
