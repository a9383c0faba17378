"""Time until the first slice of a large series is visible through the napari plugin, against reading all slices first.

    python benchmarks/napari_open.py [--slices 600] [--side 512]

napari itself has no DICOM reader; the plain side decodes every slice with pydicom, orders them by position and stacks
them, as a reader plugin without a thread must do before napari can draw. Each side runs in its own process (the disk
cache is warm for both), three times in turn. The first slice counts as visible when napari's viewer model has the
middle slice; drawing is part of napari and is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

_END = """
print(first - start, time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""

PLAIN = (
    """
import resource, sys, time
from pathlib import Path
import numpy as np, pydicom
from napari.components import ViewerModel
viewer = ViewerModel()
start = time.perf_counter()
found = [pydicom.dcmread(path) for path in Path(sys.argv[1]).iterdir()]
found.sort(key=lambda d: float(d.ImagePositionPatient[2]))
data = np.stack([d.pixel_array * np.float32(d.RescaleSlope) + np.float32(d.RescaleIntercept) for d in found])
layer = viewer.add_image(data, contrast_limits=(-160, 240))
assert layer._slice.image.view.any()
first = time.perf_counter()
"""
    + _END
)

OURS = (
    """
import resource, sys, time
from pathlib import Path
from napari.components import ViewerModel
from napari.layers import Layer
from medvit_napari.reading.open import open_layers
viewer = ViewerModel()
start = time.perf_counter()
((data, options, kind),) = open_layers(Path(sys.argv[1]))
layer = viewer.add_layer(Layer.create(data, options, kind))
assert layer._slice.image.view.any()
first = time.perf_counter()
data.scan()
"""
    + _END
)


def measured(code: str, folder: Path) -> list[float]:
    """Return the seconds to the first slice, the seconds until all are read, and the peak MiB of the process."""
    made = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    return [float(word) for word in made.stdout.split()[-3:]]


def main() -> None:
    """Write the series, run both sides in turn, print medians."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--slices", type=int, default=600)
    asked.add_argument("--side", type=int, default=512)
    asked.add_argument("--runs", type=int, default=3)
    options = asked.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.bands import write_series

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "ct"
        tile = np.random.default_rng(0).integers(-1000, 1000, (64, 64, 1), dtype=np.int16)
        plane = np.tile(tile, (options.side // 64, options.side // 64, 1))
        values = np.broadcast_to(plane, (*plane.shape[:2], options.slices))
        write_series(folder, values, np.diag([0.8, 0.8, 1.0, 1.0]))
        sides = {"plain": PLAIN, "medvit": OURS}
        found: dict[str, list[list[float]]] = {name: [] for name in sides}
        for _ in range(options.runs):
            for name, code in sides.items():
                found[name].append(measured(code, folder))
        for name, rows in found.items():
            first, whole, peak = (statistics.median(column) for column in zip(*rows, strict=True))
            print(f"{name}: first slice {first:.2f} s, all {whole:.2f} s, peak {peak:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
