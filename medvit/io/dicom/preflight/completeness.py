"""Detection of slices that are missing at an end of a stack, where no gap between positions can show it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from medvit.io.dicom.header import PlaneHeader
from medvit.io.dicom.preflight.findings import Finding
from medvit.io.dicom.preflight.series_volumes import SeriesVolume, series_key

__all__ = ["end_findings"]

_FEW = 1 / 2
"""Largest number of InstanceNumbers missing before the first, as a share of the slices present, that counts as lost
slices.

A series may begin with any InstanceNumber; more missing numbers belong to another part of the study, or were left out
on purpose.
"""

_COUNTED_ALONG = ("localizer", "screen")
"""Kinds of images that some scanners number together with the slices, so that a volume beside them begins late."""

_WHOLE = "Fetch or send the whole series again."


def end_findings(volumes: Sequence[SeriesVolume]) -> dict[int, tuple[Finding, ...]]:
    """Find volumes with slices missing at an end, by counts and numbers in the headers and by comparison with sibling
    volumes.

    Args:
        volumes: all volumes of a source, so that every image of a series is among them.

    Returns:
        Findings by the volume's number.
    """
    series: dict[str, list[SeriesVolume]] = defaultdict(list)
    for volume in volumes:
        series[series_key(volume.first)].append(volume)
    found: dict[int, tuple[Finding, ...]] = {}
    for together in series.values():
        stacks = [v for v in together if v.kind == "volume" and v.stack is not None]
        planes = [plane for v in together for plane in v.planes]
        if not stacks:
            continue
        scouted = any(v.kind in _COUNTED_ALONG for v in volumes)
        said = _stated(planes)
        shorter = _shorter(stacks)
        for volume in stacks:
            # slices missing between two others show as a gap, which another finding refuses
            short = said if said is not None and said[1] > sum(map(_inner_holes, stacks)) else None
            own = _count(short) if short is not None else _numbers(volume, planes, 0 if scouted else _FEW)
            own += shorter.get(volume.number, [])
            if own:
                found[volume.number] = tuple(own)
    return found


def _inner_holes(volume: SeriesVolume) -> int:
    """Count the slices missing between others."""
    assert volume.stack is not None
    gaps, usual = np.diff(volume.stack.distance), volume.stack.spacing_mm[2]
    return int(np.maximum(np.rint(gaps / usual) - 1, 0).sum()) if len(gaps) and usual > 0 else 0


def _instances(planes: Iterable[PlaneHeader]) -> int:
    return len({plane.sop_instance or plane.file.name for plane in planes})


def _stated(planes: Sequence[PlaneHeader]) -> tuple[str, int, int] | None:
    """Compare the counts that headers state with the images present; return the tag, the number missing, and the stated
    total.
    """
    there = _instances(planes)
    totals = {plane.counts[1] for plane in planes} - {0}
    if len(totals) == 1 and (total := totals.pop()) > there:
        return "NumberOfSeriesRelatedInstances", total - there, total
    files = [plane for plane in planes if plane.counts[2]]
    joined = {plane.counts[2] for plane in files}
    if len(joined) == 1 and (total := joined.pop()) > _instances(files):
        return "InConcatenationTotalNumber", total - _instances(files), total
    return None if any(plane.frame is not None for plane in planes) else _of_acquisitions(planes)


def _of_acquisitions(planes: Sequence[PlaneHeader]) -> tuple[str, int, int] | None:
    """Compare ImagesInAcquisition with the images present.

    Some scanners count the images of an acquisition, others those of the whole series. In a series with several
    acquisitions, the count is taken as that of an acquisition only where most acquisitions have exactly as many images.
    """
    parts: dict[str, list[PlaneHeader]] = defaultdict(list)
    for plane in planes:
        if plane.counts[0]:
            parts[dict(plane.order).get("AcquisitionNumber", "")].append(plane)
    if not parts:
        return None
    there, everywhere = {name: _instances(part) for name, part in parts.items()}, _instances(planes)
    stated = {name: {plane.counts[0] for plane in part} for name, part in parts.items()}
    if any(len(counts) > 1 for counts in stated.values()):
        return None
    counts = {name: next(iter(each)) for name, each in stated.items()}
    if len(set(counts.values())) == 1:
        total = next(iter(counts.values()))
        if total > everywhere:
            return "ImagesInAcquisition", total - everywhere, total
    complete = sum(there[name] == counts[name] for name in counts)
    missing = sum(max(0, counts[name] - there[name]) for name in counts)
    if 2 * complete > len(counts) and missing and all(there[name] <= counts[name] for name in counts):
        return "ImagesInAcquisition", missing, sum(counts.values())
    return None


def _count(short: tuple[str, int, int]) -> list[Finding]:
    tag, missing, total = short
    text = f"{missing} of the {total} images that {tag} states are not there, so that slices at an end may be missing"
    return [Finding(code="fewer_than_stated", severity="flag", found=text, step=_WHOLE)]


def _numbers(volume: SeriesVolume, planes: Sequence[PlaneHeader], few: float) -> list[Finding]:
    """Find InstanceNumbers that no image of the series has, in a stack without gaps.

    Args:
        volume: the volume.
        planes: all planes of its series.
        few: largest number of InstanceNumbers missing before the first, as a share of the volume's slices, that counts
            as lost slices.
    """
    assert volume.stack is not None
    own = [plane.instance for plane in volume.stack.planes]
    single = all(plane.frame is None and plane.frames == 1 for plane in volume.planes)
    if len(own) < 2 or not single or min(own) < 1 or len(set(own)) < len(own) or _inner_holes(volume):
        return []
    if any(finding.severity in ("irregular", "refused") for finding in volume.findings):
        return []
    known = {plane.instance for plane in planes}
    found = []
    before = [n for n in range(1, min(own)) if n not in known] if min(own) == min(known) else []
    if before:
        lost = len(before) <= few * len(own)
        text = f"InstanceNumbers from {min(own)} on, and no image of the series with one before"
        if lost:
            text += f", so that {len(before)} slice(s) at an end may be missing"
        found.append(
            Finding(
                code="numbers_begin_late", severity="flag" if lost else "note", found=text, step=_WHOLE if lost else ""
            )
        )
    in_order = bool(np.all(np.diff(own) > 0) or np.all(np.diff(own) < 0))
    within = sorted(set(range(min(own), max(own))) - known)
    if within and not in_order and len(within) <= _FEW * len(own):
        text = (
            f"no image of the series has the InstanceNumber {_listed(within)}, and there is no gap between the slices, so "
            f"that {len(within)} slice(s) at an end may be missing"
        )
        found.append(Finding(code="numbers_missing", severity="flag", found=text, step=_WHOLE))
    return found


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (" and others" if len(numbers) > 5 else "")


def _shorter(stacks: Sequence[SeriesVolume]) -> dict[int, list[Finding]]:
    """Find volumes that end before sibling volumes of the same series and acquisition: echoes, time points, weightings."""
    groups: dict[tuple[object, ...], list[SeriesVolume]] = defaultdict(list)
    for volume in stacks:
        names = tuple(part.rpartition(" ")[0] for part in volume.part.split(", "))
        if volume.part and not any(name.startswith(_OWN_EXTENT) for name in names):
            groups[(volume.first.rows, volume.first.columns, volume.first.orientation, names)].append(volume)
    found: dict[int, list[Finding]] = {}
    for together in groups.values():
        step = min(v.stack.spacing_mm[2] for v in together if v.stack is not None)
        ends = {v.number: (v.stack.distance[0], v.stack.distance[-1]) for v in together if v.stack is not None}
        rounded = {n: (round(a / step), round(b / step)) for n, (a, b) in ends.items()}
        (usual, many), *_ = Counter(rounded.values()).most_common(1)
        if 2 * many <= len(together) or many < 2:
            continue
        for n, (first, last) in rounded.items():
            missing = max(0, first - usual[0]) + max(0, usual[1] - last)
            if missing:
                text = f"{missing} slice(s) at an end that the other volumes of the series have are not there"
                found[n] = [Finding(code="shorter_than_others", severity="flag", found=text, step=_WHOLE)]
    return found


_OWN_EXTENT = (
    "AcquisitionNumber",
    "ConvolutionKernel",
    "KVP",
    "SliceThickness",
    "ImageType",
    "StackID",
    "SequenceName",
)
"""Attributes that separate volumes of possibly different length: phases of a contrast study, reconstructions, stacks."""
