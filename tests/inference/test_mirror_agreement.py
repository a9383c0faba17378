"""Agreement between the labels of an image and of its mirror image, and the effect of a difference."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.inference import FlipAveraging, label_agreement, loaded_bundle_for
from medvit.inference.mirror_agreement import exchanged_sides
from medvit.pipeline import Predictor
from medvit.settings import RunSettings
from tests.bands import all_orientations, oblique_affine, phantom, reorient, undo


def _scan(order=(0, 1, 2), signs=(1, 1, 1)) -> MetaTensor:
    values, affine = reorient(phantom()[0], oblique_affine(), order, signs)
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(affine))


@pytest.mark.parametrize("orientation", all_orientations()[::7])
def test_labels_by_brightness_differ_in_sides_alone(banded, orientation):
    """A network that knows no sides names the mirrored right parotid right still; after the exchange, left."""
    result = medvit.segment(_scan(*orientation), bundle=banded, quality_map=True)
    labels = medvit.open_bundle(banded).facts.labels
    assert np.array_equal(result.mirrored, exchanged_sides(result.array.astype(np.int16), labels))
    sided = {label.name for label in labels if label.laterality is not None}
    assert sided == {name for name, value in result.agreement().items() if value < 1}
    differ = undo(result.disagreement(), *orientation)
    wanted = np.isin(phantom()[1], [label.id for label in labels if label.name in sided])
    assert differ[wanted].mean() > 0.8 and not differ[phantom()[1] == 0].mean() > 0.05


class _RightOfMiddle(torch.nn.Module):
    """Marks the half at high x of the network's grid: a network that knows sides but not anatomy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), 8, *x.shape[2:])
        logits[:, 1, x.shape[2] // 2 :] = 5
        return logits


def test_a_network_that_ignores_the_image_disagrees_with_itself(banded):
    model = loaded_bundle_for(medvit.open_bundle(banded), _RightOfMiddle())
    settings = RunSettings(device="cpu", quality_map=True, fast=False)
    result = Predictor(model, settings).run(_scan())
    assert result.agreement()["brainstem"] < 0.1
    assert any("brainstem and what the mirror image gave overlap by 0.0" in r for r in result.quality()["reasons"])


def test_one_that_averages_both_answers_still_disagrees_with_the_mirror_images_alone(banded):
    """Else its second run would be its first, and say nothing."""
    model = loaded_bundle_for(medvit.open_bundle(banded), _RightOfMiddle())
    model.inferer.mirrored = FlipAveraging()
    result = Predictor(model, RunSettings(device="cpu", quality_map=True, fast=False)).run(_scan())
    assert (result.array == 1).mean() == pytest.approx(
        2 * (result.mirrored == 1).mean(), abs=0.05
    )  # both halves, and one
    assert result.agreement()["brainstem"] == pytest.approx(2 / 3, abs=0.02)
    assert model.inferer.mirrored is not None


def test_a_network_that_follows_the_anatomy_agrees(banded):
    """Labels without sides come out the same, voxel for voxel."""
    result = medvit.segment(_scan(), bundle=banded, quality_map=True, roi_subset=("brainstem", "mandible"))
    assert result.agreement() == {"brainstem": 1.0, "mandible": 1.0}
    assert not result.disagreement().any()


def test_files_and_numbers(banded, tmp_path):
    nib.save(nib.Nifti1Image(phantom()[0], oblique_affine()), tmp_path / "scan.nii.gz")
    call = ["segment", str(tmp_path / "scan.nii.gz"), "-o", str(tmp_path / "out"), "-b", str(banded)]
    assert CliRunner().invoke(app, [*call, "--quality-map"]).exit_code == 0
    made = nib.load(tmp_path / "out" / "maps" / "disagreement.nii.gz")
    assert made.shape == phantom()[0].shape and set(np.unique(np.asarray(made.dataobj))) == {0, 1}
    assert np.allclose(made.affine, oblique_affine(), atol=1e-5)
    said = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert said["agreement_with_mirror_image"]["brainstem"] == 1
    assert said["quality"]["rating"] == "check"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["quality_map"] is True
    assert CliRunner().invoke(app, [*call, "--overwrite"]).exit_code == 0
    assert not (tmp_path / "out" / "maps").exists()
    assert "agreement_with_mirror_image" not in json.loads((tmp_path / "out" / "statistics.json").read_text())


def test_no_map_unless_asked(banded):
    result = medvit.segment(_scan(), bundle=banded)
    assert result.mirrored is None and result.agreement() is None and result.disagreement() is None


def test_agreement_of_what_neither_has():
    (label, *_) = medvit.open_bundle("headneck_ct_swin_unetr").facts.labels
    nothing = np.zeros((3, 3, 3), np.int16)
    assert label_agreement(nothing, nothing, [label]) == {label.name: 1.0}


class _BrightOnTheLeft(torch.nn.Module):
    """Marks bright pixels of the left half of a picture only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = (x.mean(1, keepdim=True) - 0.5) * 20
        logits[..., x.shape[-1] // 2 :] = -5
        return logits


def test_pictures_are_mirrored_across_columns(tmp_path):
    picture = np.zeros((1, 64, 96), np.float32)
    picture[0, 20:30, 10:20] = picture[0, 40:50, 70:90] = 200
    model = loaded_bundle_for(medvit.open_bundle("nuclei_barlow_swin"), _BrightOnTheLeft())
    tensor = MetaTensor(torch.from_numpy(picture))
    result = Predictor(model, RunSettings(device="cpu", quality_map=True)).run(tensor)
    assert np.array_equal(result.array > 0, picture[0] * (np.arange(96) < 48) > 0)
    assert np.array_equal(result.mirrored > 0, picture[0] * (np.arange(96) >= 48) > 0)
    assert np.array_equal(result.disagreement() > 0, picture[0] > 0)
    result.save(tmp_path / "out", ("png",))
    assert (tmp_path / "out" / "maps" / "disagreement.png").is_file()
