"""Coronal and sagittal views beside a viewer, linked to the same point by a crosshair. They work on viewer models and
need no Qt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit_napari.looking.display import PLANES

__all__ = ["CROSSHAIR", "LinkedViews", "crosshair"]

CROSSHAIR = "Crosshair"
"""Name of the layer with the crosshair."""

_HISTORY = ("_undo_history", "_redo_history")
_KINDS = ("Image", "Labels")
_SHARED = ("visible", "opacity", "blending", "contrast_limits", "gamma", "colormap", "contour")


def crosshair(point: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return three lines through a point of a volume in voxels: (line, start and direction, axis)."""
    lines = np.zeros((3, 2, 3))
    lines[:, 0] = point
    for axis in range(3):
        lines[axis, 0, axis], lines[axis, 1, axis] = 0, shape[axis] - 1
    return lines


@dataclass(eq=False)
class _Twin:
    """A layer and its copies in the other views, which share its voxels."""

    layer: Any
    copies: dict[str, Any]
    ends: list[Callable[[], None]] = field(default_factory=list)


class LinkedViews:
    """Coronal and sagittal views of a viewer's volumes, linked until released.

    Args:
        viewer: a viewer or its model. Its layers are not changed; the crosshair is added as a layer until release.
    """

    def __init__(self, viewer: Any) -> None:
        from napari.components import ViewerModel

        self.viewer = viewer
        self.others: dict[str, Any] = {name: ViewerModel(title=name) for name in ("Coronal", "Sagittal")}
        self._twins: list[_Twin] = []
        self._crosses: dict[str, Any] = {}
        self._busy = False
        events = viewer.layers.events
        self._watched = (events.inserted, events.removed, events.reordered)
        for event in self._watched:
            event.connect(self._renew)
        viewer.dims.events.point.connect(self._from_main)
        viewer.mouse_drag_callbacks.append(self._click_main)
        for name, model in self.others.items():
            model.dims.events.point.connect(getattr(self, f"_from_{name.lower()}"))
            model.mouse_drag_callbacks.append(_clicked)
        self._renew()

    @property
    def _all(self) -> dict[str, Any]:
        return {"": self.viewer, **self.others}

    def _volumes(self) -> list[Any]:
        return [n for n in self.viewer.layers if type(n).__name__ in _KINDS and n.ndim == 3 and not _coloured(n)]

    def _renew(self, event: Any = None) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            wanted = self._volumes()
            for twin in [t for t in self._twins if t.layer not in wanted]:
                self._drop(twin)
            for layer in wanted:
                if all(t.layer is not layer for t in self._twins):
                    self._add(layer)
            self._sort(wanted)
            self._mark()
        finally:
            self._busy = False

    def _add(self, layer: Any) -> None:
        from napari.experimental import link_layers, unlink_layers
        from napari.layers import Layer

        twin = _Twin(layer, {})
        _, state, kind = layer.as_layer_data_tuple()
        shared = [name for name in _SHARED if hasattr(layer, name)]
        for name, model in self.others.items():
            copy = Layer.create(layer.data, {**state, "metadata": {}}, kind)
            twin.copies[name] = model.add_layer(copy)
            link_layers([layer, copy], shared)
            twin.ends.append(lambda pair=(layer, copy): unlink_layers(list(pair)))  # type: ignore[misc]
            if model.dims.ndim == 3 and tuple(model.dims.order) != PLANES[name]:
                model.dims.order = PLANES[name]
        drawn = [layer, *twin.copies.values()]
        _share_undo(drawn)
        for source in drawn:
            twin.ends += _redraw(source, [other for other in drawn if other is not source])
        self._twins.append(twin)

    def _drop(self, twin: _Twin) -> None:
        for end in twin.ends:
            end()
        for name, copy in twin.copies.items():
            with contextlib.suppress(ValueError):
                self.others[name].layers.remove(copy)
        self._twins.remove(twin)

    def _sort(self, wanted: list[Any]) -> None:
        self._twins.sort(key=lambda twin: wanted.index(twin.layer))
        for name, model in self.others.items():
            for at, twin in enumerate(self._twins):
                now = model.layers.index(twin.copies[name])
                if now != at:
                    model.layers.move(now, at)

    def _mark(self) -> None:
        """Add or remove the crosshair in each view, on the grid of the first volume."""
        for name, model in self._all.items():
            cross = self._crosses.get(name)
            if cross is not None and cross not in model.layers:
                cross = None  # a user has removed it
            if not self._twins:
                if cross is not None:
                    model.layers.remove(cross)
                self._crosses.pop(name, None)
            elif name not in self._crosses:
                self._crosses[name] = self._cross(model)
        self._move(self.viewer.dims.point)

    def _cross(self, model: Any) -> Any:
        from napari.layers import Vectors

        grid, active = self._twins[0].layer, model.layers.selection.active
        look = {"edge_color": "#ffd166", "edge_width": 0.4, "opacity": 0.6, "vector_style": "line"}
        lies = {"scale": grid.scale, "translate": grid.translate, "units": grid.units, "axis_labels": grid.axis_labels}
        made = model.add_layer(Vectors(crosshair(np.zeros(3), grid.data.shape), name=CROSSHAIR, **look, **lies))
        model.layers.selection.active = active
        return made

    def _move(self, point: Any) -> None:
        for name, model in self._all.items():
            if len(point) == model.dims.ndim == 3 and tuple(model.dims.point) != tuple(point):
                model.dims.point = tuple(point)
            cross = self._crosses.get(name)
            if cross is not None and cross in model.layers and len(point) == 3:
                grid = self._twins[0].layer
                cross.scale, cross.translate = grid.scale, grid.translate
                at = (np.asarray(point) - cross.translate) / cross.scale
                cross.data = crosshair(at, self._twins[0].layer.data.shape)

    def _follow(self, model: Any) -> None:
        if self._busy or not self._twins:
            return
        self._busy = True
        try:
            self._move(model.dims.point)
        finally:
            self._busy = False

    def _from_main(self, event: Any = None) -> None:
        self._follow(self.viewer)

    def _from_coronal(self, event: Any = None) -> None:
        self._follow(self.others["Coronal"])

    def _from_sagittal(self, event: Any = None) -> None:
        self._follow(self.others["Sagittal"])

    def _click_main(self, viewer: Any, event: Any) -> Iterator[None]:
        if "Shift" in event.modifiers:
            yield from _clicked(viewer, event)

    def release(self) -> None:
        """Stop following the viewer, and remove the crosshair."""
        for event in self._watched:
            with contextlib.suppress(ValueError, RuntimeError):
                event.disconnect(self._renew)
        with contextlib.suppress(ValueError, RuntimeError):
            self.viewer.dims.events.point.disconnect(self._from_main)
        with contextlib.suppress(ValueError):
            self.viewer.mouse_drag_callbacks.remove(self._click_main)
        for twin in list(self._twins):
            self._drop(twin)
        cross = self._crosses.pop("", None)
        if cross is not None and cross in self.viewer.layers:
            self.viewer.layers.remove(cross)


def _coloured(layer: Any) -> bool:
    return bool(getattr(layer, "rgb", False) or getattr(layer, "multiscale", False))


def _share_undo(layers: list[Any]) -> None:
    """Give label layers that share voxels one undo history, so that a stroke in any view can be undone from any view.

    A step of the history holds positions of voxels and their earlier values, so it is valid for all these layers.
    napari has no public function for this.
    """
    first = layers[0]
    if all(hasattr(first, name) for name in _HISTORY):
        for other in layers[1:]:
            for name in _HISTORY:
                setattr(other, name, getattr(first, name))


def _redraw(source: Any, others: list[Any]) -> list[Callable[[], None]]:
    """Redraw the other layers when the voxels of one change or are replaced; return functions that end this."""

    def draw(event: Any = None) -> None:
        replaced = [other for other in others if other.data is not source.data]
        for other in replaced:
            other.scale, other.translate = source.scale, source.translate  # the data may now be shown along other axes
            other.data = source.data
        if replaced:
            _share_undo([source, *others])  # napari starts a new history for new data
        for other in others:
            other.refresh(extent=False)

    watched = [getattr(source.events, n) for n in ("data", "paint", "labels_update") if hasattr(source.events, n)]
    for event in watched:
        event.connect(draw)
    return [lambda event=event: event.disconnect(draw) for event in watched]  # type: ignore[misc]


def _clicked(viewer: Any, event: Any) -> Iterator[None]:
    """Move the viewer's point to the position of a click, unless the mouse is dragged."""
    moved = False
    yield
    while event.type == "mouse_move":
        moved = True
        yield
    if not moved and len(event.position) == viewer.dims.ndim:
        viewer.dims.point = tuple(event.position)
