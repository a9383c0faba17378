"""Stored pixels become the right values: transfer syntaxes, signs, spare bits, padding, inverted display, scaling."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from medvit.errors import SourceError
from medvit.io import open_source
from medvit.io.dicom.pixels import missing_decoder
from tests.bands import oblique_affine, phantom, write_series
from tests.tools import program

SMALL = phantom((20, 18, 6))[0]
AXIAL = np.diag([-1.0, -1.0, 2.0, 1.0])

LOSSLESS = (
    "1.2.dcm",
    "1.2.1.dcm",
    "1.2.2.dcm",
    "1.2.1.99.dcm",
    "1.2.5.dcm",
    "4.57.dcm",
    "4.70.dcm",
    "4.80.dcm",
    "4.90.dcm",
)
LOSSY = {"4.81.dcm": 1, "4.91.dcm": 5, "4.50.dcm": 65, "4.51.dcm": 36, "4.53.dcm": 36, "4.55.dcm": 36}
"""Largest difference in HU that each lossy file of the set was measured to have against the original."""


def _edit(paths: list[Path], change) -> None:
    for path in paths:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def syntaxes(shared) -> dict[str, Path]:
    folder = shared / "data/dicom/transfer_syntaxes_cornerstone"
    return {p.name.rpartition("1.2.840.10008.")[2]: p for p in folder.glob("CTImage.dcm_*")}


@pytest.mark.parametrize("ending", LOSSLESS)
def test_lossless_transfer_syntaxes_agree_exactly(ending, syntaxes, shared):
    reference = open_source(shared / "data/dicom/transfer_syntaxes_cornerstone/CTImage.dcm")
    (path,) = [p for name, p in syntaxes.items() if name == ending or name.endswith("1.2." + ending)]
    assert np.array_equal(open_source(path).array, reference.array)


@pytest.mark.parametrize("ending", LOSSY)
def test_lossy_transfer_syntaxes_agree_within_their_tolerance_and_say_so(ending, syntaxes, shared):
    reference = open_source(shared / "data/dicom/transfer_syntaxes_cornerstone/CTImage.dcm")
    (path,) = [p for name, p in syntaxes.items() if name.endswith("1.2." + ending)]
    scan = open_source(path)
    assert 0 < np.abs(scan.array - reference.array).max() <= LOSSY[ending]
    assert any("compressed with loss" in note for note in scan.notes)


def test_the_decoder_of_twelve_bit_jpeg_is_quiet(syntaxes, capfd):
    (path,) = [p for name, p in syntaxes.items() if name.endswith("4.51.dcm")]
    open_source(path)
    assert capfd.readouterr().err == ""


def test_undecodable_syntaxes_name_what_helps(tmp_path):
    paths = write_series(tmp_path, SMALL, AXIAL)
    for syntax, words in (
        (
            "1.2.840.10008.1.2.4.201",
            r"High-Throughput JPEG 2000.*cannot be decoded here; the package pylibjpeg-openjpeg helps",
        ),
        ("1.2.840.10008.1.2.4.102", r"MPEG-4.*still images are needed\. Export the frames as single images"),
        ("1.2.826.9.9", r"unknown \(1\.2\.826\.9\.9\).*a standard transfer syntax is needed"),
    ):
        if missing_decoder(syntax) is None:
            continue  # somebody installed it: then it decodes
        for path in paths:
            content = path.read_bytes()
            dataset = pydicom.dcmread(path)
            old = str(dataset.file_meta.TransferSyntaxUID).encode()
            at = content.index(b"\x02\x00\x10\x00UI") + 8
            length = int.from_bytes(content[at - 2 : at], "little")
            value = syntax.encode() + b"\0" * (len(syntax) % 2)
            group = content.index(b"\x02\x00\x00\x00UL") + 8
            total = int.from_bytes(content[group : group + 4], "little") + len(value) - length
            new = content[:group] + total.to_bytes(4, "little") + content[group + 4 : at - 2]
            new += len(value).to_bytes(2, "little") + value + content[at + length :]
            assert old.rstrip(b"\0") in content
            path.write_bytes(new)
        with pytest.raises(SourceError, match=words):
            open_source(tmp_path)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_monochrome1_is_turned_round_except_for_quantities(modality, tmp_path):
    stored = np.abs(SMALL).astype(np.int16)
    changes = {"Modality": modality, "PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11}
    write_series(tmp_path, stored, AXIAL, PhotometricInterpretation="MONOCHROME1", **changes)
    scan = open_source(tmp_path)
    assert np.array_equal(scan.array[0], stored if modality == "CT" else 4095 - stored)
    assert any("turned round" in note for note in scan.notes) == (modality == "MR")


def test_spare_bits_above_the_stored_ones_are_not_values(tmp_path):
    stored = np.abs(SMALL).astype(np.int16)
    paths = write_series(tmp_path, stored, AXIAL, PixelRepresentation=0, BitsStored=12, HighBit=11)

    def dirty(dataset: Dataset) -> None:
        values = np.frombuffer(dataset.PixelData, np.uint16) | 0x8000  # an overlay plane in the top bit
        dataset.PixelData = values.tobytes()

    _edit(paths, dirty)
    assert np.array_equal(open_source(tmp_path).array[0], stored)


def test_signed_values_of_twelve_bits(tmp_path):
    stored = (SMALL // 2).astype(np.int16)
    paths = write_series(tmp_path, stored, AXIAL, BitsStored=12, HighBit=11)

    def cut(dataset: Dataset) -> None:
        dataset.PixelData = (np.frombuffer(dataset.PixelData, np.uint16) & 0x0FFF).tobytes()

    _edit(paths, cut)
    assert np.array_equal(open_source(tmp_path).array[0], stored)


def test_padding_becomes_air_in_ct_and_the_lowest_value_elsewhere(tmp_path):
    for modality, fill in (("CT", -1024), ("MR", -1000)):
        stored = SMALL.copy()
        stored[:3] = -2000
        write_series(tmp_path / modality, stored, AXIAL, Modality=modality, PixelPaddingValue=-2000)
        scan = open_source(tmp_path / modality)
        assert (scan.array[0][:3] == fill).all()
        assert np.array_equal(scan.array[0][3:], SMALL[3:])
        assert f"{3 * 18 * 6} padding pixels (PixelPaddingValue) were set to {fill}." in scan.notes


def test_a_range_of_padding(tmp_path):
    stored = SMALL.copy()
    stored[:2], stored[2:4] = -2000, -1990
    write_series(tmp_path, stored, AXIAL, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1985)
    assert (open_source(tmp_path).array[0][:4] == -1024).all()


def test_philips_signal_is_made_comparable_between_slices(tmp_path):
    """(stored x slope + intercept) / (slope x scale slope): the same tissue, stored with other slopes a slice."""
    signal = np.abs(SMALL).astype(np.float64)
    slopes = [2.0 + k for k in range(6)]
    stored = np.stack([signal[:, :, k] * (1 + k) for k in range(6)], -1).astype(np.int16)
    paths = write_series(tmp_path, stored, AXIAL, Modality="MR", Manufacturer="Philips Medical Systems")

    for k, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[k], 0
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", float(1 + k))
        dataset.save_as(path, enforce_file_format=True)
    scan = open_source(tmp_path)
    assert np.allclose(scan.array[0], signal, rtol=1e-6)
    assert "Values are Philips' floating-point signal (private MR Scale Slope)." in scan.notes


def test_a_modality_lut_is_applied(tmp_path):
    path = write_series(tmp_path, np.arange(64, dtype=np.int16).reshape(8, 8, 1), AXIAL, PixelRepresentation=0)[0]
    dataset = pydicom.dcmread(path)
    del dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [64, 0, 16], "US"
    lut["LUTDescriptor"].VR = "US"
    lut.LUTData = (np.arange(64, dtype=np.uint16) * 3 + 7).tobytes()
    lut["LUTData"].VR = "OW"
    dataset.ModalityLUTSequence = Sequence([lut])
    dataset.save_as(path, enforce_file_format=True)
    assert np.array_equal(open_source(tmp_path).array[0, :, :, 0], np.arange(64).reshape(8, 8) * 3 + 7)


@pytest.mark.parametrize("name", ["generic/compressed_rle", "generic/compressed_jpegls", "generic/compressed_j2k",
                                  "generic/compressed_jpeg", "philips/anatomical", "siemens_multiframe/anatomical",
                                  "ge/anatomical"])  # fmt: skip
def test_real_series_equal_their_published_nifti(name, shared):
    import nibabel as nib

    from medvit.io import world

    folder = shared / "data/dicom/icometrix" / name
    scan, truth = open_source(folder / "001"), nib.load(folder / "001_ground_truth.nii.gz")
    index = np.argwhere(np.ones(scan.array.shape[1:], bool))[::61]
    place = world(np.linalg.inv(truth.affine), world(scan.affine, index))
    assert np.abs(place - np.rint(place)).max() < 1e-3
    values = np.asarray(truth.dataobj)[tuple(np.rint(place).astype(int).T)]
    assert np.array_equal(values, scan.array[0][tuple(index.T)])


def test_pictures_of_oblique_volumes_are_not_affected(tmp_path):
    write_series(tmp_path, SMALL, oblique_affine())
    assert open_source(tmp_path).original is None


def _as_dcmtk_shows(path: Path, shape: tuple[int, ...], tmp_path: Path) -> np.ndarray:
    """A slice, (column, row), stretched from its lowest to its highest value to 0..65535."""
    picture = tmp_path / "picture.pgm"
    subprocess.run([program("dcmj2pnm"), "+opn", "16", "+Wm", str(path), str(picture)], check=True, capture_output=True)
    words = " ".join(line for line in picture.read_text().splitlines() if not line.startswith("#")).split()
    return np.array(words[4:], float).reshape(shape[1], shape[0]).T


@pytest.mark.parametrize("packed", [None, "dcmcrle", "dcmcjpeg"])
@pytest.mark.parametrize(("signed", "high"), [(0, 15), (1, 15), (1, 13), (0, 12)])
def test_pixels_above_the_lowest_bits_are_shifted_as_dcmtk_does(signed, high, packed, tmp_path):
    if packed == "dcmcjpeg" and (signed, high) != (0, 15):
        pytest.skip("the codec is the same for all; one shows that whole cells are carried")
    true = np.arange(-900, 900, 10, dtype=np.int16)[:168].reshape(14, 12, 1) + (0 if signed else 900)
    path = write_series(
        tmp_path / "s", true, AXIAL, PixelRepresentation=signed, BitsStored=12, HighBit=high, RescaleSlope=1
    )[0]

    def pack(dataset: Dataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, np.uint16) & 0x0FFF
        cells = (pixels << (high - 11)).astype(np.uint16) | np.uint16(
            0 if packed == "dcmcjpeg" else 2 ** (high - 11) - 1
        )
        dataset.PixelData = cells.tobytes()  # with other bits below, which are no part of a pixel

    _edit([path], pack)
    if packed is not None:
        subprocess.run([program(packed), str(path), str(path)], check=True, capture_output=True)
    scan = open_source(path)
    assert np.array_equal(scan.array[0], true)
    assert (scan.slices[0].BitsStored, scan.slices[0].HighBit) == (12, high)
    assert any(f"BitsStored 12, HighBit {high}" in note for note in scan.notes)
    shown = _as_dcmtk_shows(path, true.shape, tmp_path)
    ours = scan.array[0, :, :, 0] - scan.array.min()
    assert np.abs(ours / ours.max() * 65535 - shown).max() <= 40  # DCMTK stretches by whole steps of its own


def test_a_high_bit_that_no_pixel_can_have_is_said(tmp_path):
    write_series(tmp_path, SMALL, AXIAL, BitsStored=16, HighBit=11)
    scan = open_source(tmp_path)
    assert np.array_equal(scan.array[0], SMALL)
    assert any("HighBit of 11 that pixels of 16 bits cannot have" in note for note in scan.notes)
