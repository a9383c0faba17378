"""Fine-tuning of a bundle on a user's labels: a shortened recipe, and a copy of the bundle for the new weights.

Scores before and after are computed as for users' runs, on cases that neither training used. The shipped bundle is
never changed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medvit.bundles import Bundle, open_bundle
from medvit.training.data import DataList
from medvit.training.evaluation import evaluate_bundle
from medvit.training.loop import AdapterSettings, kept
from medvit.training.recipe import Recipe, read_recipe
from medvit.training.trainer import TrainSettings, fit

__all__ = ["FineTuning", "copy_untrained", "fine_tune", "fine_tuning_recipe"]

_CHECKPOINTS = 10
"""Smallest number of checkpoints in a run, so that a killed run loses at most a tenth."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Settings of one fine-tuning run.

    Attributes:
        base: bundle with the initial weights.
        data: data list with "training" and "validation"; the second is only evaluated.
        folder: folder for all files of the run; a killed run is resumed there.
        version: version of the new bundle.
        steps: number of optimiser steps.
        learning_rate: constant rate, before it falls to zero over the last third.
        device: auto, cpu, gpu, gpu:N or mps.
        adapters: train adapters instead of all weights.
    """

    base: Bundle
    data: DataList
    folder: Path
    version: str
    steps: int = 200
    learning_rate: float = 1e-4
    device: str = "auto"
    adapters: AdapterSettings | None = None

    @property
    def candidate(self) -> Path:
        """Folder of the new bundle, which has the name of the old one."""
        return self.folder / "candidate" / self.base.name


def fine_tuning_recipe(recipe: Recipe, steps: int, learning_rate: float) -> Recipe:
    """Adapt a recipe to trained weights: few steps, a small rate, evaluation only at the end.

    If the best of many scores on the held-out cases were selected, that score would be too optimistic.
    """
    recipe.objective.fine_tuning_mode()
    shortened = recipe.with_steps(steps)
    every = max(1, min(recipe.loop.checkpoint_every, steps // _CHECKPOINTS))
    loop = replace(
        shortened.loop, learning_rate=learning_rate, warmup_steps=min(recipe.loop.warmup_steps, steps // _CHECKPOINTS),
        checkpoint_every=every, validate_every=0, patience=0, log_every=min(recipe.loop.log_every, every),
    )  # fmt: skip
    return replace(shortened, loop=loop)


def fine_tune(wanted: FineTuning, say: Callable[[str], None], before: dict[str, Any] | None = None) -> dict[str, Any]:
    """Score, train, score again; the new bundle is in ``wanted.candidate``.

    Args:
        wanted: settings of the run.
        say: receives a line at the start of each stage.
        before: scores of the base on the validation cases by ``evaluate_bundle``, if they are already known.

    Returns:
        ``{"metric", "before", "after", "metrics_before", "metrics_after", "cases_before", "cases_after"}``; scores are
        of the validation cases, higher is better.

    Raises:
        BundleError: the bundle is not trained, or has no train.json or evaluate.json.
        MedvitError: other errors as for ``medvit.training.trainer.fit``.
    """
    if before is None:
        say("judging the weights there are")
        before = _kept_scores(wanted)
    recipe = fine_tuning_recipe(read_recipe(wanted.base), wanted.steps, wanted.learning_rate)
    say("training")
    copy_untrained(wanted.base, wanted.candidate)
    settings = TrainSettings(
        data=wanted.data, output=wanted.folder / "run", steps=wanted.steps, publish=True, start=str(wanted.base.root), device=wanted.device,
        adapters=wanted.adapters,
    )  # fmt: skip
    fit(open_bundle(wanted.candidate), recipe, settings)
    _describe(wanted, before, None)
    say("judging the new weights")
    after = _scores(wanted, open_bundle(wanted.candidate))
    _describe(wanted, before, after)
    return {
        "metric": before["metric"], "before": before["score"], "after": after["score"],
        "metrics_before": before["metrics"], "metrics_after": after["metrics"],
        "cases_before": before["cases"], "cases_after": after["cases"],
    }  # fmt: skip


def _scores(wanted: FineTuning, bundle: Bundle) -> dict[str, Any]:
    return evaluate_bundle(bundle, wanted.data.data, wanted.data.root, "validation", lambda _: None, wanted.device)


def _kept_scores(wanted: FineTuning) -> dict[str, Any]:
    """Return the scores of the base bundle, computed once and kept for resumed runs."""
    return kept(wanted.folder / "before.json", lambda: _scores(wanted, wanted.base))


def copy_untrained(base: Bundle, candidate: Path) -> None:
    """Copy a bundle without weights and training docs; an existing copy is replaced."""
    shutil.rmtree(candidate, ignore_errors=True)
    shutil.copytree(base.root, candidate, ignore=shutil.ignore_patterns("models", "docs", "eval", "data"))


def _describe(wanted: FineTuning, before: dict[str, Any], after: dict[str, Any] | None) -> None:
    """Update the metadata of the new bundle: version and scores; remove what belongs to the old weights."""
    path = wanted.candidate / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    counts = {name: len(cases) for name, cases in _parts(wanted.data).items()}
    words = f"{wanted.base.name} {wanted.base.version}, trained further on {counts['training']} cases of a user's own"
    metadata["version"] = wanted.version
    metadata["changelog"] = {**metadata.get("changelog", {}), wanted.version: words}
    for key in ("precision_checks", "gates"):  # the second is the key of earlier versions
        metadata["medvit"].pop(key, None)
    metadata["medvit"]["weights"].pop("origin", None)
    metadata["eval_metrics"] = {} if after is None else {k: round(v, 4) for k, v in after["metrics"].items()}
    path.write_text(json.dumps(metadata, indent=2) + "\n")
    if after is not None:
        docs = wanted.candidate / "docs"
        docs.mkdir(exist_ok=True)
        (docs / "README.md").write_text(
            f"# {wanted.base.name} {wanted.version}\n\n{words}. {wanted.base.intended_use}.\n\n"
            f"{before['metric']} on {counts['validation']} cases held out: {before['score']:.4f} before, {after['score']:.4f} after.\n"
        )


def _parts(data: DataList) -> dict[str, list[Any]]:
    assert data.data is not None
    content = json.loads(data.data.read_text())
    return {name: content[name] for name in ("training", "validation")}
