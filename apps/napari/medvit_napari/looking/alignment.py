"""Alignment of a viewer's volumes: those of one patient space share a display frame; others are reported. It needs no
Qt.

The first volume's axes become the frame of its patient space. A volume of that space whose axes agree with the frame is
shown voxel by voxel at its position in the patient; any other image is shown interpolated along the frame's axes. A new
label layer is never interpolated, since a person paints on it: its axes become the frame, and the images follow.
Volumes of other frames of reference, and of other cases of a label server, have their own frame.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from textwrap import wrap
from typing import Any

import numpy as np

from medvit_napari.looking.notifications import tell, tell_of, warn
from medvit_napari.reading.display_frame import Frame, own_data
from medvit_napari.reading.layer_info import LayerInfo, place_of
from medvit_napari.reading.layers import LayerTuple

__all__ = ["Alignment", "add_layers", "align", "relation"]

_VOLUMES = ("Image", "Labels")
_OPENED = ("image", "read")
"""Origins of layers whose remarks are shown when the layer is added; the widget of a run shows those of its results."""
_MARK = "medvit: "
"""Prefix of medvit's text on the canvas; other text is not changed."""

_CASE = "case "
"""Prefix of the name of a case's patient space."""

_LINE = 60
"""Characters in a line of the text on the canvas."""

_KNOWN: list[Alignment] = []


class Alignment:
    """Alignment that keeps the volumes of a viewer in one display frame while layers are added and removed.

    Args:
        viewer: a viewer or its model; ``align`` returns the only alignment of a viewer.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = weakref.ref(viewer, lambda _: _KNOWN.remove(self) if self in _KNOWN else None)
        self._frames: dict[str, Frame] = {}
        self._busy = False
        for layer in viewer.layers:
            self._take(layer)
        viewer.layers.events.inserted.connect(self._inserted)
        viewer.layers.events.removed.connect(self._removed)

    @property
    def viewer(self) -> Any:
        """The viewer; None once it is closed."""
        return self._viewer()

    def show_along(self, layer: Any) -> None:
        """Show all layers along the axes of one layer, at the same point of the patient."""
        place = place_of(layer)
        if place is not None and place.grid is not None and self.viewer is not None:
            self._use(place.grid.own_frame, place)

    def _frame_of(self, place: LayerInfo) -> Frame | None:
        """Return the frame of a layer's patient space; volumes without a stated space share the first volume's frame,
        except across cases.
        """
        own = _space(place)
        if own in self._frames:
            return self._frames[own]
        shared = [frame for name, frame in self._frames.items() if not name.startswith(_CASE) and "" in (own, name)]
        return shared[0] if shared and not own.startswith(_CASE) else None

    def _volumes(self) -> Iterator[tuple[Any, LayerInfo]]:
        for layer in self.viewer.layers:
            place = place_of(layer)
            if place is not None and place.grid is not None and type(layer).__name__ in _VOLUMES:
                yield layer, place

    def _inserted(self, event: Any) -> None:
        if not self._busy:
            self._take(event.value)
            self._announce(event.value)
            place = place_of(event.value)
            if place is not None and place.origin in _OPENED:
                tell_of(event.value)

    def _removed(self, event: Any) -> None:
        if self._busy or self.viewer is None:
            return
        left = [place for _, place in self._volumes()]
        for name, frame in list(self._frames.items()):
            own = [place for place in left if self._frame_of(place) is frame]
            if not own:
                del self._frames[name]
            elif not any(place.grid.is_direct for place in own):  # type: ignore[union-attr]
                self._use(own[0].grid.own_frame, own[0])  # type: ignore[union-attr]
        self._mark()

    def _take(self, layer: Any) -> None:
        """Place a new layer in its frame; new labels whose axes differ replace the frame."""
        place = place_of(layer)
        if place is None or place.grid is None:
            return
        layer.events.visible.connect(self._mark)
        kind, frame = type(layer).__name__, self._frame_of(place)
        if frame is None:
            frame = place.grid.own_frame
        if kind in _VOLUMES:
            self._frames.setdefault(_space(place), frame)
        if kind == "Labels" and not place.grid.agrees(frame):
            self._use(place.grid.own_frame, place)
        else:
            _place(layer, frame)
        self._mark()

    def _use(self, frame: Frame, place: LayerInfo) -> None:
        """Show a layer's patient space along other axes, at the same point of the patient."""
        viewer, before = self.viewer, self._frame_of(place)
        moved = [name for name, known in self._frames.items() if known is before]
        self._frames |= dict.fromkeys([*moved, _space(place)], frame)
        point = np.asarray(viewer.dims.point, dtype=float)
        self._busy = True
        try:
            for layer in viewer.layers:
                there = place_of(layer)
                if there is not None and self._frame_of(there) is frame:
                    _place(layer, frame)
        finally:
            self._busy = False
        if before is not None and len(point) == viewer.dims.ndim == 3:
            viewer.dims.point = tuple(frame.shown(before.patient(point[None]))[0])
        self._mark()

    def _announce(self, layer: Any) -> None:
        """Show a note or warning on the relation of a new volume to the open ones."""
        place = place_of(layer)
        if place is None or place.grid is None or type(layer).__name__ != "Image" or place.origin == "restored":
            return
        for other, there in self._volumes():
            if other is layer or type(other).__name__ != "Image" or there.origin == "restored":
                continue
            found = relation(place, there)
            if found == "other":
                warn(_other(layer.name, other.name))
            elif found == "unknown":
                tell(
                    f"Overlaid by the positions that their files state: {layer.name!r} and {other.name!r}. No frame of reference confirms "
                    "that both are of one patient and one position."
                )
            else:
                continue
            break
        if not place_of(layer).grid.is_direct:  # type: ignore[union-attr]
            tell(f"Overlaid: {layer.name}. {place_of(layer).grid.remarks[0]}")  # type: ignore[union-attr]

    def _mark(self, event: Any = None) -> None:
        """Write on the canvas that visible volumes do not overlay, as long as there are such volumes."""
        viewer = self.viewer
        if viewer is None:
            return
        seen = [(layer, place) for layer, place in self._volumes() if layer.visible]
        pairs = [(a.name, b.name) for (a, p), (b, q) in combinations(seen, 2) if relation(p, q) == "other"]
        text = viewer.text_overlay
        if pairs:
            words = "\n".join(wrap(_MARK + _other(*pairs[0]), _LINE))
            text.text, text.color, text.position = words, "#ff9f1c", "top_left"
            text.visible = True
        elif text.text.startswith(_MARK):
            text.text, text.visible = "", False


def _other(first: str, second: str) -> str:
    return (
        f"No overlay: {first!r} and {second!r} have different frames of reference or belong to different cases. A position in one does "
        "not apply to the other. Hide one of them."
    )


def _space(place: LayerInfo) -> str:
    """Return the name of a patient space: that of a case, a frame of reference, or "" if none is stated."""
    return f"{_CASE}{place.case}" if place.case else place.frame_of_reference


def relation(first: LayerInfo, second: LayerInfo) -> str:
    """Compare the patient spaces of two layers.

    Returns:
        "same" frame of reference or image, "other" frame of reference or case, or "unknown" if one is not stated.
    """
    if first.source is second.source:
        return "same"
    if first.case != second.case:
        return "other"
    one, two = first.frame_of_reference, second.frame_of_reference
    if one and two:
        return "same" if one == two else "other"
    return "unknown"


def _place(layer: Any, frame: Frame) -> None:
    """Show a layer in a display frame."""
    place = place_of(layer)
    if place is None or place.grid is None:
        return
    before, grid = place.grid, replace(place.grid, frame=frame)
    kind = type(layer).__name__
    layer.metadata = {**layer.metadata, **replace(place, grid=grid).metadata()}
    if kind == "Surface":
        vertices, *rest = layer.data
        layer.data = (grid.shown_world(before.shown_frame.patient(vertices)), *rest)
        return
    if kind not in _VOLUMES or layer.ndim != 3:
        return
    lies = grid.placement()
    layer.scale, layer.translate = lies["scale"], lies["translate"]
    data = grid.displayed(own_data(layer), *((0, 0.0) if kind == "Labels" else (1, _darkest(layer))))
    if data is not layer.data:
        limits = None if kind == "Labels" else (tuple(layer.contrast_limits_range), tuple(layer.contrast_limits))
        layer.data = data
        if limits is not None:
            layer.contrast_limits_range, layer.contrast_limits = limits
    layer.editable = grid.is_direct or kind != "Labels"


def _darkest(layer: Any) -> float:
    return float(layer.contrast_limits[0])


def align(viewer: Any) -> Alignment:
    """Return the alignment of a viewer; create it at the first call and keep it as long as the viewer."""
    viewer = getattr(viewer, "__wrapped__", viewer)
    for known in _KNOWN:
        if known.viewer is viewer:
            return known
    made = Alignment(viewer)
    _KNOWN.append(made)
    return made


def add_layers(viewer: Any, tuples: Sequence[LayerTuple]) -> list[Any]:
    """Add layers to a viewer in its display frame; return the added layers."""
    from napari.layers import Layer

    align(viewer)
    return [viewer.add_layer(Layer.create(data, dict(options), kind)) for data, options, kind in tuples]
