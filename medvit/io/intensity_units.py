"""The unit of an image's values, as its headers state it."""

from __future__ import annotations

from medvit.io.scan import Scan

__all__ = ["AS_STORED", "stated_unit"]

AS_STORED = "as stored"
"""Name for values without a unit, as in most MR images and in formats that state none."""

_PET = {
    "CNTS": "counts",
    "PROPCNTS": "proportional to counts",
    "CPS": "counts/s",
    "PROPCPS": "proportional to counts/s",
    "BQML": "Bq/ml",
    "PCNT": "%",
    "GML": "g/ml",
    "CM2": "cm2",
    "CM2ML": "cm2/ml",
    "MGMINML": "mg/min/ml",
    "UMOLMINML": "umol/min/ml",
    "UMOLML": "umol/ml",
    "MLMING": "ml/min/g",
    "MLG": "ml/g",
    "1CM": "1/cm",
}
"""Plain words for the Units (0054,1001) of a PET image (PS3.3 C.8.9.1.1.3)."""

_SUV = {"BW": "g/ml (SUVbw)", "LBM": "g/ml (SUVlbm)", "IBW": "g/ml (SUVibw)", "BSA": "cm2/ml (SUVbsa)"}
"""Plain words for the SUV Type (0054,1006) of a PET image in GML or CM2ML (PS3.3 C.8.9.1)."""


def stated_unit(scan: Scan) -> str | None:
    """Return the unit of a scan's values.

    CT images are in Hounsfield units unless their Rescale Type names another unit or their rescale tags are missing
    (PS3.3 C.8.2.1, C.11.1.1.2). PET images are in the unit of their Units attribute. Values of other modalities have no
    unit.

    Args:
        scan: the image.

    Returns:
        The unit in plain words; ``AS_STORED`` for values without a unit; None where the format states no modality.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan, stated_unit
        >>> ct = Scan(array=np.zeros((1, 4, 4, 2), np.float32), affine=np.eye(4), kind="dicom", modality="CT")
        >>> stated_unit(ct)
        'HU'
    """
    if scan.modality is None:
        return None
    header = scan.slices[0] if scan.slices else None
    if scan.modality == "CT":
        if scan.unscaled:
            return AS_STORED
        return "HU" if header is None or header.get("RescaleType") in (None, "", "HU") else AS_STORED
    if scan.modality != "PT" or header is None:
        return AS_STORED
    unit = str(header.get("Units") or "")
    if unit in ("GML", "CM2ML"):
        usual = "BW" if unit == "GML" else "BSA"
        return _SUV.get(str(header.get("SUVType") or usual), _PET[unit])
    return _PET.get(unit, AS_STORED)
