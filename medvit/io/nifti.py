"""Writers of NIfTI files: label maps with embedded names, intensities, plain volumes. medvit saves NIfTI only here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from medvit.io.scan import Scan
from medvit.labels import Label

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

__all__ = ["write_intensities", "write_label_names", "write_labels", "write_volume"]

_ANY_READER = 0
"""NIfTI extension code of label tables that TotalSegmentator's tools read; nibabel cannot read 30, the code of Caret
itself.
"""


def _label_table(labels: Sequence[Label]) -> bytes:
    rows = "".join(
        f"<Label Key={quoteattr(str(item.id))} Red={quoteattr(f'{item.color[0] / 255:.4f}')} "
        f"Green={quoteattr(f'{item.color[1] / 255:.4f}')} Blue={quoteattr(f'{item.color[2] / 255:.4f}')} "
        f'Alpha="1">{escape(item.name)}</Label>'
        for item in labels
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><VolumeInformation Index="0"><LabelTable>'
        f"{rows}</LabelTable><VolumeType><![CDATA[Label]]></VolumeType></VolumeInformation></CaretExtension>"
    )
    return text.encode()


def write_labels(path: Path, array: np.ndarray, scan: Scan, labels: Sequence[Label]) -> None:
    """Write a label map on the scan's grid, with its label names embedded.

    A NIfTI source's sform, qform and their codes are kept exactly where both place the voxels alike; otherwise both
    state the affine of the scan (see ``nifti_geometry``). The unit is the millimetre. The source's description, file
    names and extensions are not copied, since they can hold patient data.

    Args:
        path: the file to write.
        array: (i, j, k) integer label ids.
        scan: the source.
        labels: the labels whose names and colours are embedded.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import Scan, read_image, write_labels
        >>> from medvit.io.labels import make_label
        >>> scan = Scan(array=np.zeros((1, 4, 4, 2), np.float32), affine=np.eye(4), kind="array")
        >>> write_labels(Path("labels.nii.gz"), np.ones((4, 4, 2), np.uint8), scan, [make_label(1, "Liver")])
        >>> read_image(Path("labels.nii.gz")).array.max()
        np.float32(1.0)
    """
    import nibabel as nib

    image = _image_on(array, array.dtype, scan)
    image.header.set_slope_inter(1, 0)
    image.header.set_intent("label", name="")
    image.header.extensions.append(nib.nifti1.Nifti1Extension(_ANY_READER, _label_table(labels)))
    nib.save(image, path)


def write_label_names(path: Path, labels: Sequence[Label]) -> None:
    """Write the JSON file beside a label map: name, title, colour and codes of each label.

    Args:
        path: the file to write.
        labels: the labels, each with its id.

    Examples:
        >>> import json
        >>> from pathlib import Path
        >>> from medvit.io import write_label_names
        >>> from medvit.io.labels import make_label
        >>> write_label_names(Path("labels.json"), [make_label(1, "Liver")])
        >>> json.loads(Path("labels.json").read_text())["labels"]["1"]["name"]
        'liver'
    """
    table = {
        str(item.id): {
            "name": item.name,
            "title": item.title,
            "color": list(item.color),
            "category": item.category.model_dump(),
            "code": item.type.model_dump(),
            "laterality": item.laterality.model_dump() if item.laterality else None,
        }
        for item in labels
    }
    path.write_text(json.dumps({"labels": table}, indent=2) + "\n")


def write_volume(path: Path, array: NDArray[np.generic], affine: NDArray[np.floating[Any]], words: str = "") -> None:
    """Write a volume on a grid of its own.

    Args:
        path: the file to write.
        array: (i, j, k), of a dtype that NIfTI supports.
        affine: (4, 4), voxel index to RAS+ millimetres; written as sform and as qform.
        words: text for the header's description, at most 79 bytes.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import read_image, write_volume
        >>> write_volume(Path("volume.nii.gz"), np.ones((8, 8, 4), np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> read_image(Path("volume.nii.gz"))
        Scan(nifti, 8 x 8 x 4, 1 x 1 x 2 mm)
    """
    import nibabel as nib

    image = _plain_image(array, array.dtype, affine)
    image.header["descrip"] = words.encode()[:79]
    nib.save(image, path)


def write_intensities(path: Path, array: NDArray[np.float32], scan: Scan, words: str, given: Scan | None = None) -> str:
    """Write a volume of intensities on the scan's grid; choose a dtype that keeps the values.

    Whole numbers are stored as whole numbers: with the dtype, slope and intercept of a NIfTI source, else in 16 bits
    where the source's values are whole. A larger dtype is used where the values do not fit.

    Args:
        path: the file to write.
        array: (i, j, k) float32, in the source's unit.
        scan: the source. Its geometry is written as in ``write_labels``; its texts are not, since they can name people.
        words: text for the header's description, at most 79 bytes.
        given: the source before interpolation, where ``scan`` is a resampled copy; its values decide if they are whole.

    Returns:
        The stored dtype, e.g. "int16".

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import Scan, write_intensities
        >>> scan = Scan(array=np.full((1, 4, 4, 2), 7, np.float32), affine=np.eye(4), kind="array")
        >>> write_intensities(Path("restored.nii"), scan.array[0] + 1, scan, "denoised")
        'int16'
    """
    import nibabel as nib

    own = scan.header if isinstance(scan.header, nib.Nifti1Header) else None
    slope, inter = _scale(own)
    wanted = own.get_data_dtype() if own is not None else _plain_type(given or scan)
    stored, dtype = _stored(array, np.dtype(wanted), slope, inter)
    image = _image_on(stored, dtype, scan)
    image.header["descrip"] = words.encode()[:79]
    if np.issubdtype(dtype, np.integer):
        image.header.set_slope_inter(slope, inter)
    else:
        image.header.set_slope_inter(1, 0)
    nib.save(image, path)
    return str(dtype)


def _scale(header: object) -> tuple[float, float]:
    slope, inter = header.get_slope_inter() if header is not None else (None, None)  # type: ignore[attr-defined]
    return float(slope or 1.0), float(inter or 0.0)


def _plain_type(scan: Scan) -> np.dtype[np.generic]:
    values = scan.array[0] if scan.original is None else scan.original.values
    return np.dtype(np.int16) if bool((values == np.rint(values)).all()) else np.dtype(np.float32)


def _stored(
    array: NDArray[np.float32], dtype: np.dtype[np.generic], slope: float, inter: float
) -> tuple[NDArray[np.generic], np.dtype[np.generic]]:
    if not np.issubdtype(dtype, np.integer):
        wide = np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
        return array.astype(wide), wide
    whole = np.rint((array.astype(np.float64) - inter) / slope)
    low, high = whole.min(), whole.max()
    kinds: list[Any] = [dtype, np.dtype(np.int16), np.dtype(np.int32)]
    for kind in kinds:
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return whole.astype(kind), np.dtype(kind)
    return array.astype(np.float32), np.dtype(np.float32)


def _image_on(array: NDArray[np.generic], dtype: np.dtype[np.generic], scan: Scan) -> Nifti1Image:
    """Return an image on the scan's grid. Copy the header of a NIfTI source without its text fields; else make a plain
    header.
    """
    import nibabel as nib

    if not isinstance(scan.header, nib.Nifti1Header):
        return _plain_image(array, dtype, scan.affine)
    header = scan.header.copy()
    header.extensions.clear()
    for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
        if field in header:
            header[field] = b""
    header["cal_min"] = header["cal_max"] = 0
    header.set_data_shape(array.shape)
    header.set_data_dtype(dtype)
    kind = nib.Nifti1Image if header.sizeof_hdr == 348 else nib.Nifti2Image
    return kind(array, None, header)


def _plain_image(
    array: NDArray[np.generic], dtype: np.dtype[np.generic], affine: NDArray[np.floating[Any]]
) -> Nifti1Image:
    """Return an image whose sform and qform both state the affine, in millimetres."""
    import nibabel as nib

    image = nib.Nifti1Image(array, affine, dtype=dtype)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    return image
