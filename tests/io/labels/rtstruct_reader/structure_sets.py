"""RT Structure Sets with known contours, and changes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom

from medvit.io import flip_lps_ras
from tests.bands import oblique_affine

AFFINE = oblique_affine((1.1, 1.9, 2.5))


def write_rois(tmp_path: Path, place: Path, scan, rois: dict[str, list], kind: str = "CLOSED_PLANAR") -> Path:
    """The structure set with other ROIs: for each name its contours, (point, 3) in voxel indices."""
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    lps = flip_lps_ras(scan.affine)
    keep = len(rois)
    for sequence in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(dataset, sequence, list(getattr(dataset, sequence))[:keep])
    for roi, item, (name, contours) in zip(
        dataset.StructureSetROISequence, dataset.ROIContourSequence, rois.items(), strict=True
    ):
        roi.ROIName = name
        template = item.ContourSequence[0]
        item.ContourSequence = []
        for points in contours:
            contour = pydicom.Dataset()
            contour.ContourImageSequence = template.ContourImageSequence
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            world = np.column_stack([points, np.ones(len(points))]) @ lps.T
            contour.ContourData = [f"{v:.4f}" for v in world[:, :3].ravel()]
            item.ContourSequence.append(contour)
    dataset.save_as(tmp_path / "rt.dcm")
    return tmp_path / "rt.dcm"


def square_contour(low: float, high: float, k: float) -> np.ndarray:
    return np.array([(low, low, k), (low, high, k), (high, high, k), (high, low, k)], float)
