"""The image that opening a source gives, with its geometry and the information that writing results needs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ImageError
from medvit.io.creation_dates import TODAY, Creation
from medvit.io.geometry import Affine, check_affine, flip_lps_ras, slice_planes, spacing_mm
from medvit.io.grid_image import GridImage

if TYPE_CHECKING:
    from monai.data import MetaTensor
    from numpy.typing import NDArray
    from pydicom import Dataset

__all__ = ["Scan", "SourceStack", "StackGrid"]


_SLAB = 16
"""Number of rows of voxels hashed at a time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One image as stored, with its geometry.

    Attributes:
        array: (channel, i, j, k) or, for pictures, (channel, row, column); float32 in the image's own units.
        affine: (4, 4), voxel index to RAS+ millimetres; the identity for pictures.
        kind: "dicom", "nifti", "mgh", "nrrd", "metaimage", "picture" or "array".
        modality: DICOM's Modality ("CT", "MR", ...), or None where the format states none.
        slices: for DICOM, the headers without pixels, in the order of the slices; a single header for a multi-frame
            file.
        planes: for DICOM, (slice, 4, 4), index (column, row, 0) of each original slice to LPS millimetres. Slices may
            deviate from their place on the grid by hundredths of a millimetre; objects that refer to them need the
            exact place.
        unit: for CT with values that are not Hounsfield units, their unit (RescaleType).
        unscaled: for CT, the rescale tags that the headers lack; the unit of the values is then unknown.
        frames: for a multi-frame file, the frame (from 0) of each slice.
        original: for a resampled DICOM stack, its slices before resampling; ``array`` then lies on a regular grid.
        excluded: possibly relevant parts of the source that were left out; a person must check them (exit code 3).
        header: for NIfTI, the header with the chosen geometry in millimetres, so that results keep its codes.
        geometry: for NIfTI, the form that its geometry was taken from: "sform", "qform" or "none".
        notes: assumptions, and parts of the source that were set aside, in plain words.
        blockers: reasons why DICOM objects cannot refer to this source; empty when they can.
        creation: the rule for dates in objects made from this scan.
        name: file name of the source.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> voxels = np.zeros((1, 4, 4, 2), np.float32)
        >>> Scan(array=voxels, affine=np.diag([2.0, 2.0, 5.0, 1.0]), kind="array", modality="MR")
        Scan(array MR, 4 x 4 x 2, 2 x 2 x 5 mm)
    """

    array: NDArray[np.float32]
    affine: Affine
    kind: str
    modality: str | None = None
    slices: tuple[Dataset, ...] = ()
    header: Any = None
    notes: tuple[str, ...] = ()
    blockers: tuple[str, ...] = ()
    frames: tuple[int, ...] = ()
    original: SourceStack | None = None
    excluded: tuple[str, ...] = ()
    planes: NDArray[np.float64] | None = None
    unit: str | None = None
    unscaled: tuple[str, ...] = ()
    geometry: str | None = None
    creation: Creation = TODAY
    name: str = field(default="image", repr=False)

    def __repr__(self) -> str:
        """Return size and geometry; values and headers are left out, since they may contain a patient's name."""
        size = " x ".join(map(str, self.array.shape[1:]))
        spacing = "" if self.is_picture else ", " + " x ".join(f"{mm:.4g}" for mm in self.spacing_mm) + " mm"
        return f"Scan({self.kind}{f' {self.modality}' if self.modality else ''}, {size}{spacing})"

    @property
    def is_picture(self) -> bool:
        """True for a 2-D picture, which has no position in the patient."""
        return self.array.ndim == 3

    @property
    def hounsfield(self) -> bool:
        """True for a CT whose headers state Hounsfield units."""
        return self.modality == "CT" and self.unit is None and not self.unscaled

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel sides along i, j, k in millimetres."""
        return spacing_mm(self.affine)

    def check(self) -> Scan:
        """Refuse pixels and geometry that no model could use; return the scan itself.

        Raises:
            ImageError: NaN or infinite values, or the same value everywhere.
            GeometryError: see ``check_affine``.
        """
        if not self.is_picture:
            check_affine(self.affine)
        bad = self.array.size - int(np.isfinite(self.array).sum())
        if bad:
            raise ImageError(
                f"{bad} NaN or infinite values among {self.array.size} voxels",
                "all must be finite",
                "Replace them (for CT outside the field of view, -1024) and run again.",
            )
        if self.array.size == 0 or self.array.min() == self.array.max():
            value = f"the value {self.array.flat[0]:g} everywhere" if self.array.size else "no voxels"
            raise ImageError(f"{value}", "an image needs contrast", "Check that the right file was exported.")
        return self

    def planes_lps(self) -> NDArray[np.float64]:
        """Return a matrix for each original slice, (slice, 4, 4): index (column, row, 0) to LPS millimetres."""
        if self.planes is not None:
            return self.planes
        return slice_planes(flip_lps_ras(self.affine), self.array.shape[-1])

    def grid_image(self) -> GridImage:
        """Return the image as a GridImage, (channel, *spatial), with its affine to RAS+."""
        import torch

        affine = torch.from_numpy(np.array(self.affine, dtype=np.float64))
        meta = {"filename_or_obj": self.name, "original_affine": affine.clone(), "space": "RAS"}
        plain = all(stride >= 0 for stride in self.array.strides) and self.array.flags.writeable
        # any order of the axes is kept, since a copy of a large volume takes as much memory again
        values = self.array if plain else np.ascontiguousarray(self.array)
        return GridImage(values=torch.from_numpy(values), affine=affine, meta=meta)

    def meta_tensor(self) -> MetaTensor:
        """Return the image as a MetaTensor, (channel, *spatial), with its affine to RAS+."""
        return self.grid_image().meta_tensor()

    def fingerprint(self) -> str:
        """Return the sha256 of values, shape and geometry, which identifies the image of a result without naming a
        patient.
        """
        digest = hashlib.sha256()
        for channel in self.array:  # in C order, by slabs, since a volume's bytes take as much memory again
            for start in range(0, len(channel), _SLAB):
                digest.update(np.ascontiguousarray(channel[start : start + _SLAB]).data)
        digest.update(repr((self.array.shape, np.round(self.affine, 4).tolist())).encode())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class StackGrid:
    """A regular grid around a stack, and the place of each slice on it.

    Attributes:
        shape: voxels (i, j, k): across, down, along the normal.
        affine: (4, 4), voxel index to LPS millimetres.
        place: (slice, 3) grid index of each slice's first pixel, with fractions.
    """

    shape: tuple[int, int, int]
    affine: Affine
    place: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SourceStack:
    """The original slices of a resampled stack.

    Attributes:
        values: (column, row, slice) float32, as stored in the slices.
        planes: (slice, 4, 4), index (column, row, 0) to LPS millimetres.
        grid: the regular grid.
        covered: (i, j, k), True where the grid lies between slices.
    """

    values: NDArray[np.float32]
    planes: NDArray[np.float64]
    grid: StackGrid
    covered: NDArray[np.bool_]
