"""Time from DICOM to SEG: ``medvit segment`` against MONAI and highdicom, in turn, each in its own process.

    python benchmarks/dicom_to_seg.py [--case ZIP] [--runs 3] [--backend auto]

The other side is the bundle's MONAI twin (MONAI's network, transforms and inferer by ``python -m monai.bundle run``,
DICOM read by ITK), then a process that writes the labels with highdicom, as a user without medvit would: pydicom reads
the slices, and there are no checks. medvit also reads its SEG back. Both SEGs are read by the same reader and compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from main_job import BUNDLE, ROOT, median, run_twin, timed

SHARED = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
GOAL = 4
"""Goal for the ratio."""
CASE = SHARED / "data" / "dicom" / "ct_headneck_openkbp_pt_201_128slices.zip"


def write_with_highdicom(series: Path, labels: Path, out: Path) -> None:
    """Write a BINARY SEG of a label map (i, j, k) in RAS, as in highdicom's user guide."""
    import highdicom as hd
    import nibabel as nib
    import pydicom
    from pydicom.sr.codedict import codes

    slices = [pydicom.dcmread(path) for path in series.rglob("*") if path.is_file()]
    slices = sorted((s for s in slices if "PixelData" in s), key=lambda s: float(s.ImagePositionPatient[2]))
    facts = json.loads((BUNDLE / "configs" / "metadata.json").read_text())
    names = facts["network_data_format"]["outputs"]["pred"]["channel_def"]
    ids = np.squeeze(np.asarray(nib.as_closest_canonical(nib.load(labels)).dataobj))
    mask = ids[::-1, ::-1].transpose(2, 1, 0).astype(np.uint8)  # to (slice, row, column) of LPS slices
    algorithm = hd.AlgorithmIdentificationSequence(
        name="twin", version="1", family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=names[str(n)],
            segmented_property_category=codes.cid7150.AnatomicalStructure,
            segmented_property_type=codes.SCT.Organ,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for n in range(1, len(names))
    ]
    segmentation = hd.seg.Segmentation(
        source_images=slices,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=100,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="twin",
        manufacturer_model_name="twin",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(out)


def theirs(case: Path, place: Path) -> tuple[float, Path]:
    """Return the seconds of both processes, and the SEG."""
    first, labels = run_twin(case, place)
    series = place / "series"
    with zipfile.ZipFile(case) as archive:
        archive.extractall(series)
    second, _, code = timed([sys.executable, __file__, "--write", str(series), str(labels), str(place / "seg.dcm")])
    assert code == 0, code
    return first + second, place / "seg.dcm"


def ours(case: Path, place: Path, backend: str) -> tuple[float, Path]:
    command = [sys.executable, "-m", "medvit", "segment", str(case), "-ot", "dicom-seg", "-q", "--backend", backend]
    wall, _, code = timed([*command, "-o", str(place / "out")])
    assert code in (0, 3), code
    return wall, place / "out" / "seg.dcm"


def lowest_dice(a: Path, b: Path, case: Path) -> float:
    import medvit

    one, other = (medvit.read_labels(path, like=case) for path in (a, b))
    shares = []
    for segment, peer in zip(one.segments, other.segments, strict=True):
        m, n = one.whole(segment), other.whole(peer)
        shares.append(2 * (m & n).sum() / (m.sum() + n.sum()))
    return float(min(shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, default=CASE, help="a zip of one axial CT series")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--write", type=Path, nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_with_highdicom(*given.write)
        return
    with tempfile.TemporaryDirectory() as warm:  # a graph is converted once for a machine, before anything is timed
        ours(given.case, Path(warm), given.backend)
    pairs, agreement = [], 1.0
    for _ in range(given.runs):
        place = Path(tempfile.mkdtemp())
        (a, seg), (b, mine) = theirs(given.case, place), ours(given.case, place, given.backend)
        pairs.append((a, b))
        agreement = min(agreement, lowest_dice(mine, seg, given.case))
        shutil.rmtree(place)
    print(
        f"{given.case.name}, DICOM to SEG, {os.cpu_count()} cores, backend {given.backend}; medians of {given.runs} pairs\n"
    )
    print(
        f"| MONAI's twin and highdicom | medvit segment | ratio (pair by pair), goal {GOAL} | lowest Dice of a label |\n|---|---|---|---|"
    )
    ratio = median([a / b for a, b in pairs])
    print(
        f"| {median([a for a, _ in pairs]):.1f} s | {median([b for _, b in pairs]):.1f} s | {ratio:.2f} | {agreement:.5f} |"
    )


if __name__ == "__main__":
    main()
