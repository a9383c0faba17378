"""Scores of a bundle on labelled cases, run exactly as users run it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import numpy as np

from medvit.bundles import Bundle
from medvit.pipeline import run
from medvit.training.data import load_labels, read_list

__all__ = ["dice", "evaluate_bundle", "record_scores", "table"]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Dice overlap of two masks; 1 if both are empty."""
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def evaluate_bundle(
    bundle: Bundle, data: Path | None, root: Path | None, split: str, say: Callable[[str], None]
) -> dict[str, Any]:
    """Dice of every label in every case of a split: ``{"mean_dice", "per_label", "cases"}``."""
    cases = {}
    for pair in read_list(bundle, data, root, split):
        found = run(bundle, pair.image).array
        truth = load_labels(pair)
        cases[pair.name] = {label.name: dice(found == label.id, truth == label.id) for label in bundle.facts.labels}
        say(f"{pair.name}: mean Dice {mean(cases[pair.name].values()):.3f}")
    per_label = {label.name: [case[label.name] for case in cases.values()] for label in bundle.facts.labels}
    return {
        "split": split,
        "mean_dice": mean(mean(values) for values in per_label.values()),
        "per_label": {name: {"mean": mean(v), "std": pstdev(v), "lowest": min(v)} for name, v in per_label.items()},
        "cases": cases,
    }


def table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """The scores as a Markdown table."""
    lines = ["| label | mean Dice | spread (std) | lowest |", "|---|---|---|---|"]
    for label in bundle.facts.labels:
        row = scores["per_label"][label.name]
        lines.append(f"| {label.title} | {row['mean']:.3f} | {row['std']:.3f} | {row['lowest']:.3f} |")
    lines.append(f"| **mean of {len(scores['cases'])} cases** | **{scores['mean_dice']:.3f}** | | |")
    return "\n".join(lines)


_START, _END = "<!-- scores: written by `medvit evaluate --record` -->", "<!-- end of scores -->"


def record_scores(bundle: Bundle, scores: dict[str, Any]) -> None:
    """Write the scores into metadata.json (eval_metrics) and between the marks in docs/README.md."""
    path = bundle.root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["eval_metrics"] = {"mean_dice": round(scores["mean_dice"], 4)} | {
        f"dice_{name}": round(row["mean"], 4) for name, row in scores["per_label"].items()
    }
    path.write_text(json.dumps(metadata, indent=2) + "\n")
    page = bundle.root / "docs" / "README.md"
    text = page.read_text()
    before, after = text.partition(_START)[0], text.partition(_END)[2]
    page.write_text(f"{before}{_START}\n{table(bundle, scores)}\n{_END}{after}")
