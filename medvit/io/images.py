"""Readers for single-file images: NIfTI, NRRD, MetaImage, PNG and JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import GeometryError, ImageError, SourceError
from medvit.io.geometry import Affine, flip_lps_ras, spacing_mm
from medvit.io.length_units import header_unit, scaled
from medvit.io.memory_limits import check_image_memory
from medvit.io.nifti_geometry import place_nifti, raw_header, require_grey
from medvit.io.scan import Scan
from medvit.io.stated_sizes import check_stated_size
from medvit.settings import check_geometry

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["IMAGE_SUFFIXES", "PICTURE_SUFFIXES", "image_grid", "read_image", "read_image_slice", "read_layers"]

_NIFTI = (".nii", ".nii.gz")
_ITK = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
IMAGE_SUFFIXES = (*_NIFTI, *_ITK, *PICTURE_SUFFIXES)


def read_image(path: Path, geometry: str | None = None) -> Scan:
    """One image file as a ``Scan``, its array order as stored.

    Args:
        path: the file.
        geometry: for a NIfTI, "sform" or "qform" to take; None for the sform where it is stated.

    Raises:
        SourceError: the file is damaged or of an unknown kind.
        ImageError: it holds a time series, a vector image or colours where one volume is needed.
        GeometryError: a NIfTI without a usable place in the world; axes in different units.
    """
    return _read(path, True, geometry)


def image_grid(path: Path, geometry: str | None = None) -> Scan:
    """The same from a volume's header alone: every voxel is 0, one of memory stands for all. Quick, whatever the size.

    Raises: as ``read_image``, of what the header shows.
    """
    return _read(path, False, geometry)


def read_image_slice(path: Path, k: int) -> NDArray[np.float32] | None:
    """Read one slice, (i, j), of an uncompressed NIfTI, its last axis at ``k``; None of other files, which are read as a whole."""
    if not path.name.lower().endswith(".nii"):
        return None
    import nibabel as nib

    stored: Any = nib.load(path)
    return np.asarray(stored.dataobj[:, :, k], dtype=np.float32).reshape(stored.shape[:2])


def read_layers(path: Path) -> tuple[Scan, tuple[NDArray[np.float32], ...]]:
    """Read an NRRD or MetaImage of one or several values a voxel.

    Returns:
        The volume of the first value, and each value's voxels, (i, j, k).

    Raises:
        SourceError: the file is damaged, or larger than the memory limit. ImageError: it is no volume.
    """
    import SimpleITK as sitk

    check_stated_size(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise SourceError(
            f"Found {path.name}, which cannot be read ({type(error).__name__}: {_first_line(error)}); "
            "a complete image file is needed. Export or copy it again."
        ) from error
    affine, notes = _itk_place(path, image)
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    layers = np.moveaxis(voxels, -1, 0) if image.GetNumberOfComponentsPerPixel() > 1 else voxels[None]
    found = tuple(layer.transpose(2, 1, 0) for layer in layers)
    return Scan(found[0][None], affine, _ITK[path.suffix.lower()], notes=notes, name=path.name), found


def _read(path: Path, voxels: bool, geometry: str | None) -> Scan:
    check_geometry(geometry)
    name = path.name.lower()
    check_stated_size(path)  # a viewer that reads the header alone holds the voxels soon after
    try:
        if path.stat().st_size == 0:
            raise SourceError(
                f"Found {path.name}, an empty file (0 bytes); a complete image file is needed. Export or copy it again."
            )
        if name.endswith(_NIFTI):
            return _read_nifti(path, voxels, geometry)
        if path.suffix.lower() in _ITK:
            return _read_itk(path, voxels)
        return _read_picture(path)
    except (GeometryError, ImageError, SourceError):
        raise
    except Exception as error:
        raise SourceError(
            f"Found {path.name}, which cannot be read ({type(error).__name__}: {_first_line(error)}); "
            "a complete image file is needed. Export or copy it again."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no detail"])[0][:160]


def _empty(shape: Sequence[int]) -> NDArray[np.float32]:
    return np.broadcast_to(np.float32(0), tuple(int(n) for n in shape))


def _read_nifti(path: Path, voxels: bool, geometry: str | None) -> Scan:
    import nibabel as nib

    raw = raw_header(path)
    require_grey(raw)
    shape = raw.get_data_shape()
    if len(shape) > 3 and int(np.prod(shape[3:])) > 1:
        raise ImageError(
            f"Found a {len(shape)}-D NIfTI of shape {'x'.join(map(str, shape))}; one 3-D volume is needed. "
            "Extract one volume of the series (for example with nibabel's four_to_three) and run again."
        )
    if len(shape) < 3:
        raise ImageError(f"Found a {len(shape)}-D NIfTI; a 3-D volume is needed. Save it as a volume or as PNG.")
    place = place_nifti(raw, geometry)
    image = nib.load(path)
    array = np.asarray(image.get_fdata(dtype=np.float32)).reshape(shape[:3]) if voxels else _empty(shape[:3])
    header = place.header(image.header)
    # nibabel clears them on loading; a restored image is stored as its source is
    header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)
    dropped = ("The NIfTI's trailing axes of length 1 were dropped.",) if len(shape) > 3 else ()
    return Scan(
        array[None],
        place.affine,
        "nifti",
        header=header,
        notes=(*place.notes, *dropped),
        excluded=place.flags,
        geometry=place.form,
        name=path.name,
    )


def _read_itk(path: Path, voxels: bool) -> Scan:
    import SimpleITK as sitk

    header = sitk.ImageFileReader()
    header.SetFileName(str(path))
    header.ReadImageInformation()
    if header.GetNumberOfComponents() != 1:
        count = header.GetNumberOfComponents()
        raise ImageError(f"Found {count} components per voxel; one is needed. Save one channel and run again.")
    affine, notes = _itk_place(path, header)
    if voxels:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32).transpose(2, 1, 0)
    else:
        array = _empty(header.GetSize())
    return Scan(array[None], affine, _ITK[path.suffix.lower()], notes=notes, name=path.name)


def _itk_place(path: Path, header: Any) -> tuple[Affine, tuple[str, ...]]:
    """Voxel index to RAS+ millimetres, from an ITK image or its reader, and notes on its unit."""
    if header.GetDimension() != 3:
        raise ImageError(f"Found a {header.GetDimension()}-D image; a 3-D volume is needed. Extract one volume first.")
    lps = np.eye(4)
    lps[:3, :3] = np.array(header.GetDirection()).reshape(3, 3) * np.array(header.GetSpacing())
    lps[:3, 3] = header.GetOrigin()
    unit = header_unit(path, _ITK[path.suffix.lower()])
    affine = scaled(flip_lps_ras(lps), unit.to_mm)
    return affine, tuple(unit.notes(spacing_mm(affine)))


def _read_picture(path: Path) -> Scan:
    with _opened_picture(path) as picture:
        check_image_memory(picture.size[::-1], "a picture", values=3)  # where the header lies deep in the file
        deep = picture.mode in ("I", "I;16", "F", "L", "1")
        pixels = np.asarray(picture if deep else picture.convert("RGB"), dtype=np.float32)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Scan(channels, np.eye(4), "picture", name=path.name)


def _opened_picture(path: Path) -> Picture:
    """Open a picture without decoding it. Pillow's own limit on sizes would refuse what the memory limit allows."""
    from PIL import Image, JpegImagePlugin, PngImagePlugin

    with path.open("rb") as file:
        start = file.read(8)
    if start == b"\x89PNG\r\n\x1a\n":
        return PngImagePlugin.PngImageFile(path)
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    return Image.open(path)
