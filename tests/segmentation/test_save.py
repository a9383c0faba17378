"""All of a result or nothing of it, and what stands in each file."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medvit
from medvit.errors import OutputError, RoundTripError
from tests.bands import oblique_affine, phantom, write_series
from tests.batch.archives import without_numbers


@pytest.fixture
def result(banded) -> medvit.Result:
    values, _ = phantom()
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(oblique_affine()))
    return medvit.segment(tensor, bundle=banded)


def _left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*"))


def test_nifti_keeps_the_source_header_and_drops_what_could_name_a_patient(banded, tmp_path):
    values, _labels = phantom()
    image = nib.Nifti1Image(values, oblique_affine((0.7, 1.2, 2.5)))
    image.set_sform(image.affine, 2)
    image.set_qform(image.affine, 1)
    image.header["descrip"] = b"Secret^Person"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Secret^Person"))
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    medvit.segment(tmp_path / "scan.nii.gz", bundle=banded).save(tmp_path / "out", per_label=True)
    saved = nib.load(tmp_path / "out" / "labels.nii.gz")
    source = nib.load(tmp_path / "scan.nii.gz")
    for field in (
        "sform_code",
        "qform_code",
        "srow_x",
        "srow_y",
        "srow_z",
        "quatern_b",
        "quatern_c",
        "quatern_d",
        "pixdim",
        "xyzt_units",
    ):
        assert np.array_equal(saved.header[field], source.header[field]), field
    assert saved.get_data_dtype() == np.uint8
    assert saved.shape == values.shape
    content = (tmp_path / "out" / "labels.nii.gz").read_bytes()
    import gzip

    assert b"Secret" not in gzip.decompress(content)
    extension = saved.header.extensions[0].get_content()
    assert b"parotid_left" in (extension if isinstance(extension, bytes) else str(extension).encode())
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["labels"]["7"]["name"] == "mandible"
    one = nib.load(tmp_path / "out" / "mandible.nii.gz")
    assert np.array_equal(np.asarray(one.dataobj) > 0, np.asarray(saved.dataobj) == 7)


def test_statistics_equal_plain_numpy(result, tmp_path):
    saved = result.save(tmp_path / "out", statistics=True)
    values, _labels = phantom()
    content = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert content["intended_use"] == "For research use, not for diagnosis"
    assert content["quality"] == saved.quality
    with (tmp_path / "out" / "statistics.csv").open() as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    for row in content["labels"]:
        mask = result.array == row["id"]
        assert row["volume_ml"] == pytest.approx(mask.sum() * 8 / 1000, abs=1e-3)
        assert row["mean"] == pytest.approx(values[mask].mean(), abs=0.01)
        assert row["std"] == pytest.approx(values[mask].std(), abs=0.01)
        centre = nib.affines.apply_affine(oblique_affine(), np.argwhere(mask).mean(0))
        assert row["centroid_mm"] == pytest.approx(centre, abs=0.01)
        assert not row["touches_border"]
        assert float(table[row["name"]]["volume_ml"]) == row["volume_ml"]


def test_border_contact_is_seen(banded):
    values, _ = phantom()
    cut = torch.from_numpy(values[6:].astype(np.float32))[None]
    result = medvit.segment(MetaTensor(cut, affine=torch.from_numpy(oblique_affine())), bundle=banded)
    touching = {row.name for row in result.statistics() if row.touches_border}
    assert touching == {"brainstem", "spinal_cord", "mandible"}
    assert result.quality()["rating"] in ("check", "poor")


def test_run_record_says_what_ran_and_names_nobody(banded, tmp_path):
    write_series(tmp_path / "Secret^Person", phantom()[0], oblique_affine(), SeriesDescription="for Secret^Person")
    result = medvit.segment(tmp_path / "Secret^Person", bundle=banded)
    result.save(tmp_path / "out", ("nifti", "dicom-seg", "rtstruct"), preview=True, statistics=True)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["bundle"]["weights_sha256"] == result.bundle.facts.weights.sha256
    assert record["settings"]["device"] == "cpu"
    assert record["settings"]["precision"] == "fp32"
    # labels leave the windows as they are finished, so there is no stage of postprocessing
    assert {"read", "load", "preprocess", "infer", "write"} <= set(record["seconds"])
    assert set(record["files"]) == {p.name for p in (tmp_path / "out").iterdir()} - {"run.json"}
    identifying = ["Secret", "4711", "19500102", "20200203", "ACC-9"]
    for name in ("run.json", "statistics.json", "statistics.csv", "labels.json"):
        plain = without_numbers((tmp_path / "out" / name).read_bytes())
        assert not [word for word in identifying if word.encode() in plain], name
    assert b"Secret" not in (tmp_path / "out" / "preview.png").read_bytes()


def test_preview_shows_three_planes_with_every_colour(result, tmp_path):
    from PIL import Image

    result.save(tmp_path / "out", preview=True)
    picture = np.asarray(Image.open(tmp_path / "out" / "preview.png").convert("RGB")).astype(int)
    assert picture.shape[1] >= 1200
    legend = picture[:, int(picture.shape[1] * 0.8) :]
    for label in result.requested_labels:
        distance = np.abs(legend - np.array(label.color)).sum(-1)
        assert (distance < 12).sum() > 50, label.name
    for third in range(3):
        part = picture[:, int(picture.shape[1] * 0.27 * third) : int(picture.shape[1] * 0.27 * (third + 1))]
        colourful = (part.max(-1) - part.min(-1)) > 60
        assert colourful.sum() > 200


def test_preview_of_a_single_slice_shows_its_labels_as_strips(banded, tmp_path):
    from PIL import Image

    write_series(tmp_path / "series", phantom()[0][:, :, 20:21], oblique_affine((1.1, 1.9, 2.5)))
    result = medvit.segment(tmp_path / "series", bundle=banded)
    result.save(tmp_path / "out", preview=True)
    picture = np.asarray(Image.open(tmp_path / "out" / "preview.png").convert("RGB")).astype(int)
    (mandible,) = [label for label in result.requested_labels if label.name == "mandible"]
    for third in range(3):
        part = picture[:, int(picture.shape[1] * 0.27 * third) : int(picture.shape[1] * 0.27 * (third + 1))]
        assert (np.abs(part - np.array(mandible.color)).sum(-1) < 12).any() or third == 2


def test_existing_output_is_refused_then_replaced_and_strangers_stay(result, tmp_path):
    out = tmp_path / "out"
    result.save(out, statistics=True, preview=True)
    with pytest.raises(OutputError, match=r"results are never written over silently.*overwrite=True"):
        result.save(out)
    (out / "my notes.txt").write_text("keep")
    result.save(out, overwrite=True)
    assert _left_behind(out) == ["labels.json", "labels.nii.gz", "my notes.txt", "run.json", "statistics.json"]


def test_an_empty_folder_that_is_there_is_filled(result, tmp_path):
    (tmp_path / "out").mkdir()
    inode = (tmp_path / "out").stat().st_ino
    result.save(tmp_path / "out")
    assert (tmp_path / "out").stat().st_ino == inode  # a mounted folder cannot be replaced, only filled
    assert _left_behind(tmp_path / "out") == ["labels.json", "labels.nii.gz", "run.json", "statistics.json"]


def test_a_file_in_the_way_and_unknown_types(result, tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="Found a file at"):
        result.save(tmp_path / "out")
    with pytest.raises(OutputError, match="must be one of nifti, dicom-seg, rtstruct, sr, sc, png"):
        result.save(tmp_path / "new", ("dicom",))
    with pytest.raises(OutputError, match="DICOM objects refer to the original DICOM slices"):
        result.save(tmp_path / "new", ("dicom-seg",))
    with pytest.raises(OutputError, match="pictures give png"):
        result.save(tmp_path / "new", ("png",))
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_a_full_disk_publishes_nothing(banded, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("this sandbox does not let root mount a tmpfs")
    try:
        noisy = torch.from_numpy(np.random.default_rng(0).normal(0, 400, (1, 90, 90, 60)).astype(np.float32))
        result = medvit.segment(MetaTensor(noisy, affine=torch.eye(4, dtype=torch.float64) * 2), bundle=banded)
        with pytest.raises(OutputError, match="no space left.*nothing was published"):
            result.save(small / "out", preview=True)
        assert _left_behind(small) == []
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_written(result):
    with pytest.raises(OutputError, match="nothing was published. Check its permissions"):
        result.save("/proc/medvit/out")


def test_a_failed_check_publishes_nothing(banded, tmp_path, monkeypatch):
    """A broken writer is found by the round-trip check, and no file is published."""
    import medvit.io.dicom.write as writers

    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded)
    honest = writers.write_seg
    monkeypatch.setattr(writers, "write_seg", lambda path, array, *rest: honest(path, np.flip(array, 0), *rest))
    with pytest.raises(RoundTripError, match=r"differing voxels.*Nothing was published"):
        result.save(tmp_path / "out", ("nifti", "dicom-seg"))
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".medvit-*"))


def test_without_uids_nifti_and_statistics_are_written_with_the_reason(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), SOPInstanceUID="")
    saved = medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("dicom-seg", "rtstruct"))
    assert saved.flagged
    assert saved.not_written == (
        "dicom-seg and rtstruct not written: 29 of 29 slices have no SOPInstanceUID. NIfTI was written instead. To have them, let medvit repair the tags.",
    )
    assert saved.files == ("labels.json", "labels.nii.gz", "run.json", "statistics.json")
    assert saved.not_written[0] in json.loads((tmp_path / "out" / "run.json").read_text())["notes"]


def test_nothing_found_still_gives_a_picture_and_says_why_there_is_no_seg(banded, tmp_path):
    values, labels = phantom()
    write_series(tmp_path / "series", np.where(labels == 7, values, -1000), oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded, roi_subset=["larynx"])
    saved = result.save(tmp_path / "out", ("dicom-seg", "rtstruct"), preview=True, statistics=True)
    assert saved.not_written == ("dicom-seg and rtstruct not written: no label was found. NIfTI was written instead.",)
    assert saved.quality == {"rating": "poor", "reasons": ["larynx was not found"]}
    assert (tmp_path / "out" / "preview.png").stat().st_size > 10_000


def test_implausible_anatomy_is_written_and_flagged(banded, tmp_path):
    values, _ = phantom()
    values[values == round(4 / 8 * 500 - 200)] = -1000  # the left parotid is gone
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(oblique_affine()))
    saved = medvit.segment(tensor, bundle=banded).save(tmp_path / "out")
    assert saved.flagged
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["quality"] == {
        "rating": "poor",
        "reasons": ["parotid_left was not found"],
    }
    assert (tmp_path / "out" / "labels.nii.gz").exists()


def test_swapped_sides_are_poor(banded):
    values = np.full((40, 30, 20), -1000.0, np.float32)
    values[5:12, 8:20, 5:15], values[28:35, 8:20, 5:15], values[20, 20, 10] = 50.0, -12.5, 237.5
    words = []
    for x in (1.0, -1.0):
        affine = torch.from_numpy(oblique_affine() @ np.diag([x, 1.0, 1.0, 1.0]))
        result = medvit.segment(
            MetaTensor(torch.from_numpy(values)[None], affine=affine),
            bundle=banded,
            roi_subset=["parotid_right", "parotid_left"],
        )
        words.append(result.quality())
    assert words[0]["rating"] == "good"
    assert words[1] == {"rating": "poor", "reasons": ["parotid_right lies to the left of parotid_left"]}
