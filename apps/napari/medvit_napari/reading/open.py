"""Opening what a person drops on napari: which images are there, what is odd about them, and the layers they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, SourceError
from medvit.io import IMAGE_SUFFIXES, PICTURE_SUFFIXES, Scan, files_below, is_packed_image, open_source
from medvit.io.dicom import dicom_files, open_volume, with_preflight_notes
from medvit.io.dicom.header import PlaneHeader, read_dataset
from medvit.io.dicom.preflight import (
    Preflight,
    SeriesVolume,
    VolumeChoice,
    candidate_volumes,
    choose_volume,
    inspect_files,
)
from medvit.io.labels import is_dicom, open_object, read_labels, referenced_series, series_of
from medvit.progress import Progress
from medvit_napari.reading.layer_info import KEY, LayerInfo, place_of
from medvit_napari.reading.layers import LayerTuple, filling_layer, image_layer, inherit, label_layers
from medvit_napari.reading.lazy_volume import FileFilling, SeriesFilling

__all__ = ["Answer", "Ask", "Offer", "is_ours", "label_objects", "open_layers", "open_objects"]

_DRAWN = ("SEG", "RTSTRUCT")
"""Kinds of DICOM objects that are shown on their image."""

_OUTCOME = {
    "note": "ready",
    "flag": "ready; read what is flagged",
    "tags": "ready; DICOM objects need consistent tags",
    "irregular": "irregular: resample or take a regular part",
    "refused": "cannot be opened",
}


@dataclass(frozen=True)
class Offer:
    """One volume or picture of a source, as a dialog shows it. No patient data.

    Attributes:
        number: as ``medvit inspect`` counts.
        title: modality, size, plane.
        outcome: "ready" and the like.
        findings: what is odd about it, in plain words.
        irregular: whether a way of straightening must be chosen.
        refused: whether it cannot be opened.
        likely: whether a run without a choice would take it.
    """

    number: int
    title: str
    outcome: str
    findings: tuple[str, ...]
    irregular: bool
    refused: bool
    likely: bool


@dataclass(frozen=True)
class Answer:
    """Choice of volumes: numbers of offers, "resample" or "split" for irregular ones, and whether a person saw the list."""

    numbers: tuple[int, ...]
    on_irregular: str = "resample"
    asked: bool = True


Ask = Callable[[tuple[Offer, ...]], Answer | None]
"""Shown what a source offers; None if nothing is wanted."""


def is_ours(path: Path) -> bool:
    """Whether this plugin reads a path; decided by its first bytes, quickly."""
    if path.is_dir():
        return any(_looks_dicom(p) for p in _first_files(path))
    name = path.name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return not name.endswith(PICTURE_SUFFIXES)
    return path.is_file() and (name.endswith(".zip") or name.upper() == "DICOMDIR" or _looks_dicom(path))


def _first_files(folder: Path, most: int = 50) -> Iterable[Path]:
    yield from islice(files_below(folder), most)


def _looks_dicom(path: Path) -> bool:
    try:
        return is_dicom(path)
    except OSError:
        return False


def offers(found: Preflight) -> tuple[Offer, ...]:
    """What a source holds, the likely ones first said."""
    worth, _ = candidate_volumes(found.volumes)
    return tuple(
        Offer(
            v.number,
            ", ".join(v.describe().split(", ")[:-1]),  # without the UID behind
            _OUTCOME[v.worst()],
            tuple(_in_a_window(f.text) for f in v.findings),
            v.worst() == "irregular",
            v.worst() == "refused",
            v in worth,
        )
        for v in found.volumes
    )


def _in_a_window(finding: str) -> str:
    """A finding's step, where it is a flag of the command line, as the dialog offers it."""
    return re.sub(r"Add --on-irregular [^,]*,", "Choose a way below,", finding)


def open_layers(path: Path, ask: Ask | None = None, seen: Iterable[Any] = (), behind: bool = False) -> list[LayerTuple]:
    """The layers of a file or folder.

    Args:
        path: anything medvit opens, or a SEG or RTSTRUCT.
        ask: asked which, where a source holds several images or an irregular one; without it such a source is refused.
        seen: layers that are open, on which labels may belong.
        behind: read image files in a thread too, as DICOM series always are; the caller draws them again, see ``follow``.

    Raises:
        MedvitError: why it cannot be opened.
    """
    path = Path(path)
    name = path.name.lower()
    if path.is_file() and name.endswith(IMAGE_SUFFIXES):
        return _image_file(path, behind)
    if path.is_file() and is_packed_image(path):
        return [image_layer(open_source(path))]
    if path.is_file() and _looks_dicom(path) and _modality(path) in _DRAWN:
        return open_objects([path], seen)
    return _dicom(path, ask, seen)


def _image_file(path: Path, behind: bool) -> list[LayerTuple]:
    """A NIfTI, NRRD or MetaImage: labels where it names them, else an image."""
    from medvit.io import image_grid, read_image
    from medvit.io.labels import embedded_names

    header = image_grid(path)
    if not header.is_picture and embedded_names(path, header).labels:
        return label_layers(read_labels(path))
    if behind and not header.is_picture and min(header.array.shape) > 0:
        return [filling_layer(FileFilling(path, header).start(), header.kind, header.notes, header.excluded)]
    return [image_layer(read_image(path).check())]


def _modality(path: Path) -> str:
    try:
        return str(read_dataset(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality", ""))
    except Exception:
        return ""


def _dicom(path: Path, ask: Ask | None, seen: Iterable[Any]) -> list[LayerTuple]:
    with ExitStack() as stack:
        files, unread = stack.enter_context(dicom_files(path))
        found = inspect_files(files, None, unread)
        if not found.volumes:
            objects = label_objects(path) if path.is_dir() else []
            if objects:
                return open_objects(objects, seen)
            return [image_layer(open_source(path))]  # says why there is nothing
        answer = _answer(found, ask, path.name)
        if answer is None:
            return [(None,)]  # type: ignore[list-item]  # napari's word for "read, and nothing to show"
        drawn = {kind: found.objects[kind] for kind in _DRAWN if kind in found.objects and path.is_dir()}
        found = replace(found, objects={kind: n for kind, n in found.objects.items() if kind not in drawn})
        opened = [_one(path, found, number, answer, stack) for number in answer.numbers]
    return opened + _matching(label_objects(path), opened) if drawn else opened


def _answer(found: Preflight, ask: Ask | None, where: str) -> Answer | None:
    """Which volumes: the only likely one if it is regular, else what is chosen."""
    listed = offers(found)
    likely = [offer for offer in listed if offer.likely]
    if len(likely) == 1 and not likely[0].irregular:
        return Answer((likely[0].number,), asked=False)
    if ask is not None:
        return ask(listed)
    choose_volume(found, None, where)  # several: refused with the list of them
    return Answer((likely[0].number,), "fail", asked=False)  # one irregular: refused with its reason


def _one(path: Path, found: Preflight, number: int, answer: Answer, files: ExitStack) -> LayerTuple:
    """One volume as a layer; a regular one is shown at once and read behind."""
    wanted = str(number) if answer.asked else None  # nobody has seen the list: the notes then hold it
    chosen = choose_volume(found, wanted, path.name, answer.on_irregular)
    if _can_fill(chosen.volume):
        own = ExitStack()
        if not path.is_dir():  # every volume keeps its own handle on a zip, since it outlives this call
            again, _ = own.enter_context(dicom_files(path))
            chosen = _reopened(chosen, again)
        filling = SeriesFilling(chosen.volume, partial(_finished, found=found, chosen=chosen), own).start()
        return filling_layer(filling, notes=chosen.notes, flags=chosen.excluded)
    way = answer.on_irregular if chosen.volume.worst() == "irregular" else "fail"
    return image_layer(open_volume(found, wanted, way, path.name, Progress()).check())


def _finished(scan: Scan, found: Preflight, chosen: VolumeChoice) -> Scan:
    return with_preflight_notes(scan, found, chosen).check()


def _can_fill(volume: SeriesVolume) -> bool:
    return (
        volume.kind == "volume"
        and volume.stack is not None
        and volume.worst() in ("note", "flag", "tags")
        and volume.count > 1
    )


def _reopened(chosen: VolumeChoice, files: Iterable[Any]) -> VolumeChoice:
    """The same volume, its planes read through files that stay open."""
    fresh = {file.name: file for file in files}
    volume = chosen.volume
    assert volume.stack is not None

    def again(planes: Iterable[PlaneHeader]) -> tuple[PlaneHeader, ...]:
        return tuple(replace(p, file=fresh[p.file.name]) for p in planes)

    stack = replace(volume.stack, planes=again(volume.stack.planes))
    return replace(chosen, volume=replace(volume, planes=again(volume.planes), stack=stack))


def label_objects(folder: Path) -> list[Path]:
    """The SEG and RTSTRUCT files below a folder."""
    return [p for p in sorted(files_below(folder)) if _looks_dicom(p) and _modality(p) in _DRAWN]


def _referred(path: Path) -> tuple[str, ...]:
    header = open_object(path, stop_before_pixels=True)
    return referenced_series(header) if header.get("Modality") == "RTSTRUCT" else series_of(header)


def open_objects(paths: Iterable[Path], seen: Iterable[Any]) -> list[LayerTuple]:
    """SEG and RTSTRUCT as labels, each on the open image it was drawn on, else on the one beside it, else on its own grid."""
    from medvit.io.labels import ReadOptions
    from medvit.io.labels.read import read_label_set

    known = _by_series(map(place_of, seen))
    layers: list[LayerTuple] = []
    for path in paths:
        on_image = _on_known(path, known)
        if on_image is None:
            found = read_label_set(path, ReadOptions(search=True), Progress())
            shown = [] if found.reference is None else [image_layer(found.reference)]
            on_image = shown + label_layers(found)
        layers += on_image
    return layers


def _by_series(places: Iterable[LayerInfo | None]) -> dict[str, LayerInfo]:
    return {place.series: place for place in places if place is not None and place.series}


def _on_known(path: Path, known: dict[str, LayerInfo]) -> list[LayerTuple] | None:
    """The labels of an object on the image they were drawn on, or None where that is not known."""
    place = next((known[uid] for uid in _referred(path) if uid in known), None)
    if place is None:
        return None
    scan = place.scan()
    return inherit(label_layers(read_labels(path, like=scan), scan), place)


def _matching(paths: list[Path], opened: list[LayerTuple]) -> list[LayerTuple]:
    """Read the labels in a folder that belong to the images opened from it; report those that cannot be read.

    The first image's notes count those of other images, which are not shown.
    """
    known = _by_series(layer[1]["metadata"][KEY] for layer in opened if layer[0] is not None)
    layers: list[LayerTuple] = []
    others = 0
    for path in paths:
        try:
            found = _on_known(path, known)
        except MedvitError as error:
            raise SourceError(f"The images can be opened without it: {error}") from error
        layers += found or []
        others += found is None
    if others:
        options = opened[0][1]
        place = options["metadata"][KEY]
        words = f"{others} SEG or RTSTRUCT object(s) beside it were drawn on other images and are not shown."
        options["metadata"] = replace(place, notes=(*place.notes, words)).metadata()
    return layers
