"""Reading of one volume or picture of a DICOM source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import dictionary_VR

from medvit.errors import SelectionError
from medvit.io.dicom.header import TYPE_2, PlaneHeader
from medvit.io.dicom.pixels import AIR_HU, plane_values
from medvit.io.dicom.preflight import SeriesVolume, Stack, build_stack
from medvit.io.dicom.stack_resampling import plan_grid, regular_runs, resample_to_grid
from medvit.io.dicom.write.source_images import LOOKED_INTO
from medvit.io.geometry import flip_lps_ras
from medvit.io.scan import Scan, SourceStack
from medvit.progress import Progress

__all__ = ["ON_IRREGULAR", "drop_unreadable", "read_dicom", "read_slice"]

ON_IRREGULAR = ("fail", "resample", "split")
"""Treatments of a stack that is not regular and straight."""


def read_dicom(
    volume: SeriesVolume,
    on_irregular: str = "fail",
    part: int | None = None,
    progress: Progress | None = None,
    *,
    into: NDArray[np.float32] | None = None,
) -> Scan:
    """Decode a volume as (1, column, row, slice), slices sorted along their normal, or a picture as (channel, row,
    column).

    Args:
        volume: a volume of the preflight.
        on_irregular: "fail" refuses a tilted or uneven stack; "resample" resamples it to a regular grid and keeps its
            slices, so that labels can be mapped back; "split" reads the longest run of evenly spaced slices and sets
            the others aside (a tilted run is resampled, since none of its parts is regular).
        part: number of the run to read under "split", from 1; None reads the longest.
        progress: shows the progress of decoding; can cancel it.
        into: (column, row, slice) array for a regular volume, with any strides; its slices can be displayed while
            others are still being decoded.

    Raises:
        MedvitError: the volume has a finding that prevents reading, or its pixels cannot be read.
    """
    progress = progress or Progress()
    aside: tuple[str, ...] = ()
    _refuse(volume, "refused")
    if volume.kind != "volume" or volume.stack is None:
        return _picture(volume)
    irregular = volume.worst() == "irregular"
    if irregular and on_irregular == "fail":
        _refuse(volume, "irregular")
    if on_irregular == "split" and (irregular or part is not None):
        volume, aside = _split(volume, part)
        _refuse(volume, "refused")
    stack = volume.stack
    assert stack is not None
    headers, array, notes = _decode(stack.planes, progress, _air(volume), into)
    said = tuple(f"{f.text[0].upper()}{f.text[1:]}" for f in volume.findings if f.severity == "note")
    scan = Scan(
        array=array[None],
        affine=flip_lps_ras(stack.affine),
        kind="dicom",
        modality=volume.modality or None,
        unit=volume.unit,
        unscaled=volume.unscaled,
        planes=_planes(stack),
        slices=headers,
        frames=tuple(p.frame for p in stack.planes if p.frame is not None),
        notes=(*said, *notes),
        blockers=tuple(f.found for f in volume.findings if f.severity == "tags"),
        excluded=(*(f.text for f in volume.findings if f.severity == "flag"), *aside),
        name="dicom",
    )
    odd = [f for f in stack.findings if f.severity == "irregular"]
    return _regridded(scan, stack, [f.found for f in odd]) if odd else scan


def _refuse(volume: SeriesVolume, severity: str) -> None:
    for finding in volume.findings:
        if finding.severity == severity:
            raise finding.error()


def read_slice(volume: SeriesVolume, k: int) -> NDArray[np.float32]:
    """Read one slice, (column, row), with the same values as ``read_dicom``; viewers show it before the others are
    decoded.

    Raises:
        SourceError, ImageError: the pixels cannot be read.
    """
    assert volume.stack is not None
    plane = volume.stack.planes[k]
    _, values = next(plane_values([plane]))
    array = np.array(values.array.T)
    _fill_padding(array, _air(volume))
    return array


def _air(volume: SeriesVolume) -> float | None:
    """Return the value of air in Hounsfield units; None for volumes in another unit."""
    return AIR_HU if volume.hounsfield else None


def _decode(
    planes: tuple[PlaneHeader, ...], progress: Progress, air: float | None, into: NDArray[np.float32] | None = None
) -> tuple[tuple[Dataset, ...], NDArray[np.float32], list[str]]:
    """Return the headers without pixels, the values (column, row, slice), and notes on conversions.

    There is one header for each slice, or a single one where all slices are frames of one file.
    """
    first = planes[0]
    headers: list[Dataset] = []
    array: NDArray[np.float32] | None = None
    inverted = philips = False
    for k, (header, values) in enumerate(plane_values(planes)):
        progress.report("read", k, len(planes))
        if array is None:  # only after the first plane was decoded, since a damaged header can state any size
            array = np.empty((first.columns, first.rows, len(planes)), np.float32) if into is None else into
        array[:, :, k] = values.array.T
        inverted, philips = inverted or values.inverted, philips or values.philips
        if headers and headers[-1] is not header:
            _without_pixels(headers[-1])
        if not headers or headers[-1] is not header:
            drop_unreadable(header)
        headers.append(header)
    assert array is not None
    _without_pixels(headers[-1])
    if planes[0].frame is not None and all(header is headers[0] for header in headers):
        headers = headers[:1]
    notes = ["Values were turned round (MONOCHROME1), so that brighter means more."] if inverted else []
    notes += ["Values are Philips' floating-point signal (private MR Scale Slope)."] if philips else []
    return tuple(headers), array, notes + _fill_padding(array, air)


def _without_pixels(header: Dataset) -> None:
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        header.pop(keyword, None)


def _fill_padding(array: NDArray[np.float32], air: float | None) -> list[str]:
    """Replace padding by air in CT and by the lowest value elsewhere; padding was never measured."""
    padding = np.isnan(array)
    count = int(padding.sum())
    if not count:
        return []
    fill = air if air is not None else float(np.nanmin(array)) if count < array.size else 0.0
    array[padding] = fill
    return [f"{count} padding pixels (PixelPaddingValue) were set to {fill:g}."]


def _planes(stack: Stack) -> NDArray[np.float64]:
    """Return a matrix for each slice, (slice, 4, 4): index (column, row, 0) to LPS millimetres, exactly as its header
    states.
    """
    planes = np.repeat(stack.affine[None], len(stack.planes), 0)
    planes[:, :3, 2] = stack.axes[:, 2] * stack.spacing_mm[2]
    planes[:, :3, 3] = stack.positions
    return planes


def _regridded(scan: Scan, stack: Stack, why: list[str]) -> Scan:
    values = scan.array[0]
    grid = plan_grid(stack, values.shape[1], values.shape[0])
    array = resample_to_grid(values, grid)
    covered = ~np.isnan(array)
    array[~covered] = AIR_HU if scan.hounsfield else float(values.min())
    assert scan.planes is not None
    said = (
        f"Resampled to a straight, even grid of {'x'.join(map(str, grid.shape))} voxels because of {'; '.join(why)}. "
        "NIfTI labels lie on that grid, DICOM objects on the original slices."
    )
    original = SourceStack(values, scan.planes, grid, covered)
    return replace(
        scan, array=array[None], affine=flip_lps_ras(grid.affine), original=original, notes=(*scan.notes, said)
    )


def _split(volume: SeriesVolume, part: int | None) -> tuple[SeriesVolume, tuple[str, ...]]:
    """Choose the run of evenly spaced slices to read; return it with a note on the other runs."""
    stack = volume.stack
    assert stack is not None
    runs = regular_runs(stack)
    names = [
        f"part {n}: {len(run)} slice(s) from {stack.distance[run[0]]:.2f} to {stack.distance[run[-1]]:.2f} mm"
        for n, run in enumerate(runs, 1)
    ]
    if part is not None and not 1 <= part <= len(runs):
        raise SelectionError(
            f"no part {part} of volume {volume.number}",
            f"it has these: {'; '.join(names)}",
            f"Give one as {{series={volume.number}.1}}",
            option="series",
        )
    taken = part - 1 if part is not None else max(range(len(runs)), key=lambda n: len(runs[n]))
    chosen = build_stack([stack.planes[n] for n in runs[taken]])
    kept = [f for f in volume.findings if f.severity != "irregular"]
    others = [name for n, name in enumerate(names) if n != taken]
    aside = (
        f"The volume was split and {names[taken]} was taken; set aside: {'; '.join(others)}. "
        f"Choose series {volume.number}.N to read part N.",
    )
    return replace(
        volume, planes=chosen.planes, stack=chosen, findings=(*chosen.findings, *kept)
    ), aside if others else ()


def _picture(volume: SeriesVolume) -> Scan:
    """Read a projection, photograph or screen capture as (channel, row, column)."""
    if len(volume.planes) > 1:
        raise SelectionError(
            f"{len(volume.planes)} {volume.kind} images of one series",
            "a volume or a single picture is needed",
            "Give one of the files instead.",
        )
    (_, values), = plane_values(volume.planes)  # fmt: skip
    array = values.array if values.array.ndim == 3 else values.array[:, :, None]
    array = np.ascontiguousarray(array.transpose(2, 0, 1))
    notes = ["Values were turned round (MONOCHROME1), so that brighter means more."] if values.inverted else []
    notes += _fill_padding(array, _air(volume))
    return Scan(
        array=array,
        affine=np.eye(4),
        kind="picture",
        modality=volume.modality or None,
        notes=tuple(notes),
        name="dicom",
    )


def drop_unreadable(header: Dataset) -> None:
    """Remove invalid values of attributes that written objects copy or inspect."""
    for keyword in (*TYPE_2, *LOOKED_INTO):
        try:
            value = header.get(keyword)
            if dictionary_VR(keyword) in ("DS", "IS") and value not in (None, ""):
                float(value)  # pydicom returns text where the value is not numeric
        except (TypeError, ValueError, AttributeError, OverflowError, LookupError, NotImplementedError):
            del header[keyword]
