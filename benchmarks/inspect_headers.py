"""Speed of preflight's header reading, against pydicom's plain walk over the same files, and its share of a run.

    python benchmarks/inspect_headers.py [--files 20000]

The plain walk reads each header with ``dcmread(stop_before_pixels=True)`` and takes five values that any sorting needs.
Both run in their own processes, in turn, so that memory is measured separately; the files are copies of the shipped
series with changed series, instance and position.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from io import BytesIO
from pathlib import Path

import pydicom

ROOT = Path(__file__).resolve().parents[1]

PLAIN = """
import os, resource, sys, time, pydicom
start = time.perf_counter()
n, found = 0, {}
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        d = pydicom.dcmread(os.path.join(folder, name), stop_before_pixels=True)
        found.setdefault(d.SeriesInstanceUID, []).append((d.SOPInstanceUID, d.ImagePositionPatient, d.Rows, d.Columns))
        n += 1
print(n / (time.perf_counter() - start), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(found))
"""

OURS = """
import resource, sys, time
from pathlib import Path
from medvit.io.dicom import run_preflight
start = time.perf_counter()
found = run_preflight(Path(sys.argv[1]))
print(found.files / (time.perf_counter() - start), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(found.volumes))
"""


def fill(folder: Path, count: int) -> None:
    """Write 30 slices of one series and many single ones, in folders of 500."""
    with zipfile.ZipFile(ROOT / "examples" / "headneck_ct_dicom.zip") as archive:
        template = pydicom.dcmread(BytesIO(archive.read(archive.namelist()[0])))
    for n in range(count):
        if n % 500 == 0:
            (folder / f"{n // 500:03d}").mkdir()
        template.SeriesInstanceUID = "1.2.3.1" if n < 30 else f"1.2.3.{2 + n // 7}"
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = f"1.2.4.{n + 1}"
        template.ImagePositionPatient = [0, 0, 2.5 * n]
        template.save_as(folder / f"{n // 500:03d}" / f"{n:05d}", enforce_file_format=True)


def measure(code: str, folder: Path) -> tuple[float, float, int]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    speed, memory, groups = done.stdout.split()
    return float(speed), float(memory), int(groups)


def preflight_share() -> tuple[float, float]:
    """Return the seconds of preflight and of a whole run on the shipped series."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "medvit",
            "segment",
            "examples/headneck_ct_dicom.zip",
            "-o",
            f"{folder}/out",
            "-q",
        ]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        whole = time.perf_counter() - start
        seconds = json.loads(Path(folder, "out", "run.json").read_text())["seconds"]
    return seconds["preflight"], whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20000)
    count = parser.parse_args().files
    ratios, table = [], {}
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        fill(Path(few), max(30, count // 10))
        fill(Path(many), count)
        for _ in range(3):
            plain, ours = measure(PLAIN, Path(many)), measure(OURS, Path(many))
            ratios.append(ours[0] / plain[0])
            table = {"plain": plain, "ours": ours}
        tenth = measure(OURS, Path(few))
    assert table["ours"][2] == table["plain"][2], "the two sort differently"
    preflight, whole = preflight_share()
    print("| what | pydicom's plain walk | medvit preflight |\n|---|---|---|")
    print(f"| files per second, {count} headers | {table['plain'][0]:.0f} | {table['ours'][0]:.0f} |")
    print(f"| ratio (pair by pair, median) | | {statistics.median(ratios):.2f} |")
    print(f"| peak memory, {count} files | {table['plain'][1]:.0f} MB | {table['ours'][1]:.0f} MB |")
    print(f"| peak memory, a tenth of them | | {tenth[1]:.0f} MB |")
    print(f"| series found | {table['plain'][2]} | {table['ours'][2]} |")
    print(
        f"| preflight of the demo's series | | {preflight:.2f} s of {whole:.1f} s ({100 * preflight / whole:.1f} %) |"
    )


if __name__ == "__main__":
    main()
