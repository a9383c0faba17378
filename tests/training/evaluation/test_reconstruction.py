"""Scores of reconstructions from two views, beside the best constant and with their uncertainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.bundles import Calibration
from medvit.errors import ShapeError
from medvit.inference import loaded_bundle_for
from medvit.training.evaluation import (
    EvaluationSet,
    best_constant,
    evaluation_of,
    mean_atlas,
    table,
)
from medvit.transforms import LabelsOnVolumeGridd
from tests.training.evaluation.small_bundles import silent


class _Told(torch.nn.Module):
    """Answers with the labels it was told."""

    def __init__(self, ids: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.nn.functional.one_hot(ids, 3).movedim(-1, 0)[None].float())

    def forward(self, views):
        assert views.shape == (1, 2, 32, 64)
        return self.logits


def test_two_views_are_scored_beside_the_best_guess_without_them(two_views):
    bundle, data = two_views
    evaluation = evaluation_of(bundle)
    made = {
        split: evaluation.preparation({k: str(data.parent / f"{split}_{v}.nii.gz") for k, v in (("image", "ct"), ("label", "oar"))})
        for split in ("training", "validation")
    }  # fmt: skip
    truth, other = (made[split]["label"].as_tensor()[0] for split in ("validation", "training"))
    judge = evaluation.judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))
    lines: list[str] = []
    scores = judge(loaded_bundle_for(bundle, _Told(truth)), lines.append)
    assert scores["mean_dice"] == 1
    # one training case: the best constant is that case itself
    dice = 2 * float(((truth == 1) & (other == 1)).sum()) / float((truth == 1).sum() + (other == 1).sum())
    assert 0 < dice < 1
    assert scores["metrics"]["dice_mandible_without_xrays"] == pytest.approx(dice)
    assert scores["metrics"]["dice_mandible_mean_atlas"] == pytest.approx(dice)
    assert lines == [f"validation_ct: mean Dice 1.000, without the X-rays {scores['metrics']['mean_dice_without_xrays']:.3f}"]  # fmt: skip
    assert judge(loaded_bundle_for(bundle, _Told(other)), silent)["cases"] == scores["baseline_cases"]
    assert "without the X-rays" in table(bundle, scores)


def test_answers_from_two_views_come_with_the_networks_doubt(two_views):
    bundle, data = two_views
    evaluation = evaluation_of(bundle)
    paths = {key: str(data.parent / f"training_{end}.nii.gz") for key, end in (("image", "ct"), ("label", "oar"))}
    other = evaluation.preparation(paths)["label"].as_tensor()[0]
    judged = replace(evaluation, acceptable=0.85).answers(
        EvaluationSet(bundle=bundle, data=data, root=data.parent), loaded_bundle_for(bundle, _Told(other)), silent
    )
    sure = np.e / (np.e + 2)  # of logits 1, 0, 0
    bits = -sure * np.log2(sure) - (1 - sure) * np.log2(1 - sure)
    assert [a.signals for a in judged.answers] == [{"entropy": pytest.approx(bits, abs=1e-3)}] * 2
    assert judged.answers[0].bad and judged.answers[0].score < 0.85  # the mandible of another patient
    (called,) = judged.ratings["plain"].values()
    words = [Calibration(weights_sha256="", cases=1, bad="", limits={"entropy": limit}) for limit in (0.9, 1.0)]
    assert [called(word) for word in words] == ["check", "good"]


def test_labels_of_another_size_than_the_field(two_views):
    bundle, data = two_views
    model = loaded_bundle_for(bundle, _Told(torch.zeros(32, 32, 32, dtype=torch.long)))
    assert isinstance(model.postprocessing.transforms[-1], LabelsOnVolumeGridd)
    with pytest.raises(ShapeError, match=r"labels of \(32, 32, 32\) for references of \(32, 32, 64\).*img_size"):
        evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))(model, silent)


def test_the_best_constant_is_the_best_threshold():
    rng = np.random.default_rng(0)
    masks = [np.zeros((12, 12), bool) for _ in range(5)]
    for mask in masks:
        i, j = rng.integers(0, 6, 2)
        mask[i : i + 6, j : j + 6] = True

    def score(guess):
        return np.mean([2 * (guess & m).sum() / (guess.sum() + m.sum()) for m in masks])

    every = [score(np.sum(masks, axis=0) >= level) for level in range(1, 6)]
    assert score(best_constant(masks)) == max(every)
    assert score(mean_atlas(masks)) == every[2]  # three of five
    assert not best_constant([np.zeros((3, 3), bool)] * 2).any()
