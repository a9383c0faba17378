"""Information about a layer in its metadata: the image and its grid, the labels' names and colours, notes and rating."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.io import Affine, Scan
from medvit.labels import Label
from medvit_napari.errors import LayerError, PlaceError
from medvit_napari.reading.display_frame import own_data
from medvit_napari.reading.display_grid import Canonical
from medvit_napari.reading.lazy_volume import Filling

__all__ = [
    "KEY",
    "LayerInfo",
    "array_sha256",
    "image_of",
    "place_of",
    "placeholder_scan",
    "scan_of",
    "to_smallest_dtype",
]

KEY = "medvit"
"""Key of the ``LayerInfo`` in a layer's metadata."""

_LETTERS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerInfo:
    """Information about a layer, stored in its metadata.

    Attributes:
        source: the image; for labels, the image on which they lie.
        grid: placement in napari; None for a picture.
        labels: segments of a label layer.
        digest: hash of the voxels at the time the layer was made, to detect corrections.
        made_by: bundle and version that made the layer; empty for a layer that was read.
        origin: "image", "read", "made", "restored" or "painted".
        notes: notes for the user.
        flags: warnings about parts that were left out or do not fit.
        quality: rating and reasons of the run that made the layer, see ``Result.quality``; empty for a layer that was
            read.
        space: identifier of the frame of reference if the source's headers state none, else empty.
        case: identifier of the open case of a label server, else empty.
    """

    source: Scan | Filling
    grid: Canonical | None
    _: KW_ONLY
    labels: tuple[Label, ...] = ()
    digest: str = ""
    made_by: str = ""
    origin: str = "image"
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    quality: Mapping[str, Any] = field(default_factory=dict)
    space: str = ""
    case: str = ""

    @property
    def modality(self) -> str | None:
        """Modality of the source; None if it states none."""
        return self.source.modality

    @property
    def series(self) -> str:
        """SeriesInstanceUID of a DICOM source, else empty."""
        if isinstance(self.source, Filling):
            return self.source.series
        return str(self.source.slices[0].get("SeriesInstanceUID", "")) if self.source.slices else ""

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID of a DICOM source that states one for all slices, or ``space``; empty if neither is
        stated.
        """
        if self.space or isinstance(self.source, Filling):
            return self.space or self.source.space  # type: ignore[union-attr]
        stated = {str(header.get("FrameOfReferenceUID") or "") for header in self.source.slices}
        return stated.pop() if len(stated) == 1 else ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Notes for the user, with those on the display of the volume first."""
        return (*(self.grid.remarks if self.grid is not None else ()), *self.reading_notes)

    @property
    def reading_notes(self) -> tuple[str, ...]:
        """Notes from opening the source; of an image that is still being read, those known so far."""
        read = self._read
        return tuple(dict.fromkeys([*self.notes, *(read.notes if read is not None else ())]))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user: parts that were left out or do not fit."""
        read = self._read
        return tuple(dict.fromkeys([*self.flags, *(read.excluded if read is not None else ())]))

    @property
    def _read(self) -> Scan | None:
        """Scan of an image that is read in the background; None until reading has succeeded."""
        source = self.source
        behind = self.origin == "image" and isinstance(source, Filling) and source.is_done and source.error is None
        return source.scan() if behind else None  # type: ignore[union-attr]

    def metadata(self) -> dict[str, Any]:
        """Return the layer's metadata: this object and, as text, the orientation letters and the remarks."""
        letters = self.grid.orientation if self.grid is not None else ""
        return {KEY: self, "orientation": letters, "warnings": self.warnings, "notes": self.remarks}

    def scan(self) -> Scan:
        """Return the source as a scan; wait until it has been read."""
        return self.source.scan() if isinstance(self.source, Filling) else self.source

    def image(self) -> Scan | None:
        """Return the source; None if labels have a grid but no image (``placeholder_scan``)."""
        scan = self.scan()
        return scan if any(scan.array.strides) else None

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerInfo:
        return self  # napari copies metadata with a layer; the information stays the same


def placeholder_scan(shape: Sequence[int], affine: Affine, kind: str = "array", header: Any = None) -> Scan:
    """Return a scan with the grid of labels that have no image; it takes the memory of one voxel."""
    return Scan(array=np.broadcast_to(np.float32(0), (1, *shape)), affine=affine, kind=kind, header=header)


def to_smallest_dtype(array: NDArray[Any]) -> NDArray[Any]:
    """Convert ids to the smallest type that holds them, contiguous in memory, for writers."""
    return np.ascontiguousarray(array).astype(np.uint8 if array.max(initial=0) < 256 else np.uint16)


def array_sha256(array: NDArray[Any]) -> str:
    """Return the sha256 of voxels."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def place_of(layer: Any) -> LayerInfo | None:
    """Return the information about a layer; None for a layer that medvit did not make."""
    found = layer.metadata.get(KEY) if hasattr(layer, "metadata") else None
    return found if isinstance(found, LayerInfo) else None


def image_of(layer: Any) -> Any:
    """Return the layer if it is an image of one resolution.

    Raises:
        LayerError: the layer is not an image, or has several resolutions.
    """
    kind = type(layer).__name__
    if kind != "Image":
        raise LayerError(
            f"the layer {layer.name!r}, which holds {kind.lower()}",
            "an image layer is needed",
            "Choose the image it lies on.",
        )
    if getattr(layer, "multiscale", False):
        raise LayerError(
            f"the layer {layer.name!r}, which has several resolutions", "one is needed", "Open the file with medvit."
        )
    return layer


def scan_of(layer: Any, axes: str = "") -> Scan:
    """Return the image of a layer as a scan for ``medvit.run``, with the layer's present values.

    Args:
        layer: an image layer; for one that medvit opened, its file states the position.
        axes: for any other layer, the directions of its axes in the patient: three of R, L, A, P, S, I, for example
            "IPL".

    Raises:
        LayerError: the layer is not a single grey volume or a picture. PlaceError: its position is not stated.
    """
    place = place_of(image_of(layer))
    if place is not None:
        scan = place.scan()
        data = own_data(layer)
        if place.grid is None or isinstance(data, Filling):
            return scan
        values = place.grid.back(np.asarray(data))
        if values.shape != scan.array.shape[1:]:
            raise LayerError(
                f"the layer {layer.name!r} with {values.shape} voxels where its file has {scan.array.shape[1:]}",
                "it was cropped",
                "Open the file again.",
            )
        return replace(scan, array=np.asarray(values, dtype=np.float32)[None])
    return _stated(layer, axes)


def _stated(layer: Any, axes: str) -> Scan:
    """Return the scan of a layer that another plugin read: a picture, or a volume whose axes the user states."""
    shape = tuple(int(n) for n in np.shape(layer.data))
    if getattr(layer, "rgb", False):
        if len(shape) != 3:
            raise LayerError(
                f"the layer {layer.name!r}, a stack of {len(shape) - 1} axes in colours",
                "one picture in colours or one grey volume is needed",
                "Choose one channel: right-click the layer, Split RGB.",
            )
        return Scan(
            array=np.moveaxis(np.asarray(layer.data)[..., :3], -1, 0).astype(np.float32),
            affine=np.eye(4),
            kind="picture",
        ).check()
    if len(shape) == 2:
        return Scan(array=np.asarray(layer.data, dtype=np.float32)[None], affine=np.eye(4), kind="picture").check()
    if len(shape) != 3:
        raise LayerError(
            f"the layer {layer.name!r} of {len(shape)} axes {shape}",
            "one volume of three is needed",
            "Choose one time point or channel: right-click the layer, Split Stack.",
        )
    if not axes:
        raise PlaceError(
            f"the layer {layer.name!r}, whose position in the patient is not known",
            "left and right could be exchanged",
            "Open its file with medvit, or state where its axes run, for example IPL, under 'Axes'.",
        )
    return Scan(array=np.asarray(layer.data, dtype=np.float32)[None], affine=_affine(layer, axes), kind="array").check()


def _affine(layer: Any, axes: str) -> Affine:
    letters = axes.strip().upper()
    known = [_LETTERS[letter] for letter in letters if letter in _LETTERS]
    if len(letters) != 3 or sorted(axis for axis, _ in known) != [0, 1, 2]:
        raise PlaceError(
            f"the axes {axes!r}",
            "three letters are needed, one each of R or L, A or P, S or I",
            "Write IPL for head to feet, front to back, right to left.",
        )
    scale = np.asarray(layer.scale, dtype=float)
    turned = np.asarray(layer.affine.linear_matrix)
    if (
        np.abs(np.asarray(layer.rotate) - np.eye(3)).max() > 1e-6
        or np.abs(turned - np.diag(np.diag(turned))).max() > 1e-6
    ):
        raise PlaceError(
            f"the layer {layer.name!r} rotated in napari",
            "its axes cannot be stated by letters",
            "Open its file with medvit.",
        )
    if np.allclose(scale, 1):
        raise PlaceError(
            f"the layer {layer.name!r} without a scale (1, 1, 1)",
            "sizes in millimetres are needed",
            "Set layer.scale, or open its file with medvit.",
        )
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(known):
        affine[axis, column] = sign * scale[column]
        affine[axis, 3] = sign * float(layer.translate[column])
    return affine
