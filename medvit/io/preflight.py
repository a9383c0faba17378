"""Preflight: what a source holds, volume by volume, before any pixel is decoded. Every run and ``medvit inspect`` make it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from medvit.errors import SelectionError, SourceError
from medvit.io.files import DicomFile
from medvit.io.headers import DamagedError, Plane, read_planes
from medvit.io.pixels import same_pixels
from medvit.io.tags import tag_findings
from medvit.io.volumes import Volume, split_volumes
from medvit.progress import Progress

__all__ = ["Chosen", "Preflight", "choose_volume", "preflight"]

_LISTED = 20
"""Volumes that a message lists."""

_STRAY = 0.1
"""A volume with less than this share of the slices of another in its series (or at most three) is a stray of it."""


@dataclass(frozen=True, eq=False)
class Preflight:
    """What was found.

    Attributes:
        files: how many were looked at.
        volumes: everything with pixels, numbered.
        objects: DICOM objects that are no images, by kind.
        damaged: names of DICOM files with a damaged header, and why.
        other: how many are not DICOM.
        absent: files that a DICOMDIR lists and that are not there.
    """

    files: int
    volumes: tuple[Volume, ...]
    objects: dict[str, int]
    damaged: tuple[tuple[str, str], ...]
    other: int
    absent: tuple[str, ...] = ()

    def notes(self) -> tuple[str, ...]:
        """What was set aside, in plain words."""
        notes = []
        if self.other:
            notes.append(f"{self.other} file(s) that are not DICOM were set aside.")
        if self.objects:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.objects.items()))
            notes.append(f"{sum(self.objects.values())} DICOM object(s) that are not images were set aside ({kinds}).")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The volume to run on.

    Attributes:
        volume: it.
        notes: what else was there and does not matter to the run.
        set_aside: slices of the same series that were left out and that a person should look at.
    """

    volume: Volume
    notes: tuple[str, ...] = ()
    set_aside: tuple[str, ...] = ()


def preflight(files: Iterable[DicomFile], progress: Progress | None = None, absent: Iterable[str] = ()) -> Preflight:
    """Read every header, sort the planes into volumes and say what is odd about each.

    Memory stays small: a record of a few values a plane, whatever the files weigh.
    """
    progress = progress or Progress()
    planes: list[Plane] = []
    objects: Counter[str] = Counter()
    damaged: list[tuple[str, str]] = []
    count = other = 0
    with progress.stage("preflight"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are found and named below
        for file in files:
            count += 1
            progress.check()
            try:
                found = read_planes(file)
            except DamagedError as error:
                damaged.append((file.name, str(error)))
                continue
            if found is None:
                other += 1
            elif isinstance(found, str):
                objects[found] += 1
            else:
                planes += found
        volumes = [replace(v, findings=(*v.findings, *tag_findings(v))) for v in split_volumes(planes, same_pixels)]
    return Preflight(count, tuple(volumes), dict(objects), tuple(damaged), other, tuple(absent))


def choose_volume(found: Preflight, wanted: str | None, where: str) -> Chosen:
    """The volume asked for by number or SeriesInstanceUID, or the only one that a model could run on.

    Localizers, screens and strays of a series never stand in the way of its volume.

    Raises:
        SourceError: no image at all, or a damaged file among the volume's own.
        SelectionError: several and none chosen, or no such one; the message lists what is there.
    """
    if not found.volumes:
        _refuse_damaged(found, None)
        raise SourceError(f"Found no DICOM images among {found.files} file(s) in {where}; one series is needed.")
    candidates, strays = _candidates(found.volumes)
    number = (wanted or "").partition(".")[0]
    named = [v for v in candidates if v.series == wanted] or [v for v in found.volumes if v.series == wanted]
    named = named or [v for v in found.volumes if str(v.number) == number]
    if wanted is not None and not named:
        raise SelectionError(
            f"Found no series {wanted!r}; give the number or UID of one of these:\n{_listing(found.volumes)}"
        )
    pool = named or candidates
    if len(pool) > 1:
        patients = len({p.patient for v in pool for p in v.planes})
        who = f" of {patients} patients" if patients > 1 else ""
        what = "series" if len({v.series for v in pool}) == len(pool) else "volumes"
        raise SelectionError(
            f"Found {len(pool)} {what}{who} in one source; one is needed. "
            f"Choose with --series NUMBER or --series UID:\n{_listing(pool)}"
        )
    chosen = pool[0]
    _refuse_damaged(found, chosen)
    ours = [v for v in strays if v.series == chosen.series and v is not chosen]
    aside = tuple(f"{_strayed(v)} was set aside: it does not belong to the volume." for v in ours)
    rest = [v for v in found.volumes if v is not chosen and v not in ours]
    notes = (f"Set aside: {_listing(rest, ' ')}",) if rest and wanted is None else ()
    return Chosen(chosen, (*notes, *found.notes()), aside)


def _candidates(volumes: tuple[Volume, ...]) -> tuple[list[Volume], list[Volume]]:
    """Volumes worth running on, best kind first, and strays within their series."""
    whole = [v for v in volumes if v.kind == "volume"]
    largest: dict[str, int] = {}
    for v in whole:
        largest[v.series] = max(largest.get(v.series, 0), len(v.planes))
    strays = []
    for v in whole:
        most = largest[v.series]
        if len(v.planes) < most and (len(v.planes) <= min(3, most // 4) or len(v.planes) < _STRAY * most):
            strays.append(v)
    kept = [v for v in whole if v not in strays]
    for kind in ("picture", "screen", "localizer", "clip"):
        kept = kept or [v for v in volumes if v.kind == kind]
    return kept, strays


def _strayed(volume: Volume) -> str:
    first, count = volume.first, len(volume.planes)
    at = f" at {volume.stack.distance[0]:.2f} mm" if volume.stack is not None else ""
    return f"{count} slice(s) of {first.rows}x{first.columns}, {volume.plane_name}{at}, in the same series"


def _refuse_damaged(found: Preflight, chosen: Volume | None) -> None:
    """A damaged file beside a volume's own may be one of its slices, so the volume may be incomplete."""
    homes = None if chosen is None else {p.file.folder for p in chosen.planes}
    near = [(n, why) for n, why in found.damaged if homes is None or n.replace("\\", "/").rpartition("/")[0] in homes]
    if near:
        name, why = near[0]
        more = f" (and {len(near) - 1} more)" if len(near) > 1 else ""
        raise SourceError(
            f"Found {name}{more}, a DICOM file damaged in its header ({why}); every file of a series must be complete. "
            "Export the series again, or move this file away."
        )


def _listing(volumes: Iterable[Volume], joint: str = "\n") -> str:
    listed = list(volumes)
    lines = [f"  {v.number}: {v.describe()}" for v in listed[:_LISTED]]
    if len(listed) > _LISTED:
        lines.append(f"  and {len(listed) - _LISTED} more: see medvit inspect")
    return joint.join(lines) if joint == "\n" else "; ".join(line.strip() for line in lines) + "."
