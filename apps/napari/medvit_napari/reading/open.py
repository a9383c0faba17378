"""Opening what a person drops on napari: which images are there, what is odd about them, and the layers they become."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError, SourceError
from medvit.io import (
    IMAGE_SUFFIXES,
    PICTURE_SUFFIXES,
    files_below,
    image_grid,
    is_packed_image,
    open_source,
    read_image,
)
from medvit.io.dicom import SliceReader, open_preflight, open_volume
from medvit.io.dicom.preflight import Preflight, candidate_volumes, choose_volume
from medvit.io.labels import (
    ReadOptions,
    begins_as_dicom,
    embedded_names,
    is_label_object,
    label_objects,
    object_series,
    read_label_set,
    read_labels,
)
from medvit.progress import Progress
from medvit_napari.reading.layer_info import KEY, LayerInfo, place_of
from medvit_napari.reading.layers import LayerTuple, filling_layer, image_layer, inherit, label_layers
from medvit_napari.reading.lazy_volume import FileFilling, SeriesFilling

__all__ = ["Answer", "Ask", "Offer", "is_ours", "open_layers", "open_objects"]

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
        return any(begins_as_dicom(p) for p in _first_files(path))
    name = path.name.lower()
    if name.endswith(IMAGE_SUFFIXES):
        return not name.endswith(PICTURE_SUFFIXES)
    return path.is_file() and (name.endswith(".zip") or name.upper() == "DICOMDIR" or begins_as_dicom(path))


def _first_files(folder: Path, most: int = 50) -> Iterable[Path]:
    yield from islice(files_below(folder), most)


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
    if path.is_file() and is_label_object(path):
        return open_objects([path], seen)
    return _dicom(path, ask, seen)


def _image_file(path: Path, behind: bool) -> list[LayerTuple]:
    """A NIfTI, NRRD or MetaImage: labels where it names them, else an image."""
    header = image_grid(path)
    if not header.is_picture and embedded_names(path, header).labels:
        return label_layers(read_labels(path))
    if behind and not header.is_picture and min(header.array.shape) > 0:
        return [filling_layer(FileFilling(path, header).start(), header.kind, header.notes, header.excluded)]
    return [image_layer(read_image(path).check())]


def _dicom(path: Path, ask: Ask | None, seen: Iterable[Any]) -> list[LayerTuple]:
    with open_preflight(path) as found:
        if not found.volumes:
            objects = label_objects(path) if path.is_dir() else []
            if objects:
                return open_objects(objects, seen)
            return [image_layer(open_source(path))]  # says why there is nothing
        answer = _answer(found, ask, path.name)
        if answer is None:
            return [(None,)]  # type: ignore[list-item]  # napari's word for "read, and nothing to show"
        drawn = {kind: found.objects[kind] for kind in _DRAWN if kind in found.objects and path.is_dir()}
        shown = replace(found, objects={kind: n for kind, n in found.objects.items() if kind not in drawn})
        opened = [_one(path, shown, number, answer) for number in answer.numbers]
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


def _one(path: Path, found: Preflight, number: int, answer: Answer) -> LayerTuple:
    """One volume as a layer; a regular one is shown at once and read behind."""
    wanted = str(number) if answer.asked else None  # nobody has seen the list: the notes then hold it
    chosen = choose_volume(found, wanted, path.name, answer.on_irregular)
    if SliceReader.can_read(chosen.volume):
        filling = SeriesFilling(SliceReader(path, found, chosen)).start()
        return filling_layer(filling, notes=chosen.notes, flags=chosen.excluded)
    way = answer.on_irregular if chosen.volume.worst() == "irregular" else "fail"
    return image_layer(open_volume(found, wanted, way, path.name, Progress()).check())


def open_objects(paths: Iterable[Path], seen: Iterable[Any]) -> list[LayerTuple]:
    """SEG and RTSTRUCT as labels, each on the open image it was drawn on, else on the one beside it, else on its own grid."""
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
    place = next((known[uid] for uid in object_series(path) if uid in known), None)
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
