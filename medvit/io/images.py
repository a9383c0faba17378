"""Readers for single-file images: NIfTI, MGH, NRRD, MetaImage and pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import GeometryError, ImageError, SourceError
from medvit.io.geometry import Affine, flip_lps_ras, spacing_mm
from medvit.io.length_units import header_unit, scaled
from medvit.io.nifti_geometry import place_nifti, raw_header, require_grey
from medvit.io.pictures import PICTURE_SUFFIXES, read_picture
from medvit.io.scan import Scan
from medvit.io.stated_sizes import check_stated_size
from medvit.io.text_headers import header_fields, require_all_bytes
from medvit.settings import check_geometry

__all__ = ["IMAGE_SUFFIXES", "READABLE", "image_grid", "is_image_name", "read_image", "read_image_slice", "read_layers"]

_NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
_MGH = (".mgz", ".mgh")
_ITK = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}
IMAGE_SUFFIXES = (*_NIFTI[:3], *_MGH, *_ITK, *PICTURE_SUFFIXES)
"""File extensions of single-file images, in lower case; of an image in two files, that of the header."""
READABLE = (
    "DICOM, NIfTI (.nii, .nii.gz, .hdr with .img), MGH (.mgh, .mgz), NRRD, MetaImage, or a picture (PNG, JPEG, TIFF, "
    "BMP, WebP)"
)
"""The formats that are read, for messages."""


def read_image(path: Path, geometry: str | None = None) -> Scan:
    """Read one image file as a ``Scan``; keep the stored order of the axes.

    Args:
        path: a NIfTI, MGH, NRRD, MetaImage, PNG, JPEG, TIFF, BMP, WebP or HEIC file.
        geometry: the form of a NIfTI to use, "sform" or "qform"; None uses the sform where it is stated.

    Returns:
        The image, float32: (1, i, j, k), or (channel, row, column) for pictures.

    Raises:
        SourceError: the file is damaged or of an unknown kind.
        ImageError: the file holds a time series, a vector image or colours where one volume is needed.
        GeometryError: a NIfTI has no usable affine, or the axes of an NRRD have different units.
        TooLargeError: the image would exceed the memory limit.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import read_image, write_volume
        >>> write_volume(Path("scan.nii"), np.ones((8, 8, 4), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> read_image(Path("scan.nii")).array.shape
        (1, 8, 8, 4)
    """
    return _read(path, True, geometry)


def image_grid(path: Path, geometry: str | None = None) -> Scan:
    """Read the grid of an image from its header, without decoding voxels.

    All voxels of the returned array are 0 and share one element of memory, so the call is fast for volumes of any size.
    Pictures are decoded.

    Args:
        path: as ``read_image``.
        geometry: as ``read_image``.

    Returns:
        The image without its values.

    Raises:
        SourceError, ImageError, GeometryError, TooLargeError: as ``read_image``, for faults that the header shows.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import image_grid, write_volume
        >>> write_volume(Path("grid.nii"), np.ones((8, 8, 4), np.uint8), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> image_grid(Path("grid.nii")).spacing_mm
        (1.0, 1.0, 2.0)
    """
    return _read(path, False, geometry)


def read_image_slice(path: Path, k: int) -> NDArray[np.float32] | None:
    """Read one slice of an uncompressed NIfTI.

    Args:
        path: the file.
        k: index of the slice along the last axis.

    Returns:
        (i, j) float32; None for other files, which can only be read as a whole.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import read_image_slice, write_volume
        >>> write_volume(Path("slices.nii"), np.ones((8, 8, 4), np.uint8), np.eye(4))
        >>> read_image_slice(Path("slices.nii"), 2).shape
        (8, 8)
    """
    if not path.name.lower().endswith(".nii"):
        return None
    import nibabel as nib

    stored: Any = nib.load(path)
    return np.asarray(stored.dataobj[:, :, k], dtype=np.float32).reshape(stored.shape[:2])


def read_layers(path: Path) -> tuple[Scan, tuple[NDArray[np.float32], ...]]:
    """Read an NRRD or MetaImage with one or several values in each voxel.

    Returns:
        A scan of the first value; and the voxels of each value, (i, j, k).

    Raises:
        SourceError: the file is damaged.
        TooLargeError: the image would exceed the memory limit.
        ImageError: the file holds no 3-D volume.
    """
    import SimpleITK as sitk

    check_stated_size(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unread(path, error) from error
    affine, notes = _itk_place(path, image)
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    layers = np.moveaxis(voxels, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else voxels[None]
    found = tuple(layer.transpose(2, 1, 0) for layer in layers)
    return Scan(array=found[0][None], affine=affine, kind=_ITK[path.suffix.lower()], notes=notes, name=path.name), found


def _read(path: Path, voxels: bool, geometry: str | None) -> Scan:
    check_geometry(geometry)
    name = path.name.lower()
    check_stated_size(path)  # also for a header alone: the caller soon reads the voxels too
    try:
        if path.stat().st_size == 0:
            raise SourceError(
                f"{path.name}, an empty file (0 bytes)", "a complete image file is needed", "Export or copy it again."
            )
        if name.endswith(_NIFTI):
            return _read_nifti(path, voxels, geometry)
        if path.suffix.lower() in _ITK:
            return _read_itk(path, voxels)
        if name.endswith(_MGH):
            return _read_mgh(path, voxels)
        return read_picture(path)
    except (GeometryError, ImageError, SourceError):
        raise
    except Exception as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> SourceError:
    """Compose the error for a file that its library cannot read, with the last line of the library's text, which says why."""
    last = (str(error).strip().splitlines() or ["no detail"])[-1].replace(str(path), path.name)
    said = f": {re.sub(r'^.*ERROR: |^.*[(]0x[0-9a-f]+[)]: ', '', last)[:160]}"
    return SourceError(
        f"{path.name}, which cannot be read ({type(error).__name__}{said})",
        "a complete image file is needed",
        "Export or copy it again.",
    )


def _empty(shape: Sequence[int]) -> NDArray[np.float32]:
    return np.broadcast_to(np.float32(0), tuple(int(n) for n in shape))


def is_image_name(path: Path) -> bool:
    """Return True if a path's extension is that of a single-file image, or of the voxels of a NIfTI in two files.

    Args:
        path: the file; only an ``.img`` is looked for, since its header must lie beside it.

    Returns:
        True for a name that ``read_image`` takes.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.io import is_image_name
        >>> is_image_name(Path("scan.nii.gz")), is_image_name(Path("slice.dcm"))
        (True, False)
    """
    name = path.name.lower()
    return name.endswith(IMAGE_SUFFIXES) or (name.endswith(".img") and path.with_suffix(".hdr").is_file())


def _read_mgh(path: Path, voxels: bool) -> Scan:
    import nibabel as nib
    from nibabel.openers import ImageOpener

    image: Any = nib.load(path)
    if len(image.shape) != 3:
        count = image.shape[3]
        raise ImageError(
            f"an MGH file of {count} volumes",
            "one is needed",
            "Extract one, for example with FreeSurfer's mri_convert.",
        )
    shape = image.shape
    array = image.get_fdata(dtype=np.float32) if voxels else _empty(shape)
    with ImageOpener(path) as file:
        placed = int.from_bytes(file.read(30)[28:], "big", signed=True) > 0  # nibabel's header no longer tells
    words = "The MGH header states no geometry; FreeSurfer's default, coronal slices of 1 mm, was assumed."
    notes = () if placed else (words,)
    return Scan(array=array[None], affine=image.affine, kind="mgh", notes=notes, name=path.name)


def _read_nifti(path: Path, voxels: bool, geometry: str | None) -> Scan:
    import nibabel as nib

    raw = raw_header(_header_file(path))
    require_grey(raw)
    shape = raw.get_data_shape()
    if len(shape) > 3 and int(np.prod(shape[3:])) > 1:
        raise ImageError(
            f"a {len(shape)}-D NIfTI of shape {'x'.join(map(str, shape))}",
            "one 3-D volume is needed",
            "Extract one volume of the series (for example with nibabel's four_to_three) and run again.",
        )
    if len(shape) < 3:
        raise ImageError(f"a {len(shape)}-D NIfTI", "a 3-D volume is needed", "Save it as a volume or as PNG.")
    place = place_nifti(raw, geometry)
    image = nib.load(path)
    array = np.asarray(image.get_fdata(dtype=np.float32)).reshape(shape[:3]) if voxels else _empty(shape[:3])
    header = place.header(image.header)
    if header["magic"] == b"ni1":  # of a pair; what is written from it is a single file
        header = nib.Nifti1Header.from_header(header, check=False)
    # nibabel clears slope and intercept on loading; a restored image must be stored like its source
    header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
    dropped = ("The NIfTI's trailing axes of length 1 were dropped.",) if len(shape) > 3 else ()
    return Scan(
        array=array[None],
        affine=place.affine,
        kind="nifti",
        header=header,
        notes=(*place.notes, *dropped),
        excluded=place.flags,
        geometry=place.form,
        name=path.name,
    )


def _header_file(path: Path) -> Path:
    """Return the header of a NIfTI in two files; refuse Analyze 7.5, which looks like one and states no orientation."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return path
    header = next((file for file in (path.with_suffix(".hdr"), path.with_suffix(".HDR")) if file.is_file()), None)
    if header is None:
        raise SourceError(f"{path.name} without its header", "the .hdr file beside it is needed", "Copy both files.")
    if not any(path.with_suffix(ending).is_file() for ending in (".img", ".IMG", ".img.gz")):
        raise SourceError(f"{path.name} without its voxels", "the .img file beside it is needed", "Copy both files.")
    if header.read_bytes()[344:347] != b"ni1":
        raise GeometryError(
            f"{path.name} in the Analyze 7.5 format, which does not state left and right",
            "an image with its orientation is needed",
            "Convert the original images to NIfTI again, for example with dcm2niix.",
        )
    return header


def _read_itk(path: Path, voxels: bool) -> Scan:
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK writes warnings to stderr
    kind = _ITK[path.suffix.lower()]
    stated = header_fields(path, kind)
    sides = stated.get("elementspacing", stated.get("elementsize", stated.get("spacings", ""))).split()
    require_all_bytes(path, stated)
    if any(float(side) == 0 for side in sides):
        raise GeometryError(
            f"a spacing of 0 in the header of {path.name} ({' '.join(sides)})",
            "the distance between voxels is needed in each direction",
            "Correct the header, or export the image again.",
        )
    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    if header.GetNumberOfComponents() != 1:
        count = header.GetNumberOfComponents()
        raise ImageError(f"{count} components per voxel", "one is needed", "Save one channel and run again.")
    affine, notes = _itk_place(path, header)
    if voxels:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32).transpose(2, 1, 0)
    else:
        array = _empty(header.GetSize())
    return Scan(array=array[None], affine=affine, kind=_ITK[path.suffix.lower()], notes=notes, name=path.name)


def _itk_place(path: Path, header: Any) -> tuple[Affine, tuple[str, ...]]:
    """Return the affine (voxel index to RAS+ millimetres) of an ITK image or reader, and notes about its unit."""
    if header.GetDimension() != 3:
        raise ImageError(f"a {header.GetDimension()}-D image", "a 3-D volume is needed", "Extract one volume first.")
    lps = np.eye(4)
    lps[:3, :3] = np.array(header.GetDirection()).reshape(3, 3) * np.array(header.GetSpacing())
    lps[:3, 3] = header.GetOrigin()
    kind = _ITK[path.suffix.lower()]
    unit = header_unit(path, kind)
    affine = scaled(flip_lps_ras(lps), unit.to_mm)
    placed = kind != "nrrd" or {"space", "space dimension"} & set(header_fields(path, kind))
    words = () if placed else ("The NRRD states no space; its axes were taken to run to the left, back and head.",)
    return affine, (*unit.notes(spacing_mm(affine)), *words)
