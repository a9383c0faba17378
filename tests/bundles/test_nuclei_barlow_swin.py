"""The 2-D bundle works end to end: shown here with random weights in a copy marked as trained."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from PIL import Image
from typer.testing import CliRunner

import medvit
from medvit.bundles import open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError, ImageError
from medvit.inference import load_model
from medvit.training.data import load_labels, read_list
from medvit.training.loop import publish
from medvit.training.objectives.segmentation_losses import bce_dice
from medvit.transforms import scale_to_unit_rgb
from tests import warm
from tests.bands import dice

ROOT = Path(__file__).resolve().parents[2]
NAME = "nuclei_barlow_swin"


def _cells(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Bright discs on a dark ground, uint8 (row, column)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    picture = rng.normal(20, 4, (rows, columns))
    for _ in range(12):
        cy, cx, r = rng.uniform(0, rows), rng.uniform(0, columns), rng.uniform(4, 12)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = rng.uniform(120, 220)
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A narrow copy of the bundle that has seen bright discs for a few steps, so that its answer depends on the picture."""
    folder = Path(shutil.copytree(ROOT / "bundles" / NAME, tmp_path_factory.mktemp("bundles") / "nuclei"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"]["embed_dim"] = 16
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    network = ConfigParser(open_bundle(folder).config).get_parsed_content("network_def").train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.2  # running statistics must follow within these few steps
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(16):
        pictures = np.stack([_cells(64, 64, 8 * step + n) for n in range(4)])[:, None].repeat(3, 1)
        images = torch.from_numpy(np.stack([scale_to_unit_rgb(p) for p in pictures]))
        loss = bce_dice(network(images), torch.from_numpy(pictures[:, :1] > 80))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    publish(open_bundle(folder), network.state_dict())
    return folder


def _run(*args: object):
    return CliRunner().invoke(app, [str(a) for a in args])


def test_without_weights_it_is_listed_as_not_trained_and_refuses_to_run(tmp_path, monkeypatch):
    Image.fromarray(_cells(40, 50)).save(tmp_path / "a.png")
    folder = shutil.copytree(ROOT / "bundles" / NAME, tmp_path / "b" / "bare", ignore=shutil.ignore_patterns("models"))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medvit"]["state"] = "not trained"
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    monkeypatch.setenv("MEDVIT_BUNDLES", str(folder.parent))
    rows = {row["name"]: row for row in json.loads(_run("bundles", "list", "--json").stdout)}
    assert rows["bare"]["state"] == "not trained"
    outcome = _run("segment", tmp_path / "a.png", "-o", tmp_path / "out", "-b", "bare")
    assert outcome.exit_code == 1
    assert "no weights for bare (state: not trained)" in outcome.output
    with pytest.raises(BundleError, match="not trained"):
        medvit.segment(tmp_path / "a.png", bundle="bare")


def test_the_shipped_weights_find_nuclei_in_pictures_they_were_not_trained_on(shared):
    if open_bundle(NAME).state != "trained":
        pytest.skip("no weights are shipped")
    pairs = read_list(open_bundle(NAME), None, shared / "data", "validation")
    found = [dice(medvit.segment(p.image, bundle=NAME).array > 0, load_labels(p) > 0) for p in pairs[:24:6]]
    assert np.mean(found) > 0.8  # 0.05 below the recorded score at least: four pictures are few


def test_a_picture_gives_labels_of_its_own_size(trained, tmp_path):
    cells = _cells(100, 161)
    Image.fromarray(np.dstack([cells] * 3)).save(tmp_path / "a.png")
    outcome = _run("segment", tmp_path / "a.png", "-o", tmp_path / "out", "-b", trained, "-p", "-s")
    assert outcome.exit_code == 0, outcome.output
    labels = np.asarray(Image.open(tmp_path / "out" / "labels.png"))
    assert labels.shape == (100, 161)
    assert set(np.unique(labels)) == {0, 1}
    assert dice(labels == 1, cells > 80) > 0.8  # where the discs are: nothing was transposed or shifted
    assert Image.open(tmp_path / "out" / "preview.png").size[0] > 1000
    (row,) = json.loads((tmp_path / "out" / "statistics.json").read_text())["labels"]
    assert row["voxels"] == int(labels.sum())
    model = load_model(trained)
    with torch.inference_mode():
        logits = model.network(
            torch.from_numpy(scale_to_unit_rgb(np.asarray(Image.open(tmp_path / "a.png")).transpose(2, 0, 1)))[None]
        )
    assert np.array_equal(labels, (logits[0, 0].numpy() >= 0).astype(np.uint8))


def test_monai_bundle_run_gives_the_same_pixels(trained, tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(np.stack([_cells(90, 70, s) for s in range(3)], -1)).save(tmp_path / "data" / "a.png")
    outcome = warm.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", ".",
         "--dataset_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"],
        cwd=trained, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-2000:]
    theirs = np.asarray(Image.open(tmp_path / "out" / "a_labels.png"))
    assert np.array_equal(theirs, medvit.segment(tmp_path / "data" / "a.png", bundle=trained).array)


def test_every_kind_of_png_of_one_picture_gives_the_same_labels(trained, tmp_path):
    grey = _cells(70, 90)
    rgba = np.dstack([grey, grey, grey, np.random.default_rng(0).integers(1, 255, grey.shape).astype(np.uint8)])
    palette = Image.fromarray(grey)
    pictures = {
        "grey": Image.fromarray(grey),
        "rgb": Image.fromarray(np.dstack([grey] * 3)),
        "rgba": Image.fromarray(rgba),
        "la": Image.fromarray(np.dstack([grey, rgba[..., 3]]), mode="LA"),
        "palette": palette.convert("P"),
        "sixteen": Image.fromarray(grey.astype(np.uint16) * 257),
        "twelve of sixteen": Image.fromarray(grey.astype(np.uint16) * 16),
    }
    found = {}
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert Image.open(tmp_path / f"{name}.png").mode == picture.mode
        found[name] = medvit.segment(tmp_path / f"{name}.png", bundle=trained).array
        assert (found[name] == found["grey"]).mean() > 0.999, name
    assert len({picture.mode for picture in pictures.values()}) == 6


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (3, 5), (2, 2)])
def test_pictures_smaller_than_a_window(trained, tmp_path, size):
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)).save(tmp_path / "a.png")
    outcome = _run("segment", tmp_path / "a.png", "-o", tmp_path / "out", "-b", trained, "-p")
    assert outcome.exit_code in (0, 3), outcome.output
    assert np.asarray(Image.open(tmp_path / "out" / "labels.png")).shape == size


def test_large_pictures_go_through_in_windows_of_the_same_answer(trained, tmp_path):
    model = load_model(trained)
    image = torch.from_numpy(scale_to_unit_rgb(_cells(780, 96)[None].repeat(3, 0)))[None]
    shapes = []

    def network(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape[2:]))
        return model.network(x)

    with torch.inference_mode():
        logits = model.inferer(image, network)
        assert shapes == [(768, 768)] * len(shapes)
        assert len(shapes) > 1
        assert logits.shape == (1, 1, 780, 96)
        shapes.clear()
        assert model.inferer(image[..., :700, :], network).shape == (1, 1, 700, 96)
        assert shapes == [(700, 96)]


def test_black_pictures_with_few_bright_spots_and_hot_pixels():
    picture = np.zeros((1, 64, 64))
    picture[0, 5, 5] = 9
    assert scale_to_unit_rgb(picture).max() == 1
    assert scale_to_unit_rgb(picture).shape == (3, 64, 64)
    hot = _cells(64, 64)[None].astype(np.float64)
    hot[0, 0, 0] = 1e6
    assert np.median(scale_to_unit_rgb(hot)) > 0.02


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 8, 8)), r"a picture of shape \(4, 8, 8\); \(1 or 3, row, column\) is needed"),
        (np.zeros((8, 8)), r"a picture of shape \(8, 8\)"),
        (np.full((1, 8, 8), np.nan), "Found NaN or infinite values in a picture"),
        (np.full((3, 8, 8), 7.0), "Found the value 7 everywhere in a picture"),
    ],
)
def test_pictures_that_cannot_be_used_are_named(array, message):
    with pytest.raises(ImageError, match=message):
        scale_to_unit_rgb(array)


def test_tensors_as_pictures(trained):
    values = torch.from_numpy(_cells(40, 60)[None].astype(np.float32))
    one = medvit.segment(MetaTensor(values), bundle=trained)
    three = medvit.segment(MetaTensor(values.repeat(3, 1, 1)), bundle=trained)
    assert one.labels.shape == (1, 40, 60)
    assert np.array_equal(one.array, three.array)
    with pytest.raises(ImageError, match=r"shape \(2, 40, 60\); \(1, i, j, k\) is needed, or \(1 or 3, row, column\)"):
        medvit.segment(MetaTensor(values.repeat(2, 1, 1)), bundle=trained)
    values[0, 0, 0] = torch.nan
    with pytest.raises(ImageError, match="Found 1 NaN or infinite values"):
        medvit.segment(MetaTensor(values), bundle=trained)


def test_one_real_picture_of_each_kind(trained, shared):
    """Fluorescence and stained tissue, read and answered at their own size."""
    folder = shared / "data" / "seg2d" / "nuclei_dsb2018"
    colours = {}
    for path in sorted(folder.glob("*[0-9a-f].png"))[:40]:
        picture = np.asarray(Image.open(path)).astype(int)
        colours.setdefault(int(np.ptp(picture, axis=2).max() > 8), path)
    assert set(colours) == {0, 1}
    for path in colours.values():
        result = medvit.segment(path, bundle=trained)
        assert result.array.shape == np.asarray(Image.open(path)).shape[:2]
        assert set(np.unique(result.array)) <= {0, 1}
