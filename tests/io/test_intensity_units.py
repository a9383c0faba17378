"""What values are measured in follows the headers, not the bundle that was run on them."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom import Dataset

from medvit.io import AS_STORED, Scan, stated_unit
from medvit.io.dicom.write.sr import _UNITS
from medvit.io.intensity_units import _PET, _SUV


def _scan(modality: str | None, **stated: str) -> Scan:
    header = Dataset()
    for name, value in stated.items():
        setattr(header, name, value)
    kind, slices = ("dicom", (header,)) if modality else ("nifti", ())
    return Scan(array=np.zeros((1, 2, 2, 2), np.float32), affine=np.eye(4), kind=kind, modality=modality, slices=slices)


@pytest.mark.parametrize(
    ("modality", "stated", "unit"),
    [
        ("CT", {}, "HU"),
        ("CT", {"RescaleType": "HU"}, "HU"),
        ("CT", {"RescaleType": "US"}, AS_STORED),
        ("MR", {"RescaleType": "US"}, AS_STORED),
        ("PT", {"Units": "BQML"}, "Bq/ml"),
        ("PT", {"Units": "CM2ML"}, "cm2/ml (SUVbsa)"),
        ("PT", {"Units": "???"}, AS_STORED),
        (None, {}, None),
    ],
)
def test_units(modality, stated, unit):
    assert stated_unit(_scan(modality, **stated)) == unit


def test_every_unit_of_a_pet_image_has_a_code_for_the_report():
    assert {*_PET.values(), *_SUV.values(), "HU"} <= set(_UNITS)
