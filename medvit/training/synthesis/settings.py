"""Limits of the random changes in synthesis; ranges are drawn uniformly unless stated."""

from __future__ import annotations

from medvit.training.checked_settings import (
    NotNegative,
    NotNegativeRange,
    Positive,
    PositiveRange,
    Range,
    Share,
    checked_settings,
)

__all__ = ["Brightness", "Pose", "ScannerArtifacts"]


@checked_settings
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
        BundleError: the scale is not positive and in order, or the grid has no size.
    """

    rotation_deg: float = 15.0
    scale: PositiveRange = (0.85, 1.15)
    shift_mm: float = 10.0
    elastic_mm: NotNegative = 3.0
    elastic_grid_mm: Positive = 30.0
    flip: Share = 0.5
    pairs: tuple[tuple[int, int], ...] = ()


@checked_settings
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
        BundleError: a range is not in order, or spread, blur, bias or gamma is negative.
    """

    mean: Range = (0.0, 1.0)
    spread: NotNegativeRange = (0.0, 0.12)
    dark_background: Share = 0.7
    blur_mm: NotNegativeRange = (0.3, 1.0)
    bare: Share = 0.0
    outside: tuple[int, ...] = ()
    rim: tuple[int, ...] = ()
    bias: NotNegative = 0.4
    gamma: NotNegative = 0.3


@checked_settings
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
        BundleError: sizes are not positive and in order.
    """

    slice_mm: PositiveRange = (1.0, 7.0)
    thick: Share = 0.6
    plane_mm: PositiveRange = (1.0, 1.6)
    motion: Share = 0.2
    motion_mm: NotNegative = 4.0
    noise: NotNegative = 0.07
