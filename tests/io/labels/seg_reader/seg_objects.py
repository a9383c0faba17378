"""SEG objects with known labels, and changes of them."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from pydicom.sr.codedict import codes

from tests.bands import oblique_affine

AFFINE = oblique_affine((1.1, 1.9, 2.5))


def seg(path: Path, scan, pixels: np.ndarray, kind: str = "BINARY", count: int = 7, **more) -> Path:
    """A Segmentation as highdicom makes it; pixels (slice, row, column) or with a last axis of segments."""
    descriptions = [
        hd.seg.SegmentDescription(
            n,
            f"Organ {n}",
            codes.SCT.Organ,
            codes.SCT.Kidney,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_uid=f"1.2.3.{n}",
            tracking_id=f"track {n}",
        )
        for n in range(1, count + 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = hd.seg.Segmentation(
            list(scan.slices), np.ascontiguousarray(pixels), kind, descriptions, hd.UID(), 1, hd.UID(), 1, "m", "n", "1", "s", **more
        )  # fmt: skip
    dataset.save_as(path)
    return path


def segment_pixels(labels: np.ndarray) -> np.ndarray:
    return labels.transpose(2, 1, 0)


def changed_copy(path: Path, tmp_path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    return tmp_path / "changed.dcm"
