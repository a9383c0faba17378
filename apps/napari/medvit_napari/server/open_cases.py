"""Open cases of a label server: their layers in the viewer, and the labels that may be submitted. They need no Qt."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medvit import save_labels
from medvit.io.labels import LabelSet, read_labels
from medvit.labels import Label
from medvit.progress import Progress
from medvit_napari.errors import LayerError, ServerError
from medvit_napari.reading.layer_info import KEY, LayerInfo, place_of
from medvit_napari.reading.layers import LayerTuple, inherit, label_layers, rated
from medvit_napari.reading.open import open_layers
from medvit_napari.saving.save_labels import labels_of
from medvit_napari.server.client import Answer, Case, Client, Submission

__all__ = [
    "OpenCase",
    "case_of",
    "infer_labels",
    "labels_for",
    "layers_of",
    "remove_layers",
    "send",
    "show_only",
    "take_case",
]

_SAME_MM = 1e-3


@dataclass(frozen=True, eq=False)
class OpenCase:
    """A case that was taken from the server and is open.

    Attributes:
        number: number in the order of taking, from 1.
        case: id and file of the case.
        place: ``LayerInfo`` of its image.
    """

    number: int
    case: Case
    place: LayerInfo

    @property
    def title(self) -> str:
        """Number of the case, and its id on the server."""
        return f"{self.number}: {self.case.id}"


def take_case(
    client: Client, strategy: str, number: int, folder: Path, progress: Progress
) -> tuple[OpenCase, list[LayerTuple]]:
    """Fetch the case that a strategy chooses, and open its image.

    Args:
        client: client of the server.
        strategy: name of a strategy that the server offers.
        number: number of the case in the order of taking, from 1.
        folder: folder for its file.
        progress: can cancel the request.

    Returns:
        The case, and the layers of its image.
    """
    case = client.next_case(strategy, folder, progress)
    layers = open_layers(case.path)
    place = replace(layers[0][1]["metadata"][KEY], case=f"{number} {uuid.uuid4().hex}")
    taken = OpenCase(number, case, place)
    return taken, _numbered(inherit(layers, place), taken)


def infer_labels(
    client: Client, case: OpenCase, model: tuple[str, Sequence[Label]], folder: Path, progress: Progress
) -> tuple[Answer, list[LayerTuple]]:
    """Run a model of the server on a case.

    Args:
        client: client of the server that sent the case.
        case: the case.
        model: name of the model, and its labels.
        folder: folder for the file of the answer.
        progress: can cancel the request.

    Returns:
        The server's answer, and the labels as layers with their rating.
    """
    name, table = model
    answer = client.ask_model(name, case.case.id, folder, progress)
    scan = case.place.scan()
    made = label_layers(read_labels(answer.path, like=scan, table=table), scan, name)
    layers = rated(inherit(made, case.place), answer.quality)
    return answer, _numbered([(data, {**options, "name": name}, kind) for data, options, kind in layers], case)


def _numbered(layers: list[LayerTuple], case: OpenCase) -> list[LayerTuple]:
    """Append the case's number to the names of layers, from the second case on."""
    if case.number == 1:
        return layers
    return [
        (data, {**options, "name": f"{options['name']} (case {case.number})"}, kind) for data, options, kind in layers
    ]


def remove_layers(viewer: Any, case: OpenCase) -> int:
    """Remove the layers of a case from the viewer; return their number."""
    gone = layers_of(viewer, case)
    for layer in gone:
        layer.visible = False
        viewer.layers.remove(layer)
    return len(gone)


def layers_of(viewer: Any, case: OpenCase) -> list[Any]:
    """Return the layers of a viewer that belong to a case."""
    return [
        layer for layer in viewer.layers if (place := place_of(layer)) is not None and place.case == case.place.case
    ]


def case_of(layer: Any, cases: list[OpenCase]) -> OpenCase | None:
    """Return the open case to which a layer belongs; None if there is none."""
    place = place_of(layer) if layer is not None else None
    return next((c for c in cases if place is not None and place.case and place.case == c.place.case), None)


def show_only(viewer: Any, shown: OpenCase, cases: list[OpenCase]) -> None:
    """Hide the layers of all other cases, so that images of two patients are never shown on top of each other."""
    for case in cases:
        if case is not shown:
            for layer in layers_of(viewer, case):
                layer.visible = False
    own = layers_of(viewer, shown)
    if own and not any(layer.visible for layer in own):
        for layer in own:
            layer.visible = True


def labels_for(layer: Any, cases: list[OpenCase], chosen: OpenCase | None, empty: bool) -> tuple[OpenCase, LabelSet]:
    """Return the case to which a layer's labels belong, and the labels.

    Args:
        layer: a label layer.
        cases: the open cases.
        chosen: the selected case, for the error message.
        empty: True if labels without any voxel are intended.

    Raises:
        LayerError: the labels belong to no open case, have another grid than its image, or have no voxel.
    """
    found = labels_of(layer)
    home = case_of(layer, cases)
    if home is None:
        where = ""
        if chosen is not None and chosen.place.grid is not None:
            where = f", on {_size(found.shape)} voxels where the image of case {chosen.title} has {_size(chosen.place.grid.shape)}"
        raise LayerError(
            f"the labels {layer.name!r}, which belong to no open case{where}",
            "labels are submitted for the image they were made on",
            "Press Infer, or make new labels on the case's image.",
        )
    grid = home.place.grid
    if grid is not None and not (
        found.shape == grid.shape and np.allclose(found.affine, grid.affine, rtol=0, atol=_SAME_MM)
    ):
        raise LayerError(
            (
                f"the labels {layer.name!r} on a grid of {_size(found.shape)} voxels where the image of case "
                f"{home.title} has {_size(grid.shape)}, or at another place"
            ),
            "one grid is needed",
            "Make new labels on the case's image.",
        )
    if not found.present() and not empty:
        raise LayerError(
            f"no labelled voxel in {layer.name!r} for case {home.title}",
            "a label is needed",
            "Paint, or tick 'Nothing to label' if the image shows none of the structures.",
        )
    return home, found


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def send(
    client: Client, case: OpenCase, what: tuple[LabelSet, str, str], out: Path, progress: Progress
) -> tuple[str, ...]:
    """Write labels to a file and submit it; return the server's notes.

    Args:
        client: client of the server that sent the case.
        case: the case.
        what: the labels, the tag, and the model that made them or "".
        out: an empty folder.
        progress: can cancel the request.

    Raises:
        ServerError: the server refuses; the message says that the labels are still open in napari.
    """
    found, tag, model = what
    save_labels(found, out, output_types=("nifti",), overwrite=True, progress=progress)
    names = {label.title: label.id for label in found.labels}
    try:
        return client.submit(
            case.case.id, Submission(label=out / "labels.nii.gz", tag=tag, names=names, model=model), progress
        )
    except ServerError as error:
        after = f"The labels of case {case.title} were not submitted; they stay here, and can be saved with 'Correct and save labels'."
        raise error.framed(after=after) from error
