"""Compare processor time and peak memory of the working tree with those of another commit.

    python tools/compare_commits.py COMMIT [--runs 5] [--limit 1.10] [--jobs NAME ...] [--json FILE]

The commit's files are unpacked into a temporary folder. Both sides run with this Python, through PYTHONPATH, in turn:
the median of ``--runs`` runs of each side is compared after one run that is not counted and fills the side's own
caches. Processor time is user and system time of the command and its children; peak memory is that of the largest of
these processes. The exit status is 1 if a ratio is above ``--limit``, 2 if a command fails.

Every job is a command of medvit, so that it means the same in both commits though modules and functions have other
names. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SLICES, _SIDE = 128, 256
_FILES_A_SERIES = 100
_MEDVIT = "from medvit.cli.main import app; app()"
_BATCH = "from medvit_batch.cli import app; app()"


@dataclass(frozen=True)
class Job:
    """A command that both sides run.

    Attributes:
        program: the Python program that is given to ``python -c``.
        arguments: the arguments, from the folder of inputs and an empty folder for results.
        codes: the exit codes of a command that did its work.
    """

    program: str
    arguments: Callable[[Path, Path], list[str]]
    codes: tuple[int, ...] = (0,)


def _demo(backend: str) -> Job:
    """Return the command of ``make demo`` with a fixed backend: "auto" chooses by measured time, which would mix two
    medians."""

    def arguments(inputs: Path, results: Path) -> list[str]:
        types = ["-ot", "nifti", "-ot", "dicom-seg", "-ot", "rtstruct", "--preview", "--statistics", "--overwrite"]
        source = str(ROOT / "examples" / "headneck_ct_dicom.zip")
        return ["segment", source, "-o", str(results), *types, "--backend", backend]

    return Job(_MEDVIT, arguments, (0, 3))


def _discovery(inputs: Path, results: Path) -> list[str]:
    return ["run", str(inputs / "archive"), "-o", str(results / "out"), "--dry-run", "--quiet"]


def _seg(inputs: Path, results: Path) -> list[str]:
    options = ["--like", str(inputs / "series"), "-b", "headneck_ct_swin_unetr", "-ot", "dicom-seg", "--overwrite"]
    return ["convert", str(inputs / "labels.nii.gz"), "-o", str(results), *options]


JOBS = {
    "help": Job(_MEDVIT, lambda inputs, results: ["--help"]),
    "demo-eager": _demo("eager"),
    "demo-openvino": _demo("openvino"),
    "discovery": Job(_BATCH, _discovery),
    "seg": Job(_MEDVIT, _seg),
}
"""Jobs by name: the demo, the discovery of an archive (``--dry-run`` reads and plans), a SEG of 128 slices, the
start."""


@dataclass(frozen=True)
class Usage:
    """The cost of a command: seconds of processor time, and megabytes at most."""

    seconds: float
    megabytes: float


@dataclass(frozen=True)
class Side:
    """One of the two versions: a tree of files, and a folder for what it keeps between runs."""

    name: str
    tree: Path
    kept: Path

    def environment(self) -> dict[str, str]:
        """Return an environment in which this tree is imported and nothing of the other side is read."""
        paths = [self.tree, *sorted(path for path in (self.tree / "apps").iterdir() if path.is_dir())]
        caches = {name: str(self.kept / name.lower()) for name in ("MEDVIT_CACHE", "MEDVIT_HOME", "NUMBA_CACHE_DIR")}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        own = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDVIT", "PYTHON"))}
        return kept | caches | threads | own

    def run(self, job: Job, inputs: Path) -> Usage:
        """Run a job once in a process of its own.

        Raises:
            SystemExit: with 2, the command failed; its output is shown.
        """
        with tempfile.TemporaryDirectory(dir=self.kept) as results, tempfile.TemporaryFile() as said:
            line = [sys.executable, "-c", job.program, *job.arguments(inputs, Path(results))]
            process = subprocess.Popen(
                line, cwd=self.kept, env=self.environment(), stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode not in job.codes:
                said.seek(0)
                print(said.read().decode(errors="replace")[-3000:], file=sys.stderr)
                print(f"Found exit code {process.returncode} of {self.name}: {' '.join(line)}", file=sys.stderr)
                raise SystemExit(2)
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return Usage(used.ru_utime + used.ru_stime, used.ru_maxrss / unit)


def unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder.

    Raises:
        SystemExit: with 2, git does not know the commit.
    """
    packed = folder.with_suffix(".tar")
    made = subprocess.run(["git", "archive", "-o", str(packed), commit], cwd=ROOT, capture_output=True, text=True)
    if made.returncode:
        print(made.stderr.strip(), file=sys.stderr)
        raise SystemExit(2)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()


def make_inputs(folder: Path, files: int) -> None:
    """Write an archive of small DICOM files, a series of 128 slices and a label map on it."""
    import nibabel as nib
    import numpy as np

    pixels = np.random.default_rng(0).integers(-1000, 1000, (8, 8)).astype(np.int16)
    for first in range(0, files, _FILES_A_SERIES):
        count = min(_FILES_A_SERIES, files - first)
        _write_series(folder / "archive" / f"{first // _FILES_A_SERIES:04d}", [pixels] * count, 1.0)
    z, y, x = np.mgrid[:_SLICES, :_SIDE, :_SIDE]
    body = (x - _SIDE / 2) ** 2 + (y - _SIDE / 2) ** 2 < (0.45 * _SIDE) ** 2
    _write_series(folder / "series", list(np.where(body, 40, -1000).astype(np.int16)), 2.0)
    labels = np.zeros((_SLICES, _SIDE, _SIDE), np.uint8)
    for number in range(1, 8):
        angle = number * 0.9
        centre = (_SIDE / 2 + 70 * np.cos(angle), _SIDE / 2 + 70 * np.sin(angle))
        labels[((x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 22**2) & (abs(z - _SLICES / 2) < 62)] = number
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])  # DICOM's axes run to the left and to the back, NIfTI's do not
    nib.save(nib.Nifti1Image(labels.transpose(2, 1, 0), affine), folder / "labels.nii.gz")


def _write_series(folder: Path, slices: list, spacing: float) -> None:  # type: ignore[type-arg]
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for number, pixels in enumerate(slices):
        d = pydicom.Dataset()
        d.SOPClassUID, d.SOPInstanceUID = CTImageStorage, generate_uid()
        d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = study, series, frame
        d.PatientName, d.PatientID, d.PatientBirthDate, d.PatientSex = "Compared^Commits", folder.name, "", ""
        d.StudyDate, d.StudyTime, d.AccessionNumber, d.StudyID, d.ReferringPhysicianName = "", "", "", "", ""
        d.Modality, d.Manufacturer, d.SeriesNumber, d.InstanceNumber = "CT", "", 1, number + 1
        d.ImageType, d.PositionReferenceIndicator, d.KVP, d.AcquisitionNumber = (
            ["ORIGINAL", "PRIMARY", "AXIAL"],
            "",
            "120",
            "1",
        )
        d.PixelSpacing, d.SliceThickness = [spacing, spacing], spacing
        d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, spacing * number]
        d.Rows, d.Columns = pixels.shape
        d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
        d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
        d.RescaleSlope, d.RescaleIntercept, d.RescaleType = 1, 0, "HU"
        d.PixelData = pixels.tobytes()
        d.file_meta = FileMetaDataset()
        d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        d.save_as(folder / f"{number:05d}.dcm", enforce_file_format=True)


def measure(sides: tuple[Side, Side], names: list[str], inputs: Path, runs: int) -> dict[str, dict[str, list[Usage]]]:
    """Run every job on both sides in turn, with the first side changing each time; return the usages by job and
    side."""
    found: dict[str, dict[str, list[Usage]]] = {}
    for name in names:
        found[name] = {side.name: [] for side in sides}
        for number in range(runs + 1):
            for side in sides if number % 2 else sides[::-1]:
                used = side.run(JOBS[name], inputs)
                if number:
                    found[name][side.name].append(used)
        print(f"{name}: {runs} runs of each side", file=sys.stderr)
    return found


def rows(found: dict[str, dict[str, list[Usage]]]) -> list[tuple[str, str, float, float, float]]:
    """Return job, measure, medians before and now, and their ratio."""
    made = []
    for name, usages in found.items():
        for what in ("seconds", "megabytes"):
            before, now = (statistics.median(getattr(used, what) for used in each) for each in usages.values())
            made.append((name, what, before, now, now / before))
    return made


def table(made: list[tuple[str, str, float, float, float]], commit: str, limit: float) -> str:
    """Format the rows as Markdown, with ratios above the limit marked."""
    lines = [f"| job | measure | {commit} | working tree | ratio |", "|---|---|---|---|---|"]
    for name, what, before, now, ratio in made:
        mark = " **above the limit**" if ratio > limit else ""
        lines.append(f"| {name} | {what} | {before:.2f} | {now:.2f} | {ratio:.3f}{mark} |")
    return "\n".join(lines)


def main() -> int:
    """Compare; return 0 if no ratio is above the limit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("commit", help="the commit to compare with")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.10)
    parser.add_argument("--files", type=int, default=10_000, help="DICOM files of the archive that is discovered")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--json", type=Path, help="also write every run's numbers to this file")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        make_inputs(options.make, options.files)
        return 0
    with tempfile.TemporaryDirectory(prefix="medvit-compare-") as place:
        top = Path(place)
        inputs, tree = top / "inputs", top / "tree"
        sides = Side(options.commit, tree, top / "before"), Side("working tree", ROOT, top / "now")
        for folder in (inputs, tree, *(side.kept for side in sides)):
            folder.mkdir()
        unpack(options.commit, tree)
        # in a separate process, since a command's peak memory includes that of the process that starts it
        make = [sys.executable, __file__, options.commit, "--make", str(inputs), "--files", str(options.files)]
        subprocess.run(make, check=True)
        found = measure(sides, options.jobs, inputs, options.runs)
    made = rows(found)
    print(table(made, options.commit, options.limit))
    if options.json is not None:
        numbers = {n: {s: [vars(u) for u in each] for s, each in usages.items()} for n, usages in found.items()}
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return int(any(ratio > options.limit for *_, ratio in made))


if __name__ == "__main__":
    raise SystemExit(main())
