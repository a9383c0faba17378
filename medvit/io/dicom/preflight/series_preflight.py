"""Preflight: the volumes of a source and their findings, before pixels are decoded. Every run and ``medvit inspect``
use it.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from medvit.errors import SelectionError, SourceError
from medvit.io.dicom.header import DamagedError, PlaneHeader, patients_among, read_planes
from medvit.io.dicom.pixels import same_pixels
from medvit.io.dicom.preflight.completeness import end_findings
from medvit.io.dicom.preflight.header_checks import tag_findings
from medvit.io.dicom.preflight.series_split import is_stray
from medvit.io.dicom.preflight.series_volumes import SeriesVolume, split_volumes
from medvit.io.files import DicomFile, UnreadableError, folder_of, without_digits
from medvit.io.unread_files import LISTED, NAMED_ALIKE, Lost, Unread, lost_words
from medvit.progress import Progress

__all__ = ["Preflight", "VolumeChoice", "candidate_volumes", "choose_volume", "inspect_files", "sort_planes"]

_LISTED = 20
"""Largest number of volumes listed in a message."""

_PACKED = (".zip", ".7z", ".rar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Extensions of archives. Archives within a source are not opened, since a nested archive may unpack to any size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Preflight:
    """The content of a source.

    Attributes:
        files: number of files examined.
        volumes: all images, numbered.
        objects: number of DICOM objects that are not images, by kind.
        damaged: names of DICOM files with a damaged header, each with the reason.
        other: number of files that are not DICOM.
        lost: files that could not be read, each with the reason (``medvit.io.unread_files``); each may be a slice.
        packed: names of archives among the other files; their content is not examined.
        passed: kinds of entries that were skipped because they contain no image of their own, with the number of each.
        unused: names of files that are not DICOM, of pipes and devices, and of empty folders.
    """

    files: int
    volumes: tuple[SeriesVolume, ...]
    objects: dict[str, int]
    damaged: tuple[tuple[str, str], ...]
    other: int
    lost: tuple[Lost, ...] = ()
    packed: tuple[str, ...] = ()
    passed: tuple[tuple[str, int], ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def absent(self) -> tuple[str, ...]:
        """Names of files that a DICOMDIR lists but that do not exist."""
        return tuple(name for name, why in self.lost if why == LISTED)

    def notes(self) -> tuple[str, ...]:
        """Describe the files that were set aside, in plain words."""
        notes = []
        if self.other:
            notes.append(f"{self.other} file(s) that are not DICOM were set aside.")
        if self.packed:
            notes.append(
                f"{len(self.packed)} of them are archives, which were not opened: unpack them to have them read."
            )
        if self.objects:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.objects.items()))
            notes.append(f"{sum(self.objects.values())} DICOM object(s) that are not images were set aside ({kinds}).")
        if self.passed:
            said = ", ".join(f"{count} {what}" for what, count in self.passed)
            notes.append(f"Passed over: {said}.")
        return tuple(notes)


@dataclass(frozen=True, eq=False)
class VolumeChoice:
    """The volume chosen for a run.

    Attributes:
        volume: the chosen volume.
        notes: other content of the source that does not affect the run.
        excluded: files that were left out although they may be slices of the volume; a person should check them.
    """

    volume: SeriesVolume
    notes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


def inspect_files(
    files: Iterable[DicomFile], progress: Progress | None = None, unread: Unread | None = None
) -> Preflight:
    """Read every header, sort the planes into volumes, and report irregularities of each.

    Memory use is small: a record of a few values for each plane, whatever the size of the files.

    Args:
        files: files of the source.
        progress: shows progress; can cancel.
        unread: the collection of unread files, filled while ``files`` is iterated.
    """
    unread = Unread() if unread is None else unread
    names: list[str] = []
    progress = progress or Progress()
    planes: list[PlaneHeader] = []
    objects: Counter[str] = Counter()
    damaged: list[tuple[str, str]] = []
    packed: list[str] = []
    count = other = 0
    with progress.stage("preflight"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the findings below report odd values
        for file in files:
            count += 1
            progress.check()
            try:
                found = read_planes(file)
            except DamagedError as error:
                damaged.append((file.name, str(error)))
                continue
            except UnreadableError as error:
                unread.lost.append((file.name, error.why))
                continue
            if found is None:
                other += 1
                names.append(file.name)
                packed += [file.name] if file.name.lower().endswith(_PACKED) else []
            elif isinstance(found, str):
                objects[found] += 1
            else:
                planes += found
        volumes = sort_planes(planes, whole=not unread.single)
    names += unread.hollow
    lost, passed = tuple(unread.lost), tuple(sorted(unread.passed.items()))
    return Preflight(
        files=count,
        volumes=volumes,
        objects=dict(objects),
        damaged=tuple(damaged),
        other=other,
        lost=lost,
        packed=tuple(packed),
        passed=passed,
        unused=tuple(names),
    )


def sort_planes(planes: Iterable[PlaneHeader], whole: bool = True) -> tuple[SeriesVolume, ...]:
    """Sort planes into numbered volumes, each with findings on its irregularities.

    Args:
        planes: planes of any number of series.
        whole: True where each series should be complete, False for a single file of one.
    """
    volumes = split_volumes(planes, same_pixels)
    ends = end_findings(volumes) if whole else {}
    return tuple(replace(v, findings=(*v.findings, *tag_findings(v), *ends.get(v.number, ()))) for v in volumes)


def volume_and_part(wanted: str) -> tuple[int, int | None]:
    """Parse ``"2"`` or ``"2.1"`` as volume and part; return volume 0, which does not exist, for other text such as a
    UID.
    """
    match = re.fullmatch(r"(\d{1,9})(?:\.(\d{1,9}))?", wanted)
    return (int(match[1]), None if match[2] is None else int(match[2])) if match else (0, None)


def choose_volume(found: Preflight, wanted: str | None, where: str, on_irregular: str = "fail") -> VolumeChoice:
    """Choose the volume by number or SeriesInstanceUID, or the only one that a model could run on.

    Localizers, screen captures and stray images are not candidates if their series contains a volume.

    Raises:
        SourceError: the source has no image, or a damaged file that may belong to the volume.
        SelectionError: no volume matches, or several do; the message lists them.
    """
    if not found.volumes:
        _refuse_damaged(found, None)
        raise SourceError(f"no DICOM images among {found.files} file(s) in {where}", "one series is needed")
    worth, strays = candidate_volumes(found.volumes)
    named = [v for v in worth if v.series == wanted] or [v for v in found.volumes if v.series == wanted]
    if wanted is not None and not named:
        number, part = volume_and_part(wanted)
        named = [v for v in found.volumes if v.number == number]
        if not named:
            raise SelectionError(
                f"no series {wanted!r}", "give the number or UID of one of these", listing=_listing(found.volumes)
            )
        if part is not None and on_irregular != "split":
            raise SelectionError(
                f"{{series={wanted}}}, part {part} of volume {number}",
                "volumes have parts under {on_irregular=split} alone",
                f"Add it, or give {{series={number}}}.",
                option=("series", "on_irregular"),
            )
    pool = named or worth
    if len(pool) > 1:
        patients = patients_among(p.patient for v in pool for p in v.planes)
        who = f" of {patients} patients" if patients > 1 else ""
        what = "series" if len({v.series for v in pool}) == len(pool) else "volumes"
        raise SelectionError(
            f"{len(pool)} {what}{who} in one source",
            "one is needed",
            "Choose with {series=NUMBER} or {series=UID}.",
            option="series",
            listing=_listing(pool),
        )
    chosen = pool[0]
    if chosen.kind != "volume" and chosen.count > 1 and chosen.worst() != "refused":
        place = "of one series" if len(chosen.planes) > 1 else f"in {chosen.first.file.name}"
        raise SelectionError(
            f"{chosen.count} {chosen.kind} images {place}",
            "a volume or a single picture is needed",
            "Give a file with one image instead.",
        )
    _refuse_damaged(found, chosen)
    ours = [v for v in strays if v.series == chosen.series and v is not chosen]
    aside = tuple(f"{_strayed(v)}, set aside: not part of the volume." for v in ours)
    rest = [v for v in found.volumes if v is not chosen and v not in ours]
    notes = (f"Set aside: {_listing(rest, ' ')}",) if rest and wanted is None else ()
    near, far = _lost(found, chosen)
    return VolumeChoice(chosen, (*notes, *found.notes(), *far), (*aside, *near))


def _lost(found: Preflight, chosen: SeriesVolume) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List unread files that may be slices of the chosen volume, and count those beside other images.

    A file may be a slice if its folder contains slices of the volume, or contains no image at all. A file that is not
    DICOM but is named like the slices beside it counts as a damaged slice.
    """
    if chosen.kind != "volume":
        return (), _beside(len(found.lost) + len(found.damaged))
    homes = {p.file.folder for p in chosen.planes}
    others = {p.file.folder for v in found.volumes for p in v.planes} - homes
    alike = {(p.file.folder, without_digits(p.file.name)) for p in chosen.planes}
    named = [(n, NAMED_ALIKE) for n in found.unused if (folder_of(n), without_digits(n)) in alike]
    near = [lost for lost in found.lost if folder_of(lost[0]) not in others]
    return lost_words([*near, *named]), _beside(len(found.lost) - len(near) + len(found.damaged))


def _beside(count: int) -> tuple[str, ...]:
    return (f"{count} file(s) beside other images could not be read (medvit inspect names them).",) if count else ()


def candidate_volumes(volumes: tuple[SeriesVolume, ...]) -> tuple[list[SeriesVolume], list[SeriesVolume]]:
    """Return the volumes that a model could run on, all of the best kind present, and the strays within their series."""
    whole = [v for v in volumes if v.kind == "volume"]
    largest: dict[str, int] = {}
    for v in whole:
        largest[v.series] = max(largest.get(v.series, 0), len(v.planes))
    strays = []
    for v in whole:
        if is_stray(len(v.planes), largest[v.series]):
            strays.append(v)
    kept = [v for v in whole if v not in strays]
    for kind in ("picture", "screen", "localizer", "clip"):
        kept = kept or [v for v in volumes if v.kind == kind]
    return kept, strays


def _strayed(volume: SeriesVolume) -> str:
    first, count = volume.first, volume.count
    at = f" at {volume.stack.distance[0]:.2f} mm" if volume.stack is not None else ""
    return f"{count} slice{'s' if count > 1 else ''} of {first.rows}x{first.columns}, {volume.plane_name}{at}, in the same series"


def _refuse_damaged(found: Preflight, chosen: SeriesVolume | None) -> None:
    """Refuse a volume whose folder contains a damaged file, since that file may be one of its slices."""
    homes = None if chosen is None else {p.file.folder for p in chosen.planes}
    near = [(n, why) for n, why in found.damaged if homes is None or n.replace("\\", "/").rpartition("/")[0] in homes]
    if near:
        name, why = near[0]
        more = f" (and {len(near) - 1} more)" if len(near) > 1 else ""
        raise SourceError(
            f"{name}{more}, a DICOM file damaged in its header ({why})",
            "every file of a series must be complete",
            "Export the series again, or move this file away.",
        )


def _listing(volumes: Iterable[SeriesVolume], joint: str = "\n") -> str:
    listed = list(volumes)
    lines = [f"  {v.number}: {v.describe()}" for v in listed[:_LISTED]]
    if len(listed) > _LISTED:
        lines.append(f"  and {len(listed) - _LISTED} more: see medvit inspect")
    return joint.join(lines) if joint == "\n" else "; ".join(line.strip() for line in lines) + "."
