"""A bundle trained further on a user's own labels: its recipe made short and gentle, a copy of it to hold the weights.

Scores before and after are of the bundle as users run it, on cases that neither run has trained on. The shipped bundle is
never written to.
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
"""Checkpoints in a run, at least; a run that is killed loses no more than a tenth."""


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """One run of it.

    Attributes:
        base: the bundle whose weights it starts from.
        data: data list with "training" and "validation"; the second judges alone.
        folder: for all that the run makes; a run killed there is gone on with.
        version: what the new bundle calls itself.
        steps: optimiser steps.
        learning_rate: the constant rate, before it falls to zero over the last third.
        device: auto, cpu, gpu, gpu:N or mps.
        adapters: train these in place of all weights.
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
        """The folder of the new bundle, which bears the old one's name."""
        return self.folder / "candidate" / self.base.name


def fine_tuning_recipe(recipe: Recipe, steps: int, learning_rate: float) -> Recipe:
    """A recipe for weights that are trained already: short, at a small rate, judged only when it is done.

    Picking the best of many scores by the held-out cases would make their last score look better than it is.
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
    """Score, train further, score again; the new bundle lies in ``wanted.candidate``.

    Args:
        wanted: what to do.
        say: takes a line as each stage begins.
        before: what ``evaluate_bundle`` says of the base on the validation cases, where it was asked already.

    Returns:
        ``{"metric", "before", "after", "metrics_before", "metrics_after", "cases_before", "cases_after"}``; scores are of the
        validation cases, higher is better.

    Raises:
        BundleError: not trained, or no train.json or evaluate.json. Others as ``medvit.training.trainer.fit``.
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
    """The scores of the bundle there is, made once however often the run is gone on with."""
    return kept(wanted.folder / "before.json", lambda: _scores(wanted, wanted.base))


def copy_untrained(base: Bundle, candidate: Path) -> None:
    """A copy of a bundle without weights, and without the docs of its own training, in place of what is there."""
    shutil.rmtree(candidate, ignore_errors=True)
    shutil.copytree(base.root, candidate, ignore=shutil.ignore_patterns("models", "docs", "eval", "data"))


def _describe(wanted: FineTuning, before: dict[str, Any], after: dict[str, Any] | None) -> None:
    """Let the new bundle say what it is: version, scores, and nothing that was true of the old weights alone."""
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
