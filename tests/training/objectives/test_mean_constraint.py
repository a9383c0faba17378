"""The mean beside bone is held where a loss alone would let it rise, level by level of noise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medvit.errors import BundleError
from medvit.training import LoopSettings, TrainingLoop
from medvit.training.objectives import MeanConstraintSettings, RestorationObjective
from medvit.training.objectives.mean_constraint import MeanConstraint

SOFT, BONE = 0.3, 0.8
"""Soft tissue lies within the held range, bone above."""


def _settings(**changes) -> MeanConstraintSettings:
    return MeanConstraintSettings(**{"between": (0.2, 0.4), "beside": 1} | changes)


def _slice() -> torch.Tensor:
    """(1, 1, 3, 6): one row of bone's pixel, five of soft tissue, between rows of air."""
    clean = torch.zeros(1, 1, 3, 6)
    clean[0, 0, 1] = SOFT
    clean[0, 0, 1, 0] = BONE
    return clean


def test_only_soft_tissue_beside_bone_is_held():
    clean = _slice()
    restored = clean + torch.arange(18.0).view_as(clean)
    held = MeanConstraint(_settings(beside=2))
    held.eval().multipliers.fill_(0.5)
    # columns 1 and 2 of the middle row: differences 7 and 8, of 18 pixels
    assert float(held(clean, restored, clean)) == pytest.approx(0.5 * (7 + 8) / 18)
    everywhere = MeanConstraint(_settings(beside=0))
    everywhere.eval().multipliers.fill_(0.5)
    assert float(everywhere(clean, restored, clean)) == pytest.approx(0.5 * (7 + 8 + 9 + 10 + 11) / 18)


def test_multipliers_move_in_training_only_and_each_by_its_own_level_of_noise():
    clean = torch.cat([_slice(), _slice()])
    context = torch.full((2, 3, 3, 6), 9.0)  # neighbours are not looked at
    context[:, 1] = clean[:, 0] + torch.tensor([0.01, 0.2]).view(2, 1, 1)
    held = MeanConstraint(_settings(noise_levels=(0.1,), rate=0.5))
    restored = clean + torch.tensor([0.02, 0.06]).view(2, 1, 1, 1)
    held.eval()(context, restored, clean)
    assert held.multipliers.tolist() == [0, 0]
    held.train()(context, restored, clean)
    assert held.multipliers.tolist() == pytest.approx([0.01, 0.03])


def test_an_image_without_bone_adds_nothing_and_moves_nothing():
    clean = torch.full((1, 1, 4, 4), SOFT)
    held = MeanConstraint(_settings())
    held.multipliers.fill_(3.0)
    assert float(held(clean, clean + 1, clean)) == 0
    assert held.multipliers.tolist() == [3.0]


class _Guess(nn.Module):
    """The same value for every pixel that cannot be told apart; the others pass."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(SOFT))

    def forward(self, degraded: torch.Tensor) -> torch.Tensor:
        return torch.where(degraded < 0, self.value, degraded)


def _ambiguous(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Make eight images (degraded, clean): one in five of the pixels beside bone is bone too, which no image shows."""
    clean = torch.full((8, 1, 8, 8), SOFT)
    clean[..., 0] = BONE
    clean[..., 1] = torch.where(torch.rand(8, 1, 8, generator=generator) < 0.2, BONE, SOFT)
    degraded = clean.clone()
    degraded[..., 1] = -1
    return degraded, clean


@pytest.mark.parametrize("held", [(), [_settings(rate=0.3)]])
def test_the_best_guess_is_too_bright_beside_bone_unless_its_mean_is_held(held):
    objective, generator = RestorationObjective(_Guess(), "squared", held=held), torch.Generator().manual_seed(3)
    optimizer, last = torch.optim.SGD(objective.network.parameters(), 0.5), []
    for step in range(600):
        optimizer.zero_grad()
        objective(*_ambiguous(generator)).backward()
        optimizer.step()
        if step >= 300:
            last.append(float(objective.network.value.detach()))
    excess = sum(last) / len(last) - SOFT
    if not held:
        assert excess == pytest.approx(0.2 * (BONE - SOFT), rel=0.1)
    else:
        assert abs(excess) < 0.005


class _Drawn:
    """Draws the images above."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def reseed(self, seed) -> None:
        self.generator.manual_seed(hash(tuple(seed) if isinstance(seed, list | tuple) else seed) & 0x7FFFFFFF)

    def batch(self, _size: int) -> tuple[torch.Tensor, torch.Tensor]:
        return _ambiguous(self.generator)


def test_a_run_that_goes_on_has_its_multipliers_and_they_are_not_the_networks(tmp_path):
    def loop(steps: int) -> TrainingLoop:
        objective = RestorationObjective(_Guess(), "squared", held=[_settings(), _settings(beside=0)])
        return TrainingLoop(objective, _Drawn(), LoopSettings(steps=steps, checkpoint_every=2), tmp_path)

    first = loop(4)
    average = first.run()
    kept = [hold.multipliers.clone() for hold in first.objective.held]
    assert all(k.item() != 0 for k in kept) and list(average) == ["value"]
    again = loop(4)
    again.run()
    assert [hold.multipliers for hold in again.objective.held] == kept


@pytest.mark.parametrize(
    "wrong", [{"between": (0.4, 0.2)}, {"beside": -1}, {"noise_levels": (0.2, 0.1)}, {"rate": 0.0}]
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(
        BundleError, match=f"MeanConstraintSettings.{next(iter(wrong))}.* = .*Correct the config of the bundle"
    ):
        _settings(**wrong)
