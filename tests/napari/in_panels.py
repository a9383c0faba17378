"""What ``test_panels`` runs: the widgets over a viewer's model, drawn nowhere, in situations that go wrong."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
from medvit_napari.icons import NAMES, icon_file
from medvit_napari.looking.alignment import add_layers
from medvit_napari.reading.layers import BLANK, window_of
from medvit_napari.reading.open import open_layers
from medvit_napari.running.job import State
from medvit_napari.widgets.dialogs import follow
from medvit_napari.widgets.look import LookWidget
from medvit_napari.widgets.run import RunWidget
from medvit_napari.widgets.server import ServerWidget
from medvit_napari.widgets.xray import XrayWidget
from napari.components import ViewerModel
from napari.layers import Image, Labels
from qtpy.QtGui import QIcon
from qtpy.QtWidgets import QApplication

from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.napari.cases_in_panels import submits_belong_to_their_case
from tests.napari.driving import close_boxes, until
from tests.napari.segments_in_panels import painted_segments
from tests.napari.views_in_panels import views_of_several
from tests.napari.warnings_in_panels import words_that_reach_the_window


def choose(run: RunWidget, name: str) -> None:
    run.bundle.setCurrentIndex([b.name for b in run.bundles].index(name))


def refuses(viewer: ViewerModel, layer, bundle: str, words: str) -> None:
    """A run that cannot be leaves a message, every layer as it was, and a panel that can be used again."""
    viewer.layers.clear()
    viewer.add_layer(layer)
    run = RunWidget(viewer)
    choose(run, bundle)
    run.run_button.click()
    until(lambda: run.job is None)
    assert words in run.status.text(), run.status.text()
    assert "--" not in run.status.text() and "Traceback" not in run.status.text()
    assert close_boxes() == [run.status.text()]
    assert list(viewer.layers) == [layer] and run.run_button.isEnabled() and not run.bar.isVisible()
    run.close()


def what_cannot_be_run(place: Path) -> None:
    viewer, random = ViewerModel(), np.random.default_rng(0)
    volume = random.normal(100, 5, (12, 13, 14)).astype(np.float32)
    refuses(viewer, Image(volume, name="plain"), "banded", "whose position in the patient is not known")
    refuses(viewer, Image(volume[None], name="film"), "banded", "one volume of three is needed")
    colours = random.integers(0, 255, (9, 8, 3)).astype(np.uint8)
    refuses(viewer, Image(colours, rgb=True), "banded", "a 2-D picture, where banded takes volumes")
    refuses(viewer, Image(volume[0]), "banded", "a 2-D picture, where banded takes volumes")
    nib.save(nib.Nifti1Image(volume, np.eye(4)), place / "mr.nii.gz")
    ((data, options, _),) = open_layers(place / "mr.nii.gz")
    refuses(viewer, Image(data, **options), "banded", "or run all the same with Force ticked")
    scaled = Image(volume, name="plain")
    viewer.layers.clear()
    viewer.add_layer(scaled)
    run = RunWidget(viewer)
    choose(run, "banded")
    run.axes.setText("IPL")
    run.run_button.click()
    until(lambda: run.job is None)
    assert "without a scale (1, 1, 1); sizes in millimetres are needed" in run.status.text()
    close_boxes()
    viewer.layers.clear()
    viewer.add_layer(Labels(np.ones((5, 6, 7), int)))
    assert run.image.count() == 0  # labels are not offered as an image
    run.run_button.click()
    assert "Found no image layer; one is needed" in run.status.text() and run.job is None
    run.close()


def image_of(place: Path):
    ((data, options, kind),) = open_layers(place / "ct")
    assert kind == "image"
    return Image(data, **options)


def removed_during_a_run(place: Path) -> None:
    """Its image gone, the result still lies where the image lay, and says so."""
    viewer = ViewerModel()
    image = viewer.add_layer(image_of(place))
    run = RunWidget(viewer)
    choose(run, "banded")
    run.run_button.click()
    viewer.layers.remove(image)
    until(lambda: run.job is None)
    assert run.last_error is None, run.status.text()
    assert "Its image was closed meanwhile" in run.status.text()
    (labels,) = viewer.layers
    np.testing.assert_allclose(labels.translate, image.translate)
    assert labels.data.any()
    run.close()


def closed_during_a_run(place: Path) -> None:
    viewer = ViewerModel()
    image = viewer.add_layer(image_of(place))
    run = RunWidget(viewer)
    choose(run, "banded")
    run.run_button.click()
    job = run.job
    run.close()
    until(lambda: job.join(0))
    QApplication.processEvents()
    assert job.is_cancelled and list(viewer.layers) == [image]
    watched = viewer.layers.events.inserted.callbacks
    assert not any("LayerCombo" in str(call) or "_renew" in str(call) for call in watched), watched


def a_server_that_is_not_there() -> None:
    viewer = ViewerModel()
    server = ServerWidget(viewer)
    server.address.setText("http://127.0.0.1:9")
    server.buttons["Connect"].click()
    until(lambda: server.job is None)
    assert "Check that the server runs and its address" in server.status.text() and not viewer.layers
    close_boxes()
    server.buttons["Infer"].click()
    assert "Found no case; one is needed" in server.status.text()
    server.close()


def radiographs_that_are_none() -> None:
    viewer = ViewerModel()
    xray = XrayWidget(viewer)
    xray.ap.setText("nowhere.png")
    xray.lat.setText("nowhere.png")
    xray.run_button.click()
    until(lambda: xray.job is None)
    assert "Found nothing at" in xray.status.text() and not viewer.layers
    close_boxes()
    xray.larger.setText("0.5")
    xray.run_button.click()
    assert "it is 1 or more" in xray.status.text() and xray.job is None
    close_boxes()
    xray.close()


def files_read_behind(place: Path) -> None:
    """Black until it is read, then with its usual window; one that breaks off is gone again, with the reason."""
    viewer = ViewerModel()
    values, _ = phantom()
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), place / "a.nii.gz")
    layers = open_layers(place / "a.nii.gz", behind=True)
    (image,) = add_layers(viewer, layers)
    follow([layers[0][0]], viewer)
    until(lambda: tuple(image.contrast_limits) != BLANK)
    assert tuple(image.contrast_limits) == window_of(layers[0][0])
    assert np.array_equal(image._slice.image.view, np.asarray(layers[0][0])[viewer.dims.current_step[0]])
    whole = (place / "a.nii.gz").read_bytes()
    (place / "b.nii.gz").write_bytes(whole[: len(whole) // 2])
    layers = open_layers(place / "b.nii.gz", behind=True)
    add_layers(viewer, layers)
    follow([layers[0][0]], viewer)
    until(lambda: len(viewer.layers) == 1)
    (text,) = close_boxes()
    assert "cannot be read" in text


def looks_and_stages() -> None:
    """Dragging ends with its widget; a stage of one step is shown as busy; icons follow the theme."""
    viewer = ViewerModel()
    viewer.add_layer(Image(np.random.default_rng(0).random((4, 5, 6)), scale=(2, 2, 2)))
    look, callbacks = LookWidget(viewer), len(viewer.mouse_drag_callbacks)
    look.dragging.click()
    assert len(viewer.mouse_drag_callbacks) == callbacks + 1
    for theme in ("dark", "light"):
        viewer.theme = theme
        wanted = QIcon(str(icon_file("look", theme))).pixmap(24, 24).toImage()
        assert look.measure_button.icon().pixmap(24, 24).toImage() == wanted and not wanted.isNull()
    assert all(icon_file(name, kind).is_file() for name in NAMES for kind in ("dark", "light"))
    look.close()
    assert len(viewer.mouse_drag_callbacks) == callbacks
    run = RunWidget(viewer)
    run.start(lambda progress: time.sleep(0.2), lambda made: None, "x")
    run._told(State("prepare", 0.0, None, True, announced="Preparing the network for this machine (once, about 9 s)"))
    assert run.status.text() == "Preparing the network for this machine (once, about 9 s)" and (
        run.bar.minimum(),
        run.bar.maximum(),
    ) == (0, 0)
    run._told(State("infer", 0.25, 12.0))
    assert run.status.text() == "Infer, about 12 s left" and (run.bar.value(), run.bar.maximum()) == (25, 100)
    until(lambda: run.job is None)
    run.close()


def main(place: Path) -> None:
    app = QApplication.instance() or QApplication([])
    app.setQuitOnLastWindowClosed(False)
    write_series(place / "ct", phantom()[0], oblique_affine())
    make_bundle(place / "bundles" / "banded")
    os.environ["MEDVIT_BUNDLES"] = str(place / "bundles")
    what_cannot_be_run(place)
    removed_during_a_run(place)
    closed_during_a_run(place)
    a_server_that_is_not_there()
    radiographs_that_are_none()
    files_read_behind(place)
    looks_and_stages()
    views_of_several(place / "several")
    painted_segments(place / "segments")
    words_that_reach_the_window(place / "words")
    submits_belong_to_their_case(place / "cases")
    print("all was as it should be", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
