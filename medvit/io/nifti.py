"""Writing label maps as NIfTI, with their names inside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from medvit.io.scan import Scan
from medvit.labels import Label

__all__ = ["write_label_names", "write_labels"]

_ANY_READER = 0
"""NIfTI extension code under which label tables are read by TotalSegmentator's tools; nibabel cannot read 30, Caret's own."""


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
    """Write (i, j, k) labels on the scan's grid.

    A NIfTI source's sform, qform and codes are kept to the bit where both forms place the voxels alike; else both state the
    place that was taken (``nifti_geometry``). The unit is the millimetre. The source's description, file names and extensions
    are not kept, since they can hold patient data.
    """
    import nibabel as nib

    if isinstance(scan.header, nib.Nifti1Header):
        header = scan.header.copy()
        header.extensions.clear()
        for field in ("descrip", "aux_file", "db_name", "intent_name", "data_type"):
            if field in header:
                header[field] = b""
        header["cal_min"] = header["cal_max"] = 0
        header.set_intent("label", name="")
        header.set_slope_inter(1, 0)
        header.set_data_dtype(array.dtype)
        header.set_data_shape(array.shape)
        image = (
            type(nib.Nifti1Image(array, None))(array, None, header)
            if header.sizeof_hdr == 348
            else nib.Nifti2Image(array, None, header)
        )
    else:
        image = nib.Nifti1Image(array, scan.affine)
        image.set_sform(scan.affine, 1)
        image.set_qform(scan.affine, 1)
        image.header.set_xyzt_units("mm")
        image.header.set_intent("label", name="")
    image.header.extensions.append(nib.nifti1.Nifti1Extension(_ANY_READER, _label_table(labels)))
    nib.save(image, path)


def write_label_names(path: Path, labels: Sequence[Label]) -> None:
    """Write the sidecar: id, name, title, colour and codes of each label."""
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
