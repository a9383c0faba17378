"""Dice against the number of labels on pictures of nuclei: three strategies for the next pictures, in minutes on one
core.

    python benchmarks/active_learning_nuclei.py [--seeds 5] [-o curve.json]

The annotation server's ranking is compared with chance: `mirror` takes the pictures whose labels agree least with those
of their mirror image, through `medvit_label.labels.next_case.uncertainty` as the server does; `entropy` those with the
highest mean entropy; `random` takes any. Reference labels replace the annotator. The pictures (shared data, the split
of nuclei_barlow_swin) are reduced to 96 x 96 pixels, so that a U-Net of 12,000 weights can be trained from the same
random weights, for the same number of steps, at each number of labels: only the choice differs. All strategies of a
repetition begin with the same pictures, and are scored on pictures that none can choose. About one picture in five is
stained tissue or bright field rather than fluorescence, so that a good choice can matter.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from medvit_label.labels.next_case import uncertainty
from monai.networks.nets import UNet
from PIL import Image
from timing import tell
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import open_bundle
from medvit.inference import label_agreement
from medvit.training.data import data_root

NAME = "nuclei_barlow_swin"
SIDES = ("random", "mirror", "entropy")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the benchmark.

    Attributes:
        labels: numbers of labels at which a network is trained and scored.
        pool: number of pictures to choose from.
        steps: optimiser steps of each training.
        seeds: repetitions, each with its own pool, start, weights and random choices.
        size: side of a picture in pixels; training takes crops of ``crop``.
    """

    labels: tuple[int, ...] = (4, 8, 16, 32)
    pool: int = 120
    steps: int = 500
    seeds: int = 5
    size: int = 96
    crop: int = 64
    batch: int = 8
    learning_rate: float = 5e-3


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures (n, 3, row, column) in 0..1 and masks (n, 1, row, column) of 0 and 1."""

    images: Tensor
    masks: Tensor

    def at(self, places: list[int]) -> Pictures:
        """Select some pictures."""
        return Pictures(self.images[places], self.masks[places])

    def coloured(self) -> list[bool]:
        """Return True for stained tissue or bright field: pictures in colour, or with a bright background."""
        spread = (self.images.amax(1) - self.images.amin(1)).mean((1, 2))
        return [bool(s > 0.05 or b > 0.5) for s, b in zip(spread, self.images.mean((1, 2, 3)), strict=True)]


def load(entries: list[dict[str, str]], root: Path, size: int) -> Pictures:
    """Load the pictures of a data list, with their instances as one mask, reduced in size."""
    images, masks = [], []
    for entry in entries:
        with Image.open(root / entry["image"]) as shown:
            small = shown.convert("RGB").resize((size, size), Image.Resampling.BOX)
        with Image.open(root / entry["label"]) as marked:
            mask = Image.fromarray((np.asarray(marked) > 0).astype(np.uint8) * 255)
        images.append(np.asarray(small, np.float32).transpose(2, 0, 1) / 255)
        masks.append(np.asarray(mask.resize((size, size), Image.Resampling.BOX), np.float32)[None] >= 128)
    return Pictures(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks).astype(np.float32)))


def trained(given: Pictures, plan: Plan, seed: int) -> UNet:
    """Train a network from the weights that the seed draws."""
    torch.manual_seed(seed)
    network = UNet(2, 3, 1, (8, 16, 32), (2, 2), num_res_units=1, norm="batch")
    optimiser = torch.optim.Adam(network.parameters(), plan.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, plan.learning_rate, total_steps=plan.steps)
    draw = random.Random(seed)
    for _ in range(plan.steps):
        images, masks = _batch(given, plan, draw)
        logits = network(images)
        inside = torch.sigmoid(logits)
        overlap = 1 - (2 * (inside * masks).sum() + 1) / (inside.sum() + masks.sum() + 1)
        loss = F.binary_cross_entropy_with_logits(logits, masks) + overlap
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    return network.eval()


def _batch(given: Pictures, plan: Plan, draw: random.Random) -> tuple[Tensor, Tensor]:
    """Draw random crops, rotated and flipped."""
    images, masks = [], []
    for _ in range(plan.batch):
        place = draw.randrange(len(given.images))
        row, column = (draw.randint(0, plan.size - plan.crop) for _ in range(2))
        box = (slice(None), slice(row, row + plan.crop), slice(column, column + plan.crop))
        turns, flip = draw.randrange(4), draw.random() < 0.5
        for found, into in ((given.images, images), (given.masks, masks)):
            piece = torch.rot90(found[place][box], turns, (1, 2))
            into.append(piece.flip(2) if flip else piece)
    return torch.stack(images), torch.stack(masks)


@torch.no_grad()
def probabilities(network: UNet, images: Tensor) -> Tensor:
    """Compute the probability of each pixel to be in a nucleus, (n, row, column)."""
    return torch.cat([torch.sigmoid(network(part))[:, 0] for part in images.split(20)])


def score(network: UNet, judged: Pictures) -> float:
    """Compute the mean Dice of the pictures."""
    found = (probabilities(network, judged.images) > 0.5).float()
    truth = judged.masks[:, 0]
    sums = (found + truth).sum((1, 2))
    dice = torch.where(sums > 0, 2 * (found * truth).sum((1, 2)) / sums.clamp(min=1), 1.0)
    return float(dice.mean())


def doubts(side: str, network: UNet, images: Tensor) -> list[float]:
    """Compute the uncertainty of each picture's labels."""
    inside = probabilities(network, images)
    if side == "entropy":
        p = inside.clamp(1e-6, 1 - 1e-6)
        bits = -(p * p.log2() + (1 - p) * (1 - p).log2())
        return [float(value) for value in bits.mean((1, 2))]
    wanted = open_bundle(NAME).facts.labels
    turned = probabilities(network, images.flip(3)).flip(2)
    made = []
    for one, other in zip(inside > 0.5, turned > 0.5, strict=True):
        ids, mirrored = (answer.numpy().astype(np.int16) * wanted[0].id for answer in (one, other))
        judged = {"quality": {"rating": "good", "reasons": []}, "agreement": label_agreement(ids, mirrored, wanted)}
        made.append(uncertainty(judged)[0])
    return made


def curve(
    side: str, network: UNet, pool: Pictures, judged: Pictures, plan: Plan, seed: int
) -> tuple[list[float], list[int]]:
    """Compute the scores at each number of labels, and the chosen pictures, from a start on the first pictures of a
    random pool."""
    chosen = list(range(plan.labels[0]))
    scores = [score(network, judged)]
    for count in plan.labels[1:]:
        waiting = [place for place in range(len(pool.images)) if place not in chosen]
        if side != "random":
            worth = doubts(side, network, pool.images[waiting])
            ranked = sorted(zip(worth, waiting, strict=True), key=lambda item: (-item[0], item[1]))
            waiting = [place for _, place in ranked]
        chosen += waiting[: count - len(chosen)]
        network = trained(pool.at(chosen), plan, seed)
        scores.append(score(network, judged))
    return scores, chosen


def measure(plan: Plan) -> dict[str, Any]:
    """Compute all curves for each seed."""
    path = open_bundle(NAME).root / "configs" / "datalist.json"
    content, root = json.loads(path.read_text()), data_root(None, path)
    everything, judged = (load(content[part], root, plan.size) for part in ("training", "validation"))
    found: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    rare: dict[str, list[int]] = {side: [] for side in SIDES}
    for seed in range(plan.seeds):
        pool = everything.at(random.Random(seed).sample(range(len(everything.images)), plan.pool))
        coloured = pool.coloured()
        first = trained(pool.at(list(range(plan.labels[0]))), plan, seed)
        for side in SIDES:
            scores, chosen = curve(side, first, pool, judged, plan, seed)
            found[side].append(scores)
            rare[side].append(sum(coloured[place] for place in chosen))
            print(
                f"seed {seed} {side}: {', '.join(f'{s:.3f}' for s in scores)}; {rare[side][-1]} not fluorescence of {sum(coloured)}",
                flush=True,
            )
    return {"plan": asdict(plan), "curves": found, "rare": rare}


def table(found: dict[str, Any]) -> str:
    """Tabulate means with the standard deviation over seeds, and the gain of each strategy over chance for each
    seed."""
    lines = [
        f"| labels | {' | '.join(SIDES)} | mirror - random, by seed | entropy - random, by seed |",
        "|---|---|---|---|---|---|",
    ]
    for n, count in enumerate(found["plan"]["labels"]):
        columns = {side: [row[n] for row in found["curves"][side]] for side in SIDES}
        told = [f"{mean(c):.3f} ± {stdev(c) if len(c) > 1 else 0:.3f}" for c in columns.values()]
        gains = [
            ", ".join(f"{a - b:+.3f}" for a, b in zip(columns[side], columns["random"], strict=True))
            for side in SIDES[1:]
        ]
        lines.append(f"| {count} | {' | '.join(told)} | {' | '.join(gains)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=Plan.seeds, help="repetitions")
    parser.add_argument("--steps", type=int, default=Plan.steps, help="of each training")
    parser.add_argument("-o", "--output", type=Path, help="JSON with all numbers")
    given = parser.parse_args()
    tell(lambda: measure(Plan(seeds=given.seeds, steps=given.steps)), table, given.output)


if __name__ == "__main__":
    main()
