"""Sources are sorted into volumes: what belongs together, what is set aside, what is missing, double or damaged."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import SecondaryCaptureImageStorage

from medvit.errors import SelectionError, SourceError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import oblique_affine, phantom, write_series

SMALL = phantom((20, 18, 12))[0]


def _resave(path: Path, **changes: object) -> None:
    dataset = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def _into(target: Path, source: Path, **changes: object) -> None:
    """A copy of a slice under another name, changed, with a SOP instance UID of its own."""
    shutil.copy(source, target)
    _resave(target, SOPInstanceUID=pydicom.uid.generate_uid(), **changes)


def _codes(volume) -> dict[str, str]:
    return {f.code: f.severity for f in volume.findings}


def test_a_localizer_and_a_screen_inside_the_series_never_touch_the_volume(tmp_path):
    paths = write_series(tmp_path, SMALL, oblique_affine())
    alone = open_source(tmp_path)
    sideways = [0, 1, 0, 0, 0, -1]
    _into(
        tmp_path / "scout.dcm",
        paths[0],
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=sideways,
    )
    _into(tmp_path / "screen.dcm", paths[0], SOPClassUID=SecondaryCaptureImageStorage)
    _into(tmp_path / "colour.dcm", paths[0], SamplesPerPixel=3, PixelData=bytes(20 * 18 * 6))
    together = open_source(tmp_path)
    assert np.array_equal(alone.array, together.array)
    assert np.array_equal(alone.affine, together.affine)
    assert any("localizer" in note and "screen" in note for note in together.notes)
    assert not together.excluded
    kinds = sorted(v.kind for v in run_preflight(tmp_path).volumes)
    assert kinds == ["localizer", "screen", "volume"]


def test_an_unmarked_stray_is_set_aside_and_flagged(tmp_path):
    paths = write_series(tmp_path, SMALL, oblique_affine())
    alone = open_source(tmp_path)
    _into(tmp_path / "stray.dcm", paths[0], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    scan = open_source(tmp_path)
    assert np.array_equal(alone.array, scan.array)
    assert scan.excluded[0].startswith("1 slice of 18x20, sagittal at")


@pytest.mark.parametrize("tag", ["EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber"])
def test_volumes_on_top_of_one_another_are_told_apart(tag, tmp_path):
    paths = write_series(tmp_path, SMALL, oblique_affine(), **{tag: 1})
    second = (SMALL // 2).astype(np.int16)
    for k, path in enumerate(paths):
        pixels = np.ascontiguousarray(second[:, :, k].T).tobytes()
        _into(tmp_path / f"second-{k}.dcm", path, PixelData=pixels, **{tag: 2})
    found = run_preflight(tmp_path).volumes
    assert [len(v.planes) for v in found] == [12, 12]
    assert {v.part for v in found} == {f"{tag} 1", f"{tag} 2"} or {v.part for v in found} == {
        f"{tag} 1.0",
        f"{tag} 2.0",
    }
    with pytest.raises(SelectionError, match=r"2 volumes in one source.*series=.NUMBER."):
        open_source(tmp_path)
    lows = sorted(float(open_source(tmp_path, series=str(n)).array.min()) for n in (1, 2))
    assert lows == [-1000, -500]


def test_volumes_without_a_telling_tag_are_ranked_by_instance_number(tmp_path):
    paths = write_series(tmp_path, SMALL, oblique_affine())
    for k, path in enumerate(paths):
        number = int(pydicom.dcmread(path).InstanceNumber) + 100
        _into(tmp_path / f"second-{k}.dcm", path, InstanceNumber=number)
    assert [v.part for v in run_preflight(tmp_path).volumes] == ["pass 1 of 2", "pass 2 of 2"]


def test_findings_name_positions_in_mm(tmp_path):
    paths = write_series(tmp_path, SMALL, np.diag([-1.0, -1.0, 2.5, 1.0]))
    paths[4].unlink()
    (volume,) = run_preflight(tmp_path).volumes
    (finding,) = [f for f in volume.findings if f.severity == "irregular"]
    assert finding.code == "missing_slices"
    assert finding.positions_mm == (7.5, 12.5)


def test_missing_tags_mixed_rescale_lossy_and_wrong_spacing_are_notes(tmp_path):
    paths = write_series(
        tmp_path,
        SMALL,
        oblique_affine(),
        RescaleIntercept=lambda k: -k,
        SpacingBetweenSlices="9",
        LossyImageCompression="01",
    )
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.PatientSex, dataset.AccessionNumber
        dataset.save_as(path, enforce_file_format=True)
    (volume,) = run_preflight(tmp_path).volumes
    assert _codes(volume) == dict.fromkeys(("missing_tags", "mixed_rescale", "lossy", "spacing_disagrees"), "note")
    text = " ".join(f.text for f in volume.findings)
    assert "no PatientSex, AccessionNumber in the headers" in text
    assert "SpacingBetweenSlices of 9 mm, where the positions are 2 mm apart" in text
    assert "12 different pairs of RescaleSlope and RescaleIntercept" in text


def test_a_damaged_file_beside_the_slices_is_refused_and_elsewhere_is_not(tmp_path):
    write_series(tmp_path / "a", SMALL, oblique_affine())
    (tmp_path / "b").mkdir()
    broken = bytes(128) + b"DICM" + bytes(range(200))
    (tmp_path / "b" / "broken.dcm").write_bytes(broken)
    assert open_source(tmp_path).array.shape[-1] == 12
    assert run_preflight(tmp_path).damaged[0][0].endswith("broken.dcm")
    (tmp_path / "a" / "broken.dcm").write_bytes(broken)
    with pytest.raises(SourceError, match=r"broken\.dcm.*, a DICOM file damaged in its header"):
        open_source(tmp_path)


def test_sequences_nested_a_thousand_deep(tmp_path):
    write_series(tmp_path, SMALL, oblique_affine())
    deep = b""
    for _ in range(1000):  # undefined lengths all the way down
        deep = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" + deep
    path = sorted(tmp_path.iterdir())[3]
    content = path.read_bytes()
    at = content.index(b"\x08\x00\x90\x00PN")
    path.write_bytes(content[:at] + deep + content[at:])
    with pytest.raises(SourceError, match="damaged in its header"):
        open_source(tmp_path)


def test_a_huge_matrix_without_pixels_is_refused_before_memory_is_taken(tmp_path):
    path = write_series(tmp_path, SMALL[:, :, :1], oblique_affine())[0]
    dataset = pydicom.dcmread(path)
    dataset.Rows = dataset.Columns = 65535
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(SourceError, match="65535 rows and 65535 columns; at most 16384 x 16384 pixels are taken"):
        open_source(tmp_path)
    dataset.Rows = dataset.Columns = 4000
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(SourceError, match="whose pixels cannot be read: it holds no pixel data"):
        open_source(tmp_path)


def test_wrong_vrs_are_refused_with_the_file_named(tmp_path):
    path = write_series(tmp_path, SMALL[:, :, :3], oblique_affine())[1]
    content = path.read_bytes()
    rows = content.index(b"\x28\x00\x10\x00US")
    path.write_bytes(content[:rows] + b"\x28\x00\x10\x00DS\x02\x0018" + content[rows + 10 :])
    with pytest.raises(SourceError, match=rf"Found {path.name}, whose pixels cannot be read"):
        open_source(tmp_path)
    path.write_bytes(content[:rows] + b"\x28\x00\x10\x00DS\x02\x00x8" + content[rows + 10 :])
    with pytest.raises(SourceError, match="damaged in its header"):
        open_source(tmp_path)


def test_files_without_a_preamble_are_read(tmp_path):
    for path in write_series(tmp_path, SMALL, oblique_affine()):
        dataset = pydicom.dcmread(path)
        dataset.file_meta, dataset.preamble = FileMetaDataset(), None
        with path.open("wb") as file:
            pydicom.dcmwrite(file, dataset, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    assert open_source(tmp_path).array.shape == (1, 20, 18, 12)


def test_a_zip_is_looked_at_like_its_folder(tmp_path):
    paths = write_series(tmp_path / "s", SMALL, oblique_affine())
    paths[3].unlink()
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tmp_path / "s").iterdir()):
            archive.write(path, path.name)
    folder, packed = run_preflight(tmp_path / "s").volumes[0], run_preflight(tmp_path / "s.zip").volumes[0]
    assert folder.findings == packed.findings


@pytest.mark.parametrize(
    "uid", ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", SecondaryCaptureImageStorage]
)
def test_a_slice_cut_off_in_its_header_is_a_damaged_slice_wherever_it_was_cut(uid, tmp_path):
    paths = write_series(tmp_path / "ct", *_small_series())
    whole = pydicom.dcmread(paths[2])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = uid
    whole.save_as(paths[2])
    content, header = paths[2].read_bytes(), pydicom.dcmread(paths[2])
    # where an element starts after the kind is stated and before the image is: four bytes of tag, four of VR and length
    cuts = [content.index(bytes.fromhex(tag)) for tag in ("20000D00", "20003200", "28000200", "28001000")]
    assert header.Rows
    for at in cuts:
        paths[2].write_bytes(content[:at])
        found = run_preflight(tmp_path / "ct")
        assert [name for name, _ in found.damaged] == [paths[2].name] or found.damaged[0][0].endswith(paths[2].name), at
        with pytest.raises(SourceError, match="damaged in its header"):
            open_source(tmp_path / "ct")


def _small_series():
    return phantom((12, 10, 6))[0], oblique_affine()
