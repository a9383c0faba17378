"""Verification of DICOM objects: each is read back and compared with the computed result before it gets its final name.

These readers share no code with the writers, only the types of what was computed: frames are placed by the positions
stated in the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

from medvit.errors import RoundTripError
from medvit.io.dicom.header import FrameGroups, functional_group, tag_of
from medvit.io.geometry import slice_planes
from medvit.io.polygon_masks import fill_polygon
from medvit.labels import Label

if TYPE_CHECKING:
    from medvit.io.dicom.write.source_images import SourceImages
    from medvit.io.dicom.write.sr import SegmentMeasurements

__all__ = ["check_rtstruct", "check_sc", "check_seg", "check_sr"]

_CENTROID_MM = 0.01
_RTSTRUCT_DICE = 0.999


def _planes(lps: np.ndarray, count: int) -> np.ndarray:
    """Return the matrix of each slice, (slice, 4, 4), from such matrices or from the affine of a regular stack."""
    return lps if lps.ndim == 3 else slice_planes(lps, count)


def _nearest(planes: np.ndarray, point: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the slice that contains a point, and the point's index (column, row, off-plane) in it."""
    offset = point - planes[:, :3, 3]
    normals = np.cross(planes[:, :3, 0], planes[:, :3, 1])
    away = np.abs((offset * normals).sum(1)) / np.linalg.norm(normals, axis=1)
    k = int(away.argmin())
    return k, np.asarray((np.linalg.inv(planes[k]) @ np.append(point, 1.0))[:3])


def _refuse(path: Path, what: str) -> None:
    raise RoundTripError(
        f"{what} on reading {path.name} back",
        "it must equal what was computed",
        "Nothing was published: please report this with run settings and medvit doctor's output.",
    )


def check_seg(path: Path, array: np.ndarray, lps: np.ndarray, labels: Sequence[Label]) -> None:
    """Compare a SEG with the computed labels: every voxel, and each segment's centroid in LPS millimetres.

    Args:
        path: the SEG.
        array: (column, row, slice) label ids, or (column, row, slice, label) masks, which may overlap.
        lps: voxel index to LPS millimetres, (4, 4), or (slice, 4, 4) for (column, row, 0) of each slice.
        labels: the expected labels.

    Raises:
        RoundTripError: a voxel, a segment or a position differs.
    """
    dataset = pydicom.dcmread(path)
    if len(dataset.SegmentSequence) != len(labels):
        _refuse(path, f"{len(dataset.SegmentSequence)} segments for {len(labels)} labels")
    frames, planes = _SegFrames(dataset), _planes(lps, array.shape[2])
    stack = np.ascontiguousarray(array.T)  # (slice, row, column), or (label, slice, row, column)
    sides = np.array([frames.across, frames.down])[:, None] * frames.cosines.reshape(2, 3)
    places: dict[bytes, int] = {}
    seen: set[tuple[int, int]] = set()
    # of each segment: voxels that differ, voxels compared, sums of positions in the file and of those meant
    differing, compared = np.zeros(len(labels) + 1, np.int64), np.zeros(len(labels) + 1, np.int64)
    found, meant = np.zeros((len(labels) + 1, 3)), np.zeros((len(labels) + 1, 3))
    for f in range(frames.count):
        number, origin = frames.segment(f), frames.origin(f)
        k = places.get(origin.tobytes())
        if k is None:
            k, place = _nearest(planes, origin)
            if np.abs(place).max() > 0.01:
                _refuse(path, f"a frame at {np.round(origin, 2).tolist()} mm, off the source's slices")
            places[origin.tobytes()] = k
        if (number, k) in seen or not 0 < number <= len(labels):
            _refuse(path, f"two frames of segment {number} on slice {k + 1}, or a segment without a label")
        seen.add((number, k))
        pixels = frames.pixels(f)
        wanted = np.flatnonzero(stack[k] == labels[number - 1].id if array.ndim == 3 else stack[number - 1, k])
        if not np.array_equal(pixels, wanted):
            differing[number] += len(np.setxor1d(pixels, wanted, assume_unique=True))
        compared[number] += len(wanted)
        found[number] += origin * len(pixels) + _sums(pixels, frames.columns) @ sides
        meant[number] += planes[k, :3, :2] @ _sums(wanted, frames.columns) + planes[k, :3, 3] * len(wanted)
    totals = np.count_nonzero(stack, axis=(1, 2, 3)) if array.ndim == 4 else _counts(stack, labels).sum(0)
    for n, label in enumerate(labels, 1):
        count = int(totals[n - 1 if array.ndim == 4 else label.id])
        if differing[n] or compared[n] != count:
            _refuse(path, f"{differing[n] + count - compared[n]} differing voxels in {label.name}")
        shift = np.linalg.norm(found[n] - meant[n]) / count
        if shift > _CENTROID_MM:
            _refuse(path, f"{label.name} {shift:.2f} mm away from its place")


def _counts(stack: NDArray[np.integer[Any]], labels: Sequence[Label]) -> NDArray[np.int64]:
    """Count the voxels of each id above 0 of a label map on each slice, (slice, id)."""
    most = max(int(stack.max(initial=0)), *(label.id for label in labels)) + 1
    return np.stack([np.bincount(plane[plane != 0], minlength=most) for plane in stack])


def _sums(pixels: NDArray[np.int64], columns: int) -> NDArray[np.int64]:
    """Return the sums of the columns and of the rows of pixels, which are given by their index in a frame."""
    rows, across = np.divmod(pixels, columns)
    return np.array([across.sum(), rows.sum()])


class _SegFrames:
    """Frames of a BINARY SEG as the file states them."""

    def __init__(self, dataset: pydicom.Dataset) -> None:
        self._groups, self._shared = FrameGroups(dataset), dataset.SharedFunctionalGroupsSequence[0]
        self._content = np.frombuffer(dataset.PixelData, np.uint8)
        self.count, self.columns = int(dataset.NumberOfFrames), int(dataset.Columns)
        self._size = int(dataset.Rows) * self.columns
        self.cosines = np.array(self._group(0, "PlaneOrientationSequence").ImageOrientationPatient, dtype=float)
        self.down, self.across = (float(v) for v in self._group(0, "PixelMeasuresSequence").PixelSpacing)

    def _group(self, frame: int, name: str) -> pydicom.Dataset:
        # values common to all frames (a single segment, a single slice) are in the shared groups
        group = functional_group(self._shared, self._groups.part(frame, (tag_of(name),)), name)
        assert group is not None
        return group

    def segment(self, frame: int) -> int:
        """Return the segment's number."""
        return int(self._group(frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)

    def origin(self, frame: int) -> NDArray[np.float64]:
        """Return the position of the first pixel in LPS millimetres."""
        return np.array(self._group(frame, "PlanePositionSequence").ImagePositionPatient, dtype=float)

    def pixels(self, frame: int) -> NDArray[np.int64]:
        """Return the indices of the pixels that are 1, row by row; a frame may begin within a byte (PS3.5 8.2)."""
        first = frame * self._size
        content = self._content[first // 8 : -(-(first + self._size) // 8)]
        filled = np.flatnonzero(content)
        bits = np.unpackbits(content[filled, None], axis=1, bitorder="little").view(bool)
        index: NDArray[np.int64] = (filled[:, None] * 8 + np.arange(8))[bits] - first % 8
        return index if self._size % 8 == 0 else index[(index >= 0) & (index < self._size)]


def check_rtstruct(path: Path, array: np.ndarray, lps: np.ndarray, labels: Sequence[Label]) -> None:
    """Fill the contours, and compare them with the computed labels by Dice and by each ROI's centroid in LPS
    millimetres.

    Args:
        path: the RTSTRUCT.
        array: (column, row, slice) label ids, or (column, row, slice, label) masks, which may overlap.
        lps: voxel index to LPS millimetres, (4, 4), or (slice, 4, 4) for (column, row, 0) of each slice.
        labels: the expected labels.

    Raises:
        RoundTripError: an ROI is missing, differs, or has another position.
    """
    contours = _contours(path)
    planes, inverses = _planes(lps, array.shape[2]), np.linalg.inv(_planes(lps, array.shape[2]))
    stack = np.ascontiguousarray(np.moveaxis(array, 2, 0))  # (slice, column, row), or (slice, column, row, label)
    present = np.count_nonzero(stack, axis=(1, 2)) if array.ndim == 4 else _counts(stack, labels)
    for place, label in enumerate(labels):
        if label.title not in contours:
            _refuse(path, f"no ROI named {label.title!r}")
        filled: dict[int, NDArray[np.bool_]] = {}
        for points in contours[label.title]:
            k, _ = _nearest(planes, points.mean(0))
            index = points @ inverses[k, :3, :3].T + inverses[k, :3, 3]
            if np.abs(index[:, 2]).max() > 0.01:
                _refuse(path, f"a contour of {label.name} off the source's slices")
            mask = filled.setdefault(k, np.zeros(array.shape[:2], dtype=bool))
            box, inside, edge = fill_polygon(index[:, :2], (array.shape[0], array.shape[1]))
            mask[box] ^= inside | edge
        column = place if array.ndim == 4 else label.id
        meant = {
            k: stack[k, ..., place] != 0 if array.ndim == 4 else stack[k] == label.id
            for k in np.flatnonzero(present[:, column]).tolist()
        }
        count, wanted = (sum(int(np.count_nonzero(mask)) for mask in found.values()) for found in (filled, meant))
        both = sum(int(np.count_nonzero(mask & meant[k])) for k, mask in filled.items() if k in meant)
        dice = 2 * both / max(1, count + wanted)
        if dice < _RTSTRUCT_DICE:
            _refuse(path, f"a Dice of {dice:.4f} for {label.name}")
        shift = np.linalg.norm(_centre(filled, planes) - _centre(meant, planes))
        if shift > max(_CENTROID_MM, 0.01 * float(np.linalg.norm(planes[0, :3, :3], axis=0).min())):
            _refuse(path, f"{label.name} {shift:.2f} mm away from its place")


def _centre(masks: Mapping[int, NDArray[np.bool_]], planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean position in LPS millimetres of the voxels of masks (column, row), by slice."""
    total, count = np.zeros(3), 0
    for k, mask in masks.items():
        columns, rows = np.count_nonzero(mask, 1), np.count_nonzero(mask, 0)
        here = int(columns.sum())
        sums = np.array([columns @ np.arange(len(columns)), rows @ np.arange(len(rows))], float)
        total += planes[k, :3, :2] @ sums + planes[k, :3, 3] * here
        count += here
    return total / max(1, count)


def _contours(path: Path) -> dict[str, list[np.ndarray]]:
    """Read the contours of each ROI, by name; each contour is (point, 3) in LPS millimetres."""
    dataset = pydicom.dcmread(path)
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    return {
        names[int(item.ReferencedROINumber)]: [_points(contour) for contour in item.get("ContourSequence", [])]
        for item in dataset.ROIContourSequence
    }


def _points(contour: pydicom.Dataset) -> NDArray[np.float64]:
    """Return ContourData as (point, 3); its text is converted at once, since pydicom makes an object of each number."""
    stored = contour.get_item("ContourData").value
    values = stored.split(b"\\") if isinstance(stored, bytes) else list(stored)
    return np.array(values, dtype=np.float64).reshape(-1, 3)


def check_sc(folder: Path, digests: Sequence[str], slices: SourceImages) -> None:
    """Decode each secondary capture; compare it with the drawn picture, and its source with the slice of the same
    number.

    Args:
        folder: the folder with ``0001.dcm`` and so on.
        digests: sha256 of each drawn picture.
        slices: the source's slices, in the same order.

    Raises:
        RoundTripError: a picture is missing, differs or shows another slice.
    """
    for k, digest in enumerate(digests):
        header = slices.header(k)
        path = folder / f"{k + 1:04d}.dcm"
        dataset = pydicom.dcmread(path)
        # decoded by pydicom's own code, since the library that encoded it should not confirm itself
        if hashlib.sha256(pixel_array(dataset, decoding_plugin="pydicom").tobytes()).hexdigest() != digest:
            _refuse(path, "a picture other than the one drawn")
        source = dataset.get("SourceImageSequence")
        named = source[0].ReferencedSOPInstanceUID if source else ""
        if (source and named != header.get("SOPInstanceUID")) or dataset.InstanceNumber != k + 1:
            _refuse(path, "a picture of another slice")


def check_sr(path: Path, seg: Path, findings: Sequence[SegmentMeasurements]) -> None:
    """Compare each measurement group with the computed numbers, and its segment and tracking UID with the SEG.

    Args:
        path: the SR.
        seg: the SEG that the SR refers to.
        findings: the expected measurements, in the same order.

    Raises:
        RoundTripError: a group is missing, a number differs, or a group refers to another segment.
    """
    document, segmentation = pydicom.dcmread(path), pydicom.dcmread(seg)
    segments = {int(item.SegmentNumber): str(item.TrackingUID) for item in segmentation.SegmentSequence}
    groups = [item for item in _items(document) if _name(item) == "125007"]
    if len(groups) != len(findings):
        _refuse(path, f"{len(groups)} measurement groups for {len(findings)} labels")
    for group, finding in zip(groups, findings, strict=True):
        uid = next((str(item.UID) for item in group.ContentSequence if _name(item) == "112040"), "none")
        (referred,) = (item.ReferencedSOPSequence[0] for item in group.ContentSequence if _name(item) == "121191")
        number = int(referred.ReferencedSegmentNumber)
        if referred.ReferencedSOPInstanceUID != segmentation.SOPInstanceUID or number != finding.segment:
            _refuse(path, f"{finding.label.name} measured on another segment")
        if not uid == finding.tracking_uid == segments[number]:
            _refuse(path, f"another tracking UID for {finding.label.name} than in the SEG")
        numbers = finding.measures
        meant = [numbers.volume_ml, numbers.mean, numbers.std, numbers.longest_diameter_mm]
        found = [
            float(item.MeasuredValueSequence[0].NumericValue)
            for item in group.ContentSequence
            if item.ValueType == "NUM"
        ]
        if found != meant:
            _refuse(path, f"the numbers {found} for {finding.label.name}, where {meant} were measured")


def _items(node: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Yield every content item below a node, in the order of the document."""
    for item in node.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _name(item: pydicom.Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue) if "ConceptNameCodeSequence" in item else ""
