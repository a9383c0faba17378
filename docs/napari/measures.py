"""Measures the plugin in a window: frame time while scrolling with labels on, and what a run costs beyond the command line.

xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" python docs/napari/measures.py [frames | overhead] [--runs 3]

A frame is counted from setting the next slice until the canvas has drawn it. For the overhead, the example CT is run by the default
bundle on the CPU, in turn by ``medvit segment`` in a process of its own, and by the Run widget's button in a napari window that is open, in a
process of its own too; the first is timed from the start of the process to its end, the second from the click until labels are in the viewer. Both load
torch and the network in that time, and neither converts: one run goes before.
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
from typing import Any

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "headneck_ct_dicom.zip"


def until(what: Any, seconds: float = 600) -> None:
    """Wait for something while the window lives."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        QApplication.processEvents()
        time.sleep(
            0.002
        )  # a window waits for events, too; a loop without a pause would take a core from what is measured


def frames() -> None:
    """Seconds a slice, of a 512 x 512 x 300 CT, alone, with labels, and with their outlines."""
    import napari
    import numpy as np

    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1400, 900)
    random = np.random.default_rng(0)
    scale = {"scale": (1.0, 0.8, 0.8), "units": ("mm",) * 3}
    viewer.add_image(random.integers(-1000, 1000, (300, 512, 512), np.int16), contrast_limits=(-160, 240), **scale)
    print(f"image alone: {_scrolled(viewer):.1f} ms a frame", flush=True)
    ids = np.zeros((300, 512, 512), np.uint8)
    for number in range(1, 8):
        ids[20:280, 40 * number : 40 * number + 60, 100:400] = number
    labels = viewer.add_labels(ids, opacity=0.55, **scale)
    print(f"with labels: {_scrolled(viewer):.1f} ms a frame", flush=True)
    labels.contour = 1
    print(f"with outlines: {_scrolled(viewer):.1f} ms a frame", flush=True)
    viewer.close()


def _scrolled(viewer: Any) -> float:
    """Median milliseconds of 100 frames, ten more before them left out."""
    canvas, drawn, taken = viewer.window._qt_viewer.canvas._scene_canvas, [0], []
    canvas.events.draw.connect(lambda event: drawn.__setitem__(0, drawn[0] + 1))
    for step in range(110):
        before, start = drawn[0], time.perf_counter()
        viewer.dims.set_current_step(0, 80 + step)
        until(lambda before=before: drawn[0] > before)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[10:])


def _clicked() -> None:
    """One run by the widget in a window; prints the seconds."""
    import napari
    from medvit_napari.looking.alignment import add_layers
    from medvit_napari.reading.open import open_layers
    from medvit_napari.widgets.run import RunWidget

    viewer = napari.Viewer(show=True)
    (layer,) = add_layers(viewer, open_layers(EXAMPLE))
    layer.data.scan()
    panel = RunWidget(viewer)
    viewer.window.add_dock_widget(panel, name="Run a bundle (medvit)")
    until(lambda: panel.isVisible())
    start = time.perf_counter()
    panel.device.setCurrentText("cpu")
    panel.run_button.click()
    until(lambda: panel.job is None)
    assert panel.last_error is None, panel.status.text()
    print(time.perf_counter() - start, flush=True)
    viewer.close()


def overhead(runs: int) -> None:
    """Seconds of both ways, in turn, after one of each that does not count."""
    found: dict[str, list[float]] = {"medvit segment": [], "the plugin": []}
    here = [sys.executable, str(Path(__file__).resolve())]
    for turn in range(runs + 1):
        with tempfile.TemporaryDirectory() as place:
            call = [sys.executable, "-m", "medvit", "segment", str(EXAMPLE), "-o", f"{place}/out", "-d", "cpu", "-q"]
            start = time.perf_counter()
            outcome = subprocess.run(call, check=False)
            seconds = time.perf_counter() - start
            assert outcome.returncode in (0, 3)
        made = subprocess.run([*here, "clicked"], check=True, capture_output=True, text=True, env={**os.environ})
        if turn:
            found["medvit segment"].append(seconds)
            found["the plugin"].append(float(made.stdout.split()[-1]))
    for name, seconds_of in found.items():
        print(
            f"{name}: {statistics.median(seconds_of):.1f} s ({', '.join(f'{s:.1f}' for s in seconds_of)})", flush=True
        )


def main() -> None:
    """Print the measurement that was asked for."""
    asked = argparse.ArgumentParser()
    asked.add_argument("what", choices=["frames", "overhead", "clicked"])
    asked.add_argument("--runs", type=int, default=3)
    options = asked.parse_args()
    {"frames": frames, "clicked": _clicked, "overhead": lambda: overhead(options.runs)}[options.what]()


if __name__ == "__main__":
    main()
