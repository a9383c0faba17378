"""What a correction leaves of what the network said of itself, and a box that is run on again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

pytest.importorskip("fastapi", reason="the extra medvit[label] is not installed")

from medvit_label.errors import RequestError
from medvit_label.inference.box_rerun import read_box
from medvit_label.inference.corrections import Correction, correct
from medvit_label.inference.run import Params

import medvit
from medvit.progress import Progress
from tests.bands import oblique_affine, phantom


def test_doubt_is_told_of_labels_that_no_click_touched_and_said_to_be_gone_of_others(banded, tmp_path):
    values = torch.from_numpy(phantom()[0].astype(np.float32))[None]
    result = medvit.segment(MetaTensor(values, affine=torch.from_numpy(oblique_affine())), bundle=banded)
    before = result.entropy()
    names = {label.id: label.name for label in result.bundle.facts.labels}
    assert set(before) == set(names.values())
    place = np.argwhere(result.array == 3)[0].tolist()
    asked = Correction({"clicks": {"background": [place]}}, None, Params(), "cpu")
    made = correct(result, asked, tmp_path, Progress())
    after, array = made.result, made.result.array
    changed = {names[int(n)] for n in np.unique(np.stack([array, result.array])[:, array != result.array]) if n}
    assert names[3] in changed and changed != set(names.values())
    assert after.entropy() == {name: bits for name, bits in before.items() if name not in changed}
    assert made.params["entropy_bits"] == after.entropy()
    (note,) = (n for n in made.params["notes"] if "uncertainty" in n)
    assert all(name in note for name in changed) and "is left out" in note
    again = correct(after, asked, tmp_path, Progress())
    assert not set(again.result.entropy()) & changed


def test_a_box_is_run_on_again_and_nothing_else_changes(banded, tmp_path):
    values = torch.from_numpy(phantom()[0].astype(np.float32))[None]
    result = medvit.segment(MetaTensor(values, affine=torch.from_numpy(oblique_affine())), bundle=banded)
    wrong = replace(result, labels=torch.zeros_like(result.labels))
    asked = Correction({"roi": [[30, 4, 4], [5, 28, 20]]}, None, Params(), "cpu")
    made = correct(wrong, asked, tmp_path, Progress())
    box = (slice(5, 31), slice(4, 29), slice(4, 21))
    outside = np.ones(result.array.shape, bool)
    outside[box] = False
    assert np.array_equal(made.result.array[box], result.array[box]) and result.array[box].any()
    assert not made.result.array[outside].any()
    assert made.params["changed_voxels"] == int((result.array[box] > 0).sum())
    assert any("run on again" in note for note in made.params["notes"])
    assert not any("clicks" in note for note in made.params["notes"])


@pytest.mark.parametrize(
    ("roi", "words"),
    [
        ("all", "two opposite corners are needed, one index for each axis"),
        ([[0, 0, 0]], "two opposite corners are needed"),
        ([[0, 0, 0], [99, 5, 5]], "a point is one voxel index for each axis within"),
        ([[0, 0, 0], [9, 9, 2]], "Found a roi of 10 x 10 x 3 voxels; 4 along each axis are needed. Draw a larger one"),
    ],
)
def test_a_box_that_is_none_is_refused(roi, words):
    with pytest.raises(RequestError, match=words):
        read_box(roi, (31, 27, 19))
