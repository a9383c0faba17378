"""From a bundle and a data list to weights: reads the bundle's train.json over its inference.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from monai.bundle import ConfigParser
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.training.data import load_case, read_list
from medvit.training.loop import LoopSettings, TrainingLoop
from medvit.training.patches import PatchSampler, PatchSettings
from medvit.training.pictures import PictureLoop, PictureSampler, PictureSettings, load_picture
from medvit.training.publish import publish
from medvit.training.restoration import PairSampler, RestorationLoop, RestorationRecipe, read_images

__all__ = ["Recipe", "TrainSettings", "fit", "open_bundle", "train_bundle"]


@dataclass(frozen=True)
class TrainSettings:
    """What a user may say about a training run; everything else is the bundle's.

    Attributes:
        data: data list; None for the bundle's.
        root: folder the list's paths start from.
        output: checkpoints go to ``output/<bundle name>``.
        steps: optimiser steps in all; None for the bundle's.
        publish: write the averaged weights into the bundle in the end.
    """

    data: Path | None = None
    root: Path | None = None
    output: Path = Path("runs")
    steps: int | None = None
    publish: bool = False


@dataclass(frozen=True)
class Recipe:
    """What a bundle's train.json says: the network to train, how patches are drawn, how the loop runs."""

    network: nn.Module
    patches: PatchSettings | PictureSettings
    loop: LoopSettings


def train_bundle(bundle: Bundle, settings: TrainSettings) -> Path:
    """Train, or go on training, and return the checkpoint's path.

    Raises:
        BundleError: the bundle has no train.json. SourceError: the data list is wrong.
    """
    configs = [bundle.root / "configs" / name for name in ("inference.json", "train.json")]
    if not configs[1].is_file():
        raise BundleError(
            f"Found no configs/train.json in {bundle.name}; it says how to train. Choose a bundle that has one."
        )
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    if "recipe" not in parser.get():
        raise BundleError(
            f"Found no 'recipe' in configs/train.json of {bundle.name}; medvit train runs one. Train it by MONAI's own command, "
            "which its docs/README.md states."
        )
    parser["bundle_root"] = str(bundle.root)
    parser.get_parsed_content("initialize")
    recipe: Recipe | RestorationRecipe = parser.get_parsed_content("recipe")
    if settings.steps is not None:
        cooldown = min(recipe.loop.cooldown_steps, settings.steps // 3)
        recipe = replace(recipe, loop=replace(recipe.loop, steps=settings.steps, cooldown_steps=cooldown))
    return fit(bundle, recipe, settings)


def fit(bundle: Bundle, recipe: Recipe | RestorationRecipe, settings: TrainSettings) -> Path:
    """Run a recipe on the cases of the list; ``python -m monai.bundle run training`` calls this as well."""
    run = _loop(bundle, recipe, settings)
    average = run.run()
    if settings.publish:
        publish(bundle, average)
    return run.checkpoint


def _loop(bundle: Bundle, recipe: Recipe | RestorationRecipe, settings: TrainSettings) -> TrainingLoop:
    """The loop of a recipe's kind, on the training cases."""
    folder = settings.output / bundle.name
    if isinstance(recipe, RestorationRecipe):
        images = read_images(bundle, settings.data, settings.root, "training")
        return RestorationLoop(recipe, PairSampler(images, recipe.pairs, recipe.loop.seed), folder)
    pairs = read_list(bundle, settings.data, settings.root, "training")
    if isinstance(recipe.patches, PictureSettings):
        crops = PictureSampler([load_picture(pair) for pair in pairs], recipe.patches, recipe.loop.seed)
        return PictureLoop(recipe.network, crops, recipe.loop, folder)
    cases = [load_case(pair, len(bundle.facts.labels) + 1) for pair in pairs]
    return TrainingLoop(recipe.network, PatchSampler(cases, recipe.patches, recipe.loop.seed), recipe.loop, folder)
