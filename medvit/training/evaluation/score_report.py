"""Score tables for people, and their record in the bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.atomic_write import replace_file
from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.training.evaluation.reconstruction import two_view_table
from medvit.training.evaluation.restoration import dose_table
from medvit.training.evaluation.segmentation import dice_table
from medvit.training.evaluation.super_resolution import finer_table

__all__ = ["QUALITY", "SCORES", "ScoreMarkers", "place_for", "record_scores", "table"]

_TABLES = {"segmentation": dice_table, "restoration": dose_table, "reconstruction": two_view_table}


@dataclass(frozen=True)
class ScoreMarkers:
    """Markers in docs/README.md between which a table is written."""

    what: str
    start: str
    end: str


SCORES = ScoreMarkers("scores", "<!-- scores: written by `medvit evaluate --record` -->", "<!-- end of scores -->")
QUALITY = ScoreMarkers(
    "the rating", "<!-- quality: written by `medvit evaluate --calibrate --record` -->", "<!-- end of quality -->"
)


def table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """Format the scores as the Markdown table of their task."""
    return (finer_table if "per_factor" in scores else _TABLES[scores["task"]])(bundle, scores)


def _page(bundle: Bundle) -> Path:
    return bundle.root / "docs" / "README.md"


def place_for(bundle: Bundle, marks: ScoreMarkers = SCORES) -> tuple[str, str]:
    """Return the text before and after the markers in docs/README.md.

    Raises:
        BundleError: docs/README.md lacks one of the markers.
    """
    text = _page(bundle).read_text() if _page(bundle).is_file() else ""
    before, start, rest = text.partition(marks.start)
    _, end, after = rest.partition(marks.end)
    if not (start and end):
        raise BundleError(
            f"no place for {marks.what} in docs/README.md of {bundle.name}",
            f"put the two lines {marks.start!r} and {marks.end!r} where the table belongs, then record again",
        )
    return before, after


def record_scores(bundle: Bundle, scores: dict[str, Any]) -> None:
    """Write the scores to metadata.json (eval_metrics) and between the markers in docs/README.md.

    Raises:
        BundleError: docs/README.md lacks one of the markers; nothing is written then.
    """
    before, after = place_for(bundle)
    path = bundle.root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["eval_metrics"] = {name: round(value, 4) for name, value in scores["metrics"].items()}
    with replace_file(path) as aside:
        aside.write_text(json.dumps(metadata, indent=2) + "\n")
    with replace_file(_page(bundle)) as aside:
        aside.write_text(f"{before}{SCORES.start}\n{table(bundle, scores)}\n{SCORES.end}{after}")
