"""RLE frames: those that medvit writes come back, and damaged ones of others are refused in words."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import get_encoder
from pydicom.pixels.decoders.rle import _rle_decode_frame
from pydicom.uid import RLELossless

from medvit.errors import SourceError
from medvit.io.dicom.header import read_planes
from medvit.io.dicom.pixels import plane_values
from medvit.io.dicom.write.secondary_capture import _rle_frame
from medvit.io.files import one_file


def _decoded(frame: bytes, shape: tuple[int, ...]) -> np.ndarray:
    planes = np.frombuffer(_rle_decode_frame(frame, shape[0], shape[1], 3, 8), np.uint8)
    return planes.reshape(3, *shape[:2]).transpose(1, 2, 0)


@pytest.mark.parametrize("columns", [1, 2, 3, 127, 128, 129, 255, 256, 257, 574])
@pytest.mark.parametrize("kind", ["noise", "flat", "runs", "pairs", "threes"])
def test_every_kind_of_row_comes_back(columns, kind, rng):
    noise = rng.integers(0, 256, (7, columns, 3)).astype(np.uint8)
    repeats = {"noise": 1, "runs": 5, "pairs": 2, "threes": 3}
    picture = np.full_like(noise, 200) if kind == "flat" else np.repeat(noise, repeats[kind], 1)[:, :columns]
    frame = _rle_frame(picture)
    assert len(frame) % 2 == 0
    assert np.array_equal(_decoded(frame, picture.shape), picture)
    if kind == "flat" and columns >= 128:
        assert len(frame) < picture.size / 10


def test_literals_are_cut_before_runs_and_at_128(rng):
    row = rng.integers(0, 256, 300)
    row[[125, 126, 127, 128, 129]] = 9
    row[[297, 298, 299]] = 4
    picture = np.repeat(row.astype(np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(_decoded(_rle_frame(picture), picture.shape), picture)


def _values(path: Path) -> np.ndarray:
    """Read the real values of a file with one plane."""
    (plane,) = read_planes(one_file(path))
    ((_, values),) = plane_values([plane])
    return values.array


def _written(path: Path, frame: bytes) -> Path:
    """Write an 8 x 8 image of 16 bits whose pixels are the frame."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    header.Modality, header.PhotometricInterpretation = "OT", "MONOCHROME2"
    header.Rows = header.Columns = 8
    header.SamplesPerPixel, header.PixelRepresentation = 1, 0
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.ensure_file_meta()
    header.file_meta.TransferSyntaxUID = RLELossless
    header.PixelData = encapsulate([frame])
    header.save_as(path, enforce_file_format=True)
    return path


FRAME = get_encoder(RLELossless).encode(
    np.arange(64, dtype=np.uint16).reshape(8, 8) // 20 * 300, rows=8, columns=8, samples_per_pixel=1, number_of_frames=1,
    bits_allocated=16, bits_stored=16, pixel_representation=0, photometric_interpretation="MONOCHROME2",
    encoding_plugin="pylibjpeg",
)  # fmt: skip


def test_a_real_file_reads_as_its_uncompressed_twin(shared):
    data = shared / "data" / "dicom" / "pydicom_data"
    packed = pydicom.dcmread(data / "MR_small_RLE.dcm")
    assert packed.file_meta.TransferSyntaxUID == RLELossless
    assert np.array_equal(_values(data / "MR_small_RLE.dcm"), _values(data / "MR_small.dcm"))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda frame: frame[:40], "RLE header can only be 64 bytes"),
        (lambda frame: frame[:-6], "the file is cut off|doesn't match the expected"),
        (lambda frame: (5380).to_bytes(4, "little") + frame[4:], "invalid number of segments"),
        (lambda frame: (0).to_bytes(4, "little") + frame[4:], "segments"),
        (lambda frame: (1).to_bytes(4, "little") + frame[4:], "doesn't match the expected amount"),
        (lambda frame: frame[:8] + (2**31).to_bytes(4, "little") + frame[12:], "doesn't match the expected amount"),
    ],
)
def test_damaged_frames_are_refused_in_words(damage, words, tmp_path, capfd):
    assert _values(_written(tmp_path / "whole.dcm", FRAME)).max() == 900
    with pytest.raises(SourceError, match="whose pixels cannot be read") as refusal:
        _values(_written(tmp_path / "damaged.dcm", damage(FRAME)))
    assert len(str(refusal.value)) < 400
    assert not capfd.readouterr().err


def test_a_run_beyond_the_end_of_its_segment_does_not_end_the_process(tmp_path, capfd):
    """pylibjpeg-rle panics at such a frame; pydicom's own decoder cuts the run off."""
    longer = bytearray(FRAME)
    start = int.from_bytes(FRAME[8:12], "little")
    longer[start - 2 if longer[start - 1] else start - 3] = 129
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _values(_written(tmp_path / "long.dcm", bytes(longer)))
    assert "panicked" not in capfd.readouterr().err


def test_no_random_damage_escapes(tmp_path, rng, capfd):
    refused = 0
    for _ in range(300):
        frame = bytearray(FRAME)
        for _ in range(rng.integers(1, 4)):
            frame[rng.integers(len(frame))] = rng.integers(256)
        path = _written(tmp_path / "x.dcm", bytes(frame[: rng.integers(60, len(frame) + 1)]))
        try:
            assert _values(path).shape == (8, 8)
        except SourceError:
            refused += 1
    assert refused > 50
    assert "panicked" not in capfd.readouterr().err
