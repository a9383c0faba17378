"""Voxels of a label layer: ids in stored order, and detection of painting since the layer was made."""

from __future__ import annotations

from typing import Any

import numpy as np

from medvit_napari.errors import LayerError, PlaceError
from medvit_napari.reading.display_frame import own_data
from medvit_napari.reading.layer_info import LayerInfo, array_sha256, place_of

__all__ = ["is_corrected", "label_place", "painted_ids", "stored_array"]


def label_place(layer: Any) -> LayerInfo:
    """Return the ``LayerInfo`` of a label layer on an image.

    Raises:
        LayerError: the layer holds no labels. PlaceError: the layer does not state its image.
    """
    if type(layer).__name__ != "Labels":
        raise LayerError(
            f"the layer {layer.name!r}, which holds no labels",
            "a label layer is needed",
            "Choose one, or convert it: right-click, Convert to Labels.",
        )
    place = place_of(layer)
    if place is None or place.grid is None:
        raise PlaceError(
            f"the label layer {layer.name!r}, whose image is not known",
            remedy="Make it with medvit: run a bundle, open a SEG, or use 'New labels on this image'.",
        )
    return place


def is_corrected(layer: Any) -> bool:
    """Return True if voxels were painted since the layer was made."""
    return array_sha256(np.asarray(own_data(layer))) != label_place(layer).digest


def stored_array(layer: Any) -> np.ndarray[Any, Any]:
    """Return a label layer's ids in the stored order of its image, (i, j, k).

    Raises:
        LayerError, PlaceError: the layer holds no labels that medvit made, or has another size than their image.
    """
    place = label_place(layer)
    assert place.grid is not None
    array = place.grid.back(np.asarray(own_data(layer)))
    if array.shape != place.grid.shape:
        raise LayerError(
            f"the layer {layer.name!r} with {array.shape} voxels where its image has {place.grid.shape}",
            remedy="Paint on a layer that medvit made.",
        )
    return array


def painted_ids(layer: Any) -> list[int]:
    """Return the ids that have voxels."""
    data = np.asarray(own_data(layer))
    if data.dtype.itemsize <= 2:
        return [int(v) for v in np.flatnonzero(np.bincount(data.ravel())) if v]
    return [int(v) for v in np.unique(data) if v]
