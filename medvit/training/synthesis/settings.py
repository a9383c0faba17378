"""How far each thing that synthesis draws may go; ranges are drawn evenly unless said."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import ShapeError

__all__ = ["Brightness", "Pose", "ScannerArtifacts"]


def _require(good: bool, what: str, found: object, needed: str) -> None:
    if not good:
        raise ShapeError(f"{what} = {found}", f"{needed} is needed", "Correct train.json.")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the head lies and how it is bent.

    Attributes:
        rotation_deg: largest turn about each axis, either way.
        scale: smallest and largest zoom, one for all axes, on a logarithmic scale.
        shift_mm: largest shift along each axis, either way.
        elastic_mm: standard deviation of the bending at its grid points.
        elastic_grid_mm: distance of those points; the bending is linear between them.
        flip: how often left and right are exchanged.
        pairs: source ids (right, left) exchanged with a flip. Both of a pair are also of one brightness.

    Raises:
        ShapeError: a scale that is not positive and in order, a grid of no size.
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
    """What each label looks like: a normal distribution of its own, drawn for each sample.

    Attributes:
        mean: range of a label's mean brightness.
        spread: range of its standard deviation, which stands for texture.
        dark_background: how often id 0 is black, as around a patient; else it is a label like any other.
        blur_mm: range of the smoothing that mixes neighbours, as voxels that hold two tissues do.
        bare: how often the skull is stripped: what lies outside of the brain is black.
        outside: source ids that a stripped head lacks.
        rim: source ids at the brain's surface, which every second stripped head lacks as well.
        bias: largest standard deviation of the coil's slow change of brightness, as a logarithm.
        gamma: standard deviation of the logarithm of the exponent of brightness.

    Raises:
        ShapeError: ranges not in order or a negative spread, blur, bias or gamma.
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
    """How poorly it is scanned.

    Attributes:
        slice_mm: range of the slice thickness, along an axis drawn anew (axial, coronal or sagittal slices).
        thick: how often slices are thicker than the grid at all.
        plane_mm: range of the voxel side within slices.
        motion: how often the head moves once during the scan, which leaves ghosts along an encoding axis.
        motion_mm: largest movement along each axis.
        noise: largest standard deviation of the noise (Rician), brightness being 0..1.

    Raises:
        ShapeError: sizes that are not positive and in order.
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
