"""The loop on a network for organs: its loss, its schedules, and that it learns and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medvit.atomic_write import HIDDEN
from medvit.segmentation import SwinUNETR
from medvit.training import (
    LoopSettings,
    PatchSampler,
    PatchSettings,
    TrainingLoop,
)
from medvit.training.objectives import OrganObjective
from medvit.training.objectives.segmentation_losses import weighted_dice_ce
from tests.training.data.test_patches import phantom_case


def test_the_loss_falls_with_agreement_and_ignores_absent_classes():
    labels = torch.zeros(1, 1, 8, 8, 8, dtype=torch.long)
    labels[..., :4] = 2
    right = torch.nn.functional.one_hot(labels[:, 0], 4).movedim(-1, 1).float() * 12
    assert float(weighted_dice_ce(right, labels)) < 0.01
    assert float(weighted_dice_ce(torch.zeros_like(right), labels)) > 1
    nothing = torch.zeros_like(labels)
    assert torch.isfinite(weighted_dice_ce(torch.zeros_like(right), nothing))


def _loop(folder: Path, steps: int) -> TrainingLoop:
    torch.manual_seed(0)
    network = SwinUNETR(1, 8, feature_size=12, window_size=4)
    settings = PatchSettings(roi_size=(64, 32, 32), spacing_mm=(1.2, 1.2, 1.8), intensity_range=(-200.0, 300.0))
    loop = LoopSettings(steps=steps, cooldown_steps=2, checkpoint_every=2)
    return TrainingLoop(OrganObjective(network), PatchSampler([phantom_case()], settings, 0), loop, folder)


def test_the_loop_learns_and_goes_on_after_a_kill(tmp_path):
    first = _loop(tmp_path / "run", 12)
    image, labels = first.sampler.batch(1)
    before = float(first.objective(image, labels).detach())
    first.run()
    after = float(first.objective(image, labels).detach())
    assert after < before
    again = _loop(tmp_path / "run", 14)
    again.resume()
    assert again.step == 12
    for key, value in first.average.items():
        assert torch.equal(again.average[key], value)
    again.run()
    assert again.step == 14
    assert not list((tmp_path / "run").glob(f"{HIDDEN}*"))


def test_rate_and_background_follow_their_schedules():
    settings = LoopSettings(steps=1000, cooldown_steps=400)
    assert settings.rate(0) == pytest.approx(1e-5)
    assert settings.rate(300) == settings.rate(599) == settings.learning_rate
    assert settings.rate(800) == pytest.approx(settings.learning_rate / 2)
    assert settings.rate(1000) == 0
    objective = OrganObjective(SwinUNETR(1, 8, feature_size=12), background_weights=((0, 0.1), (500, 1.0)))
    seen = []
    for objective.step in (0, 499, 500, 999):
        seen.append(objective.background())
    assert seen == [0.1, 0.1, 1.0, 1.0]
