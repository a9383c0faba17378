"""Main task as a user runs it: whole commands, each in a new process.

Prints a Markdown table: start-up of ``medvit --help``, the demo's time and peak memory, the time of each stage, and,
in the same run, the same case through the MONAI twin (MONAI's network and inferer by ``monai.bundle run``) with the
agreement of the labels. Last come NIfTI to labels, where medvit does what the twin does; ``dicom_to_seg.py`` has DICOM to SEG.

    python benchmarks/main_job.py [--runs 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "headneck_ct_dicom.zip"
NIFTI = ROOT / "examples" / "headneck_ct.nii.gz"
GOAL = 4
"""Goal for the ratio of NIfTI to labels."""
BUNDLE = ROOT / "bundles" / "headneck_ct_swin_unetr"


def timed(command: list[str], cwd: Path = ROOT) -> tuple[float, float, int]:
    """Run a command; return wall-clock seconds, peak memory in GB (of its process alone) and exit code."""
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.chdir(cwd)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.execv(command[0], command)
    _, status, usage = os.wait4(pid, 0)
    return time.perf_counter() - start, usage.ru_maxrss / 1e6, os.waitstatus_to_exitcode(status)


def median(values: list[float]) -> float:
    return statistics.median(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    python = sys.executable
    demo = [
        python,
        "-m",
        "medvit",
        "segment",
        str(EXAMPLE),
        "-ot",
        "nifti",
        "-ot",
        "dicom-seg",
        "-ot",
        "rtstruct",
        "-p",
        "-s",
        "-q",
        "-o",
    ]

    helps = [timed([python, "-m", "medvit", "--help"])[0] for _ in range(runs + 2)]
    seconds, memory, stages, twins, agreement = [], [], [], [], 0.0
    pairs, same = [], 1.0
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            wall, peak, code = timed([*demo, str(folder / "out")])
            assert code in (0, 3), code
            seconds.append(wall)
            memory.append(peak)
            stages.append(json.loads((folder / "out" / "run.json").read_text())["seconds"])
            twin, labels = run_twin(EXAMPLE, folder)
            twins.append(twin)
            agreement = _agreement(folder / "out" / "labels.nii.gz", labels)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            out = folder / "out"
            wall, _, code = timed([python, "-m", "medvit", "segment", str(NIFTI), "-q", "-o", str(out)])
            assert code in (0, 3), code
            twin, labels = run_twin(NIFTI, folder)
            pairs.append((twin, wall))
            same = min(same, _agreement(out / "labels.nii.gz", labels))

    print(f"Median of {runs} runs, {os.cpu_count()} cores, no GPU; every figure is a whole process.\n")
    print("| what | measured |\n|---|---|")
    print(f"| `medvit --help` | {median(helps):.2f} s |")
    print(f"| demo: DICOM to NIfTI, SEG, RTSTRUCT, preview, statistics | {median(seconds):.1f} s |")
    print(f"| demo: peak memory | {median(memory):.2f} GB |")
    for name in stages[0]:
        print(f"| stage: {name} | {median([s[name] for s in stages]):.2f} s |")
    print(f"| stock twin: DICOM to NIfTI labels only, MONAI network and inferer | {median(twins):.1f} s |")
    ratio = median([t / s for t, s in zip(twins, seconds, strict=True)])
    print(f"| ratio twin / medvit (pair by pair) | {ratio:.2f} |")
    print(f"| agreement with the twin (lowest Dice of a label) | {agreement:.5f} |")
    print(f"| NIfTI to labels, medvit | {median([b for _, b in pairs]):.1f} s |")
    print(f"| NIfTI to labels, stock twin | {median([a for a, _ in pairs]):.1f} s |")
    print(f"| ratio twin / medvit (pair by pair), goal {GOAL} | {median([a / b for a, b in pairs]):.2f} |")
    print(f"| agreement (lowest Dice of a label) | {same:.5f} |")


def run_twin(case: Path, folder: Path) -> tuple[float, Path]:
    """Run the MONAI twin on a case, DICOM to labels; return its seconds and the label map."""
    data = folder / "data"
    data.mkdir()
    (data / case.name).symlink_to(case)
    command = [
        sys.executable,
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        "configs/inference_monai.json",
        "--bundle_root",
        ".",
    ]
    command += ["--dataset_dir", str(data), "--output_dir", str(folder / "twin"), "--device", "cpu"]
    wall, _, code = timed(command, BUNDLE)
    assert code == 0, code
    return wall, next((folder / "twin").rglob("*.nii.gz"))


def _agreement(ours: Path, theirs: Path) -> float:
    a = np.asarray(nib.load(ours).dataobj)
    b = np.asarray(nib.load(theirs).dataobj).reshape(a.shape)
    return float(
        min(2 * ((a == c) & (b == c)).sum() / max(1, (a == c).sum() + (b == c).sum()) for c in np.unique(a) if c)
    )


if __name__ == "__main__":
    main()
