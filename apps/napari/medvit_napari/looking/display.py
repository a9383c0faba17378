"""Display tools: contrast windows, planes, label measurements, pictures. They work on any viewer model and need no Qt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medvit.atomic_write import replace_file
from medvit.errors import OutputError
from medvit.io import spacing_mm
from medvit.labels import LabelMeasures
from medvit.reports import ContrastWindow, ct_presets, measure
from medvit_napari.errors import LayerError
from medvit_napari.looking.notifications import rating_line, tell_of
from medvit_napari.looking.segment_table import named_labels
from medvit_napari.reading.display_frame import own_data
from medvit_napari.reading.layer_info import place_of, to_smallest_dtype
from medvit_napari.reading.layers import BLANK, window_of
from medvit_napari.reading.lazy_volume import Filling
from medvit_napari.reading.painted_labels import stored_array

__all__ = [
    "PLANES",
    "DragWindow",
    "about",
    "camera",
    "draw_read",
    "go_to",
    "label_table",
    "outline",
    "save_gif",
    "set_window",
    "show_plane",
    "windows_of",
]

PLANES = {"Axial": (0, 1, 2), "Coronal": (1, 0, 2), "Sagittal": (2, 0, 1)}
"""Order of napari's axes for each plane."""

_GIF_MS = 60
_GIF_FRAMES = 120


def windows_of(layer: Any) -> tuple[ContrastWindow, ...]:
    """Return the contrast windows to offer for an image layer."""
    place = place_of(layer)
    modality = place.modality if place is not None and place.source.hounsfield else None
    data = layer.data
    return ct_presets(modality, data[data.shape[0] // 2] if modality != "CT" else np.zeros(1))


def about(layer: Any) -> list[str]:
    """Describe an image or label layer in lines: voxels, orientation, rating, warnings and notes.

    Args:
        layer: any layer.
    """
    place = place_of(layer)
    if place is None:
        return ["Opened by another reader: the position of the layer in the patient is not known."]
    lines = []
    if place.grid is not None:
        size = " x ".join(str(n) for n in place.grid.shape)
        sides = " x ".join(f"{mm:.3g}" for mm in spacing_mm(place.grid.affine))
        lines.append(f"{size} voxels of {sides} mm, stored along {place.grid.orientation}.")
    rating = rating_line(place.quality)
    lines += [rating] if rating else []
    return lines + [f"Warning: {text}" for text in place.warnings] + list(place.remarks)


def set_window(layer: Any, limits: tuple[float, float]) -> None:
    """Set the contrast limits of an image; widen the range of its slider if needed."""
    low, high = layer.contrast_limits_range
    if limits[0] < low or limits[1] > high:
        layer.contrast_limits_range = (min(low, limits[0]), max(high, limits[1]))
    layer.contrast_limits = limits


class DragWindow:
    """Mouse drag that sets an image's contrast window: rightwards for wider, upwards for brighter, as in reading rooms.

    With a modifier key, or while painting, dragging keeps its usual effect.

    Args:
        viewer: a viewer or its model.
        image: function that returns the layer whose window is set, or None.
    """

    _PIXELS = 300.0
    """Pixels of a drag that doubles the width, or moves the level by the width."""

    def __init__(self, viewer: Any, image: Callable[[], Any]) -> None:
        self._viewer, self._image = viewer, image
        self.is_on = False

    def turn(self, on: bool) -> None:
        """Turn dragging on or off."""
        if on != self.is_on:
            callbacks = self._viewer.mouse_drag_callbacks
            callbacks.append(self._dragged) if on else callbacks.remove(self._dragged)
            self.is_on = on

    def _dragged(self, viewer: Any, event: Any) -> Iterator[None]:
        layer, active = self._image(), viewer.layers.selection.active
        busy = active is not None and str(active.mode) not in ("pan_zoom", "transform")
        if layer is None or getattr(layer, "rgb", False) or busy or event.modifiers or event.button != 1:
            return
        low, high = layer.contrast_limits
        x, y = event.pos[:2]
        event.handled = True  # keeps the camera from moving
        yield
        while event.type == "mouse_move":
            right, down = event.pos[0] - x, event.pos[1] - y
            width = (high - low) * 2 ** (right / self._PIXELS)
            level = (low + high) / 2 + (high - low) * down / self._PIXELS
            set_window(layer, (level - width / 2, level + width / 2))
            event.handled = True
            yield


def show_plane(viewer: Any, name: str) -> None:
    """Show a plane at the current point of the viewer."""
    at = viewer.dims.point
    viewer.dims.ndisplay = 2
    viewer.dims.order = PLANES[name]
    viewer.dims.point = at


def label_table(layer: Any) -> list[LabelMeasures]:
    """Measure volume and intensities of each label of a layer on its image's grid.

    Raises:
        LayerError, PlaceError: the layer holds no labels, or states no image.
    """
    array, place = stored_array(layer), place_of(layer)
    assert place is not None
    rows = measure(to_smallest_dtype(array), place.scan(), named_labels(layer))
    return rows if place.image() is not None else [replace(row, mean=None, std=None) for row in rows]


def go_to(viewer: Any, layer: Any, number: int) -> None:
    """Move the viewer to the middle of a label.

    Raises:
        LayerError: the label has no voxel.
    """
    index = np.argwhere(np.asarray(layer.data) == number)
    if not len(index):
        raise LayerError(
            f"no voxel of label {number} in {layer.name!r}", "there is nothing to go to", "Choose another."
        )
    nearest = index[
        np.abs(index - np.median(index, 0)).sum(1).argmin()
    ]  # the result is a voxel of the label, even for a ring-shaped label
    at = layer.data_to_world(nearest)
    viewer.dims.point = at
    drawn = [at[axis] for axis in viewer.dims.displayed]  # the camera counts only the displayed axes
    camera(viewer).center = (0.0, *drawn)[-3:]
    layer.selected_label = number


def camera(viewer: Any) -> Any:
    """Return a viewer's camera; napari 0.9 keeps it in the viewer's scene."""
    return getattr(viewer, "scene", viewer).camera


def outline(layer: Any, on: bool) -> None:
    """Draw labels as outlines or filled."""
    layer.contour = 1 if on else 0


def save_gif(viewer: Any, path: Path, screenshot: Any) -> Path:
    """Save the slices, as they are shown, as an animated GIF; restore the viewer's position afterwards.

    Args:
        viewer: a viewer with a volume.
        path: path of the file; its suffix becomes ``.gif``.
        screenshot: function that returns the picture on the screen, (row, column, RGBA) uint8.

    Raises:
        OutputError: there is only one slice, or the file cannot be written.
    """
    from PIL import Image

    axis = viewer.dims.order[0]
    steps, before = int(viewer.dims.nsteps[axis]), tuple(viewer.dims.current_step)
    if viewer.dims.ndisplay != 2 or viewer.dims.ndim < 3 or steps < 2:
        raise OutputError(
            "no slices to step through", "a volume in a 2-D view is needed", "Open one, and choose a plane."
        )
    pictures = []
    try:
        for step in np.unique(np.linspace(0, steps - 1, min(steps, _GIF_FRAMES)).round().astype(int)):
            viewer.dims.set_current_step(axis, int(step))
            pictures.append(Image.fromarray(screenshot()).convert("RGB").quantize(128))
    finally:
        viewer.dims.current_step = before
    final = path.with_suffix(".gif")
    try:
        with replace_file(final) as aside:
            pictures[0].save(aside, save_all=True, append_images=pictures[1:], duration=_GIF_MS, loop=0)
    except OSError as error:
        raise OutputError(
            f"that {final.name} cannot be written ({error.strerror})", remedy="Choose another folder."
        ) from error
    return final


def draw_read(filling: Filling, viewer: Any) -> BaseException | None:
    """Redraw an image after all of it has been read; if reading failed, remove it and return the error."""
    filling.on_done.clear()
    shown = [layer for layer in viewer.layers if own_data(layer) is filling]
    if filling.error is not None:
        for layer in shown:  # an image that could not be read as a whole must not be shown or run on
            viewer.layers.remove(layer)
        return filling.error
    for layer in shown:
        if tuple(layer.contrast_limits) == BLANK:
            set_window(layer, window_of(filling))
        _renew_remarks(layer)
        layer.refresh()
        layer.events.data(value=layer.data)  # the voxels have changed; linked views redraw on this event
    return None


def _renew_remarks(layer: Any) -> None:
    """Update a layer's remarks after all of it has been read, and show the new ones."""
    place = place_of(layer)
    if place is not None:
        layer.metadata = {**layer.metadata, **place.metadata()}
        tell_of(layer, (*place.flags, *place.notes))
