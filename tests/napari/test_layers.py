"""Everything of the plugin that needs no window: places, reading, running, saving."""

from __future__ import annotations

import threading
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

from medvit_napari.errors import PlaceError
from medvit_napari.hooks import get_reader, sample_ct, sample_nuclei
from medvit_napari.reading.display_grid import Canonical
from medvit_napari.reading.layer_info import KEY, place_of
from medvit_napari.reading.layers import BLANK, image_layer, window_of
from medvit_napari.reading.lazy_volume import FileFilling, Filling, SeriesFilling
from medvit_napari.reading.open import Answer, is_ours, open_layers
from medvit_napari.reading.painted_labels import is_corrected
from medvit_napari.running.job import Job, Request, roi_box, run_request
from medvit_napari.saving.empty_labels import new_labels
from medvit_napari.saving.save_labels import labels_of, save_layer, write_labels_nifti
from napari.components import ViewerModel
from napari.layers import Labels, Layer

import medvit
from medvit.errors import GeometryError, SelectionError
from medvit.io import image_grid
from medvit.progress import Cancelled, Progress
from tests.bands import all_orientations, oblique_affine, phantom, reorient, write_series


def made(tuples) -> list[Layer]:
    return [Layer.create(data, dict(options), kind) for data, options, kind in tuples]


@pytest.mark.parametrize("degrees", [0.0, 17.0])
def test_every_orientation_is_shown_alike_and_comes_back_exactly(degrees):
    values, _ = phantom()
    affine = oblique_affine((2.0, 2.5, 3.0), degrees)
    first = Canonical(values.shape, affine).show(values)
    for order, signs in all_orientations():
        stored, turned = reorient(values, affine, order, signs)
        grid = Canonical(stored.shape, turned)
        shown = grid.show(stored)
        assert np.array_equal(shown, first) and np.shares_memory(shown, stored)
        assert np.array_equal(grid.back(shown), stored)
        np.testing.assert_allclose(grid.scale, (3.0, 2.5, 2.0), rtol=1e-6)
        np.testing.assert_allclose(grid.translate, Canonical(values.shape, affine).translate, atol=1e-6)


def test_napari_axes_run_to_feet_back_and_left():
    affine = np.diag([2.0, 2, 3, 1])
    affine[:3, 3] = (-10, -20, -30)
    grid = Canonical((5, 6, 7), affine)
    index = np.array([[1.0, 2, 3]])
    at = grid.shown_world(index @ affine[:3, :3].T + affine[:3, 3])
    np.testing.assert_allclose(at, [[21.0, 16.0, 8.0]])  # minus S, minus A, minus R
    np.testing.assert_allclose(grid.stored_index(at), index)
    shown = grid.show(np.arange(210).reshape(5, 6, 7))
    voxel = tuple(np.rint((at[0] - grid.translate) / grid.scale).astype(int))
    assert shown[voxel] == np.arange(210).reshape(5, 6, 7)[1, 2, 3]


def test_the_example_series_fills_behind_and_equals_what_every_door_reads(examples):
    ((filling, options, kind),) = open_layers(examples / "headneck_ct_dicom.zip")
    assert kind == "image" and isinstance(filling, Filling) and options["units"] == ("mm",) * 3
    scan = medvit.open_source(examples / "headneck_ct_dicom.zip")
    place = options["metadata"][KEY]
    assert np.array_equal(np.asarray(filling), place.grid.show(scan.array[0]))
    assert place.scan().fingerprint() == scan.fingerprint() and place.scan().notes == scan.notes
    assert "Secret" not in options["name"] and options["name"].startswith("CT axial")


def test_a_slice_is_there_before_the_others_and_other_cuts_wait_for_nothing(tmp_path):
    values, _ = phantom()
    write_series(tmp_path / "ct", values, np.diag([2.0, 2, 3, 1]))
    filling = open_layers(tmp_path / "ct")[0][0]
    again = SeriesFilling(filling._reader)  # not started: nothing is read but what is asked for
    shown = again.grid.show(values)
    assert np.array_equal(again[5], shown[5]) and again._there.sum() == 1
    assert again[:, 3].shape == shown[:, 3].shape and again._there.sum() == 1
    assert np.array_equal(again[7:8], shown[7:8]) and again._there.sum() == 2  # as napari 0.9 asks for one slice
    again.read_all()
    assert np.array_equal(again[:, 3], shown[:, 3])


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "mha", "nrrd"])
def test_an_image_file_is_read_behind_its_layer_and_equals_what_every_door_reads(tmp_path, ending):
    """An uncompressed NIfTI shows the slice asked for at once; others are black until they are read."""
    values, _ = phantom()
    path = tmp_path / f"a.{ending}"
    affine = np.diag([2.0, 2.5, 3, 1])
    if ending.startswith("nii"):
        image = nib.Nifti1Image(values, affine)
        image.header.set_slope_inter(2.0, 5.0)
        nib.save(image, path)
    else:
        import SimpleITK as sitk

        made = sitk.GetImageFromArray(values.transpose(2, 1, 0))
        made.SetSpacing((2.0, 2.5, 3.0))
        sitk.WriteImage(made, str(path))
    scan = medvit.open_source(path)
    header = image_grid(path)
    assert header.array.strides == (0, 0, 0, 0) and header.array.shape == scan.array.shape
    np.testing.assert_array_equal(header.affine, scan.affine)
    idle = FileFilling(path, header)  # not started
    shown = idle.grid.show(scan.array[0])
    np.testing.assert_allclose(idle[5], shown[5] if ending == "nii" else 0, rtol=1e-6)
    assert (idle.is_blank == (ending != "nii") and not idle[:, 3].any()) or ending == "nii"
    ((filling, options, kind),) = open_layers(path, behind=True)
    assert isinstance(filling, FileFilling) and kind == "image"
    assert np.array_equal(np.asarray(filling), shown) and np.array_equal(filling[:, 3], shown[:, 3])
    place = options["metadata"][KEY]
    assert place.scan().fingerprint() == scan.fingerprint() and place.grid.shape == scan.array.shape[1:]
    plain = image_layer(scan)[1]
    if options["contrast_limits"] != BLANK:  # as small a file may be read before anybody looks
        np.testing.assert_allclose(options["contrast_limits"], plain["contrast_limits"], rtol=1e-6)
    assert {k: options[k] for k in ("name", "scale", "translate")} == {
        k: plain[k] for k in ("name", "scale", "translate")
    }
    np.testing.assert_allclose(window_of(filling), plain["contrast_limits"], rtol=1e-6)


def test_label_maps_and_broken_files_are_not_put_off(examples, tmp_path):
    """What names its labels is to be painted on, so it is read at once; a header that cannot be read is refused at once."""
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing of the kind")
    with pytest.raises(medvit.MedvitError, match="cannot be read"):
        open_layers(tmp_path / "broken.nii.gz", behind=True)
    whole = (examples / "headneck_ct.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    ((filling, _, _),) = open_layers(tmp_path / "cut.nii.gz", behind=True)
    with pytest.raises(medvit.MedvitError, match="cannot be read"):
        filling.scan()
    viewer = ViewerModel()
    image = viewer.add_layer(made(open_layers(examples / "headneck_ct.nii.gz"))[0])
    labels = viewer.add_layer(made([new_labels(image, "headneck_ct_swin_unetr")])[0])
    (path,) = write_labels_nifti(str(tmp_path / "mine"), labels.data, labels.as_layer_data_tuple()[1])
    assert open_layers(Path(path), behind=True)[0][2] == "labels"


def test_a_series_that_cannot_be_decoded_says_why(tmp_path):
    values, _ = phantom()
    paths = write_series(tmp_path / "ct", values, np.diag([2.0, 2, 3, 1]), PixelSpacing=["2", "2"])
    filling = open_layers(tmp_path / "ct")[0][0]
    filling.scan()
    broken = SeriesFilling(filling._reader)
    paths[3].write_bytes(paths[3].read_bytes()[:900])
    broken.read_all()
    with pytest.raises(medvit.MedvitError, match="cut off|complete"):
        broken.scan()


def test_several_series_are_asked_for_and_refused_without_a_person(tmp_path):
    values, _ = phantom()
    for name in ("a", "b"):
        write_series(tmp_path / name, values, np.diag([2.0, 2, 3, 1]))
    with pytest.raises(SelectionError, match="Found 2 series"):
        open_layers(tmp_path)
    seen = []
    layers = open_layers(tmp_path, lambda offers: seen.extend(offers) or Answer((2,)))
    assert len(layers) == 1 and [o.number for o in seen] == [1, 2] and all(o.likely for o in seen)
    assert "Secret" not in str(seen) and "4711" not in str(seen)
    assert open_layers(tmp_path, lambda offers: None) == [(None,)]  # napari adds nothing


def test_a_tilted_stack_is_offered_a_way(shared):
    path = shared / "data/dicom/ct_head_GE_tilt18.5_variable_spacing.zip"
    with pytest.raises(GeometryError, match="tilt|uneven"):
        open_layers(path)
    seen = []
    ((data, options, _),) = open_layers(
        path, lambda offers: seen.extend(offers) or Answer((offers[0].number,), "resample")
    )
    assert "Choose a way below" in str(seen) and "--" not in str(seen)
    scan = options["metadata"][KEY].scan()
    assert scan.original is not None and data.shape == Canonical(scan.array.shape[1:], scan.affine).shown_shape


def test_seg_and_rtstruct_lie_on_their_image_with_names_and_colours(examples, tmp_path):
    with zipfile.ZipFile(examples / "headneck_ct_dicom.zip") as archive:
        archive.extractall(tmp_path / "ct")
    image = made(open_layers(tmp_path / "ct"))[0]
    (labels,) = made([new_labels(image, "headneck_ct_swin_unetr")])
    labels.data[40:60, 50:70, 60:80], labels.data[70:80, 20:40, 30:40] = 3, 5
    save_layer(labels, tmp_path / "out", ("dicom-seg", "rtstruct", "nifti"))
    for name in ("seg.dcm", "rtstruct.dcm"):
        (read,) = made(open_layers(tmp_path / "out" / name, seen=[image]))
        assert isinstance(read, Labels) and place_of(read).source is place_of(image).scan()
        titles = [label.title for label in place_of(read).labels]
        wanted = {label.id: label for label in place_of(labels).labels}
        assert titles == [wanted[3].title, wanted[5].title]
        for number, value in ((1, 3), (2, 5)):
            share = ((read.data == number) & (labels.data == value)).sum() / (labels.data == value).sum()
            assert share == 1.0 if name == "seg.dcm" else share > 0.95
            np.testing.assert_allclose(np.round(read.get_color(number)[:3] * 255), wanted[value].color, atol=2)
    (nifti,) = made(open_layers(tmp_path / "out" / "labels.nii.gz"))
    assert isinstance(nifti, Labels) and np.array_equal(nifti.data, labels.data)


def test_a_run_lands_on_the_anatomy_and_saves_what_was_painted(banded, tmp_path):
    """The network labels by brightness, so the answer is known voxel by voxel; the series is oblique."""
    values, truth = phantom()
    write_series(tmp_path / "ct", values, oblique_affine())
    (image,) = made(open_layers(tmp_path / "ct"))
    before = np.asarray(image.data).copy()
    made_layers = made(run_request(Request(layer=image, bundle=str(banded), surfaces=True), Progress()))
    labels = made_layers[0]
    expected = np.asarray(medvit.segment(tmp_path / "ct", banded).labels)[0]
    grid = place_of(image).grid
    assert np.array_equal(labels.data, grid.show(expected)) and (expected == truth).mean() > 0.9
    np.testing.assert_allclose(labels.scale, image.scale)
    np.testing.assert_allclose(labels.translate, image.translate)
    assert np.array_equal(np.asarray(image.data), before)
    surface = made_layers[1]
    lies = grid.shown_world(nib.affines.apply_affine(place_of(image).scan().affine, np.argwhere(expected == 1)))
    np.testing.assert_allclose(surface.data[0].mean(0), lies.mean(0), atol=2.0)
    assert not is_corrected(labels)
    assert {s.origin.algorithm_type for s in labels_of(labels).present()} == {"AUTOMATIC"}
    labels.data[3:5, 3:5, 3:5] = 7
    assert is_corrected(labels) and labels_of(labels).segments[0].origin.algorithm_type == "SEMIAUTOMATIC"
    save_layer(labels, tmp_path / "out", ("dicom-seg",))
    back = medvit.read_labels(tmp_path / "out" / "seg.dcm", like=tmp_path / "ct")
    stored = grid.back(labels.data)
    by_title = {s.label.title: back.whole(s) for s in back.segments}
    for label in place_of(labels).labels:
        if (stored == label.id).any():
            assert np.array_equal(by_title[label.title], stored == label.id)


def test_cancelling_halfway_leaves_nothing(banded, tmp_path):
    values, _ = phantom()
    nib.save(nib.Nifti1Image(values, np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii.gz")
    (image,) = made(open_layers(tmp_path / "a.nii.gz"))
    done, failed, ended = [], [], threading.Event()
    job = Job(
        lambda progress: run_request(Request(layer=image, bundle=str(banded)), progress),
        done.append,
        lambda error: (failed.append(error), ended.set()),
        lambda state: job.cancel() if state.stage == "infer" else None,
    ).start()
    assert ended.wait(60) and job.join(10)
    assert done == [] and isinstance(failed[0], Cancelled)


def test_a_box_is_told_in_the_sources_voxels(tmp_path):
    values, _ = phantom()
    affine = np.diag([-2.0, 2.5, 3, 1])
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "a.nii.gz")
    (image,) = made(open_layers(tmp_path / "a.nii.gz"))
    grid = place_of(image).grid
    corner = grid.shown_world(nib.affines.apply_affine(affine, np.array([[3.0, 4, 5], [9, 14, 25]])))
    assert roi_box(corner, image) == "3:10,4:15,5:26"
    corner[:, 0] = corner[0, 0]  # drawn on one slice
    assert roi_box(corner, image) == f"3:10,4:15,0:{values.shape[2]}"
    with pytest.raises(SelectionError, match="outside of the image"):
        roi_box(corner + 1e4, image)


def test_the_reader_takes_what_it_can_and_leaves_the_rest(examples, tmp_path):
    assert is_ours(examples / "headneck_ct.nii.gz") and is_ours(examples / "headneck_ct_dicom.zip")
    assert get_reader(str(examples / "nuclei.png")) is None  # napari's own reader has pictures
    (tmp_path / "notes.txt").write_text("nothing")
    assert get_reader(str(tmp_path)) is None and get_reader([]) is None
    (layer,) = get_reader(str(examples / "headneck_ct.nii.gz"))(str(examples / "headneck_ct.nii.gz"))
    assert layer[2] == "image"


def test_samples_open_without_a_network():
    assert sample_ct()[0][2] == "image" and sample_nuclei()[0][1]["rgb"] in (True, False)


def test_the_writer_keeps_names_and_grid(examples, tmp_path):
    viewer = ViewerModel()
    image = viewer.add_layer(made(open_layers(examples / "headneck_ct.nii.gz"))[0])
    labels = viewer.add_layer(made([new_labels(image, "headneck_ct_swin_unetr")])[0])
    labels.data[30:50, 30:50, 30:50] = 2
    (path,) = write_labels_nifti(str(tmp_path / "mine"), labels.data, labels.as_layer_data_tuple()[1])
    assert Path(path).name == "mine.nii.gz" and [p.name for p in tmp_path.iterdir()] == ["mine.nii.gz"]
    again, source = nib.load(path), nib.load(examples / "headneck_ct.nii.gz")
    np.testing.assert_allclose(again.affine, source.affine, atol=1e-4)
    assert np.array_equal(np.asarray(again.dataobj), place_of(image).grid.back(labels.data))
    with pytest.raises(PlaceError, match="whose image is not known"):
        write_labels_nifti(str(tmp_path / "x"), labels.data, {"name": "x"})
