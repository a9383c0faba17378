"""Colours and names of a segment table in the form that napari uses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from medvit.labels import Label

__all__ = ["label_colormap", "label_features"]

_UNNAMED = (0.75, 0.75, 0.75, 1.0)
"""Colour of painted ids without a row in the table: grey, since napari would draw them transparent."""


def label_colormap(labels: Iterable[Label], hidden: Iterable[int] = ()) -> Any:
    """Make napari's colormap of a segment table.

    Args:
        labels: ids and colours.
        hidden: ids to draw transparent.
    """
    from napari.utils.colormaps import DirectLabelColormap

    gone = set(hidden)
    colours: dict[int | None, Any] = {None: _UNNAMED, 0: (0, 0, 0, 0)}
    colours |= {n.id: (*(c / 255 for c in n.color), 0.0 if n.id in gone else 1.0) for n in labels}
    return DirectLabelColormap(color_dict=colours)


def label_features(labels: Sequence[Label]) -> Any:
    """Make the table of index and name that napari shows in its status line."""
    import pandas as pd

    return pd.DataFrame({"index": [0, *(n.id for n in labels)], "name": ["background", *(n.title for n in labels)]})
