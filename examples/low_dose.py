"""The example CT as a scan at a tenth of the dose would have shown it: a DICOM series for ``medvit restore``.

    python examples/low_dose.py OUT [DOSE]

Photon and electronic noise are put into the projections of each slice by the scanner that the denoising bundle is judged with
(its configs/evaluate.json); headers stay, UIDs and description are new. 32 slices around the larynx.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from medvit.bundles import open_bundle
from medvit.io import open_source
from medvit.settings import DEFAULT_RESTORATION
from medvit.training.evaluation import LowDoseEvaluation, evaluation_of

HERE = Path(__file__).resolve().parent
SLICES = slice(48, 80)


def low_dose(out: Path, dose: float = 0.1) -> int:
    """Write the series; return how many slices it has."""
    with tempfile.TemporaryDirectory() as place:
        with zipfile.ZipFile(HERE / "headneck_ct_dicom.zip") as archive:
            archive.extractall(place)
        scan = open_source(place)
        names = {
            str(pydicom.dcmread(p, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): p
            for p in Path(place).rglob("*.dcm")
        }
        headers = scan.slices[SLICES]
        judged = evaluation_of(open_bundle(DEFAULT_RESTORATION))
        assert isinstance(judged, LowDoseEvaluation)
        noisy = judged.scanner.at_dose(dose, seed=1)(scan.array[0][..., SLICES], scan.spacing_mm)
        series = generate_uid(entropy_srcs=["medvit low dose", str(dose)])
        out.mkdir(parents=True, exist_ok=True)
        for k, header in enumerate(headers):
            dataset = pydicom.dcmread(names[str(header.SOPInstanceUID)])
            stored = (noisy[..., k].T - float(dataset.RescaleIntercept)) / float(dataset.RescaleSlope)
            dataset.PixelData = np.rint(stored).clip(-32768, 32767).astype("<i2").tobytes()
            dataset.SeriesInstanceUID = series
            dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(k)])
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.SeriesDescription, dataset.SeriesNumber = f"Simulated at {100 * dose:g} % dose", 2
            dataset.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
            dataset.save_as(out / f"{k + 1:03d}.dcm", enforce_file_format=True)
    return len(headers)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python examples/low_dose.py OUT [DOSE]")
    count = low_dose(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)
    print(f"{count} slices in {sys.argv[1]}")
