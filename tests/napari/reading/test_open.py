"""A NIfTI that places its voxels in two ways, dropped on napari: the layer carries the flag."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

from medvit_napari.reading.layer_info import place_of
from medvit_napari.reading.open import open_layers
from napari.layers import Layer

from tests.bands import phantom


@pytest.mark.parametrize("behind", [False, True])
def test_a_layer_carries_the_flag_of_a_mirrored_qform(behind, tmp_path):
    affine = np.diag([2.0, 2, 2.5, 1])
    image = nib.Nifti1Image(phantom((12, 10, 8))[0], None)
    image.set_sform(affine, 1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ affine, 1)
    nib.save(image, tmp_path / "a.nii")
    ((data, options, kind),) = open_layers(tmp_path / "a.nii", behind=behind)
    place = place_of(Layer.create(data, options, kind))
    assert place is not None
    assert any("RAS by the sform (code 1), LAS by the qform" in note for note in place.warnings)
