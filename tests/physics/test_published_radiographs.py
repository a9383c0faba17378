"""Radiographs that the published program writes: its fault of magnification, its pixels, and the released pictures."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.errors import GeometryError, ShapeError
from medvit.physics.drr import (
    Projector,
    preset_geometry,
    published_integrand,
    published_pixels,
)
from medvit.physics.drr.presets import swin_x2s_geometry


def test_magnification_and_the_published_fault():
    published = swin_x2s_geometry((300, 300, 320), as_published=True)
    ours = swin_x2s_geometry((300, 300, 320))
    assert published.magnification == pytest.approx(10 / 9)
    assert published.pixel_spacing_mm == (2.0, 2.0)
    assert ours.pixel_spacing_mm == pytest.approx((20 / 9, 20 / 9))
    released = preset_geometry("swin-x2s-released", (300, 300, 320))
    assert released.magnification == pytest.approx(1.001)
    with pytest.raises(GeometryError, match="preset 'swinx2s'; it must be one of swin-x2s, swin-x2s-released"):
        preset_geometry("swinx2s", (1, 1, 1))


def test_published_pixels_clip_unless_asked_to_wrap():
    integrals = torch.zeros(1, 40, 40)
    integrals[:, 10:30, 10:30] = 40_000
    integrals[:, 12:14, 12:14] = 60_000
    clean = published_pixels(integrals, (60, 60))
    wrapped = published_pixels(integrals, (60, 60), as_published=True)
    assert clean.dtype == wrapped.dtype == torch.uint8
    assert wrapped[0, 15:45, 15:45].min() < 30 < clean[0, 15:45, 15:45].min()  # black specks in white
    assert wrapped[0, :15].max() > 225 > clean[0, :15].max()  # white ones in black
    flat = published_pixels(integrals, as_published=True)
    assert int(flat[0, 13, 13]) == int(flat[0, 20, 20]) == 255  # cut off at 32767
    assert int(published_pixels(integrals)[0, 20, 20]) == 170
    with pytest.raises(ShapeError, match="the same value everywhere"):
        published_pixels(torch.zeros(1, 4, 4))
    with pytest.raises(ShapeError, match=r"shape \(4, 4\); \(view, row, column\) is needed"):
        published_pixels(torch.zeros(4, 4))


@pytest.mark.parametrize(
    ("case", "zero", "per_grey", "least"),
    [("s0561", 93, 11.0, (0.93, 0.93)), ("verse081", 88, 11.6, (0.95, 0.91)), ("verse083", 0, 1.0, (None, 0.91))],
)
def test_the_released_radiographs(shared, case, zero, per_grey, least):
    """The CTs beside them are stored as 0..255; ``zero`` is where 0 HU came to lie. verse083's is squeezed along x."""
    folder = shared / "data" / "x2s"
    image = nib.load(folder / f"{case}_ct.nii.gz")
    ct = (torch.from_numpy(np.asarray(image.dataobj).astype(np.float32)) - zero) * per_grey
    side = float(image.header.get_zooms()[0])
    geometry = preset_geometry("swin-x2s-released", [n * side for n in ct.shape])
    # their arrays run right to left, back to front and up; front and back do not matter to a parallel beam at 0 degrees
    affine = np.diag([-side, -side, side, 1.0])
    found = Projector(geometry, affine, ct.shape)(published_integrand(ct))
    pixels = published_pixels(found, as_published=True).numpy().astype(float)
    for view, (name, axis) in enumerate((("cor", 1), ("sag", 0))):
        stored = np.take(np.asarray(nib.load(folder / f"{case}_input_{name}.nii.gz").dataobj), 0, axis).astype(float)
        correlation = np.corrcoef(pixels[view].ravel(), stored.T[::-1].ravel())[0, 1]
        if least[view] is not None:
            assert correlation > least[view]
