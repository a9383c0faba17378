"""Opening of files and folders in napari: the images they hold, remarks on these, and the layers made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError
from medvit.io import (
    PICTURE_SUFFIXES,
    files_below,
    image_grid,
    is_image_name,
    is_packed_image,
    open_source,
    read_image,
)
from medvit.io.dicom import SliceReader, open_preflight, open_volume
from medvit.io.dicom.preflight import Finding, Preflight, candidate_volumes, choose_volume
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
from medvit_napari.errors import window_words
from medvit_napari.reading.layer_info import KEY, LayerInfo, place_of
from medvit_napari.reading.layers import LayerTuple, filling_layer, image_layer, inherit, label_layers
from medvit_napari.reading.lazy_volume import FileFilling, SeriesFilling

__all__ = ["Answer", "Ask", "Offer", "is_ours", "open_layers", "open_objects"]

_DRAWN = ("SEG", "RTSTRUCT")
"""Modalities of DICOM objects that are shown on their image."""

_OUTCOME = {
    "note": "ready",
    "flag": "ready, with warnings",
    "tags": "ready; to save as DICOM, its tags must be repaired",
    "irregular": "irregular; resample it or take a regular part",
    "refused": "cannot be opened",
}


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A volume or picture of a source as a dialog lists it; it holds no patient data.

    Attributes:
        number: number as in ``medvit inspect``.
        title: modality, size, plane.
        outcome: "ready" or another entry of ``_OUTCOME``.
        findings: remarks on irregularities, in plain words.
        irregular: True if a treatment (resample or split) must be chosen.
        refused: True if it cannot be opened.
        likely: True if a run without a choice would take it.
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
    """Choice of volumes: numbers of offers, treatment of irregular ones ("resample" or "split"), and True if a person
    saw the list.
    """

    numbers: tuple[int, ...]
    on_irregular: str = "resample"
    asked: bool = True


Ask = Callable[[tuple[Offer, ...]], Answer | None]
"""Function that shows the offers of a source and returns the choice; None for no choice."""


def is_ours(path: Path) -> bool:
    """Return True if this plugin reads a path, by file names and first bytes alone."""
    if path.is_dir():
        return any(begins_as_dicom(p) for p in _first_files(path))
    name = path.name.lower()
    if is_image_name(path):
        return not name.endswith(PICTURE_SUFFIXES)
    return path.is_file() and (name.endswith(".zip") or name.upper() == "DICOMDIR" or begins_as_dicom(path))


def _first_files(folder: Path, most: int = 50) -> Iterable[Path]:
    yield from islice(files_below(folder), most)


def offers(found: Preflight) -> tuple[Offer, ...]:
    """Return the volumes of a source as offers."""
    worth, _ = candidate_volumes(found.volumes)
    return tuple(
        Offer(
            number=v.number,
            title=", ".join(v.describe().split(", ")[:-1]),  # without the UID at the end
            outcome=_OUTCOME[v.worst()],
            findings=tuple(_in_a_window(f) for f in v.findings),
            irregular=v.worst() == "irregular",
            refused=v.worst() == "refused",
            likely=v in worth,
        )
        for v in found.volumes
    )


def _in_a_window(finding: Finding) -> str:
    """Return the text of a finding in the words of the window, with the dialog's choice for an irregular stack."""
    if not finding.ways:
        return finding.sentence(window_words)
    return replace(finding, ways=(), step=f"Choose a way below, or {finding.step}").sentence(window_words)


def open_layers(path: Path, ask: Ask | None = None, seen: Iterable[Any] = (), behind: bool = False) -> list[LayerTuple]:
    """Return the layers of a file or folder.

    Args:
        path: file or folder that medvit can open, or a SEG or RTSTRUCT.
        ask: function that asks the user if a source holds several images or an irregular one; without it such a source
            is refused.
        seen: open layers, on which labels may lie.
        behind: True to read image files in the background too, as DICOM series always are; the caller must redraw them
            (``follow``).

    Raises:
        MedvitError: the path cannot be opened.
    """
    path = Path(path)
    if path.is_file() and is_image_name(path):
        return _image_file(path, behind)
    if path.is_file() and is_packed_image(path):
        return [image_layer(open_source(path))]
    if path.is_file() and is_label_object(path):
        return open_objects([path], seen)
    return _dicom(path, ask, seen)


def _image_file(path: Path, behind: bool) -> list[LayerTuple]:
    """Return the layers of a NIfTI, NRRD or MetaImage file: labels if the file names labels, else an image."""
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
            return [image_layer(open_source(path))]  # raises an error with the reason
        answer = _answer(found, ask, path.name)
        if answer is None:
            return [(None,)]  # type: ignore[list-item]  # napari's convention for "read, but no layer"
        drawn = {kind: found.objects[kind] for kind in _DRAWN if kind in found.objects and path.is_dir()}
        shown = replace(found, objects={kind: n for kind, n in found.objects.items() if kind not in drawn})
        opened = [_one(path, shown, number, answer) for number in answer.numbers]
    return opened + _matching(label_objects(path), opened) if drawn else opened


def _answer(found: Preflight, ask: Ask | None, where: str) -> Answer | None:
    """Return the choice of volumes: the only likely one if it is regular, else the user's."""
    listed = offers(found)
    likely = [offer for offer in listed if offer.likely]
    if len(likely) == 1 and not likely[0].irregular:
        return Answer((likely[0].number,), asked=False)
    if ask is not None:
        return ask(listed)
    choose_volume(found, None, where)  # several volumes: raises an error that lists them
    return Answer((likely[0].number,), "fail", asked=False)  # one irregular volume: refused with its reason


def _one(path: Path, found: Preflight, number: int, answer: Answer) -> LayerTuple:
    """Return the layer of one volume; a regular one is shown at once and read in the background."""
    wanted = str(number) if answer.asked else None  # nobody saw the list, so the notes hold it
    chosen = choose_volume(found, wanted, path.name, answer.on_irregular)
    if SliceReader.can_read(chosen.volume):
        filling = SeriesFilling(SliceReader(path, found, chosen)).start()
        return filling_layer(filling, notes=chosen.notes, flags=chosen.excluded)
    way = answer.on_irregular if chosen.volume.worst() == "irregular" else "fail"
    return image_layer(open_volume(found, wanted, way, path.name, Progress()).check())


def open_objects(paths: Iterable[Path], seen: Iterable[Any]) -> list[LayerTuple]:
    """Return the layers of SEG and RTSTRUCT objects, each on its open image, else on the image in its folder, else on
    its own grid.
    """
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
    """Return the label layers of an object on its open image; None if that image is not open."""
    place = next((known[uid] for uid in object_series(path) if uid in known), None)
    if place is None:
        return None
    scan = place.scan()
    return inherit(label_layers(read_labels(path, like=scan), scan), place)


def _matching(paths: list[Path], opened: list[LayerTuple]) -> list[LayerTuple]:
    """Return the layers of a folder's SEG and RTSTRUCT objects that belong to the images just opened from it.

    A note of the first image counts the objects that belong to other images, which are not shown.

    Raises:
        SourceError: an object of these images cannot be read.
    """
    known = _by_series(layer[1]["metadata"][KEY] for layer in opened if layer[0] is not None)
    layers: list[LayerTuple] = []
    others = 0
    for path in paths:
        try:
            found = _on_known(path, known)
        except MedvitError as error:
            raise error.framed(before="The images can be opened without it:") from error
        layers += found or []
        others += found is None
    if others:
        options = opened[0][1]
        place = options["metadata"][KEY]
        words = f"{others} SEG or RTSTRUCT object(s) beside it were drawn on other images and are not shown."
        options["metadata"] = replace(place, notes=(*place.notes, words)).metadata()
    return layers
