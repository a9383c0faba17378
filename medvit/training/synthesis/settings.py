"""Limits of the random changes in synthesis; ranges are drawn uniformly unless stated."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import ShapeError

__all__ = ["Brightness", "Pose", "ScannerArtifacts"]


def _require(good: bool, what: str, found: object, needed: str) -> None:
    if not good:
        raise ShapeError(f"{what} = {found}", f"{needed} is needed", "Correct train.json.")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Limits of the head's position and deformation.

    Attributes:
        rotation_deg: largest rotation about each axis, in either direction.
        scale: smallest and largest zoom, the same for all axes, drawn on a logarithmic scale.
        shift_mm: largest shift along each axis, in either direction.
        elastic_mm: standard deviation of the deformation at its grid points.
        elastic_grid_mm: distance of the grid points; the deformation is linear between them.
        flip: probability that left and right are exchanged.
        pairs: source ids (right, left) exchanged in a flip. Both ids of a pair also have the same brightness.

    Raises:
        ShapeError: the scale is not positive and in order, or the grid has no size.
    """

    rotation_deg: float = 15.0
    scale: tuple[float, float] = (0.85, 1.15)
    shift_mm: float = 10.0
    elastic_mm: float = 3.0
    elastic_grid_mm: float = 30.0
    flip: float = 0.5
    pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        _require(0 < self.scale[0] <= self.scale[1], "scale", self.scale, "a positive range in order")
        _require(self.elastic_grid_mm > 0, "elastic_grid_mm", self.elastic_grid_mm, "a distance above 0")


@dataclass(frozen=True, kw_only=True)
class Brightness:
    """Limits of the brightness of labels: a normal distribution for each label, drawn for each sample.

    Attributes:
        mean: range of a label's mean brightness.
        spread: range of its standard deviation, the texture.
        dark_background: probability that id 0 is black, as around a patient; else it is a label like any other.
        blur_mm: range of the smoothing that mixes neighbouring labels, as partial volume does.
        bare: probability of a stripped skull: the outside of the brain is black.
        outside: source ids that a stripped head lacks.
        rim: source ids at the brain's surface, which half of the stripped heads also lack.
        bias: largest standard deviation of the coil's bias field, as a logarithm.
        gamma: standard deviation of the logarithm of the exponent of brightness.

    Raises:
        ShapeError: a range is not in order, or spread, blur, bias or gamma is negative.
    """

    mean: tuple[float, float] = (0.0, 1.0)
    spread: tuple[float, float] = (0.0, 0.12)
    dark_background: float = 0.7
    blur_mm: tuple[float, float] = (0.3, 1.0)
    bare: float = 0.0
    outside: tuple[int, ...] = ()
    rim: tuple[int, ...] = ()
    bias: float = 0.4
    gamma: float = 0.3

    def __post_init__(self) -> None:
        for name in ("mean", "spread", "blur_mm"):
            low, high = getattr(self, name)
            _require(low <= high and (name == "mean" or low >= 0), name, (low, high), "a range in order")
        _require(min(self.bias, self.gamma) >= 0, "bias and gamma", (self.bias, self.gamma), "0 or more")


@dataclass(frozen=True, kw_only=True)
class ScannerArtifacts:
    """Limits of the scanner's artifacts.

    Attributes:
        slice_mm: range of the slice thickness, along a random axis (axial, coronal or sagittal slices).
        thick: probability that slices are thicker than the grid.
        plane_mm: range of the voxel side within slices.
        motion: probability that the head moves once during the scan, which causes ghosts along an encoding axis.
        motion_mm: largest movement along each axis.
        noise: largest standard deviation of the noise (Rician), for brightness in 0..1.

    Raises:
        ShapeError: sizes are not positive and in order.
    """

    slice_mm: tuple[float, float] = (1.0, 7.0)
    thick: float = 0.6
    plane_mm: tuple[float, float] = (1.0, 1.6)
    motion: float = 0.2
    motion_mm: float = 4.0
    noise: float = 0.07

    def __post_init__(self) -> None:
        for name in ("slice_mm", "plane_mm"):
            low, high = getattr(self, name)
            _require(0 < low <= high, name, (low, high), "a positive range in order")
