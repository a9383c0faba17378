"""Bundles trained on label maps are evaluated on heads made from maps held out of training, or on acquired images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError, SourceError
from medvit.inference import loaded_bundle_for
from medvit.training.evaluation import EvaluationSet, evaluation_of

BRAIN = Path(__file__).resolve().parents[3] / "bundles" / "brain_mr_swin_unetr"
SIZE = (40, 44, 36)


class _AllThalamus(nn.Module):
    """Says class 9 (the right thalamus) everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.new_zeros((x.shape[0], 26, *x.shape[2:]))
        logits[:, 9] = 5
        return logits


def _ids() -> np.ndarray:
    ids = np.zeros(SIZE, np.int16)
    ids[6:34, 6:36, 4:32] = 516  # tissue around the brain
    ids[22:32, 12:26, 10:26] = 49
    ids[9:17, 12:24, 10:22] = 10
    return ids


@pytest.fixture
def judged(tmp_path: Path) -> tuple[Bundle, Path]:
    folder = tmp_path / BRAIN.name
    shutil.copytree(BRAIN / "configs", folder / "configs")
    path = folder / "configs" / "evaluate.json"
    content = json.loads(path.read_text())
    content["synthesis"] |= {"size": list(SIZE), "spacing_mm": [2.5, 2.5, 2.5]}
    content["evaluation"]["per_map"] = 2
    path.write_text(json.dumps(content))
    nib.save(nib.Nifti1Image(_ids(), np.diag([2.5, 2.5, 2.5, 1.0])), tmp_path / "head.nii.gz")
    (tmp_path / "list.json").write_text(json.dumps({"training": [], "validation": [{"image": "head.nii.gz"}]}))
    return open_bundle(folder), tmp_path / "list.json"


def _scores(bundle: Bundle, part: EvaluationSet) -> dict:
    said: list[str] = []
    scores = evaluation_of(bundle).judge(part)(loaded_bundle_for(bundle, _AllThalamus()), said.append)
    assert len(said) == len(scores["cases"])
    return scores


def test_each_map_judges_in_several_contrasts_and_the_reference_is_what_was_painted(judged):
    bundle, data = judged
    part = EvaluationSet(bundle=bundle, data=data, root=data.parent)
    evaluation = evaluation_of(bundle)
    first, second = list(evaluation.cases(part))
    again = evaluation.cases(part)[0]
    assert (first.name, second.name) == ("head in contrast 1", "head in contrast 2")
    assert torch.equal(first.source.as_tensor(), again.source.as_tensor()) and first.source.shape == (1, *SIZE)
    assert not torch.equal(first.source.as_tensor(), second.source.as_tensor())
    assert torch.equal(first.source.affine, torch.diag(torch.tensor([2.5, 2.5, 2.5, 1.0], dtype=torch.float64)))
    scores = _scores(bundle, part)
    for case in (first, second):
        truth = case.truth(None)
        found, right, left = scores["cases"][case.name], truth == 9, truth == 10
        assert found["thalamus_right"] == pytest.approx(2 * right.sum() / (right.sum() + truth.size))
        assert found["thalamus_left"] == 0 and found["amygdala_left"] == 1  # missed, and rightly not found
        assert np.argwhere(right)[:, 0].mean() > np.argwhere(left)[:, 0].mean() + 3  # RAS: right has the higher index
    with pytest.raises(IndexError):
        evaluation.cases(part)[2]


def test_images_that_were_taken_are_judged_as_they_are(judged):
    bundle, data = judged
    image = np.random.default_rng(0).normal(100, 20, SIZE).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([2.5, 2.5, 2.5, 1.0])), data.parent / "mr.nii.gz")
    labels = np.where(_ids() == 49, 9, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, np.diag([2.5, 2.5, 2.5, 1.0])), data.parent / "truth.nii.gz")
    data.write_text(json.dumps({"validation": [{"image": "mr.nii.gz", "label": "truth.nii.gz"}]}))
    found = _scores(bundle, EvaluationSet(bundle=bundle, data=data, root=data.parent))["cases"]
    assert list(found) == ["mr"]
    assert found["mr"]["thalamus_right"] == pytest.approx(2 * (labels > 0).sum() / ((labels > 0).sum() + labels.size))


def test_what_cannot_judge(judged):
    bundle, data = judged
    data.write_text(json.dumps({"validation": [{"image": "absent.nii.gz"}]}))
    with pytest.raises(SourceError, match="Found no .*absent.nii.gz"):
        evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))
    path = bundle.root / "configs" / "evaluate.json"
    path.write_text(path.read_text().replace('"per_map": 2', '"per_map": 0'))
    with pytest.raises(BundleError, match="Found per_map 0; at least one image from each map is needed"):
        evaluation_of(bundle)
