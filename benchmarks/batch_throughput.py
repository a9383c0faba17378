"""Series per minute of a batch, against one process per case, and the time of a case outside inference.

    python benchmarks/batch_throughput.py [--cases 6] [--bundle NAME] [--twin-cases 2] [--memory-cases 0]
    # --cases 0: only the memory

All run the same weights on the same series (copies of the shipped one with other voxels and UIDs). The peer is a loop
with one process per case, as over TotalSegmentator, that runs its own code: MONAI's network, transforms and inferer on
the default bundle's weights (its twin config, ``python -m monai.bundle run``), and highdicom for the SEG, by the
functions of ``dicom_to_seg.py``; it is timed on the first ``--twin-cases`` of the series, and the labels of both are
compared. A loop over ``medvit segment``, with medvit's engine but without the batch, is timed too. Up to 64 workers are
simulated, since no machine here has the cores: each takes the next case when it has finished one, cases take the
recorded times, and the parent's work for the cases is sequential.

``--memory-cases`` runs that many small cases through one worker and prints its peak memory after each tenth of them.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

ROOT = Path(__file__).resolve().parents[1]
MEDVIT = [sys.executable, "-W", "ignore", "-m", "medvit"]
TYPES = ["-ot", "nifti", "-ot", "dicom-seg"]


def fill(top: Path, cases: int) -> list[Path]:
    """Write copies of the shipped series, each with its own voxel and UIDs."""
    with zipfile.ZipFile(ROOT / "examples" / "headneck_ct_dicom.zip") as archive:
        slices = [pydicom.dcmread(BytesIO(archive.read(name))) for name in archive.namelist() if not name.endswith("/")]
    folders = []
    for n in range(cases):
        folder, series, study = top / f"{n:03d}", generate_uid(), generate_uid()
        folder.mkdir(parents=True)
        for k, slice_ in enumerate(slices):
            slice_.SeriesInstanceUID, slice_.StudyInstanceUID = series, study
            slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            if k == 0:
                pixels = slice_.pixel_array.copy()
                pixels[0, 0] = n
                slice_.PixelData = pixels.astype(slice_.pixel_array.dtype).tobytes()
            slice_.save_as(folder / f"{k:04d}.dcm", enforce_file_format=True)
        folders.append(folder)
    return folders


def run(*arguments: object) -> float:
    """Run a command; return its seconds."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "apps" / "batch")])}
    start = time.perf_counter()
    done = subprocess.run([*MEDVIT, *map(str, arguments)], capture_output=True, text=True, env=env)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start


def recorded(out: Path) -> list[dict[str, float]]:
    """Return the seconds of each stage of each published case."""
    base = sqlite3.connect(out / "journal.sqlite")
    rows = base.execute("SELECT seconds FROM cases WHERE state='published' ORDER BY id").fetchall()
    base.close()
    return [json.loads(row[0]) for row in rows]


def simulated(services: list[float], parent: float, workers: int, cases: int) -> float:
    """Compute the cases per second of a number of workers whose parent needs ``parent`` seconds for each case."""
    chance, free, hands = random.Random(1), [0.0] * workers, 0.0
    for _ in range(cases):
        begin = max(heapq.heappop(free), hands)
        hands = begin + parent
        heapq.heappush(free, hands + chance.choice(services))
    return cases / max(free)


def parents_share(out: Path, cases: int = 200) -> float:
    """Measure the parent's seconds per case: three journal entries, each synced to disk, and the renames."""
    sys.path[:0] = [str(ROOT), str(ROOT / "apps" / "batch")]
    from medvit_batch.cases import State
    from medvit_batch.execution.publish import prepare, publish_case, staging_path
    from medvit_batch.journal import Journal

    prepare(out)
    journal = Journal(out, new=True)
    for n in range(1, cases + 1):
        journal.base.execute(
            f"INSERT INTO cases (volume, bundle, folder, state) VALUES ('{n}','b','cases/{n}/b','pending')"
        )
        staging_path(out, n).mkdir()
        (staging_path(out, n) / "run.json").write_text("{}")
    start = time.perf_counter()
    for n in range(1, cases + 1):
        journal.move(n, State.RUNNING, stage="start")
        journal.move(n, State.CHECKED, flags="[]", seconds="{}")
        publish_case(out, n, f"cases/{n}/b")
        journal.move(n, State.PUBLISHED)
    took = time.perf_counter() - start
    journal.close()
    return took / cases


def memory(cases: int) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.bands import make_bundle, oblique_affine, phantom, write_series

    with tempfile.TemporaryDirectory() as top:
        bundle = make_bundle(Path(top) / "banded")
        for n in range(cases):
            values = phantom((24, 20, 8))[0]
            values[tuple(np.unravel_index(n, values.shape))] = 400
            write_series(Path(top) / "archive" / f"{n}", values, oblique_affine())
        run(
            "batch", "run", Path(top) / "archive", "-o", Path(top) / "out", "-b", bundle, "-ot", "nifti", "--no-preview"
        )
        base = sqlite3.connect(Path(top) / "out" / "journal.sqlite")
        peaks = [row[0] for row in base.execute("SELECT peak_mb FROM cases WHERE state='published' ORDER BY id")]
        base.close()
    tenths = [peaks[(k + 1) * len(peaks) // 10 - 1] for k in range(10)]
    print(
        f"\nmost memory of one worker over {len(peaks)} cases, MB, after each tenth: {', '.join(f'{p:.0f}' for p in tenths)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=6)
    parser.add_argument("--bundle", default="headneck_ct_swin_unetr")
    parser.add_argument("--twin-cases", type=int, default=2, help="series that MONAI's twin is timed on; 0: none")
    parser.add_argument("--memory-cases", type=int, default=0)
    args = parser.parse_args()
    if args.cases:
        throughput(args)
    if args.memory_cases:
        memory(args.memory_cases)


def twin(folders: list[Path], out: Path, place: Path) -> tuple[float, float]:
    """Return the seconds per case of MONAI's twin with highdicom, one process each, and the lowest Dice of a label
    against the batch."""
    from dicom_to_seg import lowest_dice, theirs

    segs = {pydicom.dcmread(seg).ReferencedSeriesSequence[0].SeriesInstanceUID: seg for seg in out.rglob("seg.dcm")}
    seconds, agreement = [], 1.0
    for folder in folders:
        case = place / f"{folder.name}.zip"
        (place / folder.name).mkdir(parents=True)
        with zipfile.ZipFile(case, "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, path.name)
        took, seg = theirs(case, place / folder.name)
        uid = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).SeriesInstanceUID
        seconds.append(took)
        agreement = min(agreement, lowest_dice(segs[uid], seg, case))
    return statistics.mean(seconds), agreement


def throughput(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as top:
        folders, outs = fill(Path(top) / "archive", args.cases), {}
        alone = sum(
            run("segment", folder, "-o", f"{top}/alone/{folder.name}", "-b", args.bundle, *TYPES, "-p", "-q")
            for folder in folders
        )
        walls = {"medvit segment, a process a case": alone}
        for workers in (1, 2):
            outs[workers] = Path(top) / f"out{workers}"
            walls[f"batch, {workers} worker(s)"] = run(
                "batch", "run", Path(top) / "archive", "-o", outs[workers], "-b", args.bundle, *TYPES, "--workers", workers, "-q"
            )  # fmt: skip
        peer = twin(folders[: args.twin_cases], outs[1], Path(top) / "twin") if args.twin_cases else None
        seconds, parents = recorded(outs[1]), parents_share(Path(top) / "share")
    assert len(seconds) == args.cases, "a case was not published"
    print(f"{args.cases} series, {args.bundle}, {os.cpu_count()} cores\n")
    if peer is not None:
        walls = {"MONAI's twin and highdicom, a process each a case": peer[0] * args.cases, **walls}
    print("| | series a minute | against medvit segment | against MONAI's twin |\n|---|---|---|---|")
    for name, wall in walls.items():
        against = "" if peer is None else f"{peer[0] * args.cases / wall:.2f}"
        print(f"| {name} | {60 * args.cases / wall:.2f} | {alone / wall:.2f} | {against} |")
    if peer is not None:
        print(
            f"\nthe twin was timed on {min(args.twin_cases, args.cases)}; lowest Dice of a label, batch and twin: {peer[1]:.5f}"
        )
    later = seconds[1:] or seconds
    # stages that keep the worker busy: without those that overlap another case or are part of another stage
    whole = [sum(v for k, v in s.items() if k not in ("load", "preflight", "ahead", "behind")) for s in later]
    outside = [1 - s.get("infer", 0.0) / w for s, w in zip(later, whole, strict=True)]
    stages = {name: statistics.median(s.get(name, 0.0) for s in later) for name in later[0]}
    print(
        f"\nmedian seconds by stage, model loaded: {', '.join(f'{k} {v:.2f}' for k, v in stages.items() if k != 'load')}"
    )
    print(f"outside inference: {100 * statistics.median(outside):.1f} % of a case's {statistics.median(whole):.2f} s")
    taken = sum(v for s in seconds for k, v in s.items() if k not in ("preflight", "ahead", "behind"))
    between = walls["batch, 1 worker(s)"] - taken
    parent = max(0.0, between) / args.cases
    print(f"outside all stages (start, discovery, journal, reports): {parent:.2f} s a case")
    print(
        f"\nsimulated workers, the parent needing {1000 * parents:.1f} ms for each case (journal and publishing, measured):"
    )
    one = simulated(whole, parents, 1, 2000)
    print(", ".join(f"{n}: {simulated(whole, parents, n, 2000) / one:.1f}x" for n in (1, 2, 4, 8, 16, 32, 64)))


if __name__ == "__main__":
    main()
