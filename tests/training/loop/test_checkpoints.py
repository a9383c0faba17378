"""Checkpoints: a killed run goes on from them, a full disk or a broken gradient does not reach them."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medvit.atomic_write import HIDDEN
from medvit.errors import CheckpointError, DivergedError, StoppedError
from medvit.training import TrainingLoop
from medvit.training.loop import start_from
from tests import warm
from tests.training.loop.test_training_loop import ROOT, SHORT, Line, Points, _run, _same


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
    assert "the checkpoint of step 4 is kept" in outcome.stdout
    assert "give the same command again to continue from it" in outcome.stdout
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
