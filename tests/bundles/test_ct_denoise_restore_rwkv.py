"""The denoising bundle runs end to end on weights of a copy, and refuses to run without its own."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BundleError
from medvit.inference import load_model
from medvit.io import open_source
from medvit.progress import Cancelled, Progress
from medvit.restoration import LIGHT, RestoreRWKV
from medvit.training.data import read_images
from medvit.training.loop import publish
from tests import warm
from tests.bands import oblique_affine

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "bundles" / "ct_denoise_restore_rwkv"
SMALL = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    """A copy with a tiny network and random weights, which change the image visibly."""
    folder = tmp_path_factory.mktemp("bundles") / "ct_denoise"
    shutil.copytree(FOLDER, folder)
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"].update(SMALL)
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    network = RestoreRWKV(in_channels=3, dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1)
    publish(open_bundle(folder), network.state_dict())
    return open_bundle(folder)


@pytest.fixture
def ct(tmp_path) -> Path:
    """A small oblique CT, stored with left and right and head and foot reversed, metal and padding in it."""
    rng = np.random.default_rng(0)
    array = rng.normal(40, 30, (13, 10, 5)).astype(np.int16)
    array[:3], array[5, 5, 2], array[0, 0, 0] = -1000, 9000, -3024
    affine = oblique_affine((1.0, 1.5, 3.0)) @ np.diag([-1, 1, -1, 1])
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "ct.nii.gz")
    return tmp_path / "ct.nii.gz"


def _chain(bundle: Bundle, source: Path, progress: Progress | None = None):
    model = load_model(bundle, "cpu")
    with torch.inference_mode():
        data = model.preprocessing({"image": open_source(source).meta_tensor()})
        image = data["image"].as_tensor()[None]
        pred = model.inferer(image, model.network, progress=progress)[0]
        return model.postprocessing({**data, "pred": pred})["pred"], model


def test_without_weights_it_refuses(tmp_path):
    folder = shutil.copytree(FOLDER, tmp_path / "ct_denoise", ignore=shutil.ignore_patterns("models"))
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medvit"]["state"] = "not trained"
    path.write_text(json.dumps(metadata))
    bare = open_bundle(folder)
    assert bare.facts.task == "restoration"
    with pytest.raises(BundleError, match=r"no weights for ct_denoise \(state: not trained\)"):
        load_model(bare)


def test_it_is_the_light_network():
    config = open_bundle(FOLDER).config["network_def"]
    assert (config["dim"], tuple(config["num_blocks"])) == (LIGHT.dim, LIGHT.num_blocks)
    assert config["num_refinement_blocks"] == LIGHT.num_refinement_blocks


def test_preprocessing_network_and_postprocessing_land_on_the_sources_grid(bundle, ct):
    restored, model = _chain(bundle, ct)
    source = nib.load(ct)
    assert restored.shape == (1, 13, 10, 5)
    assert restored.dtype == torch.float32
    assert np.allclose(restored.affine, source.affine, atol=1e-5)
    # by hand: clip, scale, each axial slice between its neighbours on RAS axes, and the same way back
    stored = source.get_fdata(dtype=np.float32)
    inside = stored.clip(-1024, 3072)
    straight = nib.as_closest_canonical(nib.Nifti1Image(inside, source.affine))
    scaled = torch.from_numpy((straight.get_fdata(dtype=np.float32) + 1024) / 4096)
    with torch.inference_mode():
        near = [[max(k - 1, 0), k, min(k + 1, 4)] for k in range(5)]
        slices = [model.network(scaled[..., three].movedim(2, 0)[None])[0, 0] for three in near]
    values = torch.stack(slices, -1).numpy() * 4096 - 1024
    to_source = nib.orientations.ornt_transform(nib.io_orientation(straight.affine), nib.io_orientation(source.affine))
    wanted = nib.orientations.apply_orientation(values, to_source) + (stored - inside)
    assert np.allclose(np.asarray(restored)[0], wanted, atol=0.05)
    assert np.abs(np.asarray(restored)[0] - stored).max() > 1  # the random network does change the image


def test_progress_and_cancel_between_slices(bundle, ct):
    seen = []
    _chain(bundle, ct, Progress(lambda stage, done, total: seen.append((stage, done, total))))
    assert seen[-1] == ("infer", 5, 5)
    stopped = Progress()
    stopped.cancel()
    with pytest.raises(Cancelled):
        _chain(bundle, ct, stopped)


def test_monai_bundle_run_gives_the_same_voxels(bundle, ct, tmp_path):
    wanted, _ = _chain(bundle, ct)
    out = tmp_path / "out"
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(ct, data)
    outcome = warm.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", ".",
         "--dataset_dir", str(data), "--output_dir", str(out), "--device", "cpu"],
        cwd=bundle.root, capture_output=True, text=True,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    (written,) = list(out.rglob("*.nii.gz"))
    image = nib.load(written)
    assert np.allclose(image.affine, nib.load(ct).affine, atol=1e-4)
    assert np.allclose(image.get_fdata(dtype=np.float32).reshape(13, 10, 5), np.asarray(wanted)[0], atol=1e-3)


def test_the_datalist_reads_and_no_patient_trains_and_judges(shared):
    shipped = open_bundle(FOLDER)
    training = {case.name for case in read_images(shipped, None, shared / "data", "training")}
    validation = {case.name for case in read_images(shipped, None, shared / "data", "validation")}
    assert (len(training), len(validation)) == (28, 8)
    assert not training & validation
    segmentation = json.loads((ROOT / "bundles" / "headneck_ct_swin_unetr" / "configs" / "datalist.json").read_text())
    assert validation == {Path(e["image"]).name.removesuffix(".nii.gz") for e in segmentation["validation"]}
