"""Waiting times of an annotator: start of the server, first and later inferences, and clicks.

    python benchmarks/label_server.py [--case SCAN] [--runs 5]

The real server runs in its own process and is called by MONAI Label's client, on a whole head-and-neck CT. In turn with
it, ``medvit segment`` runs on the same file, one process per case, as the cost of a command that keeps nothing loaded.
The labels of both are compared. MONAI Label's own bundle app, which needs its own environment, is measured by
``label_stock.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from medvit_label.self_test import running
from monailabel.client import MONAILabelClient

from medvit.settings import DEFAULT_BUNDLE

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
CASE = SHARED / "data" / "ct_headneck_openkbp" / "pt_201_ct.nii.gz"


def taken(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    made = action()
    return time.perf_counter() - start, made


def command(case: Path, out: Path) -> Path:
    asked = ["segment", str(case), "-o", str(out), "-ot", "nifti", "-q", "--overwrite"]
    done = subprocess.run([sys.executable, "-m", "medvit", *asked], check=False)
    assert done.returncode in (0, 3), done.returncode
    return out / "labels.nii.gz"


def clicks(labels: np.ndarray, count: int) -> list[list[int]]:
    """Choose voxels (i, j, k) on the surface of the found mandible, where a user would correct."""
    inside = labels == 7
    edge = np.argwhere(inside & ~np.roll(inside, 1, 0))
    return [edge[n * (len(edge) - 1) // max(count - 1, 1)].tolist() for n in range(count)]


def row(name: str, seconds: list[float]) -> str:
    return f"| {name} | {statistics.median(seconds):.2f} s | {min(seconds):.2f} to {max(seconds):.2f} s |"


def measure(client: MONAILabelClient, case: Path, place: Path, runs: int) -> list[str]:
    """Return the rows of the table; the last one is a sentence on agreement."""
    image = case.name.split(".")[0]
    first, (file, _) = taken(lambda: client.infer(DEFAULT_BUNDLE, image, {}))
    later, alone = [], []
    for _ in range(runs):
        later.append(taken(lambda: client.infer(DEFAULT_BUNDLE, image, {}))[0])
        alone.append(taken(lambda: command(case, place / "alone"))[0])
    labels = np.asarray(nib.load(file).dataobj)
    same = np.array_equal(labels, np.asarray(nib.load(command(case, place / "alone")).dataobj))
    waits = []
    for point in clicks(labels, runs):
        asked = {"clicks": {"mandible": [point], "background": []}}
        waits.append(taken(lambda asked=asked: client.infer(DEFAULT_BUNDLE, image, asked))[0])
    ratio = statistics.median(a / b for a, b in zip(alone, later, strict=True))
    return [
        row("first inference", [first]),
        row("later inferences", later),
        row("medvit segment, one process for each case", alone),
        row("a click, answered with corrected labels", waits),
        f"\nCommand / later inference, pair by pair: {ratio:.2f}; labels {'the same' if same else 'NOT the same'}.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, default=CASE)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        place = Path(top)
        (place / "studies").mkdir()
        shutil.copy(given.case, place / "studies")
        shape = nib.load(given.case).shape
        with running(
            str(place / "studies"), "--bundle", DEFAULT_BUNDLE, "--state", str(place / "state"), "--quiet"
        ) as (
            url,
            ready,
        ):
            print(f"{given.case.name}, {' x '.join(map(str, shape))}; {json.dumps({'cores': os.cpu_count()})}\n")
            print("| wait | median | range |\n|---|---|---|")
            print(row("server ready", [ready]))
            print("\n".join(measure(MONAILabelClient(url, tmpdir=top), given.case, place, given.runs)))


if __name__ == "__main__":
    main()
