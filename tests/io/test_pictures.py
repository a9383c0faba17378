"""Pictures of every format, shown upright as viewers show them."""

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image, ImageOps

import medvit
from medvit.errors import ImageError, SourceError, TooLargeError
from medvit.io import limit_memory, open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 31), dtype=np.uint8)


@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff", ".bmp"])
@pytest.mark.parametrize("colour", [False, True])
def test_pixels_are_those_of_the_file(ending, colour, tmp_path):
    pixels = np.stack([PIXELS, PIXELS.T.reshape(20, 31), 255 - PIXELS], -1) if colour else PIXELS
    Image.fromarray(pixels).save(tmp_path / f"a{ending}")
    scan = open_source(tmp_path / f"a{ending}")
    assert np.array_equal(scan.array, pixels.transpose(2, 0, 1) if colour else pixels[None])
    assert (scan.kind, scan.notes) == ("picture", ())


def test_16_bits_of_a_tiff_and_webp_without_loss(tmp_path):
    deep = PIXELS.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    assert np.array_equal(open_source(tmp_path / "deep.tif").array[0], deep)
    Image.fromarray(PIXELS).save(tmp_path / "a.webp", lossless=True)
    assert np.array_equal(open_source(tmp_path / "a.webp").array, np.stack([PIXELS] * 3))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_picture_is_turned_as_its_exif_orientation_says(turn, tmp_path):
    picture, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[274] = turn
    picture.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as stored:
        shown = np.asarray(ImageOps.exif_transpose(stored))
    scan = open_source(tmp_path / "a.png")
    assert np.array_equal(scan.array[0], shown)
    said = (rf"as its EXIF orientation ({turn}) says",) if turn > 1 else ()
    assert len(scan.notes) == len(said)
    assert all(words in note for words, note in zip(said, scan.notes, strict=True))


@pytest.mark.parametrize("view", ["ap", "lat"])
def test_a_radiograph_on_its_side_is_read_as_the_upright_one(view, shared):
    folder = shared / "cases" / "10_exif_radiograph"
    upright, turned = (open_source(folder / f"{view}{end}.jpg") for end in ("", "_exif6"))
    assert upright.array.shape == turned.array.shape
    assert np.abs(upright.array - turned.array).mean() < 2  # both were compressed with loss
    assert "turned by 90 degrees clockwise" in turned.notes[0]


def test_several_pages_and_a_size_above_the_limit_are_refused(tmp_path):
    pages = [Image.fromarray(PIXELS)] * 3
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match=r"Found 3 pictures in a\.tif; one is needed\. Save one page"):
        open_source(tmp_path / "a.tif")
    Image.new("L", (300, 200)).save(tmp_path / "large.tif", compression="tiff_deflate")
    with limit_memory("100kB"), pytest.raises(TooLargeError, match="a picture of 200 x 300 pixels, .*Crop or resample"):
        open_source(tmp_path / "large.tif")


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_heic_without_its_package_is_refused_in_words(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(
        SourceError, match="a HEIC picture; the package pillow-heif is needed .*pip install pillow-heif"
    ):
        medvit.run("nuclei_barlow_swin", tmp_path / "a.heic", device="cpu")
