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

from medvit.atomic_write import HIDDEN
from medvit.errors import BackendError, CheckpointError, DivergedError, ShapeError, StoppedError
from medvit.reconstruction import StackedSwinX2S
from medvit.restoration import RestoreRWKV
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.training import LoopSettings, TrainingLoop
from medvit.training.data.xray_pairs import XraySampler
from medvit.training.loop import Machine, start_from
from medvit.training.objectives import Objective, OrganObjective, PictureObjective, RestorationObjective, ViewObjective
from tests import warm

ROOT = Path(__file__).resolve().parents[3]
SHORT = LoopSettings(steps=9, cooldown_steps=3, warmup_steps=2, batch_size=4, checkpoint_every=2, learning_rate=0.05)


class Line(Objective):
    """Fits a line through points, with dropout so that randomness counts."""

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


def test_a_killed_run_ends_with_the_very_weights_of_one_that_was_not(tmp_path):
    whole = _run(tmp_path / "whole")
    loop = TrainingLoop(Line(), Points(), SHORT, tmp_path / "killed")
    honest, loop.sampler.batch = loop.sampler.batch, None

    def batch(size: int) -> tuple[Tensor, Tensor]:
        if loop.step == 7:
            raise KeyboardInterrupt
        return honest(size)

    loop.sampler.batch = batch
    with pytest.raises(StoppedError, match="Stopped at step 7 of 9; the newest checkpoint is in .*same command again"):
        loop.run()
    assert torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)["step"] == 6
    assert _same(_run(tmp_path / "killed"), whole)
    assert not list(tmp_path.rglob(f"{HIDDEN}*"))


def test_samples_prepared_by_other_processes_are_the_same(tmp_path):
    assert _same(_run(tmp_path / "here"), _run(tmp_path / "there", workers=2))


def test_a_finished_run_is_not_trained_further_and_a_longer_one_is(tmp_path):
    first = _run(tmp_path)
    assert _same(_run(tmp_path), first)
    assert not _same(_run(tmp_path, replace(SHORT, steps=12)), first)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 12


def test_the_last_step_is_scored_too(tmp_path):
    """Else a run whose length is no multiple of the interval would end with older weights than its last."""
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


def test_a_loss_that_is_no_number_is_named_and_keeps_the_last_checkpoint(tmp_path):
    class Breaking(Line):
        def forward(self, *batch: Tensor) -> Tensor:
            return super().forward(*batch) * (float("nan") if self.step == 5 else 1)

    loop = TrainingLoop(Breaking(), Points(), SHORT, tmp_path)
    with pytest.raises(
        DivergedError, match="loss of nan at step 5; the last good weights are in .*Lower learning_rate"
    ):
        loop.run()
    assert isinstance(DivergedError(""), FloatingPointError)
    assert torch.load(loop.checkpoint, weights_only=True)["step"] == 4


def test_a_gradient_that_is_no_number_never_reaches_a_checkpoint(tmp_path):
    """The loss is finite still; taken, the step would spoil every weight and the checkpoint after it."""

    class Steep(Line):
        def forward(self, *batch: Tensor) -> Tensor:
            fallen = super().forward(*batch)
            return fallen + (0 * fallen.sum()).sqrt() if self.step == 5 else fallen  # 0 * infinity

    loop = TrainingLoop(Steep(), Points(), replace(SHORT, checkpoint_every=1), tmp_path)
    with pytest.raises(DivergedError, match="a gradient of length nan at step 5; the last good weights are in"):
        loop.run()
    state = torch.load(loop.checkpoint, weights_only=True)
    assert state["step"] == 5
    assert all(bool(v.isfinite().all()) for v in state["objective"].values())
    early = TrainingLoop(Steep(), Points(), SHORT, tmp_path / "early")
    early.folder.mkdir()
    early.objective.step = early.step = 5
    with pytest.raises(DivergedError, match="at step 5; none are kept yet"):
        early._train_one(None, Points().batch(2))


FULL = """
import resource, sys
from pathlib import Path
from dataclasses import replace
from tests.training.loop.test_training_loop import Line, Points, SHORT
from medvit.training import TrainingLoop
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

class Filling(Points):
    def batch(self, size):
        if loop.step == 5:  # from here on no file may grow beyond this: what a full disk looks like to a program
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return super().batch(size)

loop = TrainingLoop(Line(), Filling(), SHORT, Path(sys.argv[1]))
try:
    loop.run()
except Exception as error:
    sys.stdout.write(type(error).__name__ + ": " + str(error))
"""


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(tmp_path):
    outcome = warm.run(
        [sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert "OutputError: Found that" in outcome.stdout, outcome.stderr[-2000:]
    assert "the one of step 4 is kept" in outcome.stdout
    assert "give the same command again to go on from it" in outcome.stdout
    assert not list(tmp_path.glob(f"{HIDDEN}*"))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    assert _same(_run(tmp_path), _run(tmp_path / "whole"))


def test_checkpoints_that_cannot_be_gone_on_from(tmp_path):
    _run(tmp_path)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    state = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "best"}, path)
    with pytest.raises(CheckpointError, match="checkpoint of another run in .*'best'.*another output"):
        _run(tmp_path)
    torch.save({**state, "objective": {"network.0.weight": torch.zeros(5, 5)}}, path)
    with pytest.raises(CheckpointError, match="checkpoint of another run in .*Missing key|checkpoint of another run"):
        _run(tmp_path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="checkpoint.pt, which is damaged or incomplete"):
        _run(tmp_path)


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
            BackendError, match=rf"precision {precision} on cpu; .*now and then wrong.*Take precision=.fp32."
        ):
            Machine(precision=precision)
    with pytest.raises(BackendError, match="precision fp16 on mps; it needs a CUDA GPU"):
        Machine(torch.device("mps"), "fp16")


def test_starting_from_other_weights(tmp_path):
    _run(tmp_path / "first")
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.Linear(4, 2))  # a head for other labels
    drawn = network[2].weight.detach().clone()
    said = start_from(network, str(tmp_path / "first" / "checkpoint.pt"))
    assert "2 of 4 tensors; newly drawn: 2.weight, 2.bias" in str(said) and not said.whole
    average = torch.load(tmp_path / "first" / "checkpoint.pt", weights_only=True)["average"]
    assert torch.equal(network[0].weight, average["0.weight"])
    assert torch.equal(network[2].weight, drawn)
    with pytest.raises(CheckpointError, match=r"no tensor in .*checkpoint\.pt that fits Linear \(it holds 0\.bias"):
        start_from(nn.Linear(7, 7), str(tmp_path / "first" / "checkpoint.pt"))


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
