"""Checks of ``test_panels`` on warnings: the window shows ratings, notes of opening, and parts left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from napari.components import ViewerModel
from pydicom.uid import generate_uid

from tests.bands import phantom, write_series
from tests.napari.driving import done, opened, said, widget


def choose(panel, name: str) -> None:
    panel.bundle.setCurrentIndex(panel.bundle.findText(name))


def ratings_of_runs(place: Path) -> None:
    """'Done' names the rating with its reasons, the time, and all layers made; one that is not good is a warning, too."""
    values, _ = phantom()
    write_series(place / "ct", values, np.diag([2.0, 2, 3, 1]))
    viewer = ViewerModel()
    run = widget(viewer, "medvit.run")
    opened(viewer, place / "ct")
    choose(run, "banded")
    run.surfaces.setChecked(True)
    run.quality.setChecked(True)
    said()
    run.run_button.click()
    done(run)
    text = run.status.text()
    made = [layer.name for layer in viewer.layers[1:]]
    assert text.startswith("Done. Rating: poor (") and "parotid_right" in text, text
    assert " s. Layers: " in text and all(name in text for name in made) and len(made) > 4, (text, made)
    assert any(kind == "warning" and "Rating: poor" in words for kind, words in said())
    look = widget(viewer, "medvit.look")
    assert viewer.layers[1].metadata["medvit"].quality["rating"] == "poor"
    look.close()
    run.close()


def notes_of_opening(place: Path) -> None:
    """Check the notes on opening: parts left out of a mixed series, the share taken of a fractional SEG."""
    series, frame = generate_uid(), generate_uid()
    values, _ = phantom()
    same = {"SeriesInstanceUID": series, "FrameOfReferenceUID": frame}
    write_series(place / "mixed", values, np.diag([2.0, 2, 3, 1]), **same)
    write_series(place / "mixed" / "more", values[:, :20, :2], np.diag([2.0, 2, 3, 1]), **same)
    viewer = ViewerModel()
    look = widget(viewer, "medvit.look")
    said()
    (image,) = opened(viewer, place / "mixed")
    warned = " ".join(words for kind, words in said() if kind == "warning")
    assert "set aside: not part of the volume" in warned, warned
    assert any("set aside" in text for text in image.metadata["warnings"])
    assert "Warning: 2 slices" in look.about.text(), look.about.text()

    save = widget(viewer, "medvit.save")
    save.new_button.click()
    viewer.layers[-1].data[3:9, 3:9, 3:9] = 1
    save.save(place / "out")
    done(save)
    seg = pydicom.dcmread(place / "out" / "seg.dcm")
    fractional(seg).save_as(place / "fraction.dcm", enforce_file_format=True)
    said()
    opened(viewer, place / "fraction.dcm")
    words = " ".join(words for _, words in said())
    assert "fractional segmentation (probability): voxels from 0.5 of its maximum on were taken" in words, words
    save.close()
    look.close()


def fractional(seg: pydicom.Dataset) -> pydicom.Dataset:
    """A binary SEG as probabilities of one byte a voxel."""
    frames = seg.pixel_array
    seg.SegmentationType, seg.SegmentationFractionalType, seg.MaximumFractionalValue = "FRACTIONAL", "PROBABILITY", 100
    seg.BitsAllocated = seg.BitsStored = 8
    seg.HighBit = 7
    data = (frames * 80).astype(np.uint8).tobytes()
    seg.PixelData = data + b"\0" * (len(data) % 2)
    seg["PixelData"].VR = "OB"
    return seg


def words_that_reach_the_window(place: Path) -> None:
    """All of it; the bundle's folder is that of ``MEDVIT_BUNDLES``."""
    ratings_of_runs(place / "runs")
    notes_of_opening(place / "notes")
