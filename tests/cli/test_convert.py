"""``medvit convert`` as a user meets it: what comes out equals what went in, or one clear line says why not."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.io import flip_lps_ras
from tests.bands import all_orientations, oblique_affine, phantom, reorient, write_series
from tests.cli.scenes import AFFINE
from tests.tools import program

runner = CliRunner()


def _run(*args: object):
    return runner.invoke(app, ["convert", *[str(a) for a in args]])


def _array(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def _validate(path: Path) -> None:
    outcome = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True)
    assert not [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("name", ["seg.dcm", "rtstruct.dcm"])
def test_there_and_back_is_the_same_to_the_voxel(name, place, tmp_path):
    _validate(place / "out" / name)
    outcome = _run(place / "out" / name, "-o", tmp_path / "back", "--like", place / "organs.nii.gz")
    assert outcome.exit_code == 0, outcome.output
    assert np.array_equal(_array(tmp_path / "back/labels.nii.gz"), phantom()[1])
    assert np.allclose(nib.load(tmp_path / "back/labels.nii.gz").affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("orientation", all_orientations()[::9], ids=str)
def test_labels_stored_with_other_axes_land_on_the_series(orientation, place, tmp_path):
    array, affine = reorient(phantom()[1], AFFINE, *orientation)
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "turned.nii.gz")
    outcome = _run(
        tmp_path / "turned.nii.gz", "-o", tmp_path / "o", "--like", place / "ct", "-ot", "dicom-seg", "-ot", "rtstruct"
    )
    assert outcome.exit_code == 0, outcome.output
    assert "nearest" not in outcome.output
    for name in ("seg.dcm", "rtstruct.dcm"):
        found = medvit.read_labels(tmp_path / "o" / name, like=tmp_path / "turned.nii.gz")
        assert np.array_equal(found.array, array)


@pytest.mark.parametrize("order", [(1, 2, 0), (0, 2, 1)], ids=["sagittal", "coronal"])
def test_slices_of_any_direction(order, tmp_path):
    values, affine = reorient(phantom()[0], oblique_affine((1.1, 1.9, 2.5), 8), order, (1, -1, 1))
    labels, _ = reorient(phantom()[1], affine, order, (1, -1, 1))
    write_series(tmp_path / "ct", values, affine)
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "labels.nii.gz")
    outcome = _run(
        tmp_path / "labels.nii.gz", "-o", tmp_path / "o", "--like", tmp_path / "ct", "-ot", "dicom-seg,rtstruct"
    )
    assert outcome.exit_code == 0, outcome.output
    for name in ("seg.dcm", "rtstruct.dcm"):
        assert np.array_equal(medvit.read_labels(tmp_path / "o" / name, like=tmp_path / "labels.nii.gz").array, labels)


def test_dcmqi_reads_the_converted_seg_as_our_nifti(place, tmp_path):
    tool = program("segimage2itkimage")
    call = [
        tool,
        "--inputDICOM",
        place / "out/seg.dcm",
        "--outputDirectory",
        tmp_path,
        "--outputType",
        "nrrd",
        "--mergeSegments",
    ]
    subprocess.run([str(part) for part in call], check=True, capture_output=True)
    theirs = medvit.read_labels(tmp_path / "1.nrrd", like=place / "organs.nii.gz")
    assert np.array_equal(theirs.array, phantom()[1])


def test_seg_to_seg_keeps_what_is_known_of_each_segment(place, tmp_path):
    dataset = pydicom.dcmread(place / "out/seg.dcm")
    for n, kind in ((0, "MANUAL"), (1, "AUTOMATIC")):
        dataset.SegmentSequence[n].SegmentAlgorithmType = kind
        dataset.SegmentSequence[n].SegmentAlgorithmName = "somebody's network"
        dataset.SegmentSequence[n].TrackingUID, dataset.SegmentSequence[n].TrackingID = f"1.2.{n + 3}", f"lesion {n}"
    dataset.ContentDescription = "of Secret^Person"
    dataset.save_as(tmp_path / "seg.dcm")
    outcome = _run(tmp_path / "seg.dcm", "-o", tmp_path / "o", "--like", place / "ct", "-ot", "dicom-seg,rtstruct")
    assert outcome.exit_code == 0, outcome.output
    seg = pydicom.dcmread(tmp_path / "o/seg.dcm")
    first, second = seg.SegmentSequence[:2]
    assert (first.SegmentAlgorithmType, first.TrackingUID, first.TrackingID) == ("MANUAL", "1.2.3", "lesion 0")
    assert "SegmentAlgorithmName" not in first
    assert (second.SegmentAlgorithmType, second.SegmentAlgorithmName) == ("AUTOMATIC", "somebody's network")
    assert (first.SegmentLabel, first.RecommendedDisplayCIELabValue) == (
        dataset.SegmentSequence[0].SegmentLabel,
        dataset.SegmentSequence[0].RecommendedDisplayCIELabValue,
    )
    assert seg.ContentDescription == "Converted; for research use, not for diagnosis"
    assert seg.ManufacturerModelName.startswith("medvit convert")
    rois = pydicom.dcmread(tmp_path / "o/rtstruct.dcm").StructureSetROISequence
    assert [roi.ROIGenerationAlgorithm for roi in rois[:2]] == ["MANUAL", "AUTOMATIC"]
    _validate(tmp_path / "o/seg.dcm")
    _validate(tmp_path / "o/rtstruct.dcm")


def test_what_nobody_stated_is_not_made_up(place):
    seg = pydicom.dcmread(place / "out/seg.dcm").SegmentSequence[0]
    assert (seg.SegmentAlgorithmType, seg.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "not stated in the source")
    rtstruct = pydicom.dcmread(place / "out/rtstruct.dcm")
    assert rtstruct.StructureSetROISequence[0].ROIGenerationAlgorithm == ""
    assert rtstruct.RTROIObservationsSequence[0].RTROIInterpretedType == ""
    notes = " ".join(json.loads((place / "out/run.json").read_text())["notes"])
    assert "No name is known for 7 label(s) (1, 2, 3, 4, 5, 6, 7)" in notes
    assert "does not say how its labels were made" in notes


def test_a_result_of_segment_keeps_its_names_ids_and_codes(place, banded, tmp_path):
    result = medvit.segment(place / "ct", bundle=banded)
    result.save(tmp_path / "seg", ("nifti", "dicom-seg"))
    outcome = _run(tmp_path / "seg/labels.nii.gz", "-o", tmp_path / "a", "--like", place / "ct")
    assert outcome.exit_code == 0, outcome.output
    assert "No name" not in outcome.output
    theirs, ours = (pydicom.dcmread(tmp_path / p / "seg.dcm").SegmentSequence for p in ("seg", "a"))
    for one, other in zip(theirs, ours, strict=True):
        assert one.SegmentLabel == other.SegmentLabel
        assert one.SegmentedPropertyTypeCodeSequence == other.SegmentedPropertyTypeCodeSequence
        assert one.SegmentedPropertyCategoryCodeSequence == other.SegmentedPropertyCategoryCodeSequence
    (tmp_path / "seg/labels.json").unlink()  # the header holds names and colours too
    found = medvit.read_labels(tmp_path / "seg/labels.nii.gz")
    assert [(label.id, label.name, label.color) for label in found.labels] == [
        (label.id, label.name, label.color) for label in result.requested_labels
    ]


def test_a_table_gives_ids_back_by_name(place, banded, tmp_path):
    labels = np.where(np.isin(phantom()[1], (3, 7)), phantom()[1], 0)
    nib.save(nib.Nifti1Image(labels, AFFINE), tmp_path / "two.nii.gz")
    outcome = _run(tmp_path / "two.nii.gz", "-o", tmp_path / "a", "--like", place / "ct", "-b", banded)
    said = " ".join(outcome.output.split())
    assert "A SEG numbers its segments from 1 on" in said and "a bundle gives the ids back" in said
    seg = tmp_path / "a/seg.dcm"
    assert set(np.unique(medvit.read_labels(seg, like=place / "ct").array)) == {0, 1, 2}
    outcome = _run(seg, "-o", tmp_path / "b", "--like", place / "ct", "-b", banded)
    assert outcome.exit_code == 0, outcome.output
    assert np.array_equal(_array(tmp_path / "b/labels.nii.gz"), labels)
    (tmp_path / "names.json").write_text('{"4": "Mandible", "9": "spleen"}')
    outcome = _run(seg, "-o", tmp_path / "c", "--like", place / "ct", "--labels", tmp_path / "names.json", "--json")
    assert json.loads(outcome.stdout)["labels"]["mandible"] == 4
    assert "Not in the table of labels, kept as they are: " in outcome.stdout


def test_the_series_beside_the_labels_is_found(place, tmp_path):
    shutil.copytree(place / "ct", tmp_path / "study/ct")
    shutil.copy(place / "out/seg.dcm", tmp_path / "study/seg.dcm")
    outcome = _run(tmp_path / "study", "-o", tmp_path / "o", "-ot", "rtstruct")
    assert outcome.exit_code == 0, outcome.output
    assert "found beside it" in outcome.output
    assert np.array_equal(medvit.read_labels(tmp_path / "o/rtstruct.dcm", like=place / "ct").array, phantom()[1])
    shutil.copy(place / "out/rtstruct.dcm", tmp_path / "study/rt.dcm")
    outcome = _run(tmp_path / "study", "-o", tmp_path / "o2")
    assert outcome.exit_code == 1
    assert "2 SEG and RTSTRUCT files" in outcome.output
    assert "seg.dcm" in outcome.output
    outcome = _run(place / "ct", "-o", tmp_path / "o2")
    assert "Found no SEG or RTSTRUCT in" in outcome.output


def test_overlapping_labels_need_a_file_each_but_pass_between_dicom_objects(place, tmp_path):
    masks = np.zeros((*phantom()[1].shape, 2), bool)
    masks[4:14, 5:20, 5:12, 0] = masks[8:20, 8:25, 8:15, 1] = True
    from medvit.io import open_source
    from medvit.io.dicom.write import AlgorithmInfo, source_of, write_seg
    from medvit.io.labels import make_label
    from medvit.labels import Label

    labels: list[Label] = [make_label(1, "Gross tumour"), make_label(2, "Margin")]
    slices = source_of(open_source(place / "ct"))
    write_seg(
        tmp_path / "seg.dcm",
        masks,
        slices,
        labels,
        AlgorithmInfo(bundle="a 1", weights="0" * 64, software="1", intended_use="x"),
    )
    refused = _run(tmp_path / "seg.dcm", "-o", tmp_path / "a", "--like", place / "ct")
    assert refused.exit_code == 1
    assert "gross_tumour and margin sharing" in refused.output
    assert "--per-label" in refused.output
    assert not (tmp_path / "a").exists()
    outcome = _run(
        tmp_path / "seg.dcm",
        "-o",
        tmp_path / "b",
        "--like",
        place / "ct",
        "-ot",
        "nifti,dicom-seg,rtstruct",
        "--per-label",
    )
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in (tmp_path / "b").iterdir()} == {
        "gross_tumour.nii.gz", "margin.nii.gz", "labels.json", "seg.dcm", "rtstruct.dcm", "run.json",
    }  # fmt: skip
    assert "Labels overlap, so there is one file each" in outcome.output
    for n, name in enumerate(("gross_tumour", "margin")):
        assert np.array_equal(_array(tmp_path / f"b/{name}.nii.gz") > 0, masks[..., n])
        for file in ("seg.dcm", "rtstruct.dcm"):
            assert np.array_equal(
                medvit.read_labels(tmp_path / "b" / file, like=place / "ct").mask(name), masks[..., n]
            )
    _validate(tmp_path / "b/seg.dcm")


def test_slicers_segmentation_keeps_names_and_colours(place, tmp_path):
    image = sitk.GetImageFromArray(phantom()[1].transpose(2, 1, 0))
    lps = flip_lps_ras(AFFINE)
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    for n in range(7):
        image.SetMetaData(f"Segment{n}_LabelValue", str(n + 1))
        image.SetMetaData(f"Segment{n}_Name", f"Rib {n + 1} left")
        image.SetMetaData(f"Segment{n}_Color", "0.5 0.2 1")
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    outcome = _run(tmp_path / "s.seg.nrrd", "-o", tmp_path / "o", "--like", place / "ct", "-ot", "dicom-seg,nifti")
    assert outcome.exit_code == 0, outcome.output
    table = json.loads((tmp_path / "o/labels.json").read_text())["labels"]
    assert (table["3"]["title"], table["3"]["name"], table["3"]["color"]) == (
        "Rib 3 left",
        "rib_3_left",
        [128, 51, 255],
    )
    assert np.array_equal(_array(tmp_path / "o/labels.nii.gz"), phantom()[1])


@pytest.mark.parametrize("charset", [None, "ISO_IR 100"])
def test_titles_beyond_ascii_and_beyond_dicoms_length(charset, place, tmp_path):
    series = place / "ct"
    if charset:
        series = tmp_path / "ct"
        write_series(series, phantom()[0], AFFINE, SpecificCharacterSet=charset, PatientName="Müller^Jörg")
    long = "Großhirn, linke Hälfte \\ " + "und alles, was daran hängt, " * 3
    (tmp_path / "n.json").write_text(json.dumps({"1": long + "a", "2": long + "b", "3": "肝臓"}))
    outcome = _run(
        place / "organs.nii.gz", "-o", tmp_path / "o", "--like", series, "-ot", "dicom-seg,rtstruct", "--labels", tmp_path / "n.json"
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    for name in ("seg.dcm", "rtstruct.dcm"):
        found = medvit.read_labels(tmp_path / "o" / name, like=series)
        assert charset is None or str(pydicom.dcmread(tmp_path / "o" / name).PatientName) == "Müller^Jörg"
        assert np.array_equal(found.array, phantom()[1])
        assert found.labels[0].title.startswith("Großhirn, linke Hälfte / und alles")
        assert found.labels[2].title == "肝臓"
        _validate(tmp_path / "o" / name)


def test_converting_loads_neither_torch_nor_monai(place, tmp_path):
    import sys

    program = (
        "import sys; from medvit.cli.main import app; from typer.testing import CliRunner; "
        f"r = CliRunner().invoke(app, ['convert', {str(place / 'out/seg.dcm')!r}, '-o', {str(tmp_path / 'o')!r}]); "
        "print(r.exit_code, 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0 False False"


def test_real_labels_of_others_between_all_kinds(shared, tmp_path):
    place = shared / "data" / "dicom" / "seg_dcmqi"
    outcome = _run(
        place / "partial_overlaps.dcm", "-o", tmp_path / "o", "--like", place / "ct-3slice", "-ot", "nifti,dicom-seg,rtstruct", "--per-label"
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    assert "JANCT" not in outcome.output
    theirs = medvit.read_labels(place / "partial_overlaps.dcm")
    for file in ("seg.dcm", "rtstruct.dcm"):
        found = medvit.read_labels(tmp_path / "o" / file, like=place / "ct-3slice")
        for label in theirs.labels:
            assert np.array_equal(found.mask(label.name), theirs.mask(label.name))
        _validate(tmp_path / "o" / file)
    gapped = _run(place / "liver_spine_gapped_seg.nrrd", "-o", tmp_path / "g", "--like", place / "ct-3slice")
    assert gapped.exit_code == 0, gapped.output
    assert "(1, 5)" in gapped.output
