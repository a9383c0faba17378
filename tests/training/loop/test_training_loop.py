"""The loop: the same end however often it was killed, early stop, the best average, curves, precision, processes."""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from monai.transforms import Compose
from torch import Tensor, nn

from medvit.errors import BackendError, ShapeError
from medvit.reconstruction import StackedSwinX2S
from medvit.restoration import RestoreRWKV
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.training import LoopSettings, TrainingLoop
from medvit.training.data.xray_pairs import XraySampler
from medvit.training.loop import Machine
from medvit.training.objectives import Objective, OrganObjective, PictureObjective, RestorationObjective, ViewObjective
from tests import warm

ROOT = Path(__file__).resolve().parents[3]
SHORT = LoopSettings(steps=9, cooldown_steps=3, warmup_steps=2, batch_size=4, checkpoint_every=2, learning_rate=0.05)


class Line(Objective):
    """Objective of a line that is fitted through points, with dropout so that randomness counts."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 1)))

    def forward(self, *batch: Tensor) -> Tensor:
        points, wanted = batch
        return (self.network(points) - wanted).square().mean()


class Points:
    def __init__(self) -> None:
        self.generator = torch.Generator()

    def reseed(self, seed) -> None:
        self.generator.manual_seed(hash(tuple(seed)))

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        points = torch.rand(size, 3, generator=self.generator)
        return points, points.sum(1, keepdim=True)


def _run(folder: Path, settings: LoopSettings = SHORT, score=None, **machine) -> dict[str, Tensor]:
    return TrainingLoop(Line(), Points(), settings, folder, Machine(**machine), score).run()


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[k], other[k]) for k in one)


def test_samples_prepared_by_other_processes_are_the_same(tmp_path):
    assert _same(_run(tmp_path / "here"), _run(tmp_path / "there", workers=2))


def test_a_finished_run_is_not_trained_further_and_a_longer_one_is(tmp_path):
    first = _run(tmp_path)
    assert _same(_run(tmp_path), first)
    assert not _same(_run(tmp_path, replace(SHORT, steps=12)), first)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 12


def test_the_last_step_is_scored_too(tmp_path):
    """Otherwise a run whose length is not a multiple of the interval would end with weights older than its last ones."""
    given, seen = iter([0.2, 0.5]), []

    def score(network: nn.Module) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in network.state_dict().items()})
        return {"mean_dice": next(given)}

    kept = _run(tmp_path, replace(SHORT, steps=5, validate_every=3), score)
    assert len(seen) == 2
    assert _same(kept, seen[1])
    assert [row["step"] for row in csv.DictReader((tmp_path / "scores.csv").open())] == ["3", "5"]


def test_it_stops_early_and_keeps_the_average_that_scored_best(tmp_path):
    given, seen = iter([0.2, 0.5, 0.4, 0.3, 0.9]), []

    def score(network: nn.Module) -> dict[str, float]:
        assert not network.training
        seen.append({k: v.clone() for k, v in network.state_dict().items()})
        return {"mean_dice": next(given), "other": 1.0}

    settings = replace(SHORT, steps=40, validate_every=3, patience=2)
    kept = _run(tmp_path, settings, score)
    assert len(seen) == 4  # two in a row were not better than the second
    assert _same(kept, seen[1])
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (state["step"], state["best"]) == (12, 0.5)
    assert _same(_run(tmp_path, settings, score), seen[1])  # given again, it stays stopped
    assert len(seen) == 4
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert [(row["step"], row["mean_dice"]) for row in rows] == [
        ("3", "0.2"),
        ("6", "0.5"),
        ("9", "0.4"),
        ("12", "0.3"),
    ]


def test_curves_go_to_csv_and_tensorboard_and_are_not_doubled_by_a_resumed_run(tmp_path):
    settings = replace(SHORT, steps=40, checkpoint_every=10)
    _run(tmp_path, settings)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    torch.save({**state, "step": 30}, tmp_path / "checkpoint.pt")
    _run(tmp_path, settings)
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert [row["step"] for row in rows] == ["20", "40"]
    assert all(float(row["loss"]) > 0 for row in rows)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert {event.step for event in board.Scalars("curve/loss")} == {20, 40}


def test_gradients_are_clipped(tmp_path):
    settings = replace(SHORT, steps=1, clip_norm=1e-3, warmup_steps=1, cooldown_steps=0)
    loop = TrainingLoop(Line(), Points(), settings, tmp_path)
    loop.run()
    norm = torch.stack([p.grad.norm() for p in loop.network.parameters()]).norm()
    assert float(norm) <= 1.001e-3


def _objectives() -> dict[str, tuple[Objective, tuple[Tensor, ...]]]:
    torch.manual_seed(0)
    rand = torch.rand
    organ = OrganObjective(SwinUNETR(1, 3, feature_size=12, window_size=4))
    picture = PictureObjective(BarlowSwin(embed_dim=16, num_heads=2))
    restore = RestorationObjective(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1))
    views = ViewObjective(
        StackedSwinX2S((32, 32, 64), 1, out_channels=3, feature_size=4, depths=(1,) * 4, num_heads=(1, 2, 4, 4))
    )
    return {
        "swin_unetr": (organ, (rand(1, 1, 64, 32, 32), torch.randint(0, 3, (1, 1, 64, 32, 32)))),
        "barlow_swin": (picture, (rand(2, 3, 64, 64), (rand(2, 1, 64, 64) > 0.5).float())),
        "restore_rwkv": (restore, (rand(1, 1, 16, 16), rand(1, 1, 16, 16))),
        "swin_x2s": (views, (rand(1, 2, 32, 64), torch.randint(0, 3, (1, 1, 32, 32, 64)))),
    }


@pytest.mark.parametrize("name", ["swin_unetr", "barlow_swin", "restore_rwkv", "swin_x2s"])
def test_each_network_can_be_trained_in_mixed_precision(name):
    """The casts alone; by plain convolutions, since oneDNN's gradients in bf16 hold memory that nobody wrote (see Machine)."""
    objective, batch = _objectives()[name]
    plain = float(objective(*batch).detach())
    with torch.backends.mkldnn.flags(enabled=False):
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective(*batch)
        mixed.backward()
    assert mixed.dtype == torch.float32
    assert float(mixed.detach()) == pytest.approx(plain, rel=0.05)
    slopes = [p.grad for p in objective.network.parameters() if p.grad is not None]
    assert all(bool(torch.isfinite(slope).all()) for slope in slopes)
    assert any(bool(slope.any()) for slope in slopes)


def test_the_small_organ_loss_can_be_chosen():
    network = SwinUNETR(1, 3, feature_size=12, window_size=4)
    batch = torch.rand(1, 1, 64, 32, 32), torch.randint(0, 3, (1, 1, 64, 32, 32))
    losses = {}
    for name in ("dice_ce", "focal_tversky_ce"):
        torch.manual_seed(0)
        losses[name] = float(OrganObjective(network, loss=name)(*batch).detach())
    assert losses["dice_ce"] != pytest.approx(losses["focal_tversky_ce"], rel=1e-3)


def test_patches_that_the_network_would_pad_are_refused():
    with pytest.raises(ShapeError, match=r"patches of \(32, 32, 32\) voxels, which the network pads.*Correct roi_size"):
        _objectives()["swin_unetr"][0](torch.rand(1, 1, 32, 32, 32), torch.zeros(1, 1, 32, 32, 32, dtype=torch.long))


def test_precisions_that_cannot_be_used():
    with pytest.raises(BackendError, match="precision 'int8'; it must be one of fp32, bf16, fp16"):
        Machine(precision="int8")
    for precision in ("bf16", "fp16"):
        with pytest.raises(
            BackendError,
            match=rf"precision {precision} on cpu; .*sometimes gives wrong gradients.*Take precision=.fp32.",
        ):
            Machine(precision=precision)
    with pytest.raises(BackendError, match="precision fp16 on mps; it needs a CUDA GPU"):
        Machine(torch.device("mps"), "fp16")


def test_x_ray_samples_follow_their_seed():
    from monai.transforms import RandGaussianNoised

    cases = [{"image": torch.full((2, 4, 4), float(n)), "label": torch.full((1, 4, 4, 4), n)} for n in range(3)]
    sampler = XraySampler(cases, Compose([RandGaussianNoised("image", prob=1.0, std=0.1)]), 0)
    first = sampler.batch(6)
    sampler.reseed((0, 5, 1))
    second = sampler.batch(6)
    sampler.reseed(0)
    again = sampler.batch(6)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], second[0])
    assert first[0].shape == (6, 2, 4, 4) and first[1].shape == (6, 1, 4, 4, 4)
    for image, label in zip(*first, strict=True):
        assert abs(float(image.mean()) - float(label[0, 0, 0, 0])) < 0.2


def test_two_processes_learn_together(tmp_path):
    """torchrun with two processes: other samples each, the same weights on both, one of them writes."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\n"
        "import ignite.distributed as idist\n"
        "from pathlib import Path\n"
        "from medvit.training.loop import several_processes\n"
        "from tests.training.loop.test_training_loop import Line, Points, SHORT\n"
        "from medvit.training import TrainingLoop\n"
        "with several_processes(torch.device('cpu')):\n"
        "    loop = TrainingLoop(Line(), Points(), SHORT, Path(sys.argv[1]))\n"
        "    average = loop.run()\n"
        "    torch.save(average, Path(sys.argv[1]) / f'rank{idist.get_rank()}.pt')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    outcome = warm.run([*command, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    ranks = [torch.load(tmp_path / f"rank{n}.pt", weights_only=True) for n in (0, 1)]
    assert _same(*ranks)
    alone = _run(tmp_path / "alone")
    assert not _same(ranks[0], alone)  # both processes' samples count
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["step"] == 9 and set(state["objective"]) == set(Line().state_dict())
