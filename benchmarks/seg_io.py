"""SEG and RTSTRUCT written and read back: medvit beside highdicom and rt-utils, on the same arrays, in turn.

    python benchmarks/seg_io.py [--runs 3] [--only seg|rtstruct]

For 128 slices with 7 labels and 300 slices with 117 labels, of 512 x 512 pixels, both sides write the same label map and
read it back as a label map. Times are of processor and wall, medians; ratios are of pairs. medvit also compares each file
with the labels before it publishes it; this check has a column of its own. The agreement is printed below: voxels that each
side reads from the other's file, attributes, and the errors that dciodvfy finds.

rt-utils is no dependency of medvit: ``pip install rt-utils``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import os
import shutil
import statistics
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "headneck_ct_dicom.zip"
SIDE = 512
CASES = ((128, 7), (300, 117))
"""Number of slices and of labels."""
VALIDATOR_SECONDS = 120


class Timed(NamedTuple):
    """Seconds of processor and wall."""

    processor: float
    wall: float


def timed(call: Callable[[], Any]) -> tuple[Timed, Any]:
    start = time.process_time(), time.perf_counter()
    value = call()
    return Timed(time.process_time() - start[0], time.perf_counter() - start[1]), value


def make_series(count: int) -> list[Dataset]:
    """Make the headers of an axial CT of 1 mm slices, from the example's first slice."""
    with zipfile.ZipFile(EXAMPLE) as archive:
        name = min(n for n in archive.namelist() if n.endswith(".dcm"))
        with archive.open(name) as file:
            first = pydicom.dcmread(file)
    first.Rows = first.Columns = SIDE
    first.PixelSpacing, first.SliceThickness = [0.9, 0.9], 1
    first.SeriesInstanceUID = generate_uid()
    del first.PixelData
    slices = []
    for k in range(count):
        header = deepcopy(first)
        header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        header.InstanceNumber = k + 1
        header.ImagePositionPatient = [-230.0, -230.0, float(k)]
        slices.append(header)
    return slices


def make_labels(count: int, labels: int) -> NDArray[np.uint8]:
    """Draw ellipsoids, (slice, row, column), with an organ's sizes: a sixth of the slices, 25 to 90 pixels wide."""
    ids = np.zeros((count, SIDE, SIDE), np.uint8)
    random = np.random.default_rng(0)
    for label in range(1, labels + 1):
        half = np.array([random.uniform(0.05, 0.12) * count, *random.uniform(12, 45, 2)])
        centre = random.uniform(half, np.array(ids.shape) - half)
        low = np.maximum(np.floor(centre - half), 0).astype(int)
        high = np.minimum(np.ceil(centre + half) + 1, ids.shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        axes = np.ogrid[box]
        inside = sum(((axis - c) / h) ** 2 for axis, c, h in zip(axes, centre, half, strict=True)) < 1
        ids[box][inside] = label
    return ids


class Case:
    """A series with its label map, and the labels' descriptions for each side."""

    def __init__(self, count: int, labels: int) -> None:
        from medvit.io import Scan
        from medvit.io.dicom.write import AlgorithmInfo, source_of
        from medvit.io.labels import make_label

        self.headers, self.ids = make_series(count), make_labels(count, labels)
        self.labels = [make_label(n, f"Organ {n}") for n in range(1, labels + 1)]
        affine = np.diag([-0.9, -0.9, 1.0, 1.0])
        affine[:3, 3] = [230.0, 230.0, 0.0]
        self.array = self.ids.T  # (column, row, slice)
        values = np.zeros((1, *self.array.shape), np.float32)
        values[0, 0, 0, 0] = 1  # an image without contrast is refused
        self.scan = Scan(
            array=values,
            affine=affine,
            kind="dicom",
            slices=tuple(self.headers),
        )
        self.slices = source_of(self.scan)
        self.author = AlgorithmInfo(bundle="bench 1.0", weights="0" * 64, software="1", intended_use="For research use")


def write_ours(case: Case, path: Path) -> None:
    from medvit.io.dicom.write import write_seg

    write_seg(path, case.array, case.slices, case.labels, case.author)


def check_ours(case: Case, path: Path) -> None:
    from medvit.io.dicom.write import check_seg

    check_seg(path, case.array, case.slices.planes, case.labels)


def read_ours(path: Path, like: Any = None) -> NDArray[Any]:
    """Return the label map on the grid that the frames span, or on that of a scan, (slice, row, column)."""
    import medvit

    return medvit.read_labels(path, like).array.T


def write_theirs(case: Case, path: Path) -> None:
    """Write a SEG as highdicom's user guide does, with the same descriptions."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name=case.author.bundle, version="1.0", family=codes.cid7162.ArtificialIntelligence
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=label.id,
            segment_label=label.title,
            segmented_property_category=hd.sr.CodedConcept(
                label.category.value, label.category.scheme, label.category.meaning
            ),
            segmented_property_type=hd.sr.CodedConcept(label.type.value, label.type.scheme, label.type.meaning),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for label in case.labels
    ]
    segmentation = hd.seg.Segmentation(
        source_images=case.headers,
        pixel_array=case.ids,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="bench",
        manufacturer_model_name="bench",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)


def read_theirs(path: Path) -> NDArray[Any]:
    """Return the label map of the volume, (slice, row, column), with rising slice positions."""
    import highdicom as hd

    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return volume.array[:: 1 if volume.affine[2, 0] > 0 else -1]


def same_attributes(a: Path, b: Path) -> str:
    """Name the attributes that differ between two SEGs, besides UIDs, dates and the equipment."""
    one, other = pydicom.dcmread(a), pydicom.dcmread(b)
    plain = (
        "SOPClassUID StudyInstanceUID FrameOfReferenceUID PatientID PatientName Modality SegmentationType SegmentsOverlap "
        "Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PhotometricInterpretation LossyImageCompression "
        "SharedFunctionalGroupsSequence SourceImageSequence ReferencedSeriesSequence PerFrameFunctionalGroupsSequence"
    ).split()
    wrong = [name for name in plain if one.get(name) != other.get(name)]
    described = "SegmentNumber SegmentLabel SegmentedPropertyTypeCodeSequence SegmentAlgorithmType".split()
    pairs = zip(one.SegmentSequence, other.SegmentSequence, strict=True)
    wrong += sorted({name for p, q in pairs for name in described if p.get(name) != q.get(name)})
    return "none" if not wrong else ", ".join(wrong)


def errors_found(path: Path) -> str:
    """Return the number of errors that dciodvfy reports; it takes many minutes for thousands of frames."""
    if shutil.which("dciodvfy") is None:
        return "dciodvfy is not installed (dicom3tools)"
    try:
        printed = subprocess.run(
            ["dciodvfy", str(path)], capture_output=True, text=True, check=False, timeout=VALIDATOR_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"not known after {VALIDATOR_SECONDS} s"
    return str(sum(line.startswith("Error") for line in (printed.stdout + printed.stderr).splitlines()))


Row = dict[str, list[Timed]]


def table(name: str, peer: str, found: Row) -> None:
    """Print the medians of both sides and the ratios pair by pair, in seconds of processor (wall)."""

    def cell(which: str) -> str:
        values = found[which]
        return (
            f"{statistics.median(v.processor for v in values):.2f} ({statistics.median(v.wall for v in values):.2f}) s"
        )

    def ratio(part: Callable[[Timed], float]) -> float:
        sums = zip(*(found[w] for w in ("write theirs", "read theirs", "write ours", "read ours")), strict=True)
        return statistics.median((part(a) + part(b)) / (part(c) + part(d)) for a, b, c, d in sums)

    print(f"\n{name}; seconds of processor (wall)\n")
    print(f"| | {peer} | medvit | medvit's check |\n|---|---|---|---|")
    print(f"| write | {cell('write theirs')} | {cell('write ours')} | {cell('check')} |")
    print(f"| read back | {cell('read theirs')} | {cell('read ours')} | |")
    print(f"| both, {peer} / medvit, pair by pair | | {ratio(lambda t: t[0]):.2f} ({ratio(lambda t: t[1]):.2f}) | |")


def run_steps(steps: dict[str, Callable[[], Any]], runs: int) -> tuple[Row, dict[str, NDArray[Any]]]:
    """Run the steps in turn; return their seconds, and the arrays that they return."""
    found: Row = {}
    read: dict[str, NDArray[Any]] = {}
    for run in range(-1, runs):
        for name, step in steps.items():
            seconds, value = timed(step)
            if run < 0:
                continue  # imports and tables are loaded by the first call
            found.setdefault(name, []).append(seconds)
            if value is not None:
                read[name] = value
    return found, read


def cut(ids: NDArray[Any]) -> NDArray[Any]:
    """Return the slices from the first to the last label, which are those that a SEG without empty frames spans."""
    at = np.flatnonzero(ids.any((1, 2)))
    return ids[at[0] : at[-1] + 1]


def compare_seg(count: int, labels: int, runs: int) -> None:
    case = Case(count, labels)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ours, theirs, meant = place / "ours.dcm", place / "theirs.dcm", cut(case.ids)
        steps: dict[str, Callable[[], Any]] = {
            "write theirs": lambda: write_theirs(case, theirs),
            "write ours": lambda: write_ours(case, ours),
            "check": lambda: check_ours(case, ours),
            "read theirs": lambda: read_theirs(theirs),
            "read ours": lambda: read_ours(ours),
        }
        found, read = run_steps(steps, runs)
        table(f"SEG, {count} slices, {labels} labels, {SIDE} x {SIDE}", "highdicom", found)
        crossed = read_ours(theirs), read_theirs(ours)
        same = [np.array_equal(cut(a), meant) for a in (read["read ours"], read["read theirs"], *crossed)]
        print(f"\n- voxels as written, medvit's file, highdicom's file, each file by the other's reader: {same}")
        print(f"- attributes that differ: {same_attributes(ours, theirs)}")
        print(f"- errors of dciodvfy: medvit {errors_found(ours)}, highdicom {errors_found(theirs)}")


def write_rt_utils(case: Case, path: Path) -> None:
    from rt_utils import RTStruct
    from rt_utils.ds_helper import create_rtstruct_dataset

    made = RTStruct(case.headers, create_rtstruct_dataset(case.headers))
    masks = np.moveaxis(case.ids, 0, 2)  # (row, column, slice)
    for label in case.labels:
        made.add_roi(mask=masks == label.id, color=list(label.color), name=label.title)
    with contextlib.redirect_stdout(io.StringIO()):
        made.save(str(path))


def read_rt_utils(case: Case, path: Path) -> NDArray[Any]:
    """Return the label map, (slice, row, column); where ROIs overlap, the last one."""
    from rt_utils import RTStruct

    found, ids = RTStruct(case.headers, pydicom.dcmread(path)), np.zeros_like(np.moveaxis(case.ids, 0, 2))
    for label in case.labels:
        ids[found.get_roi_mask_by_name(label.title)] = label.id
    return np.moveaxis(ids, 2, 0)


def compare_rtstruct(count: int, labels: int, runs: int) -> None:
    from medvit.io.dicom.write import check_rtstruct, write_rtstruct

    case = Case(count, labels)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.dcm", Path(folder) / "theirs.dcm"
        steps: dict[str, Callable[[], Any]] = {
            "write theirs": lambda: write_rt_utils(case, theirs),
            "write ours": lambda: write_rtstruct(ours, case.array, case.slices, case.labels, case.author),
            "check": lambda: check_rtstruct(ours, case.array, case.slices.planes, case.labels),
            "read theirs": lambda: read_rt_utils(case, theirs),
            "read ours": lambda: read_ours(ours, case.scan),
        }
        found, read = run_steps(steps, runs)
        table(f"RTSTRUCT, {count} slices, {labels} labels, {SIDE} x {SIDE}", "rt-utils", found)
        wrong = [int((read[name] != case.ids).sum()) for name in ("read ours", "read theirs")]
        print(
            f"\n- voxels that differ from those written, of {int((case.ids > 0).sum())}: medvit {wrong[0]}, rt-utils {wrong[1]}"
        )
        print(f"- errors of dciodvfy: medvit {errors_found(ours)}, rt-utils {errors_found(theirs)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=("seg", "rtstruct"))
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, medians of {given.runs} runs in turn, imports not counted")
    for count, labels in CASES:
        if given.only != "rtstruct":
            compare_seg(count, labels, given.runs)
        if given.only != "seg":
            if importlib.util.find_spec("rt_utils") is None:
                print("\nRTSTRUCT was left out: rt-utils is not installed. Run: pip install rt-utils")
            else:
                compare_rtstruct(count, labels, given.runs)


if __name__ == "__main__":
    main()
