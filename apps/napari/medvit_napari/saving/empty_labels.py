"""Empty label layers to paint on."""

from __future__ import annotations

from typing import Any

import numpy as np

from medvit.bundles import open_bundle
from medvit_napari.errors import PlaceError
from medvit_napari.looking.segment_table import unnamed
from medvit_napari.reading.layer_info import image_of, place_of
from medvit_napari.reading.layers import LayerTuple, label_layer

__all__ = ["new_labels"]


def new_labels(layer: Any, bundle: str = "") -> LayerTuple:
    """Make an empty label layer on an image, with one unnamed segment or with the segments of a bundle.

    Args:
        layer: an image.
        bundle: bundle whose segments the layer gets; empty for none, since an image need not show a bundle's anatomy.

    Raises:
        LayerError, PlaceError: the layer is not an image that medvit opened.
    """
    place = place_of(image_of(layer))
    if place is None or place.grid is None:
        raise PlaceError(
            f"the layer {layer.name!r}, whose position in the patient is not known",
            remedy="Open its file with medvit.",
        )
    labels = open_bundle(bundle).facts.labels if bundle else (unnamed(1),)
    known = {"origin": "painted", "space": place.space, "case": place.case}
    return label_layer(np.zeros(place.grid.shape, np.uint8), place.source, labels, "Labels", **known)
