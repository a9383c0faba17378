"""Training of a bundle from a data list; ``medvit train`` and ``monai.bundle run training`` both call ``fit``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.inference import choose_device
from medvit.training.data import DataList
from medvit.training.evaluation import scorer
from medvit.training.loop import (
    Adapted,
    AdapterSettings,
    Machine,
    TrainingLoop,
    adapt,
    before_after,
    kept,
    merge_adapters,
    publish,
    several_processes,
    start_from,
    write_record,
)
from medvit.training.recipe import Recipe, read_recipe

__all__ = ["Recipe", "TrainSettings", "fit", "open_bundle", "train_bundle"]


_BEFORE = "before.json"
"""File in a run's folder with the scores of its initial weights."""

Score = Callable[[nn.Module], dict[str, float]]
"""Function from a network to its metrics, the one to watch first."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of a training run that a user can choose; the others are the bundle's.

    Attributes:
        data: training images.
        output: checkpoints and curves are written to ``output/<bundle name>``, or its subfolder with the recipe's name.
        steps: total number of optimiser steps; None for the bundle's.
        publish: write the averaged weights and the training record to the bundle at the end.
        recipe: name of the bundle's training config.
        start: initial weights, a checkpoint or a bundle's name; None for random ones.
        device: auto, cpu, gpu, gpu:N or mps.
        precision: fp32, bf16 or fp16.
        workers: number of processes that prepare samples.
        adapters: train adapters on the weights of ``start`` and merge them when publishing; None trains all weights.
        compare: score the validation cases before and after, if the run starts from weights and has such cases.
        seed: seed of samples, dropout and random weights; None for the bundle's.
    """

    data: DataList = field(default_factory=DataList)
    output: Path = Path("runs")
    steps: int | None = None
    publish: bool = False
    recipe: str = "train"
    start: str | None = None
    device: str = "auto"
    precision: str = "fp32"
    workers: int = 0
    adapters: AdapterSettings | None = None
    compare: bool = False
    seed: int | None = None


def train_bundle(bundle: Bundle, settings: TrainSettings) -> Path:
    """Train or resume, and return the checkpoint's path.

    Raises:
        BundleError: the recipe is missing.
        SourceError: the data list is wrong.
        CheckpointError: the initial weights are missing or do not match.
        BackendError: there is no such device or precision.
        DivergedError, StoppedError: see ``TrainingLoop``.
    """
    if settings.publish and settings.recipe != "train":
        raise BundleError(
            f"{{publish=True}} with the recipe {settings.recipe}",
            "only 'train' makes the bundle's weights",
            "Train from its checkpoint: {start}.",
            option=("publish", "start"),
        )
    if settings.adapters is not None and (settings.start is None or settings.recipe != "train"):
        lacking = "without {start}" if settings.start is None else f"with the recipe {settings.recipe}"
        raise BundleError(
            f"{{adapters}} {lacking}",
            "they adapt weights that the recipe 'train' has made already",
            f"Say which: {{start={bundle.name}}}.",
            option=("adapters", "start"),
        )
    recipe = read_recipe(bundle, settings.recipe, settings.seed)
    return fit(bundle, recipe.with_steps(settings.steps), settings)


def fit(bundle: Bundle, recipe: Recipe, settings: TrainSettings) -> Path:
    """Run a recipe on the cases of the list; ``python -m monai.bundle run training`` also calls this."""
    with several_processes(choose_device(settings.device)) as device:
        machine = Machine(device, settings.precision, settings.workers)
        folder = settings.output / bundle.name
        if recipe.name != "train":
            folder = folder / recipe.name
        adapted = _adapt(recipe, settings)
        sampler = recipe.draws.sampler(bundle, settings.data, recipe.loop.seed)
        score = _score(bundle, recipe, settings)
        run = TrainingLoop(recipe.objective, sampler, recipe.loop, folder, machine, score)
        if adapted is not None:
            run.log.say(str(adapted))
        judge = _judge(bundle, recipe, settings, run, score)
        before = _begin(run, settings, judge)
        said = _say_remarks(run, settings)
        run.log.say(
            f"{bundle.name}: {recipe.loop.steps} steps on {device} in {settings.precision}; checkpoints and curves in {folder}"
        )
        average = run.run()
        _say_remarks(run, settings, said)  # remarks on validation cases, which are read later
        beside = _known_by(settings, adapted)
        if judge is not None and before is not None:
            run.network.load_state_dict(average)
            after = judge(run.network)
            run.log.say(before_after(before, after))
            beside["validation"] = {"before": before, "after": after}
        if settings.publish and run.first:
            publish(bundle, merge_adapters(average))
            write_record(bundle, settings.data, recipe.loop, machine, folder, beside)
        done = f"published to {bundle.root}" if settings.publish else f"its weights are in {run.checkpoint}"
        run.log.say(f"{bundle.name}: step {run.step} of {recipe.loop.steps} reached; {done}.")
        return run.checkpoint


def _say_remarks(run: TrainingLoop, settings: TrainSettings, before: Sequence[str] = ()) -> Sequence[str]:
    """Log the remarks on the files of the list that were not logged before; return all of them."""
    reading = settings.data.reading
    lines = [*(f"Warning: {flag}" for flag in reading.flags), *(f"Note: {note}" for note in reading.notes)]
    for line in lines:
        if line not in before:
            run.log.say(line)
    return lines


def _adapt(recipe: Recipe, settings: TrainSettings) -> Adapted | None:
    if settings.adapters is None:
        return None
    recipe.objective.fine_tuning_mode()
    return adapt(recipe.objective, settings.adapters, recipe.loop.seed)


def _begin(run: TrainingLoop, settings: TrainSettings, judge: Score | None) -> dict[str, float] | None:
    """Load initial weights unless there is a checkpoint to resume; return their scores if requested."""
    kept_at = run.folder / _BEFORE
    if run.checkpoint.exists():
        unused = f"; {settings.start} is not used" if settings.start else ""
        run.log.say(f"Going on from {run.checkpoint}{unused}.")
    elif settings.start is not None:
        _start(run, settings.start)
        kept_at.unlink(missing_ok=True)  # scores of a run that ended before its first checkpoint
    if judge is None:
        return None
    return kept(kept_at, lambda: judge(run.network))


def _start(run: TrainingLoop, start: str) -> None:
    started = start_from(run.network, start)
    run.log.say(str(started))
    if started.whole:
        run.fine_tuning_mode()
    run.restart_average()


def _known_by(settings: TrainSettings, adapted: Adapted | None) -> dict[str, Any]:
    """Return the record's entries about initial weights and remarks; a file is recorded by name, without its folder."""
    found: dict[str, Any] = {} if settings.start is None else {"started_from": Path(settings.start).name}
    reading = settings.data.reading
    if reading.geometry or reading.notes or reading.flags:
        found["reading"] = {"geometry": reading.geometry, "remarks": reading.counted()}
    return found if adapted is None else {**found, "adapters": adapted.record()}


def _judge(
    bundle: Bundle, recipe: Recipe, settings: TrainSettings, run: TrainingLoop, score: Score | None
) -> Score | None:
    """Return the scorer for before and after; None if it is not requested or, with a message, not possible."""
    if not settings.compare or settings.start is None or recipe.name != "train" or not run.first:
        return None
    if run.checkpoint.exists() and not (run.folder / _BEFORE).is_file():
        return None  # the run began without scores
    if score is not None:
        return score
    path = settings.data.data or bundle.root / "configs" / "datalist.json"
    if not (bundle.root / "configs" / "evaluate.json").is_file() or not json.loads(path.read_text()).get("validation"):
        run.log.say(
            "No scores before and after: there are no validation cases in the list, or no evaluate.json in the bundle."
        )
        return None
    return scorer(bundle, settings.data.data, settings.data.root, "validation", settings.data.reading)


def _score(bundle: Bundle, recipe: Recipe, settings: TrainSettings) -> Score | None:
    """Return the scorer of the network on the validation split, as for users' runs; None if the recipe has no
    scores."""
    if recipe.name != "train" or not 0 < recipe.loop.validate_every <= recipe.loop.steps:
        return None
    if idist.get_rank() > 0:
        return lambda _: {}  # only the first process scores, so the others need not load the cases
    return scorer(bundle, settings.data.data, settings.data.root, "validation", settings.data.reading)
