"""From a bundle and a data list to weights: ``medvit train`` and ``monai.bundle run training`` both end in ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import ignite.distributed as idist
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.model import choose_device
from medvit.training.data import DataList
from medvit.training.evaluation import scorer
from medvit.training.loop import TrainingLoop
from medvit.training.machine import Machine, several_processes
from medvit.training.publish import publish
from medvit.training.recipe import Recipe, read_recipe
from medvit.training.start import start_from

__all__ = ["Recipe", "TrainSettings", "fit", "open_bundle", "train_bundle"]


@dataclass(frozen=True)
class TrainSettings:
    """What a user may say about a training run; everything else is the bundle's.

    Attributes:
        data: the images to train on.
        output: checkpoints and curves go to ``output/<bundle name>``, or a folder of the recipe's name in there.
        steps: optimiser steps in all; None for the bundle's.
        publish: write the averaged weights into the bundle in the end.
        recipe: which of the bundle's training configs.
        start: weights to start from, a checkpoint or a bundle's name; None for new ones.
        device: auto, cpu, gpu, gpu:N or mps.
        precision: fp32, bf16 or fp16.
        workers: processes that prepare samples.
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


def train_bundle(bundle: Bundle, settings: TrainSettings) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    Raises:
        BundleError: no such recipe. SourceError: the data list is wrong. CheckpointError: nothing to start from.
        BackendError: no such device or precision. DivergedError, StoppedError: see ``TrainingLoop``.
    """
    if settings.publish and settings.recipe != "train":
        raise BundleError(
            f"Found --publish with the recipe {settings.recipe}; only 'train' makes the bundle's weights. Train from its checkpoint: --from."
        )
    return fit(bundle, read_recipe(bundle, settings.recipe).shortened(settings.steps), settings)


def fit(bundle: Bundle, recipe: Recipe, settings: TrainSettings) -> Path:
    """Run a recipe on the cases of the list; ``python -m monai.bundle run training`` calls this as well."""
    with several_processes(choose_device(settings.device)) as device:
        machine = Machine(device, settings.precision, settings.workers)
        folder = settings.output / bundle.name
        if recipe.name != "train":
            folder = folder / recipe.name
        sampler = recipe.draws.sampler(bundle, settings.data, recipe.loop.seed)
        run = TrainingLoop(recipe.objective, sampler, recipe.loop, folder, machine, _score(bundle, recipe, settings))
        if run.checkpoint.exists():
            unused = f"; {settings.start} is not used" if settings.start else ""
            run.log.say(f"Going on from {run.checkpoint}{unused}.")
        elif settings.start is not None:
            run.log.say(start_from(run.network, settings.start))
            run.restart_average()
        run.log.say(
            f"{bundle.name}: {recipe.loop.steps} steps on {device} in {settings.precision}; checkpoints and curves in {folder}"
        )
        average = run.run()
        if settings.publish and run.first:
            publish(bundle, average)
        done = f"published to {bundle.root}" if settings.publish else f"its weights are in {run.checkpoint}"
        run.log.say(f"{bundle.name}: step {run.step} of {recipe.loop.steps} reached; {done}.")
        return run.checkpoint


def _score(bundle: Bundle, recipe: Recipe, settings: TrainSettings) -> Callable[[nn.Module], dict[str, float]] | None:
    """What scores the network on the validation split as users will run it; None where a recipe has no scores."""
    if recipe.name != "train" or not 0 < recipe.loop.validate_every <= recipe.loop.steps:
        return None
    if idist.get_rank() > 0:
        return lambda _: {}  # the first process scores for all; the others need not hold its cases
    return scorer(bundle, settings.data.data, settings.data.root, "validation")
