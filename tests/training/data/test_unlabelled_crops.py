"""Crops of images without labels: where they come from, their grid and range, lists that cannot be used, the bundles' recipes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from medvit.bundles import open_bundle
from medvit.errors import ImageError, SourceError
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.training import TrainSettings, train_bundle
from medvit.training.data import DataList, PictureCrops, VolumeCrops, read_entries
from medvit.training.data.unlabelled_crops import CropSampler, Unlabelled
from medvit.training.loop import start_from
from medvit.training.objectives import MaskedModelling, SwinPretraining, TwinsObjective
from medvit.training.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[3]


def _listed(folder: Path, names: list[str]) -> Path:
    """A list without any label: all but the last name to train."""
    entries = [{"image": name} for name in names]
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries[:-1], "validation": entries[-1:]}))
    return path


@pytest.fixture
def scans(tmp_path) -> Path:
    """Three anisotropic scans stored right to left, HU = -1000 outside and a ramp along R inside, with a list."""
    for n in range(3):
        values = np.full((30, 28, 20), -1000, np.float32)
        values[5:25, 5:23, 4:16] = np.linspace(500, -300, 20, dtype=np.float32)[:, None, None]
        nib.save(nib.Nifti1Image(values, np.diag([-2.0, 2.0, 3.0, 1.0])), tmp_path / f"s{n}.nii.gz")
    return _listed(tmp_path, [f"s{n}.nii.gz" for n in range(3)])


@pytest.fixture
def bundle(banded):
    return open_bundle(banded)


def test_volume_crops_lie_in_the_body_on_their_own_grid(scans, bundle):
    crops = VolumeCrops((16, 16, 8), (2.0, 2.0, 3.0), scale=(1.0, 1.0))
    sampler = crops.sampler(bundle, DataList(scans, scans.parent), seed=0)
    assert [image.name for image in sampler.images] == ["s0.nii.gz", "s1.nii.gz"]
    (batch,) = sampler.batch(12)
    assert batch.shape == (12, 1, 16, 16, 8)
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1
    assert (batch > 0.3).flatten(1).float().mean(1).min() > 0.1  # never air alone
    # -300 HU is 0.35 and one voxel of the ramp is 800 / 19 HU, along i alone, rising or, flipped, falling
    inner = batch[..., 4:12, :, :].diff(dim=2)
    steps = inner[(batch[..., 4:12, :, :] > 0.34)[:, :, 1:] & (batch[..., 4:12, :, :] > 0.34)[:, :, :-1]].abs()
    assert steps.median().item() == pytest.approx(800 / 19 / 2000, rel=1e-3)
    signs = {int(crop.diff(dim=1)[crop[:, 1:] > 0.36].median().sign()) for crop in batch}
    assert signs == {-1, 1}


def test_zoom_and_spacing_set_what_a_crop_covers():
    """A ramp of one a voxel: a crop's steps are spacing / zoom / own spacing."""
    ramp = torch.arange(40.0)[None, :, None, None].expand(1, 40, 40, 40).contiguous()
    image = Unlabelled("ramp", ramp, (2.0, 2.0, 2.0))
    for spacing, zoom, step in ((2.0, 1.0, 1.0), (3.0, 1.0, 1.5), (2.0, 2.0, 0.5)):
        settings = VolumeCrops((8, 8, 8), (spacing,) * 3, (0.0, 100.0), (zoom, zoom))
        crop = CropSampler([image], settings, seed=0).draw()
        assert torch.allclose(crop.diff(dim=1).abs() * 100, torch.tensor(step), atol=1e-3)


def test_crops_stay_inside_and_larger_ones_are_centred():
    image = Unlabelled("row", torch.linspace(0, 1, 20)[None, :, None].expand(1, 20, 20).contiguous(), (1.0, 1.0))
    inside = CropSampler([image], PictureCrops((8, 8), (1.0, 1.0)), seed=0)
    for _ in range(10):
        assert inside.draw().diff(dim=1).abs().min() > 0.05  # nothing mirrored at an edge
    whole = CropSampler([image], PictureCrops((20, 20), (1.0, 1.0)), seed=0).draw()
    assert torch.allclose(whole.sort(dim=1).values, image.image, atol=1e-5)
    beyond = CropSampler([image], PictureCrops((40, 20), (1.0, 1.0)), seed=0).draw()
    middle = beyond[:, 10:30]
    assert torch.allclose(middle.sort(dim=1).values, image.image, atol=1e-5)
    assert torch.allclose(beyond[:, 30:39], middle.flip(1)[:, 1:10], atol=1e-5)  # mirrored about the last row


def test_a_stream_is_repeated_by_its_seed(scans, bundle):
    sampler = VolumeCrops((8, 8, 8), (2.0, 2.0, 2.0)).sampler(bundle, DataList(scans, scans.parent), seed=0)
    drawn = []
    for seed in ((0, 5, 0), (0, 5, 0), (0, 6, 0), 3):
        sampler.reseed(seed)
        drawn.append(sampler.batch(2)[0])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_picture_crops_are_stretched_as_in_use(tmp_path, bundle, rng):
    for n in range(3):
        Image.fromarray(rng.integers(40, 90, (50, 70), dtype=np.uint8)).save(tmp_path / f"p{n}.png")
    data = DataList(_listed(tmp_path, ["p0.png", "p1.png", "p2.png"]), tmp_path)
    (batch,) = PictureCrops((32, 48)).sampler(bundle, data, 0).batch(8)
    assert batch.shape == (8, 3, 32, 48)
    assert torch.equal(batch[:, 0], batch[:, 1])
    assert 0 <= float(batch.min()) < 0.1
    assert 0.9 < float(batch.max()) <= 1


def test_lists_and_files_that_cannot_be_used(scans, bundle, tmp_path):
    with pytest.raises(SourceError, match="no readable data list"):
        read_entries(bundle, DataList(tmp_path / "absent.json"), ("image",))
    with pytest.raises(SourceError, match="no 'test' entries.*Its parts: training, validation"):
        read_entries(bundle, DataList(scans, split="test"), ("image",))
    with pytest.raises(SourceError, match=r"every file of the list is needed. Set root"):
        read_entries(bundle, DataList(scans, tmp_path / "elsewhere"), ("image",))
    _listed(tmp_path, ["s0.nii.gz", "s1.nii.gz", "s1.nii.gz"])
    with pytest.raises(SourceError, match=r"Found s1.nii.gz in several parts.*a case may be in one part only"):
        read_entries(bundle, DataList(scans, tmp_path), ("image",))
    _listed(tmp_path, ["bad.nii.gz", "s1.nii.gz"])
    crops = VolumeCrops((8, 8, 8), (2.0, 2.0, 2.0))

    def store(values: np.ndarray) -> None:
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / "bad.nii.gz")

    with pytest.raises(ImageError, match=r"axes \(4, 4, 4, 2\).*one finite volume"):
        store(np.zeros((4, 4, 4, 2)))
        crops.sampler(bundle, DataList(scans, tmp_path), 0)
    with pytest.raises(ImageError, match="values that are not finite"):
        store(np.full((4, 4, 4), np.nan))
        crops.sampler(bundle, DataList(scans, tmp_path), 0)
    with pytest.raises(ImageError, match="no voxel above the middle of its intensities; a body is needed"):
        store(np.zeros((4, 4, 4)))
        crops.sampler(bundle, DataList(scans, tmp_path), 0)
    (tmp_path / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(SourceError, match="bad.nii.gz, which cannot be read"):
        crops.sampler(bundle, DataList(scans, tmp_path), 0)


def test_settings_that_cannot_be_used():
    image = Unlabelled("a", torch.zeros(1, 8, 8), (1.0, 1.0))
    for images, settings in (([], PictureCrops((8, 8))), ([image], PictureCrops((8, 8), (1.2, 0.8))), ([image], PictureCrops((0, 8)))):  # fmt: skip
        with pytest.raises(SourceError, match=r"Found \d images, a roi_size of .* Correct the recipe or the data list"):
            CropSampler(images, settings, 0)


@pytest.mark.parametrize(
    ("name", "recipe", "objective", "network"),
    [
        ("headneck_ct_swin_unetr", "pretrain", SwinPretraining, SwinUNETR),
        ("headneck_ct_swin_unetr", "pretrain_simmim", MaskedModelling, SwinUNETR),
        ("nuclei_barlow_swin", "pretrain", TwinsObjective, BarlowSwin),
    ],
)
def test_the_bundles_recipes_take_what_their_crops_give(name, recipe, objective, network):
    """Built from the shipped config; the crops have a size and range that the objective takes."""
    configs = ROOT / "bundles" / name / "configs"
    parser = ConfigParser()
    parser.read_config([str(configs / f"{part}.json") for part in ("inference", recipe)])
    built, draws = (parser.get_parsed_content(part) for part in ("objective", "draws"))
    assert type(built) is objective
    assert type(built.network) is network
    assert parser["recipe"]["name"] == recipe
    channels = 1 if isinstance(draws, VolumeCrops) else 3
    image = Unlabelled("x", 100 * torch.rand(channels, *(40,) * len(draws.roi_size)), draws.spacing)
    (batch,) = CropSampler([image], draws, 0).batch(2)
    check = built._check if hasattr(built, "_check") else lambda x: built(x[..., :64, :64])
    check(batch)
    if isinstance(draws, VolumeCrops):
        # what the encoder sees is what the bundle will show it
        assert draws.spacing_mm == parser["spacing_mm"]
        assert draws.intensity_range == parser["intensity_range"]


@pytest.mark.parametrize("recipe", ["pretrain", "pretrain_simmim"])
def test_pretraining_is_a_run_of_its_own_and_training_starts_from_it(recipe, tmp_path, banded, rng):
    """The shipped recipes on a narrow network: killed and resumed as unbroken, the decoder untouched, then `--from`."""
    folder = Path(shutil.copytree(banded, tmp_path / "bundle"))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    network = {"_target_": "medvit.segmentation.SwinUNETR", "in_channels": 1, "out_channels": 8, "feature_size": 12}
    config["network_def"] = network | {"window_size": 4, "depths": [1, 1, 1, 1]}
    config |= {"roi_size": [32, 32, 32], "intensity_range": [-500, 500]}
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    shipped = ROOT / "bundles" / "headneck_ct_swin_unetr" / "configs" / f"{recipe}.json"
    plan = json.loads(shipped.read_text())
    plan["loop"].update(batch_size=2, checkpoint_every=1)
    (folder / "configs" / f"{recipe}.json").write_text(json.dumps(plan))
    values = (rng.random((40, 40, 40), dtype=np.float32) * 1000 - 500).astype(np.float32)
    for n in range(2):
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / f"s{n}.nii.gz")
    settings = TrainSettings(
        data=DataList(_listed(tmp_path, ["s0.nii.gz", "s1.nii.gz"]), tmp_path), output=tmp_path / "runs"
    )
    settings = replace(settings, recipe=recipe)
    bundle = open_bundle(folder)
    once = train_bundle(bundle, replace(settings, steps=2))
    assert once == tmp_path / "runs" / "bundle" / recipe / "checkpoint.pt"
    average = torch.load(once, weights_only=True)["average"]
    fresh = read_recipe(bundle, recipe).objective.network
    moved = {k.split(".")[0] for k, v in fresh.state_dict().items() if not torch.equal(v, average[k])}
    assert moved == {"swinViT"}
    broken = replace(settings, output=tmp_path / "again")
    for steps in (1, 2):
        resumed = train_bundle(bundle, replace(broken, steps=steps))
    again = torch.load(resumed, weights_only=True)["average"]
    assert all(torch.equal(again[k], v) for k, v in average.items())
    assert "tensors." in str(start_from(fresh, str(once)))
    assert all(torch.equal(v, average[k]) for k, v in fresh.state_dict().items())
