"""Peak memory: of sliding-window inference to labels beside MONAI's inferer, and of whole runs of ``medvit segment``.

    python benchmarks/memory.py [--quick] [--only windows|runs]

The network costs almost nothing, so the inferer's own memory is measured: for two lengths of a volume, then for a whole
CT with few and with many classes (for many classes MONAI's memory is computed, not measured, since most machines have
too little). Each number is of a separate process, minus its memory before the inferer; the share of equal labels is
printed too.

The whole runs are the demo (DICOM to NIfTI, SEG, RTSTRUCT, preview and statistics) and a CT of 512 x 512 x 600 voxels with
7 labels, made of the example by repeating its voxels, from NIfTI and from DICOM. Their numbers are the peaks of whole
processes, with all libraries.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray
from torch import Tensor

from medvit.inference import SlidingWindow
from medvit.io import write_volume


class Case(NamedTuple):
    """A volume (i, j, k), its classes and the side of its windows; with ``counted``, MONAI's memory is computed."""

    shape: tuple[int, int, int]
    classes: int
    roi: int
    counted: bool = False


CASES = (
    Case((128, 192, 192), 14, 64),
    Case((384, 192, 192), 14, 64),
    Case((512, 512, 300), 14, 96),
    Case((512, 512, 300), 105, 96, counted=True),
)
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SIDES = ("monai", "logits", "labels")


def stand_in(classes: int) -> Callable[[Tensor], Tensor]:
    """Make a substitute for a network: channels that cost almost nothing, each the largest for some grey value."""
    ramp = torch.linspace(0, 1, classes)[:, None, None, None]
    return lambda window: (window - ramp).abs_().neg_()


def peak_so_far() -> int:
    """Return the peak memory in bytes from /proc, since getrusage's value is inherited from the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_of(side: str, case: Case, out: Path) -> int:
    """Return the peak bytes of this process while a side ran, minus those before; the labels are written to a file."""
    image = torch.rand(1, 1, *case.shape, generator=torch.Generator().manual_seed(0))
    network, roi = stand_in(case.classes), (case.roi,) * 3
    ours = SlidingWindow(roi, 0.5)
    with torch.inference_mode():
        ours.labels(
            image[:, :, : case.roi, : case.roi, : case.roi], network
        )  # a first call, so that loaded libraries are not counted
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
        before = peak_so_far()
        if side == "monai":
            labels = SlidingWindowInferer(roi, overlap=0.5, mode="gaussian")(image, network).argmax(1)
        elif side == "logits":
            labels = ours(image, network).argmax(1)
        else:
            labels = ours.labels(image, network)[:, 0]
        peak = peak_so_far() - before
    np.save(out, labels.numpy().astype(np.uint8))
    return peak


def in_a_process(side: str, number: int, out: Path) -> int:
    command = [sys.executable, __file__, "--side", side, "--number", str(number), "--out", str(out)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(number: int, place: Path) -> str:
    case = CASES[number]
    counted = (case.classes + 1) * int(np.prod(case.shape)) * 4
    peaks = {} if not case.counted else {"monai": counted, "logits": 0}
    for side in SIDES:
        if side not in peaks:
            peaks[side] = in_a_process(side, number, place / f"{side}.npy")
    made = [np.load(place / f"{side}.npy") for side in SIDES if (place / f"{side}.npy").is_file()]
    same = "-" if len(made) == 1 else f"{min(float((m == made[0]).mean()) for m in made[1:]):.5%}"
    cells = [f"{peaks['monai'] / 1e9:.2f} GB{' (counted)' if case.counted else ''}"]
    cells += ["-" if not peaks["logits"] else f"{peaks['logits'] / 1e9:.2f} GB", f"{peaks['labels'] / 1e9:.2f} GB"]
    size = " x ".join(map(str, case.shape))
    ratio = f"{peaks['monai'] / peaks['labels']:.1f}"
    return f"| {size} | {case.classes} | {case.roi} | " + " | ".join(cells) + f" | {ratio} | {same} |"


WIDE = (512, 512, 600)
BARS_MB = {"demo": 700, "wide": 2500}
"""Goals for the peak of the demo and of the CT of 512 x 512 x 600 voxels."""

_RUN = """
import pathlib, runpy, sys
place = sys.argv.pop(1)
sys.argv[0] = "medvit"
try:
    runpy.run_module("medvit", run_name="__main__", alter_sys=True)
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(place).write_text(status.split("VmHWM:")[1].split()[0])
"""


def wide_volume() -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Return the example's CT with each voxel repeated to 512 x 512 x 600, and its affine."""
    import nibabel as nib

    image = nib.load(EXAMPLES / "headneck_ct.nii.gz")
    array, affine = np.asarray(image.dataobj).astype(np.int16), image.affine.copy()
    for axis, size in enumerate(WIDE):
        factor = -(-size // array.shape[axis])
        array = np.repeat(array, factor, axis)
        affine[:, axis] /= factor
    return array[: WIDE[0], : WIDE[1], : WIDE[2]], affine


def wide_series(folder: Path) -> None:
    """Write the volume as an axial CT of 600 slices, with the headers of the example."""
    import pydicom
    from pydicom.uid import generate_uid

    with zipfile.ZipFile(EXAMPLES / "headneck_ct_dicom.zip") as archive:
        name = min(n for n in archive.namelist() if n.endswith(".dcm"))
        with archive.open(name) as file:
            first = pydicom.dcmread(file)
    array, affine = wide_volume()
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    axes = [int(np.abs(affine[:3, a]).argmax()) for a in range(3)]
    turned = array.transpose([axes.index(a) for a in range(3)])
    along = [sides[axes.index(a)] for a in range(3)]
    flips = [a for a in range(3) if affine[a, axes.index(a)] * (-1 if a < 2 else 1) < 0]
    turned = np.flip(turned, flips)  # to LPS
    slope, intercept = float(first.RescaleSlope), float(first.RescaleIntercept)
    folder.mkdir()
    series = generate_uid()
    first.Columns, first.Rows = turned.shape[:2]
    first.PixelSpacing, first.SliceThickness, first.SeriesInstanceUID = [along[1], along[0]], along[2], series
    for k in range(turned.shape[2]):
        first.SOPInstanceUID = first.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        first.InstanceNumber, first.ImagePositionPatient = k + 1, [0.0, 0.0, round(k * along[2], 4)]
        first.PixelData = np.round((turned[:, :, k].T - intercept) / slope).astype(np.int16).tobytes()
        first.save_as(folder / f"{k:04}.dcm")


def peak_of_run(source: Path, out: Path, *options: str) -> tuple[float, int]:
    """Return the peak of a whole ``medvit segment`` in MB, and its exit code."""
    note = out.with_suffix(".peak")
    command = [sys.executable, "-c", _RUN, str(note), "segment", str(source), "-q", "-o", str(out), *options]
    code = subprocess.run(command, check=False, capture_output=True).returncode
    return int(note.read_text()) / 1e3, code


def whole_runs() -> None:
    print("\nPeak of whole processes of medvit segment.\n")
    print("| run | peak | goal | exit code |\n|---|---|---|---|")
    dicom = ["-ot", "nifti", "-ot", "dicom-seg", "-ot", "rtstruct", "-p", "-s"]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        peak_of_run(EXAMPLES / "headneck_ct_dicom.zip", place / "warm")  # converts the graph once
        size = " x ".join(map(str, WIDE))

        def line(name: str, source: Path, bar: str, *options: str) -> None:
            peak, code = peak_of_run(source, place / name.replace(" ", "_").replace(",", ""), *options)
            print(f"| {name} | {peak:.0f} MB | {BARS_MB[bar]} MB | {code} |", flush=True)

        line("demo", EXAMPLES / "headneck_ct_dicom.zip", "demo", *dicom)
        array, affine = wide_volume()
        write_volume(place / "wide.nii.gz", array, affine)
        line(f"CT of {size}, NIfTI to NIfTI", place / "wide.nii.gz", "wide")
        wide_series(place / "series")
        line(f"CT of {size}, DICOM to NIfTI and SEG", place / "series", "wide", "-ot", "nifti", "-ot", "dicom-seg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two small volumes alone")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=("windows", "runs"), help="one of the two parts")
    given = parser.parse_args()
    if given.side:
        print(peak_of(given.side, CASES[given.number], given.out))
        return
    if given.only != "windows":
        whole_runs()
    if given.only == "runs":
        return
    print("\nPeak memory beyond the image, in processes of their own; overlap 0.5, Gaussian weights, to labels.\n")
    print(
        "| volume | classes | window | MONAI's inferer, argmax | medvit's logits, argmax | medvit's labels() | MONAI's / labels() | same labels |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number in range(2 if given.quick else len(CASES)):
        with tempfile.TemporaryDirectory() as place:
            print(row(number, Path(place)), flush=True)


if __name__ == "__main__":
    main()
