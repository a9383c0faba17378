"""Gain of Barlow Twins pretraining on pictures without masks for nuclei_barlow_swin, with few labels and with all.

    python benchmarks/pretraining_nuclei.py [--few-seeds 2] [--all-seeds 1] [-o runs/pretraining_nuclei]

The encoder is trained once by the bundle's configs/pretrain.json on the training pictures, whose masks it never reads.
Then the bundle's configs/train.json is run from random weights and from that encoder, on a tenth of the labelled
training pictures and on all of them. Both sides of a pair have the same random decoder, the same crops in the same
order, the same dropout and as many steps. Each is published into a copy of the bundle and scored there on the whole
validation list, as by `medvit evaluate`, with its batch-norm statistics recomputed on crops of its own training
pictures: in so short a run the running statistics lag behind, and the loss from that varies between runs by more than
the difference to be measured (the last column has the scores without). Steps, batches and the crops of the pretraining
are reduced to what one thread computes in about an hour.

The scores of every run are kept in the given folder and reused, so that an interrupted command continues.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from timing import tell
from torch import nn

from medvit.bundles import Bundle, open_bundle
from medvit.training import TrainSettings, train_bundle
from medvit.training.data import DataList, StepDataset, data_root
from medvit.training.evaluation import evaluate_bundle
from medvit.training.fine_tuning import copy_untrained
from medvit.training.loop import kept, publish, start_from
from medvit.training.recipe import read_recipe

NAME = "nuclei_barlow_swin"
SIDES = ("from scratch", "pre-trained")
FEW = 0.1


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Size of the benchmark; all other settings are those of the bundle's recipes.

    Attributes:
        pretrain_steps: optimiser steps without labels.
        pretrain_batch: pictures in each of them, with two views of each.
        pretrain_crop: side of their crops in pixels.
        steps: optimiser steps with labels, the same for both numbers of labels.
        batch: crops in each of them.
        norm_batches: batches for the statistics of the norms at the end.
    """

    pretrain_steps: int = 240
    pretrain_batch: int = 16
    pretrain_crop: int = 128
    steps: int = 300
    batch: int = 4
    norm_batches: int = 100


@dataclass(frozen=True)
class Run:
    """One training: its share of the labelled pictures, its seed, and the origin of its encoder."""

    share: float
    seed: int
    side: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{round(100 * self.share)}-seed{self.seed}-{self.side.replace(' ', '_')}"


def chosen(entries: Sequence[dict[str, str]], share: float, seed: int = 0) -> list[dict[str, str]]:
    """Choose a share of the entries by their images' names alone; a smaller share is part of every larger one."""
    order = sorted(entries, key=lambda entry: entry["image"])
    random.Random(seed).shuffle(order)
    return order[: max(1, round(share * len(order)))]


def plan(few_seeds: int, all_seeds: int) -> list[Run]:
    """List the runs in pairs: the first seed with few and with all labels, then the other seeds."""
    pairs = [(FEW, seed) for seed in range(few_seeds)] + [(1.0, seed) for seed in range(all_seeds)]
    return [Run(share, seed, side) for share, seed in sorted(pairs, key=lambda pair: pair[::-1]) for side in SIDES]


def prepared(folder: Path, recipe: str, draws: dict[str, Any], **loop: int) -> Bundle:
    """Copy the bundle without weights and change some settings of one of its recipes."""
    copy_untrained(open_bundle(NAME), folder / NAME)
    path = folder / NAME / "configs" / f"{recipe}.json"
    content = json.loads(path.read_text())
    content["draws"].update(draws)
    content["loop"].update(loop)
    path.write_text(json.dumps(content))
    return open_bundle(folder / NAME)


def pretrained(folder: Path, budget: Budget) -> Path:
    """Return the checkpoint of the encoder trained without labels."""
    side = [budget.pretrain_crop] * 2
    bundle = prepared(folder / "pretrain", "pretrain", {"roi_size": side}, batch_size=budget.pretrain_batch)
    settings = TrainSettings(output=folder / "pretrain" / "run", steps=budget.pretrain_steps, recipe="pretrain")
    return train_bundle(bundle, replace(settings, data=DataList(root=_root()), device="cpu"))


def judged(folder: Path, run: Run, budget: Budget, start: Path) -> dict[str, Any]:
    """Train and score on the bundle's validation list, with the run's norm statistics and with recomputed ones."""
    place = folder / run.name
    bundle = prepared(place, "train", {}, batch_size=budget.batch, seed=run.seed)
    own = json.loads(_own_list().read_text())
    few = place / "list.json"
    few.write_text(json.dumps(own | {"training": chosen(own["training"], run.share)}))
    encoder = str(start) if run.side == SIDES[1] else None
    settings = TrainSettings(
        data=DataList(few, _root()), output=place / "run", steps=budget.steps, start=encoder, device="cpu"
    )
    checkpoint = train_bundle(bundle, settings)
    recipe = read_recipe(bundle)
    network = recipe.objective.network
    start_from(network, str(checkpoint))
    left = kept(place / "left.json", lambda: scored(bundle, network))
    sampler = recipe.draws.sampler(bundle, settings.data, run.seed)
    measure_norms(network, StepDataset(sampler, recipe.loop.batch_size, run.seed), budget)
    scores = scored(bundle, network)
    labelled = len(chosen(own["training"], run.share))
    return {
        **asdict(run),
        "labelled": labelled,
        "left": left["score"],
        "score": scores["score"],
        "cases": scores["cases"],
    }


def scored(bundle: Bundle, network: nn.Module) -> dict[str, Any]:
    """Publish into the copy and score it as `medvit evaluate` does."""
    publish(bundle, dict(network.state_dict()))
    return evaluate_bundle(open_bundle(bundle.root), None, _root(), "validation", lambda _: None, "cpu")


@torch.inference_mode()
def measure_norms(network: nn.Module, crops: StepDataset, budget: Budget) -> None:
    """Recompute the batch norms' means and variances with the current weights, on crops after those of the training.

    The running statistics weight each step by 1 % and lag behind weights that changed for only some hundred steps: all
    outlines of a run come out too wide or too narrow.
    """
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean
            module.train()
    for number in range(budget.norm_batches):
        network(crops[budget.steps + number][0])
    network.eval()


def _own_list() -> Path:
    return open_bundle(NAME).root / "configs" / "datalist.json"


def _root() -> Path:
    return data_root(None, _own_list())


def measure(folder: Path, budget: Budget, runs: Iterable[Run]) -> dict[str, Any]:
    """Return all scores; scores that are already in the folder are not computed again."""
    before = kept(folder / "budget.json", lambda: asdict(budget))
    if before != asdict(budget):
        raise SystemExit(f"Found runs of another budget in {folder} ({before}); pairs must be equal. Give another -o.")
    start = pretrained(folder, budget)
    found = []
    for run in runs:
        found.append(kept(folder / run.name / "scores.json", lambda run=run: judged(folder, run, budget, start)))  # type: ignore[misc]
        print(f"{run.name}: mean Dice {found[-1]['score']:.4f} (norms as left: {found[-1]['left']:.4f})", flush=True)
    return {"budget": before, "runs": found}


def table(found: dict[str, Any]) -> str:
    """Tabulate the pairs, with the standard error of the difference over the pictures, and the means over seeds."""
    lines = [
        "| labelled pictures | seed | from scratch | pre-trained | difference ± standard error over pictures | better in | norms as left |",
        "|---|---|---|---|---|---|---|",
    ]
    sides = [[run for run in found["runs"] if run["side"] == side] for side in SIDES]
    pairs = sorted(zip(*sides, strict=True), key=lambda pair: (pair[0]["labelled"], pair[0]["seed"]))
    for labelled, group in groupby(pairs, key=lambda pair: f"{pair[0]['labelled']} ({pair[0]['share']:.0%})"):
        same = list(group)
        lines += [f"| {labelled} | {_compared(*pair)} |" for pair in same]
        if len(same) > 1:
            means = [mean(run["score"] for run in column) for column in zip(*same, strict=True)]
            lines.append(f"| {labelled} | mean | {means[0]:.3f} | {means[1]:.3f} | {means[1] - means[0]:+.3f} | | |")
    return "\n".join(lines)


def _compared(plain: dict[str, Any], ours: dict[str, Any]) -> str:
    gains = [dice(ours["cases"][name]) - dice(case) for name, case in plain["cases"].items()]
    told = f"{mean(gains):+.3f} ± {stdev(gains) / sqrt(len(gains)):.3f}"
    better = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
    left = f"{plain['left']:.3f}, {ours['left']:.3f}"
    return f"{plain['seed']} | {plain['score']:.3f} | {ours['score']:.3f} | {told} | {better} | {left}"


def dice(case: dict[str, float]) -> float:
    """Return the mean over a picture's labels."""
    return mean(case.values())


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few-seeds", type=int, default=2, help=f"repetitions at {FEW:.0%} of the labels")
    parser.add_argument("--all-seeds", type=int, default=1, help="repetitions at all labels")
    parser.add_argument("--pretrain-steps", type=int, default=Budget.pretrain_steps)
    parser.add_argument("--steps", type=int, default=Budget.steps, help="of each training with labels")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("runs/pretraining_nuclei"), help="folder for all runs"
    )
    given = parser.parse_args()
    budget = Budget(pretrain_steps=given.pretrain_steps, steps=given.steps)
    given.output.mkdir(parents=True, exist_ok=True)
    runs = plan(given.few_seeds, given.all_seeds)
    tell(lambda: measure(given.output, budget, runs), table, given.output / "results.json")


if __name__ == "__main__":
    main()
