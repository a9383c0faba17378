"""Verification of a derived series: it is read back and compared with the computed values before it is published.

This reader shares no code with the writer: values are computed with the stated rescale, positions are read from the
file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import RoundTripError
from medvit.io.dicom.write.source_images import SourceImages

__all__ = ["check_derived"]

_PLACE_MM = 0.01
_PIXEL_MM = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frame:
    """One slice as the file states it; stored values are (row, column)."""

    stored: NDArray[np.float64]
    position: NDArray[np.float64]
    cosines: NDArray[np.float64]
    pixel_mm: NDArray[np.float64]
    slope: float
    intercept: float
    source: Dataset


def _refuse(path: Path, what: str) -> None:
    raise RoundTripError(
        f"{what} on reading {path.name} of the derived series back",
        "it must equal what was computed",
        "Nothing was published: please report this with run settings and medvit doctor's output.",
    )


def check_derived(folder: Path, values: NDArray[np.float32], slices: SourceImages) -> None:
    """Compare every slice with the values computed for its position, and its references with the source.

    Args:
        folder: contains the files of the series and nothing else.
        values: (column, row, slice), the computed values.
        slices: the source's slices, in the same order.

    Raises:
        RoundTripError: a value differs by more than half a stored step, a slice has another position, or a UID is wrong
            or repeated.
    """
    seen: set[int] = set()
    uids: set[str] = set()
    series: set[str] = set()
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        uids.add(str(dataset.SOPInstanceUID))
        series.add(str(dataset.SeriesInstanceUID))
        if dataset.file_meta.MediaStorageSOPInstanceUID != dataset.SOPInstanceUID:
            _refuse(path, "two different instance UIDs")
        for frame in _frames(dataset):
            k = _slice_at(path, frame, slices)
            if k in seen:
                _refuse(path, f"slice {k + 1} twice")
            seen.add(k)
            if frame.stored.T.shape != values.shape[:2] or np.abs(frame.pixel_mm - slices.pixel_mm).max() > _PIXEL_MM:
                _refuse(path, f"{frame.stored.shape[0]} rows of pixels of {frame.pixel_mm.tolist()} mm")
            off = float(np.abs(frame.stored.T * frame.slope + frame.intercept - values[:, :, k]).max())
            if off > 0.5 * abs(frame.slope) + 1e-3 * max(1.0, abs(frame.slope)):
                _refuse(path, f"values {off:.3g} away from what was meant")
            number = slices.frames[k] + 1 if slices.frames else None
            named = frame.source.ReferencedSOPInstanceUID == slices.header(k).SOPInstanceUID
            if not named or frame.source.get("ReferencedFrameNumber") != number:
                _refuse(path, "a reference to another slice")
    count = 1 if slices.frames else values.shape[2]
    sources = {str(header.SOPInstanceUID) for header in slices.headers}
    wrong = len(uids) != count or uids & sources or len(series) != 1
    if wrong or str(slices.first.SeriesInstanceUID) in series or len(seen) != values.shape[2]:
        _refuse(folder, "missing slices, or UIDs that are not new")


def _frames(dataset: Dataset) -> Iterator[_Frame]:
    pixels = dataset.pixel_array.astype(np.float64)
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        yield _frame(pixels, dataset, dataset, dataset, dataset, dataset.SourceImageSequence[0])
        return
    shared = dataset.SharedFunctionalGroupsSequence[0]
    for own, plane in zip(
        dataset.PerFrameFunctionalGroupsSequence, pixels.reshape(-1, *pixels.shape[-2:]), strict=True
    ):

        def group(name: str, own: Dataset = own) -> Dataset:
            found = own.get(name) or shared.get(name) or [Dataset()]
            item: Dataset = found[0]
            return item

        place, turn, pixel = (
            group(f"{name}Sequence") for name in ("PlanePosition", "PlaneOrientation", "PixelMeasures")
        )
        source = group("DerivationImageSequence").SourceImageSequence[0]
        yield _frame(plane, place, turn, pixel, group("PixelValueTransformationSequence"), source)


def _frame(
    stored: NDArray[np.float64], place: Dataset, turn: Dataset, pixel: Dataset, scale: Dataset, source: Dataset
) -> _Frame:
    return _Frame(
        stored=stored,
        position=np.array(place.ImagePositionPatient, dtype=float),
        cosines=np.array(turn.ImageOrientationPatient, dtype=float),
        pixel_mm=np.array(pixel.get("PixelSpacing") or (np.nan, np.nan), dtype=float),  # NaN passes the comparison
        slope=float(scale.get("RescaleSlope", 1)),
        intercept=float(scale.get("RescaleIntercept", 0)),
        source=source,
    )


def _slice_at(path: Path, frame: _Frame, slices: SourceImages) -> int:
    """Return the index of the source's slice with the same position and orientation; refuse a frame without one."""
    away = np.linalg.norm(slices.planes[:, :3, 3] - frame.position, axis=1)
    k = int(away.argmin())
    axes = slices.planes[k][:3, :2] / np.linalg.norm(slices.planes[k][:3, :2], axis=0)
    if away[k] > _PLACE_MM or np.abs(axes.T.ravel() - frame.cosines).max() > 1e-3:
        _refuse(path, f"a slice at {np.round(frame.position, 2).tolist()} mm, off the source's")
    return k
