"""Two runs of medvit side by side beside one alone, with threads that wait passively and with threads that spin.

    python benchmarks/side_by_side.py [--bundle NAME --case SCAN] [--backend eager] [--threads N] [--runs 3]

Each run is a process of ``medvit segment``. Printed for each policy of waiting: wall-clock seconds of one run alone and
of two at once (medians), their ratio, and whether all label maps are equal. Two is the ratio of two runs one after the
other; below it, running side by side is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

_EXAMPLE = Path(__file__).parents[1] / "examples" / "headneck_ct.nii.gz"


def seconds(line: list[str], out: Path, count: int, policy: str) -> float:
    """Start so many runs at once; return the seconds until the last one has ended."""
    environment = {**os.environ, "OMP_WAIT_POLICY": policy}
    start = time.perf_counter()
    runs = [subprocess.Popen([*line, "-o", str(out / f"{n}"), "--overwrite"], env=environment) for n in range(count)]
    for run in runs:
        if run.wait() not in (0, 3):
            raise SystemExit(f"a run ended with {run.returncode}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="headneck_ct_swin_unetr")
    parser.add_argument("--case", default=str(_EXAMPLE))
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    line = [sys.executable, "-m", "medvit", "segment", asked.case, "-b", asked.bundle, "--quiet", "-d", "cpu"]
    line += ["--backend", asked.backend, "-ot", "nifti"]
    line += [] if asked.threads is None else ["--threads", str(asked.threads)]
    print(f"{asked.bundle}, {asked.backend}, {os.cpu_count()} cores, threads {asked.threads or 'as many'}")
    print("| waiting | one alone | two side by side | ratio | labels |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        seconds(line, out, 1, "PASSIVE")  # what the first run prepares is not counted
        for policy in ("PASSIVE", "ACTIVE"):
            pairs = [(seconds(line, out, 1, policy), seconds(line, out, 2, policy)) for _ in range(asked.runs)]
            found = [np.asarray(nib.load(out / f"{n}" / "labels.nii.gz").dataobj) for n in range(2)]
            same = "the same" if np.array_equal(*found) else "DIFFERENT"
            one, two = (statistics.median(pair[n] for pair in pairs) for n in range(2))
            ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
            print(f"| {policy.lower()} | {one:.1f} s | {two:.1f} s | {ratio:.2f} | {same} |", flush=True)


if __name__ == "__main__":
    main()
