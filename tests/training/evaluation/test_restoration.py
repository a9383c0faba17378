"""Scores of restored images: closed forms, other denoisers on the same slices, edges, and what cannot be judged."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

import medvit
from medvit.bundles import open_bundle
from medvit.errors import BundleError, SourceError
from medvit.inference import loaded_bundle_for
from medvit.physics.degradations import LowDoseCT, ParallelBeam
from medvit.training.evaluation import (
    EvaluationSet,
    LowDoseEvaluation,
    evaluate_bundle,
    evaluation_of,
    scorer,
    table,
)
from medvit.training.evaluation.classical_denoisers import CLASSICAL, STRENGTHS, _noise, classical
from medvit.training.evaluation.restoration import edge_response
from tests.training.evaluation.small_bundles import edit, silent


class _Brighter(torch.nn.Module):
    """Adds 10 HU: a restoration whose scores can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(10 / 4096))

    def forward(self, x):
        return x[:, 1:2] + self.shift


def test_restoration_scores_are_what_their_words_say(denoiser):
    bundle, data = denoiser
    judge = evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))
    scores = judge(loaded_bundle_for(bundle, _Brighter()), silent)
    assert list(scores["per_dose"]) == ["10 %", "25 %"]
    # by hand: the middle of each stride on RAS axes, the first case's seed, the stated scanner
    image = nib.as_closest_canonical(nib.load(data.parent / "validation_ct.nii.gz"))
    near = np.ascontiguousarray(image.get_fdata(dtype=np.float32)[..., [6, 7, 8, 22, 23, 24, 38, 39, 39]])
    clean = near[..., 1::3]
    scanner = LowDoseCT(photons_per_ray=35e3, electronic_noise=3.2, beam=ParallelBeam(24, "ramp"))
    for name, dose in (("10 %", 0.1), ("25 %", 0.25)):
        poor = scanner.at_dose(dose, seed=0)(near, (8.0, 8.0, 8.0))[..., 1::3]
        row = scores["per_dose"][name]
        for key, found in (("psnr_before_db", poor), ("psnr_db", poor + 10)):
            error = np.square(found.clip(-160, 240) - clean.clip(-160, 240).astype(np.float64)).mean((0, 1))
            assert row[key] == pytest.approx((10 * np.log10(400**2 / error)).mean(), abs=1e-3)
        tissue = (clean >= -200) & (clean <= 200)
        assert row["bias_before_hu"] == pytest.approx(float((poor - clean)[tissue].mean()), abs=1e-3)
        assert row["bias_hu"] == pytest.approx(row["bias_before_hu"] + 10, abs=0.01)
        assert row["psnr_gain_db"] == row["psnr_db"] - row["psnr_before_db"]
        assert 0 < row["ssim_before"] < 1
    assert scores["per_dose"]["25 %"]["psnr_before_db"] > scores["per_dose"]["10 %"]["psnr_before_db"] + 1
    assert scores["score"] == np.mean([row["psnr_gain_db"] for row in scores["per_dose"].values()])
    assert "| 10 % |" in table(bundle, scores)


def test_other_denoisers_are_judged_on_the_same_slices(denoiser):
    """They are beside the network in scores and table, take noise away, and blur what has steps."""
    bundle, data = denoiser
    scores = evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))(
        loaded_bundle_for(bundle, _Brighter()), silent
    )
    assert list(scores["compared"]) == ["non_local_means", "bm3d", "total_variation"]
    for rows in scores["compared"].values():
        assert rows["10 %"]["psnr_db"] > scores["per_dose"]["10 %"]["psnr_before_db"]
        assert 0.5 < rows["10 %"]["edge"] < 1.1
        assert rows["10 %"]["strength"] in STRENGTHS
    assert "| non local means | 10 % |" in table(bundle, scores) and "Spread of the gain over cases" in table(
        bundle, scores
    )
    rng = np.random.default_rng(0)
    image = np.where(np.arange(32)[:, None, None] < 16, 0.0, 100.0) + rng.normal(0, 8, (32, 32, 2))
    for name in CLASSICAL:
        found = classical(name, image.astype(np.float32), (-160.0, 240.0))
        assert found.shape == image.shape and found.dtype == np.float32
        assert found[2:12].std() < 0.6 * image[2:12].std()
        assert abs(float(found[2:12].mean())) < 4 and abs(float(found[20:30].mean()) - 100) < 4
        weaker = classical(name, image.astype(np.float32), (-160.0, 240.0), strength=0.25)
        assert found[2:12].std() < weaker[2:12].std() < image[2:12].std()
    assert _noise(image[..., 0].astype(np.float32)) == pytest.approx(8, rel=0.15)
    flat = np.full((8, 8, 1), 5, np.float32)
    assert np.array_equal(classical("non_local_means", flat, (0.0, 10.0)), flat)
    with pytest.raises(
        BundleError, match="the method 'median' to compare with; it must be one of non_local_means, bm3d, total"
    ):
        classical("median", flat, (0.0, 10.0))


def test_edge_response_is_what_is_left_of_a_step():
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(64)[:, None] < 32, 0.0, 100.0) * np.ones((3, 1, 64))
    assert edge_response(clean, clean) == 1
    assert edge_response(0.4 * clean + 7, clean) == pytest.approx(0.4)
    assert edge_response(clean[:, ::-1], clean) == pytest.approx(-1)
    assert edge_response(clean + rng.normal(0, 5, clean.shape), clean) == pytest.approx(1, abs=0.03)
    blurred = np.stack([np.mean([np.roll(s, n, 0) for n in (-2, -1, 0, 1, 2)], 0) for s in clean])
    # a step over five pixels has a fifth of the slope, seen by central differences as two fifths
    assert edge_response(blurred[:, 8:-8], clean[:, 8:-8]) == pytest.approx(0.4)
    assert edge_response(clean, 0 * clean) == 1


class _Sagging(torch.nn.Module):
    """The mean of a slice's two neighbours: what is judged shows which slices the network was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, ::2].mean(1, keepdim=True)


def test_judged_slices_have_their_own_neighbours(denoiser, monkeypatch):
    """An intensity that rises evenly along k makes each slice the mean of its neighbours, so nothing changes.

    Judged are slices 7, 23 and 39, the volume's last, which stands for the neighbour that it lacks.
    """
    bundle, data = denoiser
    image = nib.load(data.parent / "validation_ct.nii.gz")
    rising = np.full(image.shape, -100.0) + 5.0 * np.arange(image.shape[2])
    rising[:8], rising[8:12] = -1000, 500  # air and bone, which tell a CT in HU; outside the range of the bias
    nib.save(nib.Nifti1Image(rising.astype(np.float32), image.affine), data.parent / "validation_ct.nii.gz")
    monkeypatch.setattr(LowDoseCT, "__call__", lambda self, image, sides: np.array(image, np.float32))
    edit(bundle.root, "inference.json", lambda c: c["inferer"].update(context=1))
    edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(compared=[], bias_range=[-200.0, 200.0]))
    scores = scorer(open_bundle(bundle.root), data, data.parent)(_Sagging())
    assert scores["bias_hu_at_10_percent"] == pytest.approx(-2.5 / 3, abs=1e-2)


def test_a_stride_that_chooses_no_slice_of_the_body(denoiser):
    bundle, data = denoiser
    for change, words in (
        ({"slice_stride": 500}, "slice_stride 500 chooses none"),
        ({"slice_stride": 1, "window": [5000.0, 5400.0]}, "a hundredth of its pixels above 5000"),
    ):
        edit(bundle.root, "evaluate.json", lambda c, change=change: c["evaluation"].update(change))
        with pytest.raises(BundleError, match=rf"validation_ct with 40 slices, of which.*{words}"):
            scorer(bundle, data, data.parent)


def test_doses_that_cannot_be_judged():
    good = {
        "doses": [0.1],
        "seed": 0,
        "slice_stride": 1,
        "window": [0, 1],
        "bias_range": [0, 1],
    }
    LowDoseEvaluation(scanner=LowDoseCT(), **good)
    for wrong in ({"doses": []}, {"doses": [0.0]}, {"slice_stride": 0}, {"window": [1, 0]}, {"bias_range": [0, 0]}):
        with pytest.raises(BundleError, match=rf"LowDoseEvaluation.{next(iter(wrong))}.* = .*Correct the config"):
            LowDoseEvaluation(scanner=LowDoseCT(), **{**good, **wrong})


def test_lists_of_images_that_cannot_judge(denoiser):
    bundle, data = denoiser
    with pytest.raises(SourceError, match="no readable data list"):
        evaluate_bundle(bundle, data.with_name("absent.json"), None, "validation", silent)
    with pytest.raises(SourceError, match="no 'test' entries"):
        evaluate_bundle(bundle, data, data.parent, "test", silent)


def test_intensities_are_never_made_labels(denoiser):
    bundle, data = denoiser
    with pytest.raises(BundleError, match="a bundle for restoration; one for segmentation is needed"):
        medvit.segment(data.parent / "validation_ct.nii.gz", bundle=bundle)
