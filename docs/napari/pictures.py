"""Makes the pictures of docs/napari.md: the plugin's own widgets in a window, on real images.

xvfb-run -a -s "-screen 0 1600x1000x24 +extension GLX" python docs/napari/pictures.py [OBLIQUE_MR TILTED_CT]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import napari
import numpy as np
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.display import go_to, save_gif, show_plane
from medvit_napari.reading.open import Answer, open_layers
from medvit_napari.widgets.dialogs import SeriesDialog
from medvit_napari.widgets.look import LookWidget
from medvit_napari.widgets.run import RunWidget
from medvit_napari.widgets.save import SaveWidget
from medvit_napari.widgets.views import ViewsWidget
from PIL import Image
from qtpy.QtWidgets import QApplication

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE.parents[1] / "examples" / "headneck_ct_dicom.zip"


def until(what, seconds: float = 300) -> None:
    """Wait for something while the window lives."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        QApplication.processEvents()
        time.sleep(0.01)


def settle(viewer: napari.Viewer) -> None:
    """Let the window draw."""
    for _ in range(20):
        QApplication.processEvents()
        time.sleep(0.02)


def picture(viewer: napari.Viewer, name: str) -> None:
    """The whole window as a small PNG."""
    settle(viewer)
    shot = Image.fromarray(viewer.screenshot(canvas_only=False, flash=False)).convert("RGB")
    shot.thumbnail((1200, 800))
    shot.quantize(96).save(HERE / f"{name}.png", optimize=True)
    print(name, (HERE / f"{name}.png").stat().st_size // 1000, "kB", flush=True)


def docked(viewer: napari.Viewer, widget: Any, name: str) -> Any:
    """A widget at the window's side, where the plugin's menu would put it."""
    return viewer.window.add_dock_widget(widget, name=f"{name} (medvit)")


def run(viewer: napari.Viewer) -> Any:
    """Ready to run, and the labels that come of it."""
    panel = RunWidget(viewer)
    dock = docked(viewer, panel, "Run a bundle")
    picture(viewer, "1_run")
    panel.run()
    until(lambda: panel.job is None)
    assert panel.last_error is None, panel.status.text()
    labels = viewer.layers[-1]
    go_to(viewer, labels, int(np.unique(labels.data)[-1]))
    picture(viewer, "2_labels")
    viewer.window.remove_dock_widget(dock)
    return labels


def look(viewer: napari.Viewer) -> None:
    """The table of labels over a coronal slice."""
    panel = LookWidget(viewer)
    dock = docked(viewer, panel, "Look")
    panel.measure()
    until(lambda: panel.job is None)
    assert panel.last_error is None, panel.status.text()
    show_plane(viewer, "Coronal")
    viewer.reset_view()
    picture(viewer, "3_look")
    viewer.window.remove_dock_widget(dock)


def correct_and_save(viewer: napari.Viewer, labels: Any) -> None:
    """Painted on, saved as a DICOM SEG and read back; an animation is made on the way."""
    panel = SaveWidget(viewer)
    dock = docked(viewer, panel, "Correct and save labels")
    show_plane(viewer, "Axial")
    viewer.reset_view()
    with tempfile.TemporaryDirectory() as place:
        save_gif(viewer, Path(place) / "a.gif", lambda: viewer.screenshot(canvas_only=True, flash=False))
        labels.paint((60, 60, 60), 3)
        panel.save(Path(place) / "out")
        until(lambda: panel.job is None)
        assert panel.last_error is None, panel.status.text()
        picture(viewer, "4_save")
    viewer.window.remove_dock_widget(dock)


def three_views(viewer: napari.Viewer, labels: Any) -> None:
    """The point in three planes."""
    panel = ViewsWidget(viewer)
    dock = docked(viewer, panel, "Three views, and before and after")
    go_to(viewer, labels, int(np.unique(labels.data)[-1]))
    picture(viewer, "5_views")
    viewer.window.remove_dock_widget(dock)
    panel.close()


def opened(viewer: napari.Viewer, path: Path, number: int) -> None:
    """A source as it is shown, with what is asked on opening it where something is."""
    viewer.layers.clear()
    offered = []

    def ask(offers: Any) -> Answer:
        offered.append(offers)
        return Answer((next(o.number for o in offers if o.likely),))

    add_layers(viewer, open_layers(path, ask))
    show_plane(viewer, "Sagittal")
    viewer.reset_view()
    dock = docked(viewer, SeriesDialog(offered[0]), "What is asked on opening it") if offered else None
    picture(viewer, f"{number}_{'tilted' if offered else 'oblique'}")
    if dock is not None:
        viewer.window.remove_dock_widget(dock)


def main(others: list[Path]) -> None:
    """All pictures, in the order of the docs."""
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1400, 900)
    add_layers(viewer, open_layers(EXAMPLE))
    labels = run(viewer)
    look(viewer)
    correct_and_save(viewer, labels)
    three_views(viewer, labels)
    for number, path in enumerate(others, 6):
        opened(viewer, path, number)
    viewer.close()


if __name__ == "__main__":
    main([Path(p) for p in sys.argv[1:]])
