"""Every DICOM object is read back and compared with what was meant before it takes its final name.

The readers here share nothing with the writers: frames are placed by the positions stated in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom

from medvit.bundles import Label
from medvit.errors import RoundTripError
from medvit.io.contours import fill_polygons
from medvit.io.geometry import Affine
from medvit.io.rtstruct import read_contours

__all__ = ["check_rtstruct", "check_seg"]

_CENTROID_MM = 0.01
_RTSTRUCT_DICE = 0.999


def _centroid(mask: np.ndarray, affine: Affine) -> np.ndarray:
    index = np.append(np.argwhere(mask).mean(0), 1.0)
    return np.asarray((affine @ index)[:3])


def _refuse(path: Path, what: str) -> None:
    raise RoundTripError(
        f"Found {what} on reading {path.name} back; it must equal what was computed. Nothing was published: "
        "please report this with run settings and medvit doctor's output."
    )


def check_seg(path: Path, array: np.ndarray, lps: Affine, labels: Sequence[Label]) -> None:
    """Compare a SEG voxel for voxel, and each segment's centroid in LPS millimetres.

    Raises:
        RoundTripError: any voxel, segment or place differs.
    """
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
    if len(dataset.SegmentSequence) != len(labels):
        _refuse(path, f"{len(dataset.SegmentSequence)} segments for {len(labels)} labels")
    shared = dataset.SharedFunctionalGroupsSequence[0]
    cosines = np.array(_group(dataset, shared, 0, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
    measures = _group(dataset, shared, 0, "PixelMeasuresSequence")
    down, across = (float(v) for v in measures.PixelSpacing)
    inverse = np.linalg.inv(lps)
    masks = {n: np.zeros(array.shape, dtype=bool) for n in range(1, len(labels) + 1)}
    sums: dict[int, list[np.ndarray]] = {n: [] for n in masks}
    for f, frame in enumerate(frames):
        groups = dataset.PerFrameFunctionalGroupsSequence[f]
        number = int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        origin = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        place = inverse @ np.append(origin, 1.0)
        k = round(float(place[2]))
        if not 0 <= k < array.shape[2] or np.abs(place[:3] - (0, 0, k)).max() > 0.01:
            _refuse(path, f"a frame at {np.round(origin, 2).tolist()} mm, off the source's slices")
        masks[number][:, :, k] |= frame.astype(bool).T
        rows, columns = np.nonzero(frame)
        sums[number].append(origin + np.outer(columns * across, cosines[:3]) + np.outer(rows * down, cosines[3:]))
    for n, label in enumerate(labels, 1):
        meant = array == label.id
        differing = int((masks[n] != meant).sum())
        if differing:
            _refuse(path, f"{differing} differing voxels in {label.name}")
        shift = np.linalg.norm(np.concatenate(sums[n]).mean(0) - _centroid(meant, lps))
        if shift > _CENTROID_MM:
            _refuse(path, f"{label.name} {shift:.2f} mm away from its place")


def _group(dataset: pydicom.Dataset, shared: pydicom.Dataset, frame: int, name: str) -> pydicom.Dataset:
    found = shared if name in shared else dataset.PerFrameFunctionalGroupsSequence[frame]
    return found[name].value[0]


def check_rtstruct(path: Path, array: np.ndarray, lps: Affine, labels: Sequence[Label]) -> None:
    """Fill the contours again and compare by Dice, and each ROI's centroid in LPS millimetres.

    Raises:
        RoundTripError: an ROI is missing, differs or lies elsewhere.
    """
    contours = read_contours(path)
    inverse = np.linalg.inv(lps)
    for label in labels:
        if label.title not in contours:
            _refuse(path, f"no ROI named {label.title!r}")
        filled = np.zeros(array.shape, dtype=bool)
        for points in contours[label.title]:
            index = (np.column_stack([points, np.ones(len(points))]) @ inverse.T)[:, :3]
            k = round(float(index[:, 2].mean()))
            if not 0 <= k < array.shape[2] or np.abs(index[:, 2] - k).max() > 0.01:
                _refuse(path, f"a contour of {label.name} off the source's slices")
            filled[:, :, k] ^= fill_polygons([index[:, :2]], (array.shape[0], array.shape[1]))
        meant = array == label.id
        dice = 2 * int((filled & meant).sum()) / max(1, int(filled.sum()) + int(meant.sum()))
        if dice < _RTSTRUCT_DICE:
            _refuse(path, f"a Dice of {dice:.4f} for {label.name}")
        shift = np.linalg.norm(_centroid(filled, lps) - _centroid(meant, lps))
        if shift > max(_CENTROID_MM, 0.01 * float(np.linalg.norm(lps[:3, :3], axis=0).min())):
            _refuse(path, f"{label.name} {shift:.2f} mm away from its place")
