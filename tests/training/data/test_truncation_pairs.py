"""Pairs are what the physics says; scores are what their words say, beside interpolation; the bundle trains and publishes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import Bundle, load_weights, open_bundle
from medvit.errors import BundleError, ShapeError
from medvit.inference import load_model
from medvit.physics import low_frequency_part, zero_fill
from medvit.physics.kspace import truncate_kspace
from medvit.restoration import RestoreRWKV
from medvit.training import TrainSettings, train_bundle
from medvit.training.data import DataList, SliceStack, TruncationPairs, read_stacks
from medvit.training.data.truncation_pairs import TruncationSampler
from medvit.training.evaluation import EvaluationSet, SuperResolutionEvaluation, evaluation_of, table
from medvit.training.evaluation.super_resolution import INTERPOLATIONS
from medvit.transforms import percentile_range
from tests.bands import SUPERRES, make_finer_bundle, oblique_affine

PLAIN = TruncationPairs(crop=(24, 24), brightness=(1.0, 1.0), gamma=(1.0, 1.0))


def _head(shape: tuple[int, int, int] = (44, 40, 30), seed: int = 0) -> np.ndarray:
    """A textured ball of 200 to 800 in air."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    texture = np.random.default_rng(seed).normal(500, 60, shape)
    return np.where(x**2 + y**2 + z**2 < 0.8, texture + 200 * x, 0).astype(np.float32)


def _case(spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> SliceStack:
    return SliceStack("head", _head(), spacing)


def test_pairs_lie_on_each_other_and_differ_beyond_what_was_measured():
    whole = replace(PLAIN, crop=(40, 40), factors=(2,))
    sampler = TruncationSampler([SliceStack("head", _head((40, 40, 30)), (1.0, 1.0, 3.0))], whole, 0)
    for _ in range(4):
        degraded, clean = sampler.draw()
        assert degraded.shape == clean.shape == (1, 40, 40) and degraded.dtype == torch.float32
        # flips and a transpose commute with the truncation, so a whole slice may be truncated again
        assert np.allclose(degraded[0], low_frequency_part(clean[0].numpy(), 2), atol=1e-4)
        assert not torch.allclose(degraded, clean, atol=0.02)


def test_both_factors_and_all_planes_of_an_even_volume_are_drawn():
    sampler = TruncationSampler([_case()], PLAIN, 0)
    assert set(sampler.shown[0]) == {0, 1, 2}
    assert set(TruncationSampler([_case((0.7, 0.7, 3.0))], PLAIN, 0).shown[0]) == {2}
    rests = [float((c - d).square().mean()) for d, c in (sampler.draw() for _ in range(40))]
    assert max(rests) > 1.2 * min(rests)
    degraded, clean = sampler.batch(3)
    assert degraded.shape == clean.shape == (3, 1, 24, 24)
    assert all(float(c.max()) > 0.1 for c in clean)


def test_pairs_are_the_same_for_a_seed_and_small_slices_are_padded():
    small = [SliceStack("small", _head((20, 30, 12)), (1.0, 1.0, 1.0))]
    one, two = (TruncationSampler(small, TruncationPairs(crop=(24, 24)), 3).batch(3) for _ in range(2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1]) and one[0].shape == (3, 1, 24, 24)
    sampler = TruncationSampler(small, TruncationPairs(crop=(24, 24)), 0)
    sampler.reseed(3)
    assert torch.equal(sampler.batch(3)[0], one[0])


def test_contrasts_are_drawn_anew_and_air_stays_air():
    """A volume of two intensities keeps two, at other levels."""
    ball = np.where(_head((40, 40, 30)) > 0, np.where(np.indices((40, 40, 30))[0] < 20, 300.0, 700.0), 0)
    case = SliceStack("two", ball.astype(np.float32), (1.0, 1.0, 3.0))
    sampler = TruncationSampler([case], replace(PLAIN, crop=(40, 40), redrawn=1.0), 0)
    for _ in range(20):
        _, clean = sampler.draw()
        levels = [float(level) for level in clean.unique() if level > 0]
        assert len(levels) == 2 and 0.05 < levels[0] < levels[1] < 1.2
        assert float(clean.min()) == 0
    assert len({float(sampler.draw()[1].max()) for _ in range(10)}) > 5
    _, same = TruncationSampler([case], replace(PLAIN, crop=(40, 40), redrawn=0.0), 0).draw()
    assert float(same.max()) == pytest.approx(1, abs=0.05)


def test_an_empty_slice_is_no_reason_to_stop():
    image = np.zeros((16, 16, 3), np.float32)
    image[:2, :2, 1] = 5
    _, clean = TruncationSampler(
        [SliceStack("almost nothing", image, (1, 1, 4))], replace(PLAIN, crop=(8, 8)), 0
    ).draw()
    assert clean.shape == (1, 8, 8) and bool(clean.isfinite().all())


def test_wrong_recipes_are_named():
    for changes, words in (
        ({"factors": ()}, r"TruncationPairs.factors = \(\); .* at least 1 item"),
        ({"factors": (0,)}, "factors.0 = 0; it must be greater than or equal to 1"),
        ({"crop": (0, 8)}, "crop.0 = 0; it must be greater than or equal to 1"),
        ({"gamma": (1.4, 0.7)}, r"gamma = \(1.4, 0.7\); the first number must not be above the second"),
        ({"brightness": (0.0, 1.0)}, "brightness.0 = 0.0; it must be greater than 0"),
        ({"redrawn": 1.5}, "redrawn = 1.5; it must be less than or equal to 1. Correct the config"),
    ):
        with pytest.raises(BundleError, match=words):
            replace(PLAIN, **changes)
    with pytest.raises(ShapeError, match="0 volumes; at least one is needed"):
        TruncationSampler([], PLAIN, 0)


@pytest.fixture
def listed(tmp_path) -> Path:
    """A list of one head to train and another to judge, each stored obliquely with left and right reversed."""
    affine = oblique_affine((1.0, 1.0, 1.2)) @ np.diag([-1, 1, 1, 1])
    for n, split in enumerate(("training", "validation")):
        nib.save(nib.Nifti1Image(_head((42, 40, 30), n), affine), tmp_path / f"{split}_T1.nii.gz")
    cases = {split: [{"image": f"{split}_T1.nii.gz"}] for split in ("training", "validation")}
    (tmp_path / "list.json").write_text(json.dumps(cases))
    return tmp_path / "list.json"


def _judged(folder: Path, listed: Path, lines: list[str]) -> tuple[Bundle, dict]:
    bundle = open_bundle(folder)
    judge = evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=listed, root=listed.parent))
    return bundle, judge(load_model(bundle, "cpu"), lines.append)


def test_scores_are_what_their_words_say(listed, tmp_path):
    """Of a network that changes nothing the answer is sinc; each number by hand, on the volume as stored."""
    lines: list[str] = []
    bundle, scores = _judged(make_finer_bundle(tmp_path / "interpolating"), listed, lines)
    image = nib.load(tmp_path / "validation_T1.nii.gz").get_fdata(dtype=np.float32)
    low, high = percentile_range(image, (0.5, 99.5))
    clean = image[:40, :40, 5::12].astype(np.float64)
    head = clean > low + 0.1 * (high - low)
    chosen = head.mean((0, 1)) >= 0.05
    assert head[..., chosen].any() and list(scores["per_factor"]) == ["x2", "x4"]
    for factor in (2, 4):
        row = scores["per_factor"][f"x{factor}"]
        coarse = truncate_kspace(clean.astype(np.float32), factor)
        sinc = np.maximum(zero_fill(coarse, factor), 0)
        error = [np.square(sinc - clean)[..., k][head[..., k]].mean() for k in np.flatnonzero(chosen)]
        # the ball's texture leaves few holes in its mask for the judge to fill
        assert row["psnr_sinc_db"] == pytest.approx(
            (10 * np.log10((high - low) ** 2 / np.array(error))).mean(), abs=0.1
        )
        assert row["psnr_db"] == pytest.approx(row["psnr_sinc_db"], abs=1e-3)
        assert row["gain_over_sinc_db"] == pytest.approx(0, abs=1e-3)
        assert row["gain_over_bicubic_db"] == row["psnr_db"] - row["psnr_bicubic_db"]
        assert row["ssim"] == pytest.approx(row["ssim_sinc"], abs=1e-4) and 0 < row["ssim"] < 1
        assert row["edge"] == pytest.approx(row["edge_sinc"], abs=1e-4)
        inside = head & chosen
        bias = 100 * (sinc - clean)[inside].mean() / clean[inside].mean()
        assert row["bias_percent"] == pytest.approx(bias, abs=0.1)
    assert scores["metrics"]["psnr_db_at_x2"] > scores["metrics"]["psnr_db_at_x4"] + 0.3
    assert scores["metric"] == "psnr_gain_db" and scores["score"] == pytest.approx(0, abs=1e-3)
    assert len(lines) == 1 and "sinc" in lines[0] and "bicubic" in lines[0]
    shown = table(bundle, scores)
    assert (
        "| x2 |" in shown
        and "| validation_T1 | x4 |" in shown
        and "Spread of the gain over sinc among 1 volumes" in shown
    )


def test_a_blurring_network_scores_less(listed, tmp_path):
    _, scores = _judged(make_finer_bundle(tmp_path / "blurring", 1 / 9, 0.1), listed, [])
    # what was measured is put back, so that little is lost; a tenth of the range is some 15 % of the mean
    assert -3 < scores["score"] < -0.001 and abs(scores["per_factor"]["x2"]["bias_percent"]) < 4


def test_bicubic_lies_on_the_same_grid():
    x = (np.arange(24) + 0.5) / 24
    ramp = np.broadcast_to(x[:, None, None], (24, 12, 2)).astype(np.float32)
    coarse = ramp.reshape(12, 2, 6, 2, 2).mean((1, 3))
    for name, factor in (("bicubic", 2),):
        found = INTERPOLATIONS[name](coarse, factor)
        assert found.shape == ramp.shape and np.allclose(found[6:-6], ramp[6:-6], atol=1e-5)


def test_evaluations_that_cannot_be_made(listed, tmp_path):
    for wrong, words in (
        ({"factors": [], "slice_stride": 1}, r"factors = \[\]; .* at least 1 item"),
        ({"factors": [1], "slice_stride": 1}, "factors.0 = 1; it must be greater than or equal to 2"),
        ({"factors": [2], "slice_stride": 0}, "slice_stride = 0; it must be greater than or equal to 1"),
    ):
        with pytest.raises(BundleError, match=words):
            SuperResolutionEvaluation(**wrong)
    bundle = open_bundle(make_finer_bundle(tmp_path / "bundle"))
    part = EvaluationSet(bundle=bundle, data=listed, root=listed.parent)
    for evaluation in (
        SuperResolutionEvaluation(factors=(2,), slice_stride=500),
        SuperResolutionEvaluation(factors=(2, 3), slice_stride=1),
    ):
        with pytest.raises(
            BundleError, match=r"validation_T1 with 30 slices, of which .* Correct configs/evaluate.json"
        ):
            evaluation.judge(part)
    model = load_model(bundle, "cpu")
    neighbours = replace(model, inferer=type(model.inferer)(2, 1))
    with pytest.raises(BundleError, match="whose network sees 1 neighbours of a slice"):
        SuperResolutionEvaluation(factors=(2,), slice_stride=12).judge(part)(neighbours, lambda _: None)


def test_stacks_are_read_as_they_are_stored(listed):
    (stack,) = read_stacks(open_bundle(SUPERRES), listed, listed.parent, "validation")
    assert np.array_equal(stack.image, nib.load(listed.parent / "validation_T1.nii.gz").get_fdata(dtype=np.float32))
    assert stack.spacing_mm == pytest.approx((1.0, 1.0, 1.2))


def test_medvit_train_runs_the_bundles_recipe_and_publishes(listed, tmp_path):
    folder = tmp_path / "superres"
    shutil.copytree(SUPERRES, folder)
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"].update(dim=4)
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    train = json.loads((folder / "configs" / "train.json").read_text())
    train["draws"]["crop"] = [16, 16]
    train["loop"].update(batch_size=1)
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    settings = TrainSettings(data=DataList(listed, listed.parent), output=tmp_path / "runs", steps=3, publish=True)
    assert train_bundle(open_bundle(folder), settings).is_file()
    trained = open_bundle(folder)
    assert trained.facts.state == "trained"
    trained.verify()
    blocks = tuple(config["network_def"]["num_blocks"])
    refinement = config["network_def"]["num_refinement_blocks"]
    load_weights(RestoreRWKV(dim=4, num_blocks=blocks, num_refinement_blocks=refinement), trained.weights)
