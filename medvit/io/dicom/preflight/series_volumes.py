"""Grouping of planes into volumes. One SeriesInstanceUID may cover several volumes, so each series is split by kind of
image, grid and position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medvit.io.dicom.header import PlaneHeader
from medvit.io.dicom.preflight.contradictions import versions_finding
from medvit.io.dicom.preflight.findings import Finding
from medvit.io.dicom.preflight.series_split import interleaved, multiplicity_of, places_of, split_by_attribute
from medvit.io.dicom.preflight.stack import Stack, build_stack, distances_along_normal

__all__ = ["SeriesVolume", "series_key", "split_volumes"]

_LOCALIZER = {"LOCALIZER", "SCOUT", "SURVIEW", "REF_SURVIEW", "TOPOGRAM", "SCANOGRAM", "SCANO"}
"""Words of ImageType by which manufacturers mark overview images."""

_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""UID of Secondary Capture Image Storage; followed by a dot and a number, the UIDs of its multi-frame kinds."""

_CROSS_SECTIONAL = {"CT", "MR", "PT", "NM"}

_HOUNSFIELD = ("", "HU", "HU_MOD", "US", "UNSPECIFIED")
"""RescaleTypes of CT that mean Hounsfield units or no stated unit (PS3.3 C.11.1.1.2)."""

_SAME_COSINE = 1e-3
_SAME_PIXEL_MM = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class SeriesVolume:
    """A volume candidate: planes of one series that belong together.

    Attributes:
        kind: "volume" (slices with a position), "localizer", "screen" (captures and summaries), "picture" (a projection
            or photograph), "clip" (frames in time).
        planes: in the order of their positions.
        stack: the geometry of a volume; None for other kinds.
        findings: irregularities.
        part: the difference from other volumes of the series, e.g. "EchoTime 4.6"; empty for a single volume.
        number: number in the listing, from 1.
    """

    kind: str
    planes: tuple[PlaneHeader, ...]
    stack: Stack | None = None
    findings: tuple[Finding, ...] = ()
    part: str = ""
    number: int = 0

    @property
    def first(self) -> PlaneHeader:
        """The first plane."""
        return self.planes[0]

    @property
    def series(self) -> str:
        """SeriesInstanceUID."""
        return self.first.series

    @property
    def modality(self) -> str:
        """Modality of the first plane that states one, else empty."""
        return next((p.modality for p in self.planes if p.modality), "")

    @property
    def unit(self) -> str | None:
        """Unit of CT values that are not Hounsfield units, such as "Z_EFF" or "EDW" of a spectral scanner; None
        otherwise.
        """
        if self.modality != "CT":
            return None
        return next((p.unit for p in self.planes if p.unit.upper() not in _HOUNSFIELD), None)

    @property
    def unscaled(self) -> tuple[str, ...]:
        """Rescale tags that at least one slice of a CT lacks."""
        return tuple(dict.fromkeys(tag for p in self.planes for tag in p.unscaled)) if self.modality == "CT" else ()

    @property
    def hounsfield(self) -> bool:
        """True for a CT whose headers state Hounsfield units."""
        return self.modality == "CT" and self.unit is None and not self.unscaled

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Spacing across, down and between slices."""
        return self.stack.spacing_mm if self.stack else None

    @property
    def count(self) -> int:
        """Number of slices, pictures or frames; one plane of a clip stands for all its frames."""
        return sum(1 if p.frame is not None else p.frames for p in self.planes)

    @property
    def plane_name(self) -> str:
        """Name of the plane by the slice normal: axial, coronal, sagittal or oblique; empty without a position."""
        if self.stack is None:
            return ""
        normal = np.abs(self.stack.axes[:, 2])
        near = ("sagittal", "coronal", "axial")[int(normal.argmax())]
        return near if normal.max() > 0.999 else f"oblique {near}"

    def describe(self) -> str:
        """Return a line without patient data: modality, size, part and UID."""
        first, count = self.first, self.count
        what = {"volume": "slice", "clip": "frame"}.get(self.kind, self.kind) + ("s" if count > 1 else "")
        words = [self.modality or "unknown modality", f"{count} {what} of {first.rows}x{first.columns}"]
        if self.stack is not None and self.kind == "volume":
            words.append(f"{self.plane_name}, {self.stack.spacing_mm[2]:.3g} mm apart")
        words += [self.part] if self.part else []
        return ", ".join([*words, self.series or "(no UID)"])

    def worst(self) -> str:
        """Return the highest severity among the findings."""
        order = ("note", "flag", "tags", "irregular", "refused")
        return max((f.severity for f in self.findings), key=order.index, default="note")


def series_key(plane: PlaneHeader) -> str:
    """Return the key that planes of one series share: the UID or, without one, study and folder, which separate
    exports.
    """
    return plane.series or f"of {plane.study} in {plane.file.folder}"


def split_volumes(
    planes: Iterable[PlaneHeader], same_pixels: Callable[[Sequence[PlaneHeader]], bool]
) -> list[SeriesVolume]:
    """Split planes into volumes, numbered in a stable order.

    Args:
        planes: planes of any number of series.
        same_pixels: returns True if planes that share a position and a SOPInstanceUID are copies of one another.
    """
    series: dict[str, list[PlaneHeader]] = defaultdict(list)
    for plane in planes:
        series[series_key(plane)].append(plane)
    volumes = [volume for key in sorted(series) for volume in _split_series(series[key], same_pixels)]
    return [replace(volume, number=n) for n, volume in enumerate(volumes, 1)]


def _kind(plane: PlaneHeader) -> str:
    capture = plane.sop_class == _CAPTURE or plane.sop_class.startswith(_CAPTURE + ".")
    coloured = plane.samples > 1 or plane.photometric == "PALETTE COLOR"
    if capture or (coloured and plane.modality in _CROSS_SECTIONAL):
        return "screen"
    if _LOCALIZER & {word.upper() for word in plane.image_type}:
        return "localizer"
    if plane.placed and not coloured:
        return "volume"
    if plane.frames > 1:
        return "clip"
    return "unplaced" if plane.modality in _CROSS_SECTIONAL else "picture"


def _split_series(
    planes: list[PlaneHeader], same_pixels: Callable[[Sequence[PlaneHeader]], bool]
) -> list[SeriesVolume]:
    volumes, versions = _by_kind(planes, same_pixels), versions_finding(planes)
    return volumes if versions is None else [replace(v, findings=(versions, *v.findings)) for v in volumes]


def _by_kind(planes: list[PlaneHeader], same_pixels: Callable[[Sequence[PlaneHeader]], bool]) -> list[SeriesVolume]:
    kinds: dict[str, list[PlaneHeader]] = defaultdict(list)
    for plane in planes:
        kinds[_kind(plane)].append(plane)
    volumes = [
        volume
        for group in _alike(kinds.pop("volume", []))
        for volume in _apart(group, same_pixels)
    ]  # fmt: skip
    volumes = _unplaced(volumes, kinds.pop("unplaced", []))
    for kind in sorted(kinds):
        together = kind in ("screen", "localizer")  # a picture or a clip is one file
        groups = (
            _by(kinds[kind], lambda p: (p.rows, p.columns)) if together else _by(kinds[kind], lambda p: p.file.name)
        )
        volumes += [SeriesVolume(kind=kind, planes=tuple(group)) for group in groups.values()]
    return volumes


def _by(planes: Iterable[PlaneHeader], key: Callable[[PlaneHeader], Any]) -> dict[Any, list[PlaneHeader]]:
    groups: dict[Any, list[PlaneHeader]] = defaultdict(list)
    for plane in planes:
        groups[key(plane)].append(plane)
    return groups


def _alike(planes: list[PlaneHeader]) -> list[list[PlaneHeader]]:
    """Group planes of the same matrix, orientation and pixel spacing, the largest group first."""
    groups: list[list[PlaneHeader]] = []
    for same in _by(planes, lambda p: (p.rows, p.columns)).values():
        near: list[tuple[np.ndarray, list[PlaneHeader]]] = []
        for exact, members in _by(same, lambda p: (p.orientation, p.spacing)).items():
            values = np.array([*exact[0], *exact[1]])
            tolerance = np.array([_SAME_COSINE] * 6 + [_SAME_PIXEL_MM] * 2)
            home = next((group for centre, group in near if (np.abs(centre - values) <= tolerance).all()), None)
            if home is None:
                near.append((values, list(members)))
            else:
                home.extend(members)
        groups += [group for _, group in near]
    return sorted(groups, key=len, reverse=True)


def _apart(planes: list[PlaneHeader], same_pixels: Callable[[Sequence[PlaneHeader]], bool]) -> list[SeriesVolume]:
    """Separate volumes whose planes share positions: echoes, time points, diffusion weightings, copies."""
    planes, findings = _without_copies(planes, same_pixels)
    multiplicity = multiplicity_of(planes)
    parts: dict[str, list[PlaneHeader]] = {}
    whole = build_stack(planes)
    if max(multiplicity) > 1:
        parts = split_by_attribute(planes, len(multiplicity)) or _ranked(planes, multiplicity)
    elif any(f.severity == "irregular" for f in whole.findings):
        parts = interleaved(planes)
    stacks = {part: build_stack(members) for part, members in parts.items()} or {"": whole}
    return [
        SeriesVolume(kind="volume", planes=stack.planes, stack=stack, findings=(*findings, *stack.findings), part=part)
        for part, stack in stacks.items()
    ]


def _without_copies(
    planes: list[PlaneHeader], same_pixels: Callable[[Sequence[PlaneHeader]], bool]
) -> tuple[list[PlaneHeader], list[Finding]]:
    """Remove copied files; report different images under one SOPInstanceUID as a finding."""
    kept: list[PlaneHeader] = []
    copies: list[PlaneHeader] = []
    for place in places_of(planes):
        for twins in _by(place, lambda p: (p.sop_instance or p.file.name, p.frame)).values():
            if len(twins) > 1 and not same_pixels(twins):
                found = f"{len(twins)} different images under one SOPInstanceUID"
                step = "Export the series again, or move the wrong file away."
                finding = Finding(
                    code="shared_instance",
                    severity="refused",
                    found=found,
                    needed="each image has its own",
                    step=step,
                    positions_mm=_mm_of(place, planes),
                )
                return planes, [finding]
            kept.append(twins[0])
            copies += twins[1:]
    if not copies:
        return kept, []
    said = f"{len(copies)} file(s) that are copies of others; they were set aside"
    return kept, [Finding(code="copies", severity="note", found=said)]


def _mm_of(place: Sequence[PlaneHeader], planes: Sequence[PlaneHeader]) -> tuple[float, ...]:
    return (round(float(distances_along_normal([planes[0], place[0]])[1]), 3),)


def _ranked(planes: list[PlaneHeader], multiplicity: list[int]) -> dict[str, list[PlaneHeader]]:
    """Split by the order of instance numbers, where every position has the same number of planes."""
    if len(multiplicity) < 2 or len(set(multiplicity)) > 1 or len({p.instance for p in planes}) < len(planes):
        return {}
    parts: dict[str, list[PlaneHeader]] = defaultdict(list)
    for place in places_of(planes):
        for rank, plane in enumerate(sorted(place, key=lambda p: p.instance), 1):
            parts[f"pass {rank} of {multiplicity[0]}"].append(plane)
    return dict(parts)


def _unplaced(volumes: list[SeriesVolume], planes: list[PlaneHeader]) -> list[SeriesVolume]:
    """Refuse volumes with slices that state no position; leaving such slices out silently would make a volume
    incomplete.
    """
    for group in _by(planes, lambda p: (p.rows, p.columns)).values():
        at = next(
            (n for n, v in enumerate(volumes) if (v.first.rows, v.first.columns) == (group[0].rows, group[0].columns)),
            None,
        )
        total = len(group) + (len(volumes[at].planes) if at is not None else 0)
        tags = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
        lacking = [
            t
            for t, k in zip(tags, ("position", "orientation", "spacing"), strict=True)
            if any(getattr(p, k) is None for p in group)
        ]
        finding = Finding(
            code="no_position",
            severity="refused",
            found=f"{len(group)} of {total} slices without {' and '.join(lacking)}",
            needed="every slice needs its place in the patient",
            step="Choose a cross-sectional series, or convert it to NIfTI with a known geometry.",
        )
        if at is None:
            volumes.append(SeriesVolume(kind="volume", planes=tuple(group), stack=None, findings=(finding,)))
        else:
            volumes[at] = replace(volumes[at], findings=(finding, *volumes[at].findings))
    return volumes
