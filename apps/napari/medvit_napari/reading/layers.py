"""Layers for napari: images, labels and surfaces with names, colours, position and ``LayerInfo``."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from medvit.io import Scan
from medvit.labels import Label
from medvit.reports import default_window
from medvit_napari.reading.display_grid import Canonical
from medvit_napari.reading.layer_info import KEY, LayerInfo, array_sha256, placeholder_scan
from medvit_napari.reading.lazy_volume import Filling
from medvit_napari.reading.segment_colors import label_colormap, label_features

if TYPE_CHECKING:
    from medvit.io.labels import LabelSet
    from medvit.reconstruction import Reconstructed
    from medvit.restoration import Restored
    from medvit.segmentation import Result

__all__ = [
    "BLANK",
    "LayerTuple",
    "filling_layer",
    "image_layer",
    "inherit",
    "label_layer",
    "label_layers",
    "rated",
    "reconstructed_layers",
    "restored_layers",
    "result_layers",
    "surface_layers",
    "window_of",
]

LayerTuple: TypeAlias = tuple[Any, dict[str, Any], str]
"""Data, options and kind of a layer, in the form of napari's readers."""

BLANK = (0.0, 1.0)
"""Contrast limits of an image before any of it has been read; limits that the user sets are kept."""

_KINDS = {"nifti": "NIfTI", "mgh": "MGH", "nrrd": "NRRD", "metaimage": "MetaImage"}
_OPACITY = 0.55
_DIFFERENCE = "difference"


def _name(modality: str | None, plane: str, count: int) -> str:
    words = [modality or "Image", plane, f"{count} slices" if count > 1 else ""]
    return " ".join(word for word in words if word)


def image_layer(scan: Scan, name: str = "", **options: Any) -> LayerTuple:
    """Make an image layer of a scan; its name never holds text from a file name or header that could name a person."""
    if scan.is_picture:
        return _picture(scan, name or "Picture", options)
    grid = _grid(scan)
    assert grid is not None
    shown = grid.show(scan.array[0])
    middle = shown[shown.shape[0] // 2]
    window = default_window(scan.modality if scan.hounsfield else None, middle, scan.slices)
    place = LayerInfo(source=scan, grid=grid, notes=scan.notes, flags=scan.excluded)
    kind = _KINDS.get(scan.kind)
    plane = "" if scan.kind != "dicom" else ("axial", "coronal", "sagittal")[grid.order.index(2)]
    return shown, {
        "name": name or _name(scan.modality or kind, plane, scan.array.shape[3]),
        "contrast_limits": window.limits,
        "metadata": place.metadata(),
        **grid.placement(),
        **options,
    }, "image"  # fmt: skip


def _picture(scan: Scan, name: str, options: dict[str, Any]) -> LayerTuple:
    colours = scan.array.shape[0] == 3
    data = np.moveaxis(scan.array, 0, -1) if colours else scan.array[0]
    if colours:
        data = data.clip(0, 255).astype(np.uint8)
    place = LayerInfo(source=scan, grid=None, notes=scan.notes, flags=scan.excluded)
    return data, {"name": name, "rgb": colours, "metadata": place.metadata(), **options}, "image"


def filling_layer(
    filling: Filling, kind: str = "dicom", notes: tuple[str, ...] = (), flags: tuple[str, ...] = ()
) -> LayerTuple:
    """Make an image layer of a volume that is still being read; its middle slice is read at once if possible.

    Args:
        filling: the volume, with reading started.
        kind: see ``Scan.kind``.
        notes: notes from the header.
        flags: parts that were left out.
    """
    axis = filling.grid.order.index(2)
    key: list[Any] = [slice(None)] * 3
    key[axis] = filling.shape[axis] // 2
    middle = filling[tuple(key)]
    window = None if filling.is_blank else default_window(filling.modality if filling.hounsfield else None, middle)
    plane = ("axial", "coronal", "sagittal")[axis] if kind == "dicom" else ""
    return filling, {
        "name": _name(filling.modality or _KINDS.get(kind), plane, filling.grid.shape[2]),
        "contrast_limits": BLANK if window is None else window.limits,
        "metadata": LayerInfo(source=filling, grid=filling.grid, notes=notes, flags=flags).metadata(),
        **filling.grid.placement(),
    }, "image"  # fmt: skip


def window_of(filling: Filling) -> tuple[float, float]:
    """Return the contrast limits of a volume that has just been read completely."""
    shown = np.asarray(filling)
    return default_window(filling.modality if filling.hounsfield else None, shown[shown.shape[0] // 2]).limits


def label_layer(
    array: NDArray[Any], source: Scan | Filling, labels: Sequence[Label], name: str, **known: Any
) -> LayerTuple:
    """Make a label layer of a label map in stored order, (i, j, k) or (row, column).

    Args:
        array: ids, 0 for none; copied, since the layer is painted on.
        source: the image that has this grid.
        labels: names and colours.
        name: name of the layer.
        known: further fields of ``LayerInfo``, such as made_by, origin and notes.
    """
    grid = source.grid if isinstance(source, Filling) else _grid(source)
    shown = np.ascontiguousarray(array if grid is None else grid.show(array))
    place = LayerInfo(source=source, grid=grid, labels=tuple(labels), digest=array_sha256(shown), **known)
    return shown, {
        "name": name,
        "opacity": _OPACITY,
        "colormap": label_colormap(labels),
        "features": label_features(labels),
        "metadata": place.metadata(),
        **(grid.placement() if grid is not None else {}),
    }, "labels"  # fmt: skip


def inherit(layers: list[LayerTuple], place: LayerInfo | None) -> list[LayerTuple]:
    """Give layers that were made from an image the case and patient space of that image."""
    if place is None or not (place.case or place.space):
        return layers
    return [
        (data, {**options, "metadata": replace(made, case=place.case, space=place.space).metadata()}, kind)
        if isinstance(made := options.get("metadata", {}).get(KEY), LayerInfo)
        else (data, options, kind)
        for data, options, kind in layers
    ]


def rated(layers: list[LayerTuple], quality: Mapping[str, Any]) -> list[LayerTuple]:
    """Store the rating of the run that made layers, with its reasons, in their ``LayerInfo``."""
    return [
        (data, {**options, "metadata": replace(options["metadata"][KEY], quality=quality).metadata()}, kind)
        for data, options, kind in layers
    ]


def _grid(scan: Scan) -> Canonical | None:
    if scan.is_picture:
        return None
    i, j, k = (int(n) for n in scan.array.shape[1:])
    return Canonical((i, j, k), scan.affine)


def label_layers(found: LabelSet, source: Scan | Filling | None = None, made_by: str = "") -> list[LayerTuple]:
    """Make label layers of labels that were read: one, or several if labels share voxels.

    Args:
        found: the labels.
        source: the image on which they lie, if it is open.
        made_by: model that has just made them; empty for a file.
    """
    base = source or found.reference or placeholder_scan(found.shape, found.affine, found.kind, found.header)
    groups: list[list[Any]] = []
    for segment in found.segments:
        home = next((g for g in groups if not any(segment.overlap(other) for other in g)), None)
        if home is None:
            groups.append([segment])
        else:
            home.append(segment)
    layers = []
    title = {"seg": "SEG", "rtstruct": "RTSTRUCT"}.get(found.kind, "Labels")
    for number, group in enumerate(groups, 1):
        largest = max(segment.label.id for segment in group)
        array = np.zeros(found.shape, np.uint8 if largest < 256 else np.uint16)
        for segment in group:
            array[segment.box][segment.voxels] = segment.label.id
        name = title if len(groups) == 1 else f"{title} {number} of {len(groups)}"
        known = {
            "origin": "made" if made_by else "read",
            "made_by": made_by,
            "notes": found.notes,
            "flags": found.flags,
        }
        layers.append(label_layer(array, base, [s.label for s in group], name, **known))
    return layers


def result_layers(result: Result) -> list[LayerTuple]:
    """Make the label layer of a run; with a quality map, also one of the voxels where the mirror image's answer
    differs.
    """
    bundle = result.bundle
    made = f"{bundle.name} {bundle.version}"
    known = {"made_by": made, "origin": "made", "notes": result.notes, "quality": result.quality()}
    layers = [label_layer(result.array, result.scan, result.requested_labels, bundle.name, **known)]
    differ = result.disagreement()
    if differ is not None:
        from medvit.io.labels import make_label

        word = make_label(1, "Answers differ", (255, 210, 0))
        layers.append(label_layer(differ, result.scan, [word], "Quality map", **known))
    return layers


def restored_layers(result: Restored, limits: tuple[float, float] | None = None) -> list[LayerTuple]:
    """Make layers of a restored image and of its change (hidden at first), both at the position of the source."""
    restored = replace(result.scan, array=result.array[None])
    made, quality = f"{result.bundle.name} {result.bundle.version}", result.quality()
    options = {} if limits is None else {"contrast_limits": limits}
    image = image_layer(restored, f"Restored by {result.bundle.name}", **options)
    change = result.array - result.scan.array[0]
    reach = max(float(np.percentile(np.abs(change), 99)), 1e-6)
    look = {"contrast_limits": (-reach, reach), "colormap": "PiYG", "visible": False}
    other = image_layer(replace(result.scan, array=change[None]), f"Restored minus source ({_DIFFERENCE})", **look)
    for layer in (image, other):
        grid = layer[1]["metadata"][KEY].grid
        place = LayerInfo(
            source=restored, grid=grid, made_by=made, origin="restored", notes=result.notes, quality=quality
        )
        layer[1]["metadata"] = place.metadata()
    return [image, other]


def surface_layers(array: NDArray[Any], scan: Scan, labels: Sequence[Label]) -> list[LayerTuple]:
    """Make the closed surface of each present label, at its position on the image."""
    from medvit.reports import surface_of

    grid = _grid(scan)
    assert grid is not None
    layers = []
    for label in labels:
        mask = array == label.id
        if mask.any():
            surface = surface_of(mask, scan.affine)
            layers.append(
                _surface(
                    grid.shown_world(surface.vertices),
                    surface.faces,
                    label,
                    LayerInfo(source=scan, grid=grid, labels=(label,)),
                )
            )
    return layers


def _surface(vertices: NDArray[Any], faces: NDArray[Any], label: Label, place: LayerInfo) -> LayerTuple:
    from napari.utils import Colormap

    colour = Colormap([[*(c / 255 for c in label.color), 1.0]] * 2, name=f"medvit {label.name}")
    return (vertices, faces, np.ones(len(vertices))), {
        "name": label.title,
        "colormap": colour,
        "shading": "smooth",
        "metadata": place.metadata(),
        "units": ("mm", "mm", "mm"),
    }, "surface"  # fmt: skip


def reconstructed_layers(result: Reconstructed) -> list[LayerTuple]:
    """Make layers of reconstructed bones: labels, surfaces and, if present, a map of entropy."""
    scan = placeholder_scan(result.array.shape, result.affine)
    made = f"{result.bundle.name} {result.bundle.version}"
    known: dict[str, Any] = {"made_by": made, "origin": "made", "notes": result.notes, "quality": result.quality()}
    known["space"] = f"radiographs {uuid.uuid4().hex}"  # radiographs do not state the patient's position
    layers = [label_layer(result.array, scan, result.requested_labels, f"From X-rays by {result.bundle.name}", **known)]
    grid = _grid(scan)
    assert grid is not None
    place = LayerInfo(source=scan, grid=grid, **known)
    for label in result.requested_labels:
        if label.name in result.surfaces:
            surface = result.surfaces[label.name]
            layers.append(_surface(grid.shown_world(surface.vertices), surface.faces, label, place))
    if result.entropy_map is not None:
        look = {"name": "Entropy (bits)", "visible": False, "colormap": "inferno", "contrast_limits": (0.0, 1.0)}
        layers.append(
            (grid.show(result.entropy_map), {**look, "metadata": place.metadata(), **grid.placement()}, "image")
        )
    return layers
