"""Geometry of a NIfTI file: its sform and qform, their unit, and the choice between the two.

The sform is used where it is stated (code above 0), else the qform; a choice by the user overrides this rule.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import GeometryError, ImageError
from medvit.io.geometry import Affine, affine_fault, axis_codes, spacing_mm
from medvit.io.length_units import LengthUnit, nifti_unit, scaled
from medvit.io.stated_sizes import check_stated_size
from medvit.settings import check_geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NiftiPlace", "load_nifti", "place_nifti", "raw_header", "require_grey"]

_NOTED, _FLAGGED = 0.1, 1.0
"""Distances in voxels between a corner placed by sform and by qform, above which a note is added and a flag is set."""

_WIDEST_SIDE_MM, _LONGEST_MM, _SHORTEST_MM = 20.0, 3000.0, 2.0
"""Limits of plausible sizes: the largest voxel side, the largest extent, the smallest extent. Beyond them, the unit is
probably not the millimetre.
"""

_QUATERNION_SLACK = 1e-3
"""Excess of a quaternion's squared length over 1 that counts as rounding."""

_QUATERNION_ROUNDING = 3 * float(np.finfo(np.float32).eps)
"""Rounding of the quaternion of a half turn, whose unstored component is 0; the square root of this error would rotate
the volume.
"""

_CODES = range(1, 6)
"""Codes of a stated sform or qform that the standard defines."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NiftiPlace:
    """The geometry that was chosen for a NIfTI's voxels.

    Attributes:
        affine: (4, 4), voxel index to RAS+ millimetres.
        form: "sform", "qform", or "none" where the header states neither.
        code: code of the chosen form.
        notes: conversions, assumptions and choices, in plain words.
        flags: findings that a person must check.
        restated: True where some readers would place the voxels elsewhere than ``affine`` if the header were kept as it
            is.
    """

    affine: Affine
    form: str
    code: int
    notes: tuple[str, ...]
    flags: tuple[str, ...]
    restated: bool

    def header(self, header: Any) -> Any:
        """Return a copy of a nibabel header that states this place in millimetres, in sform and qform."""
        stated = header.copy()
        stated["xyzt_units"] = (int(header["xyzt_units"]) & ~0x07) | 2
        if not self.restated:
            return stated
        code = self.code if self.code in _CODES else 1
        if self.form == "none":
            stated["pixdim"][1:4] = spacing_mm(self.affine)
            return stated
        stated.set_qform(self.affine, code)
        stated.set_sform(self.affine, code)
        return stated


def raw_header(path: str | os.PathLike[str]) -> Any:
    """Read the header of a NIfTI file as stored; nibabel would replace a voxel size of 0 by 1.

    Raises:
        OSError, ValueError, errors of nibabel: the file has no NIfTI header.
    """
    import nibabel as nib
    from nibabel.openers import ImageOpener

    with ImageOpener(path) as file:
        block = file.read(nib.Nifti2Header.sizeof_hdr)
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(block) else nib.Nifti1Header
    header = kind(block[: kind.sizeof_hdr], check=False)
    if int(header["sizeof_hdr"]) != kind.sizeof_hdr:
        raise ValueError("it does not begin with a NIfTI header")
    return header


def require_grey(raw: Any) -> None:
    """Refuse a NIfTI with colours or complex numbers; each voxel must hold one real number.

    Args:
        raw: header of the file as stored (``raw_header``).

    Raises:
        ImageError: the voxels are colours or complex numbers.
    """
    kind = raw.get_data_dtype()
    if kind.names:
        raise ImageError("a colour NIfTI", "one grey value per voxel is needed", "Save one channel and run again.")
    if kind.kind == "c":
        raise ImageError(
            "a NIfTI of complex numbers", "one real value per voxel is needed", "Save their magnitude and run again."
        )


def place_nifti(raw: Any, geometry: str | None = None) -> NiftiPlace:
    """Choose between sform and qform; return the geometry of a NIfTI's voxels.

    Args:
        raw: header of the file as stored (``raw_header``).
        geometry: the form to use, "sform" or "qform", chosen by the user; None uses the sform where it is stated.

    Raises:
        GeometryError: the chosen form is not finite, has a zero or implausible voxel size, or is sheared.
    """
    check_geometry(geometry)
    unit = nifti_unit(int(raw["xyzt_units"]))
    forms = {"sform": _sform(raw), "qform": _qform(raw)}
    codes = {name: int(raw[f"{name}_code"]) for name in forms}
    stated = [name for name in forms if codes[name] > 0]
    taken = geometry if geometry in stated else next(iter(stated), "none")
    notes, flags = [], []
    if taken == "none":
        forms["none"], codes["none"] = _unplaced(raw), 0
        notes.append("The NIfTI states no orientation (sform and qform codes are 0); left and right are assumed.")
    elif geometry is not None and taken != geometry:
        notes.append(f"The NIfTI has no {geometry} (its code is 0); the {taken}, the only one stated, was taken.")
    affine = scaled(forms[taken], unit.to_mm)
    other = next((name for name in stated if name != taken), None)
    beside = None if other is None else scaled(forms[other], unit.to_mm)
    _require_sound(affine, taken, unit, None if beside is None or affine_fault(beside) else other)
    notes += unit.notes(spacing_mm(affine))
    if not unit.name and _is_implausible(affine, _shape(raw)):
        notes.append(_doubted(affine, _shape(raw)))
    if taken != "sform" and (np.asarray(raw["pixdim"][1:4]) < 0).any():
        notes.append("The NIfTI states a negative voxel size; its magnitude was taken.")
    apart = 0.0
    if other is not None and beside is not None:
        apart, note, flag = _compared((taken, affine, codes[taken]), (other, beside, codes[other]), raw, geometry)
        notes += note
        flags += flag
    elif taken == "sform":
        apart, note = _sizes_compared(affine, raw, unit)
        notes += note
    restated = unit.to_mm != 1 or apart > _NOTED or any(codes[name] not in (0, *_CODES) for name in codes)
    return NiftiPlace(
        affine=affine, form=taken, code=codes[taken], notes=tuple(notes), flags=tuple(flags), restated=restated
    )


def load_nifti(path: str | os.PathLike[str], geometry: str | None = None) -> tuple[Any, NiftiPlace]:
    """Load a NIfTI with nibabel, with the affine and header of the chosen form in millimetres. Voxels are read on first
    use.

    Args:
        path: the file.
        geometry: the form to use, "sform" or "qform"; None uses the sform where it is stated.

    Returns:
        The nibabel image, and its geometry (``NiftiPlace``).

    Raises:
        GeometryError: the chosen form is not finite, has a zero or implausible voxel size, or is sheared.
        ImageError: the voxels are colours or complex numbers.
        TooLargeError: the image would exceed the memory limit.
        OSError, errors of nibabel: the file cannot be read.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import load_nifti, write_volume
        >>> write_volume(Path("place.nii"), np.ones((8, 8, 4), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> image, place = load_nifti("place.nii")
        >>> image.shape, place.form
        ((8, 8, 4), 'sform')
    """
    import nibabel as nib

    check_stated_size(Path(path))
    raw = raw_header(path)
    require_grey(raw)
    place = place_nifti(raw, geometry)
    image: Any = nib.load(path)
    return type(image)(image.dataobj, place.affine, place.header(image.header)), place


def _shape(raw: Any) -> tuple[int, int, int]:
    sizes = [int(n) for n in raw.get_data_shape()[:3]]
    i, j, k = sizes + [1] * (3 - len(sizes))
    return i, j, k


def _sform(raw: Any) -> Affine:
    rows = [np.asarray(raw[f"srow_{axis}"], dtype=np.float64) for axis in "xyz"]
    return np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])


def _qform(raw: Any) -> Affine:
    """Compute the affine from quaternion, offsets and voxel sizes; return NaN where the quaternion is not a rotation."""
    from nibabel.quaternions import quat2mat

    vector = np.array([float(raw[f"quatern_{axis}"]) for axis in "bcd"])
    pixdim = np.asarray(raw["pixdim"], dtype=np.float64)
    offset = [float(raw[f"qoffset_{axis}"]) for axis in "xyz"]
    square = float(vector @ vector)
    affine = np.full((4, 4), np.nan)
    if not np.isfinite([*vector, *pixdim[:4], *offset]).all() or square > 1 + _QUATERNION_SLACK:
        return affine
    rest = 1 - square if 1 - square > _QUATERNION_ROUNDING else 0.0
    rotation = quat2mat([np.sqrt(rest), *vector])
    affine[:3, :3] = rotation * np.abs(pixdim[1:4])
    if pixdim[0] < 0:  # qfac: 0 counts as 1
        affine[:3, 2] *= -1
    affine[:3, 3], affine[3] = offset, (0, 0, 0, 1)
    return affine


def _unplaced(raw: Any) -> Affine:
    """Return nibabel's affine for a file that states no form: voxel sizes alone, with the origin in the middle."""
    plain = raw.copy()
    plain["pixdim"][1:4] = np.abs(raw["pixdim"][1:4])
    return np.asarray(plain.get_base_affine(), dtype=np.float64)


def _require_sound(affine: Affine, taken: str, unit: LengthUnit, other: str | None) -> None:
    fault = affine_fault(affine)
    if fault is None:
        return
    found, needed, step = fault
    if "spacing" in found and unit.name != "millimetre":
        stated = (
            f"its lengths in {unit.name}s" if unit.name else "no unit of length (xyzt_units 0: taken as millimetres)"
        )
        step = f"The header states {stated}. {step}"
    step = f"Take the {other} with {{geometry={other}}}, or correct the header." if other else step
    where = f" by the {taken}" if other else ""
    raise GeometryError(f"{found}{where}", needed, step, option="geometry")


def _is_implausible(affine: Affine, shape: tuple[int, int, int]) -> bool:
    sides = np.array(spacing_mm(affine))
    longest = float((sides * shape).max())
    return bool(sides.max() > _WIDEST_SIDE_MM or longest > _LONGEST_MM or longest < _SHORTEST_MM)


def _doubted(affine: Affine, shape: tuple[int, int, int]) -> str:
    sides = spacing_mm(affine)
    whole = " x ".join(f"{side * n:.4g}" for side, n in zip(sides, shape, strict=True))
    return (
        f"The NIfTI states no unit of length (xyzt_units 0); millimetres were assumed, which makes voxels of "
        f"{' x '.join(f'{side:.4g}' for side in sides)} mm and a volume of {whole} mm. Set the unit in the header if that is wrong."
    )


_Form = tuple[str, Affine, int]
"""Name, affine in millimetres and code of a form."""


def _compared(taken: _Form, other: _Form, raw: Any, geometry: str | None) -> tuple[float, list[str], list[str]]:
    """Measure the largest distance between the corners as placed by two forms, in voxels; return it with notes and
    flags.
    """
    (name, affine, code), (beside, second, code2) = taken, other
    if not np.isfinite(second).all() or abs(np.linalg.det(second[:3, :3])) < 1e-12:
        words = "is not finite" if not np.isfinite(second).all() else "has a voxel size of 0"
        return np.inf, [f"The NIfTI's {beside} (code {code2}) {words} and was passed over; the {name} was taken."], []
    corners = _corners(_shape(raw))
    there, here = corners @ second.T, corners @ affine.T
    voxels = float(np.linalg.norm((there @ np.linalg.inv(affine).T - corners)[:, :3], axis=1).max())
    if voxels <= _NOTED:
        return voxels, [], []
    millimetres = float(np.linalg.norm((there - here)[:, :3], axis=1).max())
    letters, letters2 = axis_codes(affine), axis_codes(second)
    same_hand = np.sign(np.linalg.det(affine[:3, :3])) == np.sign(np.linalg.det(second[:3, :3]))
    words = (
        f"The NIfTI's sform and qform differ by up to {millimetres:.4g} mm ({voxels:.3g} voxels) at a corner: "
        f"{letters} by the {name} (code {code}), {letters2} by the {beside} (code {code2})"
    )
    if voxels <= _FLAGGED or (letters == letters2 and same_hand):
        reason = "as requested" if geometry is not None else "since the sform goes before the qform"
        return voxels, [f"{words}. The {name} was taken, {reason}."], []
    if geometry is not None:
        return voxels, [f"{words}. The {name} was taken, as requested."], []
    what = "other axes" if same_hand else "the mirror image"
    flag = (
        f"{words}. Programs that read the {beside} see {what}. The {name} was taken; check a side that you know, then "
        f"choose the geometry: {name} or {beside}."
    )
    return voxels, [], [flag]


def _sizes_compared(affine: Affine, raw: Any, unit: LengthUnit) -> tuple[float, list[str]]:
    """Measure by how many voxels ``pixdim`` misses the extents of the sform, the only stated form; return that with
    notes.
    """
    sides, stated = np.array(spacing_mm(affine)), np.asarray(raw["pixdim"][1:4], dtype=np.float64) * unit.to_mm
    apart = float((np.abs(stated / sides - 1) * _shape(raw)).max()) if np.isfinite(stated).all() else np.inf
    if apart <= _NOTED:
        return apart, []
    found, taken = (" x ".join(f"{side:.4g}" for side in row) for row in (stated, sides))
    return apart, [
        f"The NIfTI's voxel sizes (pixdim) are {found} mm, those of its sform {taken} mm; the sform's were taken."
    ]


def _corners(shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Return the eight outer corners of a volume as homogeneous voxel indices, (8, 4)."""
    ends = [(-0.5, n - 0.5) for n in shape]
    return np.array([(*corner, 1.0) for corner in product(*ends)])
