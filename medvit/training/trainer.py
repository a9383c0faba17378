"""From a bundle and a data list to weights: reads the bundle's train.json over its inference.json."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.training.data import load_case, read_list
from medvit.training.loop import LoopSettings, TrainingLoop
from medvit.training.patches import PatchSampler, PatchSettings
from medvit.training.publish import publish

__all__ = ["TrainSettings", "open_bundle", "train_bundle"]


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
    parser["bundle_root"] = str(bundle.root)
    loop: LoopSettings = parser.get_parsed_content("loop")
    patches: PatchSettings = parser.get_parsed_content("patches")
    if settings.steps is not None:
        loop = replace(loop, steps=settings.steps, cooldown_steps=min(loop.cooldown_steps, settings.steps // 3))
    torch.manual_seed(loop.seed)
    network = parser.get_parsed_content("network_def")
    pairs = read_list(bundle, settings.data, settings.root, "training")
    cases = [load_case(pair, len(bundle.facts.labels) + 1) for pair in pairs]
    run = TrainingLoop(network, PatchSampler(cases, patches, loop.seed), loop, settings.output / bundle.name)
    average = run.run()
    if settings.publish:
        publish(bundle, average)
    return run.checkpoint
