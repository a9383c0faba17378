"""Layers and fields that cannot be used are refused in the window's own words."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

from medvit_napari.errors import LayerError, PlaceError, readable
from medvit_napari.looking.display import go_to
from medvit_napari.reading.display_grid import Canonical
from medvit_napari.reading.layer_info import scan_of
from medvit_napari.reading.open import offers, open_layers
from medvit_napari.running.job import Job, Request, State, card, cards, region_corners, roi_box, run_request
from medvit_napari.running.radiographs import parse_number
from medvit_napari.saving.empty_labels import new_labels
from medvit_napari.saving.save_labels import labels_of
from napari.components import ViewerModel
from napari.layers import Image, Labels

from medvit.errors import BundleError, GeometryError, ImageError, ModalityError, SelectionError
from medvit.io.dicom import run_preflight
from medvit.progress import Progress
from medvit.settings import RunSettings
from tests.bands import phantom, write_series
from tests.napari.test_layers import made

LETTERS = "IPL"


def test_layers_that_do_not_say_where_they_lie_are_refused_until_stated():
    values, _ = phantom()
    layer = Image(np.transpose(values, (2, 1, 0))[::-1], scale=(3, 2, 2), translate=(1, 2, 3))
    with pytest.raises(PlaceError, match="left and right could be exchanged"):
        scan_of(layer)
    with pytest.raises(PlaceError, match="three letters are needed"):
        scan_of(layer, "IIL")
    with pytest.raises(PlaceError, match="without a scale"):
        scan_of(Image(layer.data), LETTERS)
    with pytest.raises(PlaceError, match="rotated in napari"):
        scan_of(Image(layer.data, scale=(3, 2, 2), rotate=(10, 0, 0)), LETTERS)
    scan = scan_of(layer, "ipl")
    np.testing.assert_allclose(scan.affine[:3, :3], [[0, 0, -2], [0, -2, 0], [-3, 0, 0]])
    np.testing.assert_allclose(scan.affine[:3, 3], (-3, -2, -1))
    grid = Canonical(scan.array.shape[1:], scan.affine)
    assert np.array_equal(grid.show(scan.array[0]), layer.data)
    np.testing.assert_allclose(grid.translate, layer.translate)


def test_layers_of_another_kind_are_refused(rng):
    volume = rng.normal(size=(2, 5, 6, 7)).astype(np.float32)
    with pytest.raises(LayerError, match="of 4 axes"):
        scan_of(Image(volume), LETTERS)
    with pytest.raises(LayerError, match="holds labels; an image layer is needed"):
        scan_of(Labels(np.zeros((5, 6, 7), int)), LETTERS)
    with pytest.raises(LayerError, match="several resolutions"):
        scan_of(Image([volume[0], volume[0, ::2, ::2, ::2]], multiscale=True))
    assert scan_of(Image(rng.integers(0, 255, (9, 8, 3)).astype(np.uint8), rgb=True)).is_picture
    assert scan_of(Image(volume[0, 0])).is_picture
    with pytest.raises(LayerError, match="a stack of 3 axes in colours"):
        scan_of(Image(rng.integers(0, 255, (4, 9, 8, 3)).astype(np.uint8), rgb=True))
    with pytest.raises(PlaceError, match="whose image is not known"):
        labels_of(Labels(np.ones((5, 6, 7), int)))
    with pytest.raises(LayerError, match="holds no labels"):
        labels_of(Image(volume[0]))


def test_a_bundle_that_does_not_fit_or_has_no_weights_is_refused(tmp_path, rng):
    nib.save(nib.Nifti1Image(rng.normal(100, 5, (20, 20, 20)).astype(np.float32), np.eye(4)), tmp_path / "mr.nii.gz")
    (image,) = made(open_layers(tmp_path / "mr.nii.gz"))
    with pytest.raises(ModalityError, match="where headneck_ct_swin_unetr is made for CT.*force=True"):
        run_request(Request(layer=image, bundle="headneck_ct_swin_unetr"), Progress())
    with pytest.raises(BundleError, match="bundles.remote.fetch"):
        run_request(Request(layer=image, bundle="abdomen_ct_swin_unetr_btcv", settings=RunSettings()), Progress())
    for layer in (Image(rng.integers(0, 255, (9, 8, 3)).astype(np.uint8), rgb=True), Image(rng.random((9, 8)))):
        with pytest.raises(ImageError, match="a 2-D picture, where headneck_ct_swin_unetr takes volumes"):
            run_request(Request(layer=layer, bundle="headneck_ct_swin_unetr"), Progress())
    with pytest.raises(ImageError, match="a volume, where nuclei_barlow_swin takes pictures"):
        run_request(Request(layer=image, bundle="nuclei_barlow_swin"), Progress())
    assert "unforeseen (KeyError" in readable(KeyError("x"))


@pytest.mark.parametrize(
    ("remedy", "option", "words"),
    [
        (
            "Choose a bundle for it ({medvit.bundles.bundle_folders()}), or run all the same with {force=True}.",
            ("medvit.bundles.bundle_folders()", "force"),
            "Choose a bundle for it (the list above), or run all the same with Force ticked.",
        ),
        (
            "Get them: {medvit.bundles.remote.fetch()=FetchRequest(name='abdomen_ct')}.",
            "medvit.bundles.remote.fetch()",
            "Get them: the button Fetch weights.",
        ),
        ("Use {device=cpu}.", "device", "Use the device cpu."),
        ("Add {invert=True}.", "invert", "Add Invert."),
        ("Exchange {ap} and {lat}.", ("ap", "lat"), "Exchange AP view and lateral view."),
        (
            "Run with {low_memory=True}, {roi_crop=body}.",
            ("low_memory", "roi_crop"),
            "Run with Low memory, the Region.",
        ),
        ("Use {on_irregular=split}.", "on_irregular", "Use the way for an irregular stack (split)."),
        ("Give {pixel_spacing_mm}.", "pixel_spacing_mm", "Give Pixel (mm)."),
        ("Set {unknown=3}.", "unknown", "Set unknown=3."),
    ],
)
def test_messages_name_steps_as_the_window_has_them(remedy, option, words):
    assert readable(ModalityError("x", "y is needed", remedy, option=option)) == f"Found x; y is needed. {words}"


def test_findings_name_options_as_the_window_has_them(tmp_path):
    values, _ = phantom()
    write_series(tmp_path, values, np.diag([2.0, 2, 3, 1]), FrameOfReferenceUID="")
    (offer,) = offers(run_preflight(tmp_path))
    assert any(text.endswith("To have DICOM objects, add Repair tags.") for text in offer.findings), offer.findings


def test_cards_say_what_a_person_should_know():
    text = {b.name: card(b) for b in cards()}
    assert "Weights:</b> trained" in text["headneck_ct_swin_unetr"] and "research use" in text["headneck_ct_swin_unetr"]
    assert "Weights:</b> not fetched" in text["abdomen_ct_swin_unetr_btcv"]


def test_what_cannot_be_done_is_said_in_words(tmp_path, rng):
    nib.save(nib.Nifti1Image(rng.normal(100, 5, (6, 7, 8)).astype(np.float32), np.eye(4)), tmp_path / "mr.nii.gz")
    viewer = ViewerModel()
    (image,) = made(open_layers(tmp_path / "mr.nii.gz"))
    (labels,) = made([new_labels(image, "")])
    for layer in (image, labels):
        viewer.add_layer(layer)
    with pytest.raises(LayerError, match="Found no voxel of label 3 in 'Labels'; there is nothing to go to"):
        go_to(viewer, labels, 3)
    plain = Image(np.zeros((4, 5, 6), np.float32), name="plain")
    with pytest.raises(PlaceError, match="'plain', whose position in the patient is not known. Open its file"):
        new_labels(plain, "")
    with pytest.raises(
        SelectionError, match="Found a box for the layer 'plain', which is no volume that medvit opened"
    ):
        roi_box(np.zeros((4, 3)), plain)
    labels.data = np.zeros((3, 3, 3), np.uint8)
    with pytest.raises(LayerError, match=r"voxels where its image has \(6, 7, 8\). Paint on a layer that medvit made"):
        labels_of(labels)
    image.data = np.zeros((3, 3, 3), np.float32)
    with pytest.raises(LayerError, match="it was cropped. Open the file again"):
        scan_of(image)
    assert readable(MemoryError()) == "Found too little memory; close other images, or use a machine with more."


def test_a_job_shows_what_a_run_announces_about_a_stage():
    def work(progress):
        with progress.stage("prepare"):
            progress.announce("Preparing the network for this machine (once, about 9 s)")
        progress.report("infer", 1, 2)

    told, ended = [], []
    Job(work, ended.append, ended.append, told.append).start().join()
    assert ended == [None]
    assert [state.line for state in told] == [
        "Preparing the network",
        "Preparing the network for this machine (once, about 9 s)",
        "Preparing the network",
        "Infer",
    ]


def test_fields_of_widgets_become_numbers_corners_and_lines():
    assert State("read", 0.5).line == "Read" and State("read", 0.5, 89.0).line == "Read, about 89 s left"
    assert State("read", 0.5, 150.0).line == "Read, about 2 min left"
    assert parse_number("  ") is None and parse_number(" 0.15") == 0.15
    with pytest.raises(GeometryError, match="a number is needed"):
        parse_number("0,15 mm")
    shapes = ViewerModel().add_shapes(None, ndim=3, scale=(3, 2, 2))
    assert region_corners(shapes) is None
    drawn = np.array([[1, 2, 3], [1, 2, 7], [1, 6, 7], [1, 6, 3]])
    shapes.add_rectangles(drawn)
    np.testing.assert_allclose(region_corners(shapes), drawn * (3, 2, 2))
