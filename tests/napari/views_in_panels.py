"""Checks of ``test_panels`` on several volumes in one viewer: overlays, and notes where there can be none."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from napari.components import ViewerModel
from pydicom.uid import generate_uid

from tests.bands import oblique_affine, phantom, write_series
from tests.napari.driving import opened, said, until, widget


def smooth(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """A field of the patient, so that every series of it has the same value at one point."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    points = nib.affines.apply_affine(affine, index)
    return (500 + 4 * points @ (1.0, -2.0, 1.5)).astype(np.int16)


def second_affine() -> np.ndarray:
    """Turned by 20 degrees against the first, around another middle."""
    affine = oblique_affine((2.5, 2.0, 3.0), -3.0)
    affine[:3, 3] = (-38.0, 2.0, 96.0)
    return affine


def value_at(layer, world) -> float:
    """The value that napari draws at a point."""
    at = np.rint(layer.world_to_data(world)).astype(int)
    inside = all(0 <= n < size for n, size in zip(at, layer.data.shape, strict=True))
    return float(layer.data[tuple(at)]) if inside else float("nan")


def oblique_series_overlay(place: Path) -> None:
    """Two series of one frame of reference at other angles show the same patient at one point, and labels stay exact."""
    frame, shape = generate_uid(), (41, 37, 29)
    for name, affine in (("first", oblique_affine()), ("second", second_affine())):
        write_series(place / name, smooth(affine, shape), affine, FrameOfReferenceUID=frame)
    viewer = ViewerModel()
    look = widget(viewer, "medvit.look")
    said()
    (first,), (second,) = opened(viewer, place / "first"), opened(viewer, place / "second")
    assert len(first.metadata["orientation"]) == 3 and first.metadata["orientation"] == "RAS"
    look.image.choose(first)
    assert "stored along RAS" in look.about.text(), look.about.text()
    assert any(words.startswith("Overlaid") for _, words in said())
    for layer in (first, second):  # whichever axes are shown along
        look.image.choose(layer)
        look.along_button.click()
        middle = np.array([layer.data_to_world(np.array(layer.data.shape) / 2)])
        points = middle[0] + 8 * np.array(np.meshgrid([-1, 0, 1], [-1, 0, 1], [-1, 0, 1])).reshape(3, -1).T
        values = np.array([[value_at(one, p) for one in (first, second)] for p in points])
        assert np.isfinite(values).all(1).sum() > 15, values
        both = values[np.isfinite(values).all(1)]
        # rounding to a voxel may move either by half its diagonal; 9 mm apart would differ by up to 90
        assert np.abs(both[:, 0] - both[:, 1]).max() < 4 * 2.7 * (1.8 + 2.2), both
        assert abs((both[:, 0] - both[:, 1]).mean()) < 4, both
    paints_on_its_own_grid(viewer, second, place)
    look.close()


def paints_on_its_own_grid(viewer: ViewerModel, image, place: Path) -> None:
    """Labels of a volume that was interpolated turn the view to its axes, and are saved voxel for voxel."""
    save = widget(viewer, "medvit.save")
    save.image.choose(image)
    look = widget(viewer, "medvit.look")
    look.image.choose(viewer.layers[0])
    look.along_button.click()
    save.new_button.click()
    labels = viewer.layers[-1]
    labels.data[3:6, 7:12, 9:20] = 1
    look.along_button.click()  # labels are interpolated now, and cannot be painted on
    assert not labels.editable and np.asarray(labels.data).any()
    for kind in ("nifti", "dicom-seg"):
        save.types[kind].setChecked(kind == "nifti")
    save.save(place / "out")
    until(lambda: save.job is None)
    assert save.last_error is None, save.status.text()
    kept = nib.load(place / "out" / "labels.nii.gz")
    assert kept.shape == (41, 37, 29) and np.count_nonzero(np.asarray(kept.dataobj)) == 3 * 5 * 11
    np.testing.assert_allclose(kept.affine, second_affine(), atol=1e-3)
    save.close()
    look.close()


def other_frames_are_no_overlay(place: Path) -> None:
    """Series of different frames of reference are announced on the canvas for as long as both are visible."""
    for name in ("here", "there"):
        write_series(place / name, phantom()[0], np.diag([2.0, 2, 3, 1]))
    viewer = ViewerModel()
    views = widget(viewer, "medvit.look")
    said()
    (first,), (second,) = opened(viewer, place / "here"), opened(viewer, place / "there")
    warned = [words for kind, words in said() if kind == "warning"]
    assert any("No overlay" in words for words in warned), warned
    text = viewer.text_overlay
    assert text.visible and "No overlay" in text.text.replace("\n", " ")
    first.visible = False
    assert not text.visible
    first.visible = True
    assert text.visible
    viewer.layers.remove(second)
    assert not text.visible and not any(kind == "warning" for kind, _ in said())
    views.close()


def views_of_several(place: Path) -> None:
    """All of it."""
    oblique_series_overlay(place / "oblique")
    other_frames_are_no_overlay(place / "frames")
