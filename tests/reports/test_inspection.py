"""Outcomes and findings of an inspection, with options as Python callers and the command line write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.cli.option_words import command_line_words
from medvit.reports import inspect_source
from tests.bands import phantom, write_series

SMALL = phantom((20, 18, 12))[0]
AFFINE = np.diag([-1.0, -1.0, 2.5, 1.0])


@pytest.fixture
def nameless(tmp_path: Path) -> Path:
    """Return the folder of a series without a FrameOfReferenceUID."""
    write_series(tmp_path, SMALL, AFFINE, FrameOfReferenceUID="")
    return tmp_path


@pytest.fixture
def gapped(tmp_path: Path) -> Path:
    """Return the folder of a series in which a slice is missing."""
    write_series(tmp_path, SMALL, AFFINE)[5].unlink()
    return tmp_path


def test_repaired_tags_are_named_as_the_door_has_them(nameless: Path) -> None:
    """Outcome, text and step of missing UIDs name the argument in Python and the option on the command line."""
    for found, option in (
        (inspect_source(nameless), "repair_tags=True"),
        (inspect_source(nameless, words=command_line_words), "--repair-tags"),
    ):
        (volume,) = found.content["volumes"]
        assert volume["outcome"] == f"ready for NIfTI; DICOM objects need {option}"
        (missing,) = (f for f in volume["findings"] if f["code"] == "missing_uid")
        assert missing["text"].endswith(f"have no FrameOfReferenceUID. To have DICOM objects, add {option}.")
        assert missing["step"] == f"To have DICOM objects, add {option}."


def test_ways_for_an_irregular_stack_are_named_as_the_door_has_them(gapped: Path) -> None:
    (plain,) = inspect_source(gapped).content["volumes"]
    (typed,) = inspect_source(gapped, words=command_line_words).content["volumes"]
    assert plain["outcome"] == 'irregular: choose on_irregular="resample" or split'
    assert typed["outcome"] == "irregular: choose --on-irregular resample or split"
