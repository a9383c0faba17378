"""Processor time of a cold ``medvit segment``, beside that of importing torch, numpy and nibabel.

Each command is a process of its own; both alternate, and the table shows medians. Processor time (of user and system) is compared, since
it depends less on other work of the machine than wall-clock time does. Below the table, the imports of one more run of both commands are
listed by package, with what the run loads of the packages that only training, foreign bundles or other outputs need, and then the stages
of the run.

    python benchmarks/cold_start.py [--runs 5] [--first-runs 3] [--image hippocampus.nii.gz] [--bundle NAME]

A first run finds no prepared network and no machine code of numba's; the later runs use what the last one left.
Without an image, a synthetic one of a hippocampus's size is segmented: time does not depend on what it shows.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

BASE = [sys.executable, "-c", "import torch, numpy, nibabel"]

SPARED = ("monai", "numba", "ignite", "pandas", "skimage", "matplotlib", "tensorboard", "highdicom", "dask")
"""Packages that a run on a cached graph needs for nothing."""


def processor_seconds(command: list[str]) -> float:
    """Run a command; return its processor time in seconds, that of its children included."""
    before = os.times()
    outcome = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if outcome.returncode not in (0, 3):  # 3: done, with a remark
        raise SystemExit(f"{' '.join(command)} ended with {outcome.returncode}:\n{outcome.stderr}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def first_run(command: list[str], caches: Path) -> float:
    """Run a command with empty caches, which later runs use; return its processor time in seconds."""
    os.environ |= {"MEDVIT_CACHE": str(caches / "medvit"), "NUMBA_CACHE_DIR": str(caches / "numba")}
    return processor_seconds(command)


def imports(command: list[str]) -> Counter[str]:
    """Run a Python command once more; return the packages it imports with the seconds of their own files."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    said = subprocess.run(traced, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False).stderr
    seconds: Counter[str] = Counter()
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)$", said, re.MULTILINE):
        seconds[name.partition(".")[0]] += int(own) / 1e6
    return seconds


def print_imports(job: list[str]) -> None:
    """Print the imports of a run beside those of ``BASE``, slowest first."""
    base, cold = imports(BASE), imports(job)
    print("\n| imports (traced, so slower) | medvit segment | import torch, numpy, nibabel |\n|---|---:|---:|")
    print(f"| all | {cold.total():.2f} s | {base.total():.2f} s |")
    for name, seconds in cold.most_common(12):
        print(f"| {name} | {seconds:.2f} s | {base[name]:.2f} s |")
    print(f"\nLoaded of {', '.join(SPARED)}: {', '.join(name for name in SPARED if name in cold) or 'nothing'}")


def print_stages(job: list[str]) -> None:
    """Print the wall-clock time of each stage of one more run."""
    told = [part for part in job if part != "-q"] + ["--verbose"]
    said = subprocess.run(told, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    print("\n| stage of one run (wall-clock time) | seconds |\n|---|---:|")
    for stage, seconds in re.findall(r"^\s+(\w+)\s+([\d.]+) s$", said, re.MULTILINE):
        print(f"| {stage} | {seconds} |")


def synthetic(folder: Path) -> Path:
    """Write an image of a hippocampus's size, (35, 51, 35) voxels of 1 mm; return its path."""
    noise = np.random.default_rng(0).normal(size=(35, 51, 35))
    image = (gaussian_filter(noise, 3) * 1000 + 500).astype(np.float32)
    path = folder / "image.nii.gz"
    nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--first-runs", type=int, default=3)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--bundle", default="hippocampus_mr_swin_unetr")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        image = options.image or synthetic(Path(temporary))
        output = str(Path(temporary) / "result")
        job = [sys.executable, "-m", "medvit", "segment", str(image), "-b", options.bundle, "-o", output]
        job += ["--device", "cpu", "--overwrite", "-q"]
        firsts = [first_run(job, Path(temporary) / f"cache_{n}") for n in range(options.first_runs)]
        pairs = [(processor_seconds(BASE), processor_seconds(job)) for _ in range(options.runs)]
        base, cold = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"| process (median of {options.runs}) | processor time | ratio |\n|---|---:|---:|")
        print(f"| import torch, numpy, nibabel | {base:.2f} s | 1 |")
        print(f"| medvit segment, cold | {cold:.2f} s | {cold / base:.2f} |")
        first = statistics.median(firsts)
        print(f"| first run, with empty caches (median of {options.first_runs}) | {first:.2f} s | {first / base:.2f} |")
        print(f"| first run over a later one | {first - cold:.2f} s | {(first - cold) / base:.2f} |")
        print_imports(job)
        print_stages(job)


if __name__ == "__main__":
    main()
