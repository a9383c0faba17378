"""Images in one or two files: MGH, NIfTI pairs, NRRD without a space, spacing of 0, formats that are not read."""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medvit.errors import GeometryError, ImageError, SourceError, TooLargeError
from medvit.io import image_grid, is_image_name, limit_memory, open_source, read_image
from medvit.io.labels import read_labels
from tests.bands import oblique_affine, phantom

VOXELS = np.random.default_rng(0).normal(size=(12, 10, 8)).astype(np.float32)


@pytest.mark.parametrize("ending", [".mgz", ".mgh"])
def test_an_mgh_is_read_with_its_place(ending, tmp_path):
    affine = oblique_affine()
    nib.save(nib.MGHImage(VOXELS, affine), tmp_path / f"brain{ending}")
    scan = open_source(tmp_path / f"brain{ending}")
    assert np.array_equal(scan.array[0], VOXELS)
    assert np.allclose(scan.affine, affine, atol=1e-4)
    assert (scan.kind, scan.notes) == ("mgh", ())
    assert np.array_equal(image_grid(tmp_path / f"brain{ending}").affine, scan.affine)
    with limit_memory("1kB"), pytest.raises(TooLargeError, match="an MGH file of 12 x 10 x 8"):
        open_source(tmp_path / f"brain{ending}")


def test_an_mgh_without_geometry_and_one_of_several_volumes(tmp_path):
    image = nib.MGHImage(VOXELS, np.eye(4))
    image.header["goodRASFlag"] = 0
    data = bytearray(image.to_bytes())
    data[28:30] = bytes(2)
    (tmp_path / "a.mgh").write_bytes(data)
    assert any("states no geometry" in note for note in open_source(tmp_path / "a.mgh").notes)
    nib.save(nib.MGHImage(np.stack([VOXELS] * 2, -1), np.eye(4)), tmp_path / "b.mgz")
    with pytest.raises(
        ImageError,
        match=r"an MGH file of 2 volumes; one is needed\. Extract one, for example with FreeSurfer.s mri_convert",
    ):
        open_source(tmp_path / "b.mgz")


def test_a_label_map_of_freesurfer_becomes_labels(tmp_path):
    ids = (VOXELS > 1).astype(np.uint8) * 17
    nib.save(nib.MGHImage(ids, oblique_affine()), tmp_path / "aseg.mgz")
    found = read_labels(tmp_path / "aseg.mgz")
    assert [label.id for label in found.labels] == [17]


@pytest.mark.parametrize("given", ["pair.img", "pair.hdr"])
def test_a_nifti_in_two_files_is_read_by_either_name(given, tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, oblique_affine()), tmp_path / "pair.img")
    scan = open_source(tmp_path / given)
    assert np.array_equal(scan.array[0], VOXELS)
    assert np.allclose(scan.affine, oblique_affine(), atol=1e-4)
    assert is_image_name(tmp_path / given)
    assert type(scan.header) is nib.Nifti1Header


def test_half_of_a_pair_and_analyze_are_refused(tmp_path):
    nib.save(nib.Nifti1Pair(VOXELS, np.eye(4)), tmp_path / "pair.img")
    (tmp_path / "alone.hdr").write_bytes((tmp_path / "pair.hdr").read_bytes())
    with pytest.raises(SourceError, match=r"Found alone\.hdr without its voxels; the \.img file beside it is needed"):
        open_source(tmp_path / "alone.hdr")
    (tmp_path / "bare.img").write_bytes((tmp_path / "pair.img").read_bytes())
    with pytest.raises(SourceError, match=r"Found bare\.img without its header; the \.hdr file beside it is needed"):
        read_image(tmp_path / "bare.img")
    nib.save(nib.AnalyzeImage(VOXELS, np.diag([-1.0, 1, 1, 1])), tmp_path / "old.img")
    with pytest.raises(
        GeometryError, match=r"old\.img in the Analyze 7\.5 format, which does not state left and right"
    ):
        open_source(tmp_path / "old.img")


def _nrrd(path, without=()):
    image = sitk.GetImageFromArray(VOXELS.transpose(2, 1, 0))
    image.SetSpacing((2, 2, 3))
    sitk.WriteImage(image, str(path))
    head, _, voxels = path.read_bytes().partition(b"\n\n")
    kept = [line for line in head.split(b"\n") if not line.startswith(without)]
    path.write_bytes(b"\n".join([*kept, b"spacings: 2 2 3"] if without else kept) + b"\n\n" + voxels)
    return path


def test_an_nrrd_without_a_space_has_a_note(tmp_path):
    bare = open_source(_nrrd(tmp_path / "bare.nrrd", (b"space", b"kinds")))
    whole = open_source(_nrrd(tmp_path / "whole.nrrd"))
    assert "The NRRD states no space; its axes were taken to run to the left, back and head." in bare.notes
    assert not any("no space" in note for note in whole.notes)
    assert np.array_equal(bare.affine, whole.affine)


def test_a_spacing_of_0_is_refused_in_our_words_alone(tmp_path, capfd):
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "a.mha"))
    stated = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(stated.replace(b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 1 0"))
    with pytest.raises(GeometryError, match=r"a spacing of 0 in the header of a\.mha \(1 1 0\).*Correct the header"):
        open_source(tmp_path / "a.mha")
    assert capfd.readouterr().err == ""


def test_itks_errors_show_no_path_of_its_build(tmp_path, capfd):
    whole = _nrrd(tmp_path / "cut.nrrd").read_bytes()
    (tmp_path / "cut.nrrd").write_bytes(whole[:400])
    with pytest.raises(SourceError, match=r"Found cut\.nrrd, which cannot be read") as caught:
        open_source(tmp_path / "cut.nrrd")
    assert "/tmp" not in str(caught.value)
    assert "hxx" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["notes.txt", "scan.mat", "table.csv"])
def test_a_format_that_is_not_read_is_answered_with_those_that_are(name, tmp_path):
    (tmp_path / name).write_bytes(bytes(300))
    with pytest.raises(SourceError, match=rf"Found {name}, a file of a format that is not read; DICOM, NIfTI .*MGH"):
        open_source(tmp_path / name)


def test_complex_numbers_and_vectors_are_refused(tmp_path):
    nib.save(nib.Nifti1Image((VOXELS + 1j * VOXELS).astype(np.complex64), np.eye(4)), tmp_path / "complex.nii")
    with pytest.raises(ImageError, match="a NIfTI of complex numbers; one real value .*Save their magnitude"):
        open_source(tmp_path / "complex.nii")
    nib.save(nib.Nifti1Image(np.stack([VOXELS] * 3, -1)[:, :, :, None], np.eye(4)), tmp_path / "vector.nii")
    with pytest.raises(ImageError, match="a 5-D NIfTI of shape 12x10x8x1x3; one 3-D volume is needed"):
        open_source(tmp_path / "vector.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([VOXELS] * 3, -1), isVector=True), str(tmp_path / "vector.nrrd"))
    with pytest.raises(ImageError, match="3 components per voxel; one is needed"):
        open_source(tmp_path / "vector.nrrd")


def test_phantom_and_pair_agree(tmp_path):
    """A saved pair, read again, has the voxels of whole numbers with the slope of its header."""
    image = nib.Nifti1Pair(phantom()[0].astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2, -5)
    nib.save(image, tmp_path / "pair.img")
    assert np.allclose(open_source(tmp_path / "pair.img").array[0], nib.load(tmp_path / "pair.img").get_fdata())
