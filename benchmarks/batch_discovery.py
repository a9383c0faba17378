"""Speed of a batch's discovery of an archive, against pydicom's plain walk over the same files.

    python benchmarks/batch_discovery.py [--files 10000] [--runs 3]

Each side runs in its own process, in turn. medvit walks, reads, writes the catalogue, sorts every series into volumes
and reports oddities; the plain walk reads each header with ``dcmread(stop_before_pixels=True)`` and keeps five values.
"again" is a second discovery of an unchanged archive.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from inspect_headers import PLAIN, ROOT, fill

OURS = """
import resource, sys, time
from pathlib import Path
from medvit.io.dicom.preflight import sort_planes
from medvit.progress import Progress
from medvit_batch.catalogue.catalogue import Catalogue
if __name__ == "__main__":
    start = time.perf_counter()
    catalogue = Catalogue(Path(sys.argv[2]))
    catalogue.look(Path(sys.argv[1]), Path(sys.argv[2]).parent, Progress(), readers=int(sys.argv[3]))
    series = sum(1 for group in catalogue.groups() if sort_planes(group.planes))
    files = sum(catalogue.counts().values())
    print(files / (time.perf_counter() - start), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, series)
"""


def one(program: str, *arguments: object) -> tuple[float, float, int]:
    """Run a program; return files per second, peak memory in MB, and the number of series found."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "apps" / "batch")])}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:  # spawned readers import it, so it must be a file
        file.write(program)
        file.flush()
        line = [sys.executable, file.name, *map(str, arguments)]
        out = subprocess.run(line, capture_output=True, text=True, check=True, env=env).stdout.split()
    return float(out[0]), float(out[1]), int(out[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    rows: dict[str, list[tuple[float, float, int]]] = {}
    with tempfile.TemporaryDirectory() as top:
        archive = Path(top) / "archive"
        archive.mkdir()
        fill(archive, args.files)
        for n in range(args.runs):
            new = Path(top) / f"{n}"
            new.mkdir()
            for readers in (1, 2):
                place = new / f"{readers}.sqlite"
                rows.setdefault(f"batch, {readers} reader(s)", []).append(one(OURS, archive, place, readers))
            rows.setdefault("batch, again", []).append(one(OURS, archive, new / "1.sqlite", 1))
            rows.setdefault("pydicom's walk", []).append(one(PLAIN, archive))
    assert len({found[2] for several in rows.values() for found in several}) == 1, "the sides disagree on the series"
    print(f"{args.files} files, {os.cpu_count()} cores, median of {args.runs}")
    print(f"{'':<20}{'files/s':>10}{'MB':>8}{'ratio to the walk':>20}")
    for name, several in rows.items():
        ratio = statistics.median(
            ours[0] / theirs[0] for ours, theirs in zip(several, rows["pydicom's walk"], strict=True)
        )
        print(
            f"{name:<20}{statistics.median(s[0] for s in several):>10.0f}{statistics.median(s[1] for s in several):>8.0f}{ratio:>20.2f}"
        )


if __name__ == "__main__":
    main()
