"""Dice against the number of labels: cases chosen by the annotation server's `quality` strategy, against random cases.

    python benchmarks/active_learning.py [--quick] [-o curve.json]

Data: hippocampus MR (shared data); reference labels replace the annotator. A network trained on the labels so far rates
every unlabelled case, through `medvit.run` and `medvit_label.labels.next_case.uncertainty`, as the server does; the
most uncertain cases are labelled next. Each point is a network trained from the same random weights for the same number
of steps, so that only the choice of cases differs; both sides begin with the same random cases. Scores are of cases
that neither side can choose, through `medvit.training.evaluation`. The network is a small U-Net of MONAI's in the
transforms of hippocampus_mr_swin_unetr: to train a Swin UNETR so often would take hours on a CPU.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from medvit_label.labels.next_case import uncertainty
from monai.bundle import ConfigParser
from timing import tell

import medvit
from medvit.bundles import Bundle, open_bundle
from medvit.training import FineTuning, fine_tune
from medvit.training.data import DataList, data_root
from medvit.training.loop import publish

NAME = "hippocampus_mr_swin_unetr"
NETWORK = {
    "_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 3,
    "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1,
}  # fmt: skip

Entry = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Size of the benchmark.

    Attributes:
        labels: numbers of labels at which a network is trained and scored.
        pool: number of cases to choose from.
        judged: number of cases for scores.
        steps: optimiser steps of each training.
        seeds: repetitions, each with its own pool, start and random choices.
    """

    labels: tuple[int, ...] = (3, 6, 12, 24)
    pool: int = 80
    judged: int = 30
    steps: int = 200
    seeds: int = 5


QUICK = Plan(labels=(4, 8), pool=24, judged=12, steps=120, seeds=2)


def make_bundle(folder: Path, seed: int) -> Bundle:
    """Copy the hippocampus bundle with the small network and random weights."""
    import shutil

    shutil.copytree(open_bundle(NAME).root, folder, ignore=shutil.ignore_patterns("models", "docs"))
    for name, change in (
        ("inference", {"network_def": NETWORK}),
        (
            "train",
            {
                "objective": {
                    "_target_": "medvit.training.objectives.supervised.PictureObjective",
                    "network": "@network_def",
                }
            },
        ),
    ):
        path = folder / "configs" / f"{name}.json"
        content = json.loads(path.read_text()) | change
        if name == "train":
            content["loop"] |= {"batch_size": 2, "warmup_steps": 10, "ema_decay": 0.95}
        path.write_text(json.dumps(content))
    torch.manual_seed(seed)
    bundle = Bundle(folder)
    publish(bundle, ConfigParser({"network_def": NETWORK}).get_parsed_content("network_def").state_dict())
    return Bundle(folder)


def trained(base: Bundle, folder: Path, chosen: list[Entry], judged: list[Entry], steps: int) -> tuple[Bundle, float]:
    """Train a network on the chosen cases; return it with its score."""
    folder.mkdir(parents=True)
    (folder / "list.json").write_text(json.dumps({"training": chosen, "validation": judged}))
    wanted = FineTuning(
        base=base,
        data=DataList(folder / "list.json", _root()),
        folder=folder,
        version="0",
        steps=steps,
        learning_rate=2e-3,
        device="cpu",
    )
    found = fine_tune(wanted, lambda _: None, {"metric": "mean_dice", "score": 0.0, "metrics": {}, "cases": {}})
    return open_bundle(wanted.candidate), float(found["after"])


def most_doubted(bundle: Bundle, waiting: list[Entry], count: int) -> list[Entry]:
    """Return the cases that the server would offer next."""
    scored = []
    for entry in waiting:
        result = medvit.run(bundle, _root() / entry["image"], medvit.RunSettings(device="cpu", quality_map=True))
        assert isinstance(result, medvit.Result)
        scored.append(
            (uncertainty({"quality": result.quality(), "agreement": result.agreement()})[0], entry["image"], entry)
        )
    return [entry for _, _, entry in sorted(scored, key=lambda item: (-item[0], item[1]))[:count]]


@dataclass(frozen=True, kw_only=True)
class Start:
    """Start of both sides: the first cases, the network trained on them, and its score."""

    base: Bundle
    pool: list[Entry]
    judged: list[Entry]
    model: Bundle
    score: float


def begin(base: Bundle, folder: Path, pool: list[Entry], judged: list[Entry], plan: Plan) -> Start:
    """Train on the first cases of a pool in random order."""
    model, score = trained(base, folder, pool[: plan.labels[0]], judged, plan.steps)
    print(f"  both: {plan.labels[0]} labels, Dice {score:.4f}", flush=True)
    return Start(base=base, pool=pool, judged=judged, model=model, score=score)


def curve(start: Start, folder: Path, plan: Plan, ours: bool) -> list[float]:
    """Compute the scores at each number of labels."""
    model, chosen, scores = start.model, start.pool[: plan.labels[0]], [start.score]
    for count in plan.labels[1:]:
        waiting = [entry for entry in start.pool if entry not in chosen]
        more = count - len(chosen)
        chosen = [*chosen, *(most_doubted(model, waiting, more) if ours else waiting[:more])]
        model, score = trained(start.base, folder / str(count), chosen, start.judged, plan.steps)
        scores.append(score)
        print(f"  {'ours' if ours else 'random'}: {count} labels, Dice {score:.4f}", flush=True)
    return scores


def _root() -> Path:
    return data_root(None, open_bundle(NAME).root / "configs" / "datalist.json")


def measure(plan: Plan) -> dict[str, Any]:
    """Compute both curves for each seed, and their means."""
    content = json.loads((open_bundle(NAME).root / "configs" / "datalist.json").read_text())
    found: dict[str, list[list[float]]] = {"ours": [], "random": []}
    for seed in range(plan.seeds):
        draw = random.Random(seed)
        pool, judged = draw.sample(content["training"], plan.pool), draw.sample(content["validation"], plan.judged)
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory() as place:
            base = make_bundle(Path(place) / "base" / NAME, seed)
            start = begin(base, Path(place) / "both", pool, judged, plan)
            for side in found:
                found[side].append(curve(start, Path(place) / side, plan, side == "ours"))
    means = {side: [round(mean(column), 4) for column in zip(*rows, strict=True)] for side, rows in found.items()}
    return {"plan": plan.__dict__, "means": means, "curves": found}


def table(found: dict[str, Any]) -> str:
    """Format the curves as Markdown."""
    lines = ["| labels | ours | random | ours minus random, by seed |", "|---|---|---|---|"]
    for n, count in enumerate(found["plan"]["labels"]):
        apart = [a[n] - b[n] for a, b in zip(found["curves"]["ours"], found["curves"]["random"], strict=True)]
        means = (found["means"][side][n] for side in ("ours", "random"))
        lines.append(f"| {count} | {' | '.join(f'{m:.3f}' for m in means)} | {', '.join(f'{d:+.3f}' for d in apart)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two repetitions of a smaller plan")
    parser.add_argument("-o", "--output", type=Path, help="JSON with all numbers")
    given = parser.parse_args()
    tell(lambda: measure(QUICK if given.quick else Plan()), table, given.output)


if __name__ == "__main__":
    main()
