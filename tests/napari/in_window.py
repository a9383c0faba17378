"""What ``test_window`` runs: the plugin's widgets in a napari window, clicked as a person would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import napari
import numpy as np
from medvit_label.self_test import running
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.display import camera, save_gif, show_plane
from medvit_napari.reading.layer_info import place_of
from medvit_napari.reading.open import open_layers
from medvit_napari.widgets.look import LookWidget
from medvit_napari.widgets.run import RunWidget
from medvit_napari.widgets.save import SaveWidget
from medvit_napari.widgets.server import ServerWidget
from medvit_napari.widgets.views import ViewsWidget
from medvit_napari.widgets.xray import XrayWidget
from PIL import Image
from qtpy.QtWidgets import QApplication

import medvit
from tests.bands import (
    make_bundle,
    make_reconstructing_bundle,
    make_restoring_bundle,
    oblique_affine,
    phantom,
    write_series,
)
from tests.cli.scenes import bones
from tests.napari.driving import docked, done, until

TOKEN = "a-token-only-for-tests-0123456789"


def runs(viewer, image, place: Path) -> RunWidget:
    """Cancelled, nothing is left; run, the labels are the command line's and the image is as it was."""
    state = (tuple(image.contrast_limits), image.opacity, image.visible)
    run = docked(viewer, RunWidget(viewer))
    run.bundle.setCurrentIndex([b.name for b in run.bundles].index("banded"))
    run.run_button.click()
    run.cancel_button.click()
    until(lambda: run.job is None)
    assert list(viewer.layers) == [image] and "Cancelled" in run.status.text(), run.status.text()
    run.run_button.click()
    done(run)
    expected = np.asarray(medvit.segment(place / "ct", place / "bundles" / "banded").labels)[0]
    assert np.array_equal(viewer.layers[-1].data, place_of(image).grid.show(expected))
    assert (tuple(image.contrast_limits), image.opacity, image.visible) == state
    return run


def corrects_and_saves(viewer, image, labels, place: Path) -> None:
    labels.paint((5, 10, 10), 7)
    labels.undo()
    labels.paint((5, 12, 12), 7)
    save = docked(viewer, SaveWidget(viewer))
    save.save(place / "out")
    done(save)
    assert "corrected labels, read back" in save.status.text(), save.status.text()
    back = medvit.read_labels(place / "out" / "seg.dcm", like=place / "ct")
    stored = place_of(image).grid.back(labels.data)
    by_title = {s.label.title: back.whole(s) for s in back.segments}
    for label in place_of(labels).labels:
        if (stored == label.id).any():
            assert np.array_equal(by_title[label.title], stored == label.id)


def tables(viewer, labels) -> None:
    """The segment table has a dock and a row for each label; the chosen label is painted."""
    _, table = viewer.window.add_plugin_dock_widget("medvit", "Segments")
    table.labels.choose(labels)
    assert table.table.rowCount() == len(place_of(labels).labels)
    table.table.selectRow(2)
    assert labels.selected_label == place_of(labels).labels[2].id
    table.table.item(2, 3).setText("Corrected")
    assert place_of(labels).labels[2].title == "Corrected"
    viewer.window.remove_dock_widget(table)


def drags(viewer, look, image) -> None:
    """With the real mouse over the real canvas: the window changes and the camera stays; off, the camera moves again."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent

    canvas = viewer.window._qt_viewer.canvas.native
    viewer.layers.selection.active = image

    def drag() -> None:
        for kind, x, y in ((QEvent.MouseButtonPress, 200, 200), *((QEvent.MouseMove, 200 + n, 200) for n in (30, 60, 90)),
                           (QEvent.MouseButtonRelease, 290, 200)):  # fmt: skip
            at, held = QPointF(x, y), Qt.NoButton if kind == QEvent.MouseButtonRelease else Qt.LeftButton
            button = Qt.NoButton if kind == QEvent.MouseMove else Qt.LeftButton
            place = QPointF(canvas.mapToGlobal(at.toPoint()))
            QApplication.sendEvent(canvas, QMouseEvent(kind, at, place, button, held, Qt.NoModifier))
            QApplication.processEvents()

    before, center = list(image.contrast_limits), tuple(camera(viewer).center)
    look.dragging.setChecked(True)
    drag()
    assert np.ptp(image.contrast_limits) > np.ptp(before) and tuple(camera(viewer).center) == center
    look.dragging.setChecked(False)
    changed = list(image.contrast_limits)
    drag()
    assert list(image.contrast_limits) == changed and tuple(camera(viewer).center) != center
    viewer.reset_view()


def looks(viewer, image, labels, place: Path) -> None:
    look = docked(viewer, LookWidget(viewer))
    look.image.choose(image)
    look.labels.choose(labels)
    look.window.setCurrentIndex(1)
    look._apply()
    assert tuple(image.contrast_limits) == look.window.currentData()
    look.outlines.setChecked(True)
    assert labels.contour == 1
    drags(viewer, look, image)
    look.measure()
    done(look)
    assert look.table.rowCount() == len(np.unique(labels.data)) - 1, look.status.text()
    for plane in ("Axial", "Coronal", "Sagittal"):
        show_plane(viewer, plane)
        look._go(0, 0)
        at = tuple(np.rint(labels.world_to_data(viewer.dims.point)).astype(int))
        assert labels.data[at] == look.rows[0].id
        drawn = [viewer.dims.point[axis] for axis in viewer.dims.displayed]
        np.testing.assert_allclose(viewer.scene.camera.center[-2:], drawn, atol=2)
    show_plane(viewer, "Axial")
    before = viewer.dims.current_step
    path = save_gif(viewer, place / "a.gif", lambda: viewer.screenshot(canvas_only=True, flash=False))
    with Image.open(path) as film:
        assert film.n_frames > 10 and film.size[0] > 50
    assert viewer.dims.current_step == before and [p.name for p in place.glob(".*")] == []


def restores(viewer, run, image, place: Path) -> None:
    """The restored image and the change lie on the source; their voxels equal the command line's."""
    run.image.choose(image)
    run.bundle.setCurrentIndex([b.name for b in run.bundles].index("smooth"))
    run.run_button.click()
    done(run)
    restored, change = viewer.layers[-2:]
    expected = np.asarray(medvit.restore(place / "ct", place / "bundles" / "smooth").image)[0]
    assert np.array_equal(restored.data, place_of(image).grid.show(expected))
    np.testing.assert_allclose(change.data, restored.data - np.asarray(image.data), atol=1e-3)
    np.testing.assert_allclose(restored.translate, image.translate)
    assert not change.visible and restored.contrast_limits == image.contrast_limits


def views(viewer, image) -> None:
    """Three canvases and a swipe of source and restored image are drawn; closing removes both."""
    restored, before = viewer.layers[-2], list(viewer.layers)
    panel = ViewsWidget(viewer)
    dock = viewer.window.add_dock_widget(panel, name="views", tabify=True)
    for canvas in panel.canvases.values():
        assert canvas.screenshot(flash=False)[..., :3].std() > 1
    panel.first.choose(image)
    panel.second.choose(restored)
    panel.swipe_button.click()
    assert panel.last_error is None and panel.swipe in viewer.layers, panel.status.text()
    k = viewer.dims.current_step[0]
    for share, wanted in ((0, restored), (100, image)):
        panel.line.setValue(share)
        assert np.array_equal(panel.swipe._slice.image.view, np.asarray(wanted.data)[k])
    panel.grid.setChecked(True)
    assert viewer.grid.enabled
    panel.grid.setChecked(False)
    panel.first.choose(restored)
    panel.swipe_button.click()
    assert "two grey volumes on one grid are needed" in panel.status.text()
    viewer.layers.remove(panel.swipe)
    viewer.window.remove_dock_widget(dock)
    panel.close()
    assert list(viewer.layers) == before


def labels_for_a_server(viewer, place: Path) -> None:
    """Our own annotation server: connect, next case, infer, paint, submit; training is refused readably."""
    (place / "studies").mkdir()
    (place / "ct").rename(place / "studies" / "ct")
    options = ("--bundle", "banded", "--state", str(place / "state"))
    with running(str(place / "studies"), *options, token=TOKEN) as (url, _):
        server = docked(viewer, ServerWidget(viewer))
        server.address.setText(url)
        server.buttons["Connect"].click()
        until(lambda: server.job is None)
        assert "401" in server.status.text(), server.status.text()
        server.token.setText(TOKEN)
        for name in ("Connect", "Next case", "Infer"):
            server.buttons[name].click()
            done(server)
        labels = server.labels.layer()
        assert labels.name == "banded [1]", labels.name  # napari tells layers of one name apart
        assert labels.data.any() and len(place_of(labels).labels) == 7
        labels.paint((5, 12, 12), 7)
        server.buttons["Submit"].click()
        done(server)
        assert "Submitted for case 1: " in server.status.text() and "removed from the window" in server.status.text()
        assert labels not in viewer.layers and server.image not in viewer.layers
        kept = medvit.read_labels(next((place / "state").rglob("labels.nii.gz")))
        assert np.array_equal(kept.array, place_of(server.image).grid.back(labels.data))
        server.buttons["Next case"].click()
        until(lambda: server.job is None)
        assert "every image has its label" in server.status.text(), server.status.text()
        server.buttons["Train"].click()
        until(lambda: server.job is None)
        assert "refused /train" in server.status.text(), server.status.text()
        server.buttons["Stop training"].click()
        until(lambda: server.job is None)
        assert server.status.text() == "No training was running.", server.status.text()
    there = list(viewer.layers)
    server.buttons["Connect"].click()
    until(lambda: server.job is None)
    assert "Found no answer" in server.status.text() and list(viewer.layers) == there


def reconstructs(viewer, place: Path) -> None:
    """Two computed radiographs give labels, surfaces, and each picture with what was projected again."""
    viewer.layers.clear()
    xray = docked(viewer, XrayWidget(viewer))
    xray.ap.setText(str(place / "drr" / "drr_0.png"))
    xray.lat.setText(str(place / "drr" / "drr_90.png"))
    xray.bundle.setCurrentText("crossing")
    xray.run_button.click()
    done(xray)
    assert xray.status.text().startswith("Done. Rating: "), xray.status.text()
    assert all(layer.name in xray.status.text() for layer in viewer.layers), xray.status.text()
    kinds = [type(layer).__name__ for layer in viewer.layers]
    assert kinds[0] == "Labels" and kinds.count("Surface") >= 1 and kinds.count("Image") == 5
    doubt = viewer.layers["Entropy (bits)"]
    assert doubt.data.shape == viewer.layers[0].data.shape and 0 <= doubt.data.min() < doubt.data.max() <= 1
    assert viewer.layers[0].data.any()
    view, again = viewer.layers[-2:]
    assert view.data.shape == again.data.shape and tuple(view.scale) == tuple(again.scale)
    viewer.dims.ndisplay = 3
    assert viewer.screenshot(flash=False).any()
    viewer.dims.ndisplay = 2


def closes(viewer, run, image) -> None:
    """Without an image nothing runs; a window that closes stops what runs."""
    viewer.layers.clear()
    run.run_button.click()
    assert "one is needed" in run.status.text()
    viewer.add_layer(image)
    run.bundle.setCurrentIndex([b.name for b in run.bundles].index("banded"))
    run.run_button.click()
    job = run.job
    viewer.close()
    until(lambda: job.join(0))
    assert job.is_cancelled


def radiographs(place: Path) -> None:
    """In a process of its own: this one meets torch only when a run does, as a user's window would."""
    values, affine = bones()
    write_series(place / "bodies", values, affine, BodyPartExamined="HEAD")
    command = [sys.executable, "-m", "medvit", "drr", str(place / "bodies"), "-o", str(place / "drr"), "-ot", "png"]
    subprocess.run([*command, "--views", "0,90"], check=True, capture_output=True)


def main(place: Path) -> None:
    values, _ = phantom()
    write_series(place / "ct", values, oblique_affine())
    radiographs(place)
    for make, name in (
        (make_bundle, "banded"),
        (make_restoring_bundle, "smooth"),
        (make_reconstructing_bundle, "crossing"),
    ):
        make(place / "bundles" / name)
    os.environ["MEDVIT_BUNDLES"] = str(place / "bundles")
    viewer = napari.Viewer(show=True)
    viewer.window._qt_window.resize(1500, 900)
    (image,) = add_layers(viewer, open_layers(place / "ct"))
    run = runs(viewer, image, place)
    labels = viewer.layers[-1]
    print("ran", flush=True)
    corrects_and_saves(viewer, image, labels, place)
    print("saved", flush=True)
    tables(viewer, labels)
    looks(viewer, image, labels, place)
    print("looked", flush=True)
    restores(viewer, run, image, place)
    print("restored", flush=True)
    views(viewer, image)
    print("seen from three sides", flush=True)
    labels_for_a_server(viewer, place)
    print("labelled for a server", flush=True)
    reconstructs(viewer, place)
    print("reconstructed", flush=True)
    closes(viewer, run, image)
    print("all was as it should be", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
