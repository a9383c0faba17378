"""RLE frames as a decoder that nobody here wrote reads them."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.pixels.decoders.rle import _rle_decode_frame

from medvit.io.dicom.write.rle import encode_rle


def _decoded(frame: bytes, shape: tuple[int, ...]) -> np.ndarray:
    planes = np.frombuffer(_rle_decode_frame(frame, shape[0], shape[1], 3, 8), np.uint8)
    return planes.reshape(3, *shape[:2]).transpose(1, 2, 0)


@pytest.mark.parametrize("columns", [1, 2, 3, 127, 128, 129, 255, 256, 257, 574])
@pytest.mark.parametrize("kind", ["noise", "flat", "runs", "pairs", "threes"])
def test_every_kind_of_row_comes_back(columns, kind, rng):
    noise = rng.integers(0, 256, (7, columns, 3)).astype(np.uint8)
    repeats = {"noise": 1, "runs": 5, "pairs": 2, "threes": 3}
    picture = np.full_like(noise, 200) if kind == "flat" else np.repeat(noise, repeats[kind], 1)[:, :columns]
    frame = encode_rle(picture)
    assert len(frame) % 2 == 0
    assert np.array_equal(_decoded(frame, picture.shape), picture)
    if kind == "flat" and columns >= 128:
        assert len(frame) < picture.size / 10


def test_literals_are_cut_before_runs_and_at_128(rng):
    row = rng.integers(0, 256, 300)
    row[[125, 126, 127, 128, 129]] = 9
    row[[297, 298, 299]] = 4
    picture = np.repeat(row.astype(np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(_decoded(encode_rle(picture), picture.shape), picture)
