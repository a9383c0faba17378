"""Pairs are what the physics says; a short run learns, resumes and publishes; wrong lists are named."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from medvit.bundles import load_weights, open_bundle
from medvit.errors import BundleError, ShapeError, SourceError
from medvit.physics.degradations import LowDoseCT, ParallelBeam
from medvit.restoration import RestoreRWKV
from medvit.training import LoopSettings, TrainingLoop, TrainSettings, train_bundle
from medvit.training.data import DataList, PairSettings, SliceStack, read_images
from medvit.training.data.degraded_pairs import PairSampler
from medvit.training.objectives import RestorationObjective

ROOT = Path(__file__).resolve().parents[3]
RANGE = (-1024.0, 3072.0)


def _case(shape=(20, 16, 3)) -> SliceStack:
    rng = np.random.default_rng(0)
    return SliceStack("case", rng.normal(40, 10, shape).astype(np.float32), (2.0, 2.0, 3.0))


def _pairs(**changes) -> PairSettings:
    scanner = LowDoseCT(beam=ParallelBeam(12))
    return PairSettings(**{"intensity_range": RANGE, "scanner": scanner, "crop": (16, 16), **changes})


def _loop(folder: Path, loss: str) -> TrainingLoop:
    torch.manual_seed(0)
    objective = RestorationObjective(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), loss)
    sampler = PairSampler([_case()], _pairs(), 0)
    return TrainingLoop(objective, sampler, LoopSettings(steps=4, cooldown_steps=1, checkpoint_every=2), folder)


def test_pairs_lie_on_each_other_and_only_noise_differs():
    degraded, clean = PairSampler([_case()], _pairs(), 0).batch(3)
    assert degraded.shape == clean.shape == (3, 1, 16, 16)
    assert float(degraded.min()) >= 0 and float(degraded.max()) <= 1
    assert not torch.equal(degraded, clean)
    quiet = LowDoseCT(photons_per_ray=1e15, electronic_noise=0.0, beam=ParallelBeam(12))
    same = PairSampler([_case()], _pairs(scanner=quiet), 0).batch(3)
    assert torch.allclose(same[0], same[1], atol=1e-4)


def test_small_slices_are_padded_with_air():
    _, clean = PairSampler([_case((9, 20, 2))], _pairs(), 0).draw()
    assert clean.shape == (1, 16, 16)
    assert (clean == 0).sum() >= 7 * 16


def test_pairs_are_the_same_for_a_seed():
    one, two = (PairSampler([_case()], _pairs(), 3).batch(2) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    sampler = PairSampler([_case()], _pairs(), 0)
    sampler.reseed(3)
    assert torch.equal(sampler.batch(2)[0], one[0])


def _steps(depth: int) -> SliceStack:
    """Slices that are told apart by their intensity, 10 HU a step."""
    image = np.broadcast_to(10.0 * np.arange(depth, dtype=np.float32), (16, 16, depth))
    return SliceStack("steps", np.ascontiguousarray(image), (2.0, 2.0, 3.0))


def test_a_slice_brings_its_neighbours_in_order_or_reversed():
    quiet = LowDoseCT(photons_per_ray=1e15, electronic_noise=0.0, beam=ParallelBeam(12))
    settings = _pairs(scanner=quiet, context=1, neighbour_steps=(1, 3), slab=8, pool=2, uses=6)
    sampler = PairSampler([_steps(12)], settings, 0)
    seen = set()
    for _ in range(200):
        degraded, clean = sampler.draw()
        assert degraded.shape == (3, 16, 16) and clean.shape == (1, 16, 16)
        levels = (torch.cat([degraded, clean]).mean((1, 2)) * 4096 - 1024) / 10
        below, middle, above, alone = levels.round().int().tolist()
        assert middle == alone and torch.allclose(levels, levels.round(), atol=0.02)
        seen.add((below - middle, above - middle))
    ends = {(0, 1), (-1, 0), (0, 3), (-3, 0), (1, 0), (0, -1), (3, 0), (0, -3)}
    partly = (
        {(-k, 3) for k in (1, 2)} | {(-3, k) for k in (1, 2)} | {(3, -k) for k in (1, 2)} | {(k, -3) for k in (1, 2)}
    )
    assert {(-1, 1), (1, -1), (-3, 3), (3, -3)} <= seen <= {(-1, 1), (1, -1), (-3, 3), (3, -3)} | ends | partly


def test_a_slab_is_drawn_from_several_times_and_then_replaced(monkeypatch):
    scans = []
    scan = PairSampler._scan
    monkeypatch.setattr(PairSampler, "_scan", lambda self: scans.append(1) or scan(self))
    sampler = PairSampler([_case()], _pairs(slab=2, pool=3, uses=5), 0)
    sampler.batch(103)
    assert 3 + 10 < len(scans) < 3 + 32  # three at first, then about one in five draws of a hundred
    scans.clear()
    PairSampler([_case()], _pairs(), 0).batch(7)
    assert len(scans) == 7


def test_a_window_makes_what_lies_outside_count_less():
    network = torch.nn.Identity()
    clean = torch.tensor([[[[0.1, 0.5, 0.9]]]])
    degraded = clean + torch.tensor([0.01, 0.01, 0.01])
    whole = RestorationObjective(network, "l1", window=(0.4, 0.6), outside=0.25)
    # 0.01 everywhere, a quarter of it counted; beside it the one pixel inside the window, three quarters
    assert float(whole(degraded, clean)) == pytest.approx(0.25 * 0.01 + 0.75 * 0.01 / 3, rel=1e-4)
    # a pixel pushed out of the window counts up to its edge, and all of it outside
    far = torch.tensor([[[[0.1, 0.8, 0.9]]]])
    assert float(whole(far, clean)) == pytest.approx(0.25 * 0.3 / 3 + 0.75 * 0.1 / 3, rel=1e-4)


@pytest.mark.parametrize("loss", ["l1", "charbonnier", "l1+ssim"])
def test_the_loop_runs_resumes_and_gives_true_fused_kernels(loss, tmp_path):
    average = _loop(tmp_path, loss).run()
    network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    network.load_state_dict(average)
    assert all(torch.allclose(s.conv5x5_reparam.weight, s.kernel()) for s in network.shifts())
    again = _loop(tmp_path, loss)
    again.resume()
    assert again.step == 4


def test_a_small_loss_keeps_its_digits_in_the_curve(tmp_path):
    class Off(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by = nn.Parameter(torch.tensor(1e-3))

        def forward(self, degraded):
            return degraded + self.by

    class Same:
        def reseed(self, seed) -> None:
            pass

        def batch(self, size):
            return torch.zeros(size, 1, 4, 4), torch.zeros(size, 1, 4, 4)

    settings = LoopSettings(steps=20, learning_rate=1e-9, log_every=20)
    objective = RestorationObjective(Off(), "charbonnier_widest")
    TrainingLoop(objective, Same(), settings, tmp_path).run()
    row = next(csv.DictReader((tmp_path / "curve.csv").open()))
    half_square_by_epsilon = 1e-3**2 / (2 * 0.1)
    assert float(row["loss"]) == pytest.approx(half_square_by_epsilon, rel=0.01)


def test_a_new_network_starts_as_the_identity_and_learns_from_there():
    torch.manual_seed(0)
    network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    degraded, clean = PairSampler([_case()], _pairs(), 0).batch(2)
    assert not torch.equal(network(degraded), degraded)
    objective = RestorationObjective(network, "l1", identity_start=True)
    assert torch.equal(network(degraded), degraded)
    first = objective(degraded, clean)
    assert float(first.detach()) == pytest.approx(float((degraded - clean).abs().mean()))
    optimizer = torch.optim.Adam(objective.parameters(), 1e-4)
    for _ in range(8):  # the first step moves the last convolution alone, the others all that lies before it
        optimizer.zero_grad()
        objective(degraded, clean).backward()
        optimizer.step()
    assert float(network.patch_embed.weight.grad.abs().max()) > 0
    assert float(objective(degraded, clean).detach()) < float(first.detach())
    slow = RestorationObjective(network, "l1", output_rate=0.03)
    rest, last = slow.groups()
    assert last["rate"] == 0.03 and len(last["params"]) == 2 and last["params"][0] is network.output.weight
    assert len(rest["params"]) + 2 == len(list(slow.parameters()))
    with pytest.raises(
        BundleError, match="identity_start or output_rate for Linear, which has no convolution named output"
    ):
        RestorationObjective(torch.nn.Linear(1, 1), identity_start=True)


def test_a_new_network_sees_soft_tissue_in_the_middle_and_stretched():
    torch.manual_seed(0)
    network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    image = torch.rand(1, 1, 16, 16)
    before = network.patch_embed(20 * (image - 0.25))
    RestorationObjective(network, "charbonnier_wide", contrast_start=(0.25, 20.0))
    after = network.patch_embed(image)
    inside = (..., slice(1, -1), slice(1, -1))  # at the border zeros are seen, which are no longer the middle
    assert torch.allclose(after[inside], before[inside], atol=1e-4)
    with pytest.raises(BundleError, match="contrast_start for Linear, which has no convolution named patch_embed"):
        RestorationObjective(torch.nn.Linear(1, 1), contrast_start=(0.25, 20.0))


def test_crops_lie_where_the_patient_is():
    image = np.full((64, 64, 3), -1000, np.float32)
    image[50:54, 8:12] = 40
    case = SliceStack("corner", image, (2.0, 2.0, 2.0))
    settings = replace(_pairs(), crop=(16, 16), body_above=-500.0)
    sampler = PairSampler([case], settings, 0)
    assert all(float(sampler.draw()[1].max()) > 0.2 for _ in range(8))


def test_the_last_convolution_learns_at_its_share_of_the_rate_also_after_a_kill(tmp_path):
    def loop(steps: int) -> TrainingLoop:
        torch.manual_seed(0)
        network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
        objective = RestorationObjective(network, "l1", identity_start=True, output_rate=0.125)
        settings = LoopSettings(steps=steps, cooldown_steps=0, warmup_steps=0, learning_rate=1e-3, checkpoint_every=1)
        return TrainingLoop(objective, PairSampler([_case()], _pairs(), 0), settings, tmp_path)

    first = loop(1)
    first.run()
    moved = first.network.output.weight.detach().abs().max()  # from zero, by Adam's first step: the rate itself
    assert 0.05e-3 < float(moved) <= 0.126e-3
    again = loop(2)
    again.run()
    assert [group["lr"] for group in again.optimizer.param_groups] == pytest.approx([1e-3, 0.125e-3])


def test_medvit_train_runs_the_bundles_recipe_and_publishes(tmp_path, monkeypatch):
    folder = tmp_path / "ct_denoise"
    shutil.copytree(ROOT / "bundles" / "ct_denoise_restore_rwkv", folder)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"].update(dim=4, num_blocks=[1, 1, 1, 1])
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    train = json.loads((folder / "configs" / "train.json").read_text())
    train["draws"]["crop"] = [16, 16]
    train["loop"].update(batch_size=1, validate_every=0)
    train["scanner"]["beam"]["views"] = 8
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    nib.save(nib.Nifti1Image(_case().image, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / "a.nii.gz")
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"training": [{"image": "a.nii.gz"}], "validation": []}))
    settings = TrainSettings(data=DataList(listed, tmp_path), output=tmp_path / "runs", steps=3, publish=True)
    assert train_bundle(open_bundle(folder), settings).is_file()
    trained = open_bundle(folder)
    assert trained.facts.state == "trained"
    trained.verify()
    load_weights(RestoreRWKV(3, 1, dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), trained.weights)


def test_wrong_lists_are_named(tmp_path):
    bundle = open_bundle(ROOT / "bundles" / "ct_denoise_restore_rwkv")
    listed = tmp_path / "list.json"

    def read(content: object) -> list[SliceStack]:
        listed.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_images(bundle, listed, tmp_path, "training")

    for broken in ("{", {"training": [{"label": "a"}]}, {"training": ["a"]}):
        with pytest.raises(
            SourceError,
            match="no readable data list at|an entry without 'image' in .*Give a list whose entries have it",
        ):
            read(broken)
    with pytest.raises(SourceError, match="no 'training' entries in .*Its parts: validation"):
        read({"validation": [{"image": "a"}]})
    with pytest.raises(SourceError, match="a case may be in one part only"):
        read({"training": [{"image": "a"}], "validation": [{"image": "a"}]})
    with pytest.raises(SourceError, match="every file of the list is needed. Set root"):
        read({"training": [{"image": "absent.nii.gz"}]})


def test_wrong_recipes_are_named():
    with pytest.raises(BundleError, match="the loss 'l2'; it must be one of l1, charbonnier, l1"):
        RestorationObjective(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1), "l2")
    for changes, words in (
        ({"dose": (0.0, 1.0)}, r"PairSettings.dose.0 = 0.0; it must be greater than 0. Correct the config"),
        ({"dose": (0.5, 0.1)}, r"PairSettings.dose = \(0.5, 0.1\); the first number must not be above the second"),
        ({"crop": (0, 8)}, r"crop.0 = 0; it must be greater than or equal to 1"),
        ({"slab": 0}, "slab = 0; it must be greater than or equal to 1"),
        ({"context": -1}, "context = -1; it must be greater than or equal to 0"),
        ({"neighbour_steps": ()}, r"neighbour_steps = \(\); .* at least 1 item"),
    ):
        with pytest.raises(BundleError, match=words):
            _pairs(**changes)
    with pytest.raises(ShapeError, match="0 volumes; at least one is needed"):
        PairSampler([], _pairs(), 0)
