"""Range of a reconstruction's agreement with its radiographs: for true labels of each validation CT, and for other
patients'.

    python benchmarks/view_agreement.py

Prints gradient correlations of labels projected again (``medvit.reconstruction.view_consistency``), from which the
limit of the rating was chosen. Needs the shared CTs (MEDVIT_SHARED).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from medvit.bundles import open_bundle
from medvit.reconstruction.view_consistency import Beam, gradient_correlation, project_labels
from medvit.training.data import RadiographsAndLabels, XrayField, read_list

BUNDLE = "headneck_xray_swin_x2s"


def main() -> None:
    root = Path(os.environ.get("MEDVIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
    bundle = open_bundle(BUNDLE)
    size, sides = bundle.config["img_size"], bundle.config["spacing_mm"]
    field = XrayField(img_size=tuple(size), spacing_mm=tuple(sides))
    make = RadiographsAndLabels(field, [[7, 1]], 200.0, 2)
    cases = [make({"image": str(p.image), "label": str(p.label)}) for p in read_list(bundle, None, root, "validation")]
    affine = np.diag([*sides, 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(size) - 1) / 2
    larger = 1 + field.isocenter_to_detector_mm / field.source_to_isocenter_mm
    found: dict[str, dict[str, list[float]]] = {}
    for name, degrees, across in (("coronal", 0.0, 0), ("sagittal", 90.0, 1)):
        shape, pixel = (2 * size[2], 2 * size[across]), (sides[2] / 2, sides[across] / 2)
        beam = Beam(
            view_deg=degrees,
            magnification=larger,
            source_to_patient_mm=field.source_to_isocenter_mm,
            shape=shape,
            pixel_mm=pixel,
        )
        shadows = [project_labels(np.asarray(case["label"])[0], affine, beam) for case in cases]
        found[name] = {"own": [], "another's": []}
        for i, case in enumerate(cases):
            for j, shadow in enumerate(shadows):
                found[name]["own" if i == j else "another's"].append(
                    gradient_correlation(np.asarray(case[name])[0], shadow)
                )
    for name, kinds in found.items():
        for kind, values in kinds.items():
            print(f"{name:9} {kind:10} {min(values):.2f} to {max(values):.2f}, median {np.median(values):.2f}")


if __name__ == "__main__":
    main()
