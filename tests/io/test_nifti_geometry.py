"""NIfTI files that place their voxels in two ways or in other units, judged by nibabel and SimpleITK, through commands."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import GeometryError, SourceError
from tests.bands import make_restoring_bundle, oblique_affine, phantom

AFFINE = np.array([[0.0, -2.0, 0, 30], [-2.0, 0, 0, 40], [0, 0, -3.0, 50], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE
MICRON, METRE = 3, 1


def _run(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


def _write(path: Path, sform=AFFINE, qform=AFFINE, codes=(1, 1), unit: int | None = None, **fields: object) -> Path:
    """A phantom whose two forms, codes and header fields are as given, whatever nibabel thinks of them."""
    image = nib.Nifti1Image(phantom((32, 28, 20))[0], None)
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    if unit is not None:
        image.header["xyzt_units"] = unit
    content = image.to_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    for name, value in fields.items():
        place, _, index = name.partition("__")
        header[place][int(index) if index else ...] = value
    content = header.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


def _affine_by_itk(path: Path) -> np.ndarray:
    image = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1, 1, 1]) @ lps


def _agrees_with_itself(path: Path, affine: np.ndarray) -> None:
    """Both forms of a written file, nibabel and SimpleITK say the same place, in millimetres."""
    image = nib.load(path)
    assert np.allclose(image.get_sform(), affine, atol=1e-3)
    assert np.allclose(image.get_qform(), affine, atol=1e-3)
    assert np.allclose(_affine_by_itk(path), affine, atol=1e-3)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert np.allclose(image.header.get_zooms(), np.linalg.norm(affine[:3, :3], axis=0), atol=1e-4)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    return _write(tmp_path_factory.mktemp("mirror") / "ct.nii.gz", AFFINE, MIRRORED)


def test_a_mirrored_qform_is_flagged_by_inspect(shared):
    place = shared / "cases" / "02_qform_sform_mirror" / "ct.nii.gz"
    outcome = _run("inspect", place, "--json")
    assert outcome.exit_code == 3, outcome.output
    (flag,) = json.loads(outcome.stdout)["set_aside"]
    assert "PLI by the sform (code 1), PRI by the qform (code 1)" in flag
    assert "choose the geometry: sform or qform" in flag
    chosen = _run("inspect", place, "--json", "--geometry", "qform")
    content = json.loads(chosen.stdout)
    assert chosen.exit_code == 0 and content["orientation"] == "PRI" and not content["set_aside"]
    assert "PLI by the sform" in content["notes"][0] and "as requested" in content["notes"][0]


@pytest.mark.parametrize(("choice", "affine"), [(None, AFFINE), ("sform", AFFINE), ("qform", MIRRORED)])
def test_segment_takes_the_form_that_is_chosen_and_writes_one_place(choice, affine, mirror, banded, tmp_path):
    asked = [] if choice is None else ["--geometry", choice]
    outcome = _run("segment", mirror, "-o", tmp_path / "o", "-b", banded, "--per-label", *asked)
    mirrored = choice == "qform"  # then the anatomy is mirrored as well, and the quality poor
    assert outcome.exit_code == (3 if choice is None or mirrored else 0), outcome.output
    assert ("Warning: The NIfTI's sform and qform differ" in outcome.output) == (choice is None)
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert record["settings"]["geometry"] == choice
    assert record["source"]["geometry"] == (choice or "sform")
    (said,) = (note for note in record["notes"] if "sform and qform differ" in note)
    assert "PLI" in said and "PRI" in said
    for path in (tmp_path / "o").glob("*.nii.gz"):
        _agrees_with_itself(path, affine)


def test_every_command_that_reads_a_nifti_takes_the_choice(mirror, tmp_path):
    """Restored images, radiographs and converted labels lie where the choice puts them, and say so."""
    plain = make_restoring_bundle(tmp_path / "plain", None)
    ids = nib.Nifti1Image((phantom((32, 28, 20))[1] > 0).astype(np.uint8), None, nib.load(mirror).header)
    nib.save(ids, tmp_path / "ids.nii.gz")
    commands = {
        "restore": ("restore", mirror, "-b", plain, "--maps"),
        "drr": ("drr", mirror, "-ot", "nifti", "--pixel-spacing", 4),
        "convert": ("convert", tmp_path / "ids.nii.gz", "-ot", "nifti"),
        "like": ("convert", tmp_path / "ids.nii.gz", "-ot", "nifti", "--like", mirror),
    }
    for name, command in commands.items():
        flagged = _run(*command, "-o", tmp_path / name)
        assert flagged.exit_code == 3, (name, flagged.output)
        assert "Warning: The NIfTI's sform and qform differ" in flagged.output, name
        chosen = _run(*command, "-o", tmp_path / f"{name}_q", "--geometry", "qform")
        assert chosen.exit_code == 0, (name, chosen.output)
        record = json.loads((tmp_path / f"{name}_q" / "run.json").read_text())
        assert record["settings"]["geometry"] == "qform", name
        assert any("as requested" in note for note in record["notes"]), name
    for file in ("restore_q/restored.nii.gz", "restore_q/maps/difference.nii.gz", "convert_q/labels.nii.gz"):
        _agrees_with_itself(tmp_path / file, MIRRORED)
    left, right = (nib.load(tmp_path / place / "drr_0.nii.gz").get_fdata() for place in ("drr", "drr_q"))
    assert np.allclose(left, right[::-1], atol=1e-4) and not np.allclose(left, right, atol=0.1)


def test_python_takes_the_choice(mirror, banded):
    assert np.allclose(medvit.run(banded, mirror, geometry="qform").labels.affine, MIRRORED, atol=1e-5)
    result = medvit.segment(mirror, bundle=banded, geometry="qform")
    assert np.allclose(result.labels.affine, MIRRORED, atol=1e-5) and not result.scan.excluded
    with pytest.raises(GeometryError, match="Found geometry 'left'; it must be sform or qform. Leave geometry out"):
        medvit.open_source(mirror, geometry="left")


def _shifted(voxels: float) -> np.ndarray:
    moved = AFFINE.copy()
    moved[2, 3] += 3.0 * voxels
    return moved


@pytest.mark.parametrize(("voxels", "noted"), [(0.05, False), (0.5, True), (20.0, True)])
def test_forms_of_one_orientation_are_noted_from_a_tenth_of_a_voxel(voxels, noted, tmp_path):
    path = _write(tmp_path / "a.nii", _shifted(voxels), codes=(4, 3))
    scan = medvit.open_source(path)
    assert not scan.excluded and np.allclose(scan.affine, _shifted(voxels))
    assert bool(scan.notes) == noted
    outcome = _run("inspect", path)
    assert outcome.exit_code == 0 and ("the sform goes before the qform" in outcome.output) == noted


def test_other_axes_are_flagged_and_one_stated_form_is_not_a_choice(tmp_path):
    turned = AFFINE[:, [1, 0, 2, 3]]
    assert "see other axes" in medvit.open_source(_write(tmp_path / "a.nii", AFFINE, -turned)).excluded[0]
    scan = medvit.open_source(_write(tmp_path / "b.nii", AFFINE, MIRRORED, codes=(2, 0)))
    assert not scan.notes and not scan.excluded
    alone = medvit.open_source(_write(tmp_path / "c.nii", AFFINE, MIRRORED, codes=(0, 1)), geometry="sform")
    assert (
        np.allclose(alone.affine, MIRRORED, atol=1e-5) and "has no sform (its code is 0); the qform" in alone.notes[0]
    )
    sitk.WriteImage(sitk.GetImageFromArray(phantom((8, 8, 8))[0]), str(tmp_path / "d.nrrd"))
    assert "passed over" in medvit.open_source(tmp_path / "d.nrrd", geometry="sform").notes[0]


def test_a_form_that_is_no_place_is_noted_or_refused_with_the_other_as_the_way_out(tmp_path):
    nan = float("nan")
    for number, fields in enumerate(({"quatern_b": nan}, {"quatern_b": 2.0}, {"qoffset_x": nan})):
        scan = medvit.open_source(_write(tmp_path / f"{number}.nii", **fields))
        assert (
            np.allclose(scan.affine, AFFINE, atol=1e-5)
            and "qform (code 1) is not finite and was passed over" in scan.notes[0]
        )
        with pytest.raises(GeometryError, match="by the qform; .*Take the sform with geometry=.sform."):
            medvit.open_source(tmp_path / f"{number}.nii", geometry="qform")
    no_size = _write(tmp_path / "zero.nii", pixdim__2=0.0)
    assert "has a voxel size of 0" in medvit.open_source(no_size).notes[0]
    with pytest.raises(GeometryError, match=r"spacing of 2 x 0 x 3 mm"):
        medvit.open_source(_write(tmp_path / "alone.nii", codes=(0, 1), pixdim__2=0.0))
    with pytest.raises(GeometryError, match=r"spacing of 2 x 0 x 3 mm"):  # nibabel alone makes it 1 mm
        medvit.open_source(_write(tmp_path / "none.nii", codes=(0, 0), pixdim__2=0.0))
    singular = _write(tmp_path / "s.nii", srow_x=0.0, srow_y=0.0)
    with pytest.raises(GeometryError, match="by the sform; .*Take the qform with geometry=.qform."):
        medvit.open_source(singular)
    assert np.allclose(medvit.open_source(singular, geometry="qform").affine, AFFINE, atol=1e-5)


def test_a_negative_size_and_any_negative_qfac_are_read_as_other_readers_read_them(tmp_path):
    scan = medvit.open_source(_write(tmp_path / "a.nii", codes=(0, 1), pixdim__1=-2.0))
    assert np.allclose(scan.affine, AFFINE, atol=1e-5) and "negative voxel size" in scan.notes[0]
    path = _write(tmp_path / "b.nii", qform=MIRRORED, codes=(0, 1))
    assert np.allclose(medvit.open_source(path).affine, _affine_by_itk(path), atol=1e-3)
    for number, qfac in enumerate((-3.0, 0.0)):
        path = _write(tmp_path / f"{number}.nii", codes=(0, 1), pixdim__0=qfac)
        assert np.allclose(medvit.open_source(path).affine, _affine_by_itk(path), atol=1e-3), qfac


def test_voxel_sizes_beside_a_lone_sform_are_noted_and_written_anew(banded, tmp_path):
    path = _write(tmp_path / "a.nii.gz", codes=(2, 0), pixdim__1=1.0, pixdim__2=1.0)
    result = medvit.segment(path, bundle=banded)
    assert "voxel sizes (pixdim) are 1 x 1 x 3 mm, those of its sform 2 x 2 x 3 mm" in result.notes[0]
    result.save(tmp_path / "o")
    _agrees_with_itself(tmp_path / "o" / "labels.nii.gz", AFFINE)


def _scaled(factor: float) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0]) @ oblique_affine((0.7, 1.2, 2.5))


@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 1)])
@pytest.mark.parametrize(("unit", "factor", "word"), [(MICRON | 8, 1e3, "micron"), (METRE | 16, 1e-3, "metre")])
def test_micron_and_metre_are_converted_and_outputs_state_millimetres(unit, factor, word, codes, banded, tmp_path):
    path = _write(tmp_path / "a.nii.gz", _scaled(factor), _scaled(factor), codes, unit)
    assert np.allclose(_affine_by_itk(path), _scaled(1), atol=1e-3)  # SimpleITK converts as well
    result = medvit.segment(path, bundle=banded)
    assert np.allclose(result.labels.affine, _scaled(1), atol=1e-4)
    assert f"lengths in {word}s" in result.notes[0]
    result.save(tmp_path / "o")
    _agrees_with_itself(tmp_path / "o" / "labels.nii.gz", _scaled(1))
    assert any(word in note for note in json.loads((tmp_path / "o" / "run.json").read_text())["notes"])


def test_a_scan_and_labels_in_micron(shared, tmp_path):
    place = shared / "cases" / "03_units"
    atlas = json.loads(_run("inspect", place / "atlas_25um.nii.gz", "--json").stdout)
    assert np.allclose(atlas["spacing_mm"], 0.025)
    for name, like in (("alone", []), ("on", ["--like", place / "ct_micron.nii.gz"])):
        outcome = _run("convert", place / "labels_micron.nii.gz", "-o", tmp_path / name, "-ot", "nifti", *like)
        assert outcome.exit_code == 0 and "lengths in microns" in outcome.output, outcome.output
        written, source = tmp_path / name / "labels.nii.gz", place / "labels_micron.nii.gz"
        _agrees_with_itself(written, _affine_by_itk(source))
        assert np.array_equal(nib.load(written).get_fdata(), nib.load(source).get_fdata())


def test_restored_images_of_a_scan_in_micron_state_millimetres(tmp_path):
    path = _write(tmp_path / "a.nii.gz", _scaled(1e3), _scaled(1e3), (1, 0), MICRON)
    medvit.restore(path, bundle=make_restoring_bundle(tmp_path / "smoothing")).save(tmp_path / "o")
    _agrees_with_itself(tmp_path / "o" / "restored.nii.gz", _scaled(1))


def test_no_unit_is_millimetres_and_noted_only_where_that_is_implausible(tmp_path):
    assert not medvit.open_source(_write(tmp_path / "a.nii", unit=0)).notes
    assert not medvit.open_source(_write(tmp_path / "b.nii", unit=8)).notes  # seconds, and no unit of length
    large = medvit.open_source(_write(tmp_path / "c.nii", AFFINE * 12.5, AFFINE * 12.5, unit=0))
    assert "states no unit of length" in large.notes[0] and "25 x 25 x 37.5 mm" in large.notes[0]
    assert "'code 5'" in medvit.open_source(_write(tmp_path / "d.nii", unit=5)).notes[0]
    for unit, words in ((0, r"no unit of length \(xyzt_units 0"), (METRE, "lengths in metres")):
        with pytest.raises(GeometryError, match=rf"must lie between .* The header states .*{words}"):
            medvit.open_source(_write(tmp_path / "e.nii", AFFINE * 1e3, AFFINE * 1e3, unit=unit))


def test_a_side_at_the_limit_is_taken_although_headers_round_it(tmp_path):
    affine = np.diag([0.01, 0.01, 0.01, 1])
    assert np.allclose(medvit.open_source(_write(tmp_path / "a.nii", affine, affine, unit=2)).spacing_mm, 0.01)


def _itk_file(path: Path, after: bytes, line: bytes) -> Path:
    image = sitk.GetImageFromArray(phantom((8, 9, 10))[0])
    image.SetSpacing((700.0, 1200.0, 2500.0))
    image.SetOrigin((1000.0, 2000.0, 3000.0))
    sitk.WriteImage(image, str(path))
    path.write_bytes(path.read_bytes().replace(after, line + after, 1))
    return path


@pytest.mark.parametrize(
    ("name", "after", "line"),
    [
        ("a.nrrd", b"kinds:", b'space units: "um" "um" "um"\n'),
        ("b.nrrd", b"kinds:", 'space units: "µm" "µm" "µm"\n'.encode()),
        ("d.mha", b"ElementDataFile", b"DistanceUnits = um\n"),
        ("e.mhd", b"ElementDataFile", b"DistanceUnits = um\n"),
    ],
)
def test_units_of_nrrd_and_metaimage(name, after, line, tmp_path):
    scan = medvit.open_source(_itk_file(tmp_path / name, after, line))
    assert np.allclose(scan.spacing_mm, (0.7, 1.2, 2.5)) and np.allclose(scan.affine[:3, 3], (-1, -2, 3))
    assert "lengths in microns" in scan.notes[0]
    if name == "a.nrrd":
        with pytest.raises(GeometryError, match=r"axes in different units \(mm, um\) in f.nrrd"):
            medvit.open_source(_itk_file(tmp_path / "f.nrrd", after, b'space units: "um" "um" "mm"\n'))
        with pytest.raises(GeometryError, match="each side must lie between"):  # and as millimetres they are absurd
            medvit.open_source(_itk_file(tmp_path / "g.nrrd", after, b'space units: "mm" "mm" "mm"\n'))


def test_an_empty_file(tmp_path):
    (tmp_path / "zeros.nii").write_bytes(bytes(500))
    with pytest.raises(SourceError, match="does not begin with a NIfTI header"):
        medvit.open_source(tmp_path / "zeros.nii")
    for name in ("a.nii.gz", "a.nii", "a.nrrd", "a.mha"):
        (tmp_path / name).touch()
        with pytest.raises(SourceError, match=rf"Found {name}, an empty file \(0 bytes\)"):
            medvit.read_labels(tmp_path / name)
        assert _run("inspect", tmp_path / name).exit_code == 1


def test_complex_numbers_are_refused_and_not_halved(tmp_path):
    values = phantom((32, 28, 20))[0].astype(np.complex64) + 5j
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii.gz")
    for told in (("inspect", tmp_path / "a.nii.gz"), ("convert", tmp_path / "a.nii.gz", "-o", tmp_path / "o")):
        outcome = _run(*told)
        assert outcome.exit_code == 1, outcome.output
        assert "complex numbers; one real value per voxel is needed. Save their magnitude" in outcome.output
