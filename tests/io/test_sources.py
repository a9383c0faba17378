"""Every format gives the same volume; every bad file gives its reason."""

from __future__ import annotations

import zipfile

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medvit.errors import GeometryError, ImageError, SourceError
from medvit.io import flip_lps_ras, open_source
from tests.bands import oblique_affine, phantom, write_series


def _nifti(path, array, affine=None):
    nib.save(nib.Nifti1Image(array, oblique_affine() if affine is None else affine), path)
    return path


def test_nifti_nrrd_and_metaimage_agree(tmp_path):
    array, _ = phantom()
    affine = oblique_affine((0.8, 1.5, 2.5))
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    lps = flip_lps_ras(affine)
    image.SetSpacing(np.linalg.norm(lps[:3, :3], axis=0).tolist())
    image.SetDirection((lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    wanted = open_source(_nifti(tmp_path / "a.nii.gz", array, affine))
    for suffix, kind in (("nrrd", "nrrd"), ("mha", "metaimage"), ("mhd", "metaimage")):
        sitk.WriteImage(image, str(tmp_path / f"a.{suffix}"))
        scan = open_source(tmp_path / f"a.{suffix}")
        assert scan.kind == kind
        assert np.array_equal(scan.array, wanted.array)
        assert np.allclose(scan.affine, wanted.affine, atol=1e-4)


def test_pictures_are_channel_row_column_and_never_transposed(tmp_path):
    from PIL import Image

    colours = np.zeros((20, 30, 3), np.uint8)
    colours[3, 25] = (10, 20, 30)
    Image.fromarray(colours).save(tmp_path / "a.png")
    scan = open_source(tmp_path / "a.png")
    assert scan.array.shape == (3, 20, 30)
    assert scan.array[:, 3, 25].tolist() == [10, 20, 30]
    deep = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.array_equal(open_source(tmp_path / "deep.png").array[0], deep)
    Image.fromarray(colours).save(tmp_path / "a.jpg")
    assert open_source(tmp_path / "a.jpg").array.shape == (3, 20, 30)


def test_nifti_in_a_zip(tmp_path):
    array, _ = phantom()
    _nifti(tmp_path / "a.nii.gz", array)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.nii.gz", "folder/a.nii.gz")
    assert np.array_equal(open_source(tmp_path / "a.zip").array[0], array)


def test_orientation_that_nobody_stated_is_said(tmp_path):
    image = nib.Nifti1Image(phantom()[0], np.eye(4))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    assert "states no orientation" in open_source(tmp_path / "a.nii").notes[0]


def test_nothing_there(tmp_path):
    with pytest.raises(SourceError, match="Found nothing at"):
        open_source(tmp_path / "absent")


def test_empty_folder(tmp_path):
    with pytest.raises(SourceError, match="Found no files in"):
        open_source(tmp_path)


def test_folder_without_dicom(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    _nifti(tmp_path / "scan.nii.gz", phantom()[0])
    with pytest.raises(SourceError, match=r"Found no DICOM images among 2 file\(s\).*for example scan.nii.gz"):
        open_source(tmp_path)


def test_four_dimensions(tmp_path):
    with pytest.raises(ImageError, match="4-D NIfTI of shape 5x6x7x3; one 3-D volume is needed"):
        open_source(_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((5, 6, 7, 3))))


def test_nan_and_infinity(tmp_path):
    array = phantom()[0].astype(np.float32)
    array[1, 2, 3], array[4, 5, 6] = np.nan, np.inf
    with pytest.raises(ImageError, match="2 NaN or infinite values"):
        open_source(_nifti(tmp_path / "a.nii.gz", array))


def test_constant(tmp_path):
    with pytest.raises(ImageError, match="the value -1000 everywhere"):
        open_source(_nifti(tmp_path / "a.nii.gz", np.full((5, 6, 7), -1000, np.int16)))


@pytest.mark.parametrize("sides", [(0.0, 1.0, 1.0), (1.0, 1.0, 4000.0)])
def test_zero_or_absurd_spacing(sides, tmp_path):
    affine = np.diag([*sides, 1.0])
    image = nib.Nifti1Image(phantom()[0], None)
    image.header.set_sform(affine, 1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(
        GeometryError, match=r"Found a voxel spacing of .* mm; each side must lie between 0.01 and 100 mm"
    ):
        open_source(tmp_path / "a.nii.gz")


def test_shear_and_non_finite_affine(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.3
    with pytest.raises(GeometryError, match="degrees away from square"):
        open_source(_nifti(tmp_path / "a.nii.gz", phantom()[0], affine))
    from monai.data import MetaTensor

    broken = MetaTensor(
        torch.from_numpy(phantom()[0].astype(np.float32))[None], affine=torch.full((4, 4), float("nan"))
    )
    with pytest.raises(GeometryError, match="not a finite 4x4 matrix"):
        open_source(broken)


def test_truncated_and_foreign_files(tmp_path):
    whole = _nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((30, 30, 30))).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nrrd").write_text("not an image")
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.nii.gz", "text.nrrd", "text.png"):
        with pytest.raises(SourceError, match=f"Found {name}, which cannot be read"):
            open_source(tmp_path / name)
    (tmp_path / "random.dcm").write_bytes(bytes(200))
    with pytest.raises(SourceError, match="Found no DICOM images"):
        open_source(tmp_path / "random.dcm")


def test_colour_volumes(tmp_path):
    rgb = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="colour NIfTI"):
        open_source(tmp_path / "a.nii")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "a.mha"))
    with pytest.raises(ImageError, match="3 components per voxel"):
        open_source(tmp_path / "a.mha")


@pytest.mark.parametrize("name", ["../evil.dcm", "/etc/evil.dcm", "a/../../evil.dcm", "..\\evil.dcm", "C:\\evil.dcm"])
def test_a_zip_that_points_outside_is_refused(name, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(SourceError, match="points outside of it"):
        open_source(tmp_path / "a.zip")
    assert not (tmp_path.parent / "evil.dcm").exists()


def test_a_zip_that_claims_too_much_is_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for n in range(9):
            archive.writestr(f"{n}.dcm", b"x")
    content = (tmp_path / "a.zip").read_bytes()
    for size, message in (
        (2**32 - 2, "an entry of|unpacks to 36 GiB"),
        (4 * 2**30 - 2**20, "unpacks to 36 GiB; at most 32"),
    ):
        at, spoiled = content.find(b"PK\x01\x02"), bytearray(content)
        while at >= 0:  # the uncompressed size in every entry of the central directory
            spoiled[at + 24 : at + 28] = size.to_bytes(4, "little")
            at = content.find(b"PK\x01\x02", at + 4)
        (tmp_path / "b.zip").write_bytes(spoiled)
        with pytest.raises(SourceError, match=message):
            open_source(tmp_path / "b.zip")


def test_empty_and_damaged_zip(tmp_path):
    zipfile.ZipFile(tmp_path / "a.zip", "w").close()
    with pytest.raises(SourceError, match="empty zip"):
        open_source(tmp_path / "a.zip")
    noise = np.random.default_rng(0).integers(-900, 900, (64, 64, 1)).astype(np.int16)
    path = write_series(tmp_path / "s", noise, np.diag([-1.0, -1.0, 2.0, 1.0]))[0]
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "a.dcm")
    content = bytearray((tmp_path / "b.zip").read_bytes())
    content[4000:5000] = bytes(1000)
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(SourceError, match="damaged or encrypted zip"):
        open_source(tmp_path / "b.zip")


def test_arrays_without_a_place_are_refused():
    with pytest.raises(SourceError, match="a path or a MetaTensor with its affine is needed"):
        open_source(np.zeros((1, 2, 3, 4)))
    from monai.data import MetaTensor

    with pytest.raises(ImageError, match=r"\(1, i, j, k\) is needed"):
        open_source(MetaTensor(torch.zeros(2, 3, 4, 5)))
