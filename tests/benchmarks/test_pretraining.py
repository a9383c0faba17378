"""What the benchmark of pre-training compares: subsets that judge nothing, pairs that differ in the encoder alone."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from medvit.training.recipe import read_recipe
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location("pretraining_nuclei", folder / "pretraining_nuclei.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    sys.path.insert(0, str(folder))  # its neighbours, as when it is run
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


@pytest.fixture(scope="module")
def entries() -> dict[str, list[dict[str, str]]]:
    content = json.loads((ROOT / "bundles" / "nuclei_barlow_swin" / "configs" / "datalist.json").read_text())
    return {part: content[part] for part in ("training", "validation")}


def test_few_labels_are_a_fixed_part_of_the_training_pictures_and_none_that_judge(benchmark, entries):
    few, more, everything = (benchmark.chosen(entries["training"], share) for share in (0.1, 0.5, 1.0))
    assert len(few) == 32
    assert few == benchmark.chosen(entries["training"][::-1], 0.1)  # the list's order does not matter
    assert few == more[:32] == everything[:32]
    assert few != benchmark.chosen(entries["training"], 0.1, seed=1)
    assert sorted(e["image"] for e in everything) == sorted(e["image"] for e in entries["training"])
    judged = {e["image"] for e in entries["validation"]} | {e["label"] for e in entries["validation"]}
    assert not judged.intersection(value for entry in everything for value in entry.values())
    assert len(benchmark.chosen(entries["training"][:3], 0.1)) == 1


def test_the_two_sides_of_a_pair_begin_alike_and_seeds_do_not(benchmark, tmp_path):
    drawn = {}
    for name, seed in (("one", 0), ("other", 0), ("third", 1)):
        bundle = benchmark.prepared(tmp_path / name, "train", {}, batch_size=4, seed=seed)
        assert not bundle.own_weights.exists()
        recipe = read_recipe(bundle).with_steps(30)
        assert (recipe.loop.batch_size, recipe.loop.seed, recipe.loop.steps) == (4, seed, 30)
        drawn[name] = recipe.objective.network.state_dict()
    assert all(torch.equal(value, drawn["other"][key]) for key, value in drawn["one"].items())
    assert not torch.equal(drawn["one"]["head.0.weight"], drawn["third"]["head.0.weight"])


def test_runs_come_in_pairs_and_the_table_pairs_them(benchmark):
    runs = benchmark.plan(2, 1)
    assert [run.name for run in runs[:4]] == [
        "10-seed0-from_scratch", "10-seed0-pre-trained", "100-seed0-from_scratch", "100-seed0-pre-trained",
    ]  # fmt: skip
    assert [(run.share, run.seed) for run in runs[4:]] == [(0.1, 1), (0.1, 1)]
    scores = {"from scratch": (0.5, 0.7), "pre-trained": (0.6, 0.9)}
    rows = [
        {"share": 0.1, "seed": seed, "side": side, "labelled": 32, "score": sum(s) / 2 + seed / 10, "left": s[0],
         "cases": {"a": {"n": s[0]}, "b": {"n": s[1]}}}
        for seed in (0, 1)
        for side, s in scores.items()
    ]  # fmt: skip
    # gains of 0.1 and 0.2: mean 0.15, standard deviation 0.0707, of two pictures
    assert benchmark.table({"runs": rows}).splitlines()[2:] == [
        "| 32 (10%) | 0 | 0.600 | 0.750 | +0.150 ± 0.050 | 2 of 2 | 0.500, 0.600 |",
        "| 32 (10%) | 1 | 0.700 | 0.850 | +0.150 ± 0.050 | 2 of 2 | 0.500, 0.600 |",
        "| 32 (10%) | mean | 0.650 | 0.800 | +0.150 | | |",
    ]


def test_norms_are_measured_over_the_batches_behind_those_of_training(benchmark):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(2)).train()
    batches = [(torch.randn(4, 2, 8, 8) * (n + 1) + n,) for n in range(5)]
    benchmark.measure_norms(network, batches, benchmark.Budget(steps=2, norm_batches=3))
    wanted = torch.stack([batch.mean((0, 2, 3)) for (batch,) in batches[2:]]).mean(0)
    assert torch.allclose(network[0].running_mean, wanted, atol=1e-5)
    assert network[0].num_batches_tracked == 3
    # the second sees what the first gives it in training, nothing dropped
    assert torch.allclose(network[2].running_var, torch.ones(2), atol=0.01)
    assert not any(module.training for module in network.modules())


def test_runs_of_another_budget_are_not_mixed(benchmark, tmp_path: Path):
    (tmp_path / "budget.json").write_text(json.dumps({"steps": 1}))
    with pytest.raises(SystemExit, match=r"Found runs of another budget in .*pairs must be equal. Give another -o"):
        benchmark.measure(tmp_path, benchmark.Budget(), [])
