"""Crops that fit their masks, lists of pictures, and the bundle's training run from its own configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from medvit.bundles import open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError, SourceError
from medvit.segmentation import BarlowSwin
from medvit.training import LoopSettings, TrainingLoop
from medvit.training.data import ImageLabelPair, PictureSettings, load_labels, read_list
from medvit.training.data.picture_crops import Picture, PictureSampler, load_picture
from medvit.training.evaluation import evaluate_bundle
from medvit.training.objectives import PictureObjective

ROOT = Path(__file__).resolve().parents[3]
NAME = "nuclei_barlow_swin"


def _discs(rows: int, columns: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (row, column, 3) uint8 and numbered discs (row, column) uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns]
    ids = np.zeros((rows, columns), np.uint16)
    for number in range(1, 8):
        ids[(y - rng.uniform(0, rows)) ** 2 + (x - rng.uniform(0, columns)) ** 2 < rng.uniform(5, 12) ** 2] = (
            300 * number
        )
    grey = np.where(ids > 0, 200, 30).astype(np.uint8)
    return np.dstack([grey, grey, grey // 2]), ids


@pytest.fixture
def listed(tmp_path) -> Path:
    """Return the folder of a copy of the bundle with a narrower network and a list of six pictures."""
    folder = Path(
        shutil.copytree(ROOT / "bundles" / NAME, tmp_path / "nuclei", ignore=shutil.ignore_patterns("models"))
    )
    rows = []
    for n in range(6):
        picture, ids = _discs(70 + n, 90, n)
        Image.fromarray(picture).save(tmp_path / f"p{n}.png")
        Image.fromarray(ids).save(tmp_path / f"p{n}_instances.png")
        rows.append({"image": f"p{n}.png", "label": f"p{n}_instances.png"})
    content = {"labels": "instances", "training": rows[:4], "validation": rows[4:]}
    (tmp_path / "list.json").write_text(json.dumps(content))
    for name, change in (
        ("inference.json", lambda c: c["network_def"].update(embed_dim=16)),
        ("train.json", lambda c: (c["draws"].update(roi_size=[64, 64]), c["loop"].update(batch_size=2))),
        ("metadata.json", lambda m: m["medvit"].update(state="not trained")),
    ):
        path = folder / "configs" / name
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))
    return folder


def test_crops_keep_image_and_mask_together():
    picture, ids = _discs(120, 90, 0)
    image = torch.from_numpy(picture.transpose(2, 0, 1) / 255).float()
    case = Picture("a", image, torch.from_numpy((ids > 0)[None].astype(np.float32)))
    settings = PictureSettings(roi_size=(64, 48), gamma=(1.0, 1.0), inverted=0.0, noise=0.0)
    sampler = PictureSampler([case], settings, seed=0)
    shares = []
    for _ in range(12):
        crop, mask = sampler.draw()
        assert crop.shape == (3, 64, 48)
        assert mask.shape == (1, 64, 48)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
        assert 0 <= float(crop.min()) <= float(crop.max()) <= 1
        bright = crop[0] > (crop[0].min() + crop[0].max()) / 2
        shares.append(float((bright == (mask[0] > 0)).float().mean()))
    assert min(shares) > 0.97


def test_some_crops_are_inverted_and_streams_can_be_repeated():
    picture, ids = _discs(64, 64, 1)
    case = Picture(
        "a", torch.from_numpy(picture.transpose(2, 0, 1) / 255).float(), torch.from_numpy((ids > 0)[None] * 1.0).float()
    )
    sampler = PictureSampler([case], PictureSettings(roi_size=(32, 32), inverted=0.5), seed=3)
    first = [sampler.draw() for _ in range(20)]
    brighter = [float(i[:, m[0] > 0].mean()) > float(i[:, m[0] == 0].mean()) for i, m in first if 0 < m.mean() < 1]
    assert any(brighter)
    assert not all(brighter)
    sampler.reseed(3)
    assert all(
        torch.equal(a, b)
        for pair, again in zip(first, (sampler.draw() for _ in range(20)), strict=True)
        for a, b in zip(pair, again, strict=True)
    )


def test_instances_become_one_class(listed, tmp_path):
    pair = read_list(open_bundle(listed), tmp_path / "list.json", tmp_path, "training")[0]
    assert pair.name == "p0"
    assert pair.instances
    assert set(np.unique(load_labels(pair))) == {0, 1}
    picture = load_picture(pair)
    assert picture.image.shape == (3, 70, 90)
    assert picture.mask.shape == (1, 70, 90)


def test_several_classes_are_learnt(tmp_path):
    picture, ids = _discs(70, 90, 0)
    classes = np.where(ids > 0, 1 + (ids // 300) % 2, 0).astype(np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(classes).save(tmp_path / "a_ids.png")
    case = load_picture(ImageLabelPair(name="a", image=tmp_path / "a.png", label=tmp_path / "a_ids.png"), classes=3)
    assert set(case.mask.unique().tolist()) == {0.0, 1.0, 2.0}
    torch.manual_seed(0)
    objective = PictureObjective(BarlowSwin(3, 3, embed_dim=16, num_heads=2))
    sampler = PictureSampler([case], PictureSettings(roi_size=(64, 64)), 0)
    run = TrainingLoop(
        objective,
        sampler,
        LoopSettings(steps=12, cooldown_steps=0, warmup_steps=2, batch_size=2, learning_rate=3e-3),
        tmp_path / "run",
    )
    batch = sampler.batch(4)
    before = float(objective(*batch).detach())
    run.run()
    assert float(objective(*batch).detach()) < 0.8 * before
    with pytest.raises(SourceError, match=r"Found label 5 in a; the bundle has labels 0\.\.2"):
        Image.fromarray(np.where(classes > 0, 5, 0).astype(np.uint8)).save(tmp_path / "a_ids.png")
        load_picture(ImageLabelPair(name="a", image=tmp_path / "a.png", label=tmp_path / "a_ids.png"), classes=3)


def test_pictures_that_do_not_fit_their_labels(tmp_path):
    picture, ids = _discs(40, 50, 0)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(ids.T.copy()).save(tmp_path / "turned.png")
    with pytest.raises(SourceError, match=r"Found a with a picture of \(40, 50\) and labels of \(50, 40\)"):
        load_picture(ImageLabelPair(name="a", image=tmp_path / "a.png", label=tmp_path / "turned.png", instances=True))
    with pytest.raises(SourceError, match="Found labels of a in colour"):
        load_labels(ImageLabelPair(name="a", image=tmp_path / "a.png", label=tmp_path / "a.png", instances=True))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(SourceError, match="Found labels of a that cannot be read"):
        load_labels(ImageLabelPair(name="a", image=tmp_path / "a.png", label=tmp_path / "broken.png", instances=True))


def test_pictures_of_background_alone():
    """One among others is drawn like them; a list of nothing else teaches nothing, and is refused."""
    full = Picture("full", torch.rand(3, 40, 40), torch.ones(1, 40, 40))
    empty = Picture("empty", torch.rand(3, 40, 40), torch.zeros(1, 40, 40))
    _, masks = PictureSampler([full, empty], PictureSettings(roi_size=(32, 32)), 0).batch(12)
    assert {bool(mask.any()) for mask in masks} == {True, False}
    with pytest.raises(
        SourceError, match="background alone in the labels of all 2 pictures; at least one labelled picture.*Check that"
    ):
        PictureSampler([empty, empty], PictureSettings(roi_size=(32, 32)), 0)


def test_a_new_head_starts_where_the_recipe_says_and_known_weights_stay():
    network = BarlowSwin(embed_dim=8, image_size=(64, 64))
    objective = PictureObjective(network, (4.0, -2.0))
    norm = network.head[1]
    assert float(norm.weight.detach()) == 4 and float(norm.bias.detach()) == -2
    pictures = torch.rand(2, 3, 64, 64)
    spread, middle = torch.std_mean(network.train()(pictures))
    assert float(spread.detach()) == pytest.approx(4, rel=0.05) and float(middle.detach()) == pytest.approx(-2, abs=0.1)
    known = PictureObjective(BarlowSwin(embed_dim=8, image_size=(64, 64))).state_dict()
    objective.load_state_dict(known)  # what a resumed run does
    assert float(norm.weight.detach()) == 1
    with pytest.raises(BundleError, match="head_start for Linear, whose head does not end on a batch norm"):
        PictureObjective(torch.nn.Linear(1, 1), (4.0, -2.0))


def test_the_command_trains_from_the_bundles_configs_and_the_result_is_scored(listed, tmp_path):
    arguments = [
        "train",
        str(listed),
        "--data",
        str(tmp_path / "list.json"),
        "--root",
        str(tmp_path),
        "-o",
        str(tmp_path / "runs"),
    ]
    outcome = CliRunner().invoke(app, [*arguments, "--steps", "2"])
    assert outcome.exit_code == 0, outcome.output
    assert open_bundle(listed).facts.state == "not trained"
    outcome = CliRunner().invoke(app, [*arguments, "--steps", "3", "--publish"])
    assert outcome.exit_code == 0, outcome.output
    assert torch.load(tmp_path / "runs" / "nuclei" / "checkpoint.pt", weights_only=True)["step"] == 3
    bundle = open_bundle(listed)
    bundle.verify()
    scores = evaluate_bundle(bundle, tmp_path / "list.json", tmp_path, "validation", lambda _: None)
    assert set(scores["cases"]) == {"p4", "p5"}
    assert 0 <= scores["mean_dice"] <= 1


def test_the_shipped_list_is_whole_and_parted_by_picture(shared):
    bundle = open_bundle(ROOT / "bundles" / NAME)
    parts = {split: read_list(bundle, None, shared / "data", split) for split in ("training", "validation")}
    assert [len(part) for part in parts.values()] == [319, 41]
    assert not {p.image for p in parts["training"]} & {p.image for p in parts["validation"]}
    picture = load_picture(parts["validation"][0])
    assert 0 < float(picture.mask.mean()) < 1
