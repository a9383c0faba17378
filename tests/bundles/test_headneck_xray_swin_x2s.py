"""The two-view bundle: its chain from pictures to labels, with random weights in a copy, and one step of its training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from safetensors.torch import save

from medvit.bundles import open_bundle
from medvit.errors import ImageError, ShapeError
from medvit.inference import load_model
from medvit.reconstruction import StackedSwinX2S, SwinX2S, fuse_views
from medvit.training import TrainSettings, train_bundle
from medvit.training.data import DataList, Poses, RadiographsAndLabels, XrayField, XrayPairs
from medvit.transforms import LabelsOnVolumeGridd, StackViewsd
from tests.bands import oblique_affine

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / "headneck_xray_swin_x2s"


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The bundle on a smaller grid with random weights of its own network, fp16, checksum recorded."""
    folder = Path(shutil.copytree(BUNDLE, tmp_path_factory.mktemp("xray") / BUNDLE.name))
    config = folder / "configs" / "inference.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "img_size": [32, 32, 64]}))
    torch.manual_seed(1)
    network = ConfigParser(open_bundle(folder).config).get_parsed_content("network_def")
    content = save({k: v.half().contiguous() for k, v in network.state_dict().items() if v.is_floating_point()})
    assert len(content) <= 16_000_000
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "model.safetensors").write_bytes(content)
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["state"] = "trained"
    path.write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def pictures(tmp_path, rng) -> dict[str, Path]:
    for name in ("coronal", "sagittal"):
        values = (rng.random((96, 48)) * 60000).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"case_{name}.png")
    return {name: tmp_path / f"case_{name}.png" for name in ("coronal", "sagittal")}


def _ct(folder: Path, name: str, flesh: int = 0) -> dict[str, str]:
    """A body with a bone and a marked mandible, on an oblique grid."""
    hounsfield = np.full((30, 28, 40), -1000, np.int16)
    hounsfield[5:25, 5:23] = flesh
    hounsfield[12:16, 10:14] = 900
    hounsfield[18:22, 8:20, 20:26] = 700
    labels = np.zeros_like(hounsfield, dtype=np.uint8)
    labels[18:22, 8:20, 20:26] = 7
    affine = oblique_affine((8.0, 8.0, 8.0), 5.0)
    nib.save(nib.Nifti1Image(hounsfield, affine), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_oar.nii.gz")
    return {"image": str(folder / f"{name}_ct.nii.gz"), "label": str(folder / f"{name}_oar.nii.gz")}


def test_the_weights_are_here_and_intact():
    bundle = open_bundle(BUNDLE)
    assert bundle.facts.state == "trained"
    assert bundle.verify() == bundle.facts.weights.sha256
    without = [value for name, value in bundle.metadata["eval_metrics"].items() if name == "mean_dice_without_xrays"]
    assert bundle.metadata["eval_metrics"]["mean_dice"] > without[0]


def test_the_chain_from_two_pictures_to_labels(copy, pictures):
    model = load_model(copy, "cpu")
    assert isinstance(model.network, StackedSwinX2S)
    with torch.inference_mode():
        data = model.preprocessing({name: str(path) for name, path in pictures.items()})
        assert data["image"].shape == (2, 32, 64)
        logits = model.inferer(data["image"].as_tensor()[None], model.network)[0]
        labels = model.postprocessing({"image": data["image"], "pred": logits})["pred"]
        both = SwinX2S.forward(model.network, data["image"][None, :1], data["image"][None, 1:])
    assert torch.equal(logits, fuse_views(*both)[0].as_tensor())
    assert labels.shape == (1, 32, 32, 64) and labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) <= {0, 1, 2}
    middle = labels.affine.double() @ torch.tensor([15.5, 15.5, 31.5, 1], dtype=torch.float64)
    assert middle[:3].abs().max() < 1e-9
    assert torch.equal(labels.affine[:3, :3].double(), torch.eye(3, dtype=torch.float64) * 5)


def test_monai_runs_it_and_gives_the_same_labels(copy, pictures, tmp_path):
    """``monai.bundle run`` evaluates the config, here in this process, to the same labels."""
    config = {
        **open_bundle(copy).config,
        "bundle_root": str(copy),
        "dataset_dir": str(next(iter(pictures.values())).parent),
        "output_dir": str(tmp_path / "out"),
        "device": "cpu",
    }
    parser = ConfigParser(config)
    parser.get_parsed_content("run")
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    model = load_model(copy, "cpu")
    data = model.preprocessing({name: str(path) for name, path in pictures.items()})
    with torch.inference_mode():
        logits = model.network(data["image"].as_tensor()[None])[0]
    image = nib.load(written)
    assert np.array_equal(np.asarray(image.dataobj), logits.argmax(0).numpy())
    assert np.abs(image.affine[:3, 3] + np.array([15.5, 15.5, 31.5]) * 5).max() < 1e-4


def test_a_pose_moves_pictures_and_labels_alike(tmp_path):
    """A mirrored patient gives mirrored pictures and labels; a turned one still lies on its own labels."""
    field = XrayField(img_size=(32, 32, 64), spacing_mm=(10.0, 10.0, 6.0))
    make = RadiographsAndLabels(field, [[7, 1]], 200.0, 2)
    paths, mirror = _ct(tmp_path, "a", flesh=-1000), np.diag([-1.0, 1.0, 1.0, 1.0])
    plain, mirrored = make(paths), make({**paths, "pose": mirror})
    assert torch.allclose(mirrored["coronal"].as_tensor(), plain["coronal"].as_tensor().flip(-1), atol=1e-5)
    assert torch.equal(mirrored["label"].as_tensor(), plain["label"].as_tensor().flip(1))
    turned = make({**paths, "pose": Poses(mirror=True).draw(np.random.default_rng(4))})
    assert not torch.equal(turned["label"].as_tensor(), plain["label"].as_tensor())
    for name, unseen in (("coronal", 1), ("sagittal", 0)):
        shadow = (turned["label"].as_tensor()[0] > 0).float().sum(unseen)
        view = StackViewsd(["coronal", "sagittal"], (32, 64))(turned)["image"].as_tensor()[int(name == "sagittal")]
        assert np.corrcoef(shadow.flatten(), view.flatten())[0, 1] > 0.9
    assert "pose" not in turned


def test_poses_keep_their_limits():
    poses = [Poses(count=3, mirror=True).draw(np.random.default_rng(seed)) for seed in range(40)]
    sizes = [abs(np.linalg.det(pose[:3, :3])) ** (1 / 3) for pose in poses]
    assert 0.9 <= min(sizes) < 0.95 < 1.05 < max(sizes) <= 1.1
    assert {bool(np.linalg.det(pose[:3, :3]) < 0) for pose in poses} == {True, False}
    assert max(np.abs(pose[:3, 3]).max() for pose in poses) <= 20
    assert all(np.linalg.det(Poses(count=3).draw(np.random.default_rng(seed))[:3, :3]) > 0 for seed in range(9))


def test_every_patient_is_projected_in_each_of_its_poses(copy, tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [_ct(tmp_path, "a", flesh=-1000)]}))
    make = RadiographsAndLabels(XrayField(img_size=(32, 32, 64), spacing_mm=(10.0, 10.0, 6.0)), [[7, 1]], 200.0, 2)
    steps = Compose([make, StackViewsd(["coronal", "sagittal"], (32, 64), output_key="image")])
    data = DataList(path, tmp_path, "training")
    found = [
        XrayPairs(steps, Compose([]), Poses(count=2)).sampler(open_bundle(copy), data, seed).cases for seed in (0, 0, 1)
    ]
    assert [len(cases) for cases in found] == [3, 3, 3]
    assert all(torch.equal(a["label"], b["label"]) for a, b in zip(found[0], found[1], strict=True))
    assert torch.equal(found[0][0]["label"], found[2][0]["label"])  # as scanned
    assert not torch.equal(found[0][1]["label"], found[2][1]["label"])


def test_pictures_and_labels_lie_on_each_other(tmp_path):
    """What is bright in each view is where the labels, summed along what it does not see, are."""
    field = XrayField(img_size=(32, 32, 64), spacing_mm=(10.0, 10.0, 6.0))
    made = RadiographsAndLabels(field, [[7, 1]], 200.0, 2)(_ct(tmp_path, "a", flesh=-1000))
    assert made["label"].shape == (1, 32, 32, 64)
    assert set(made["label"].unique().tolist()) == {0, 1, 2}
    views = StackViewsd(["coronal", "sagittal"], (32, 64))(made)["image"].as_tensor()
    bones = (made["label"].as_tensor()[0] > 0).float()
    for view, unseen in zip(views, (1, 0), strict=True):
        shadow = bones.sum(unseen)
        assert np.corrcoef(shadow.flatten(), view.flatten())[0, 1] > 0.9
        for turn in ((0,), (1,), (0, 1)):
            assert np.corrcoef(shadow.flatten(), view.flip(turn).flatten())[0, 1] < 0.8


def _small(folder: Path) -> None:
    """A copy's configs on a grid and with a network that a test can afford."""
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text()) | {"img_size": [32, 32, 64], "spacing_mm": [10.0, 10.0, 6.0]}
    config["network_def"].update(feature_size=4, num_heads=[1, 2, 4, 4])
    path.write_text(json.dumps(config))


def test_medvit_train_and_monai_make_the_same_weights(tmp_path, monkeypatch):
    """Two steps from the bundle's own configs by either command."""
    folder = Path(shutil.copytree(BUNDLE, tmp_path / "xray"))
    _small(folder)
    (tmp_path / "shared" / "data").mkdir(parents=True)
    cases = [_ct(tmp_path / "shared" / "data", name) for name in "ab"]
    listed = [{k: Path(v).name for k, v in case.items()} for case in cases]
    content = {"training": listed[:1], "validation": listed[1:]}
    (folder / "configs" / "datalist.json").write_text(json.dumps(content))
    monkeypatch.setenv("MEDVIT_SHARED", str(tmp_path / "shared"))
    bundle = open_bundle(folder)
    checkpoint = train_bundle(bundle, TrainSettings(output=tmp_path / "runs", steps=2))
    ours = torch.load(checkpoint, weights_only=True)
    monkeypatch.chdir(tmp_path)
    parser = ConfigParser()
    parser.read_config([str(folder / "configs" / name) for name in ("inference.json", "train.json")])
    parser.update({"bundle_root": str(folder), "loop#steps": 2, "loop#cooldown_steps": 0})
    parser.get_parsed_content("initialize")
    before = {k: v.clone() for k, v in parser.get_parsed_content("network_def").named_parameters()}
    parser.get_parsed_content("training")
    theirs = torch.load(tmp_path / "runs" / "xray" / "checkpoint.pt", weights_only=True)
    assert ours["step"] == theirs["step"] == 2
    assert all(torch.equal(ours["average"][k], v) for k, v in theirs["average"].items())
    changed = [k for k, v in before.items() if not torch.equal(v, theirs["objective"][f"network.{k}"])]
    # a bias or scale right before an instance norm has no effect, so not every tensor must move
    assert "swinViT.layers.0.blocks.1.attn.qkv.weight" in changed and "out.conv.conv.bias" in changed


def test_views_that_do_not_fit(rng):
    make = StackViewsd(["coronal", "sagittal"], (64, 64))
    good = torch.from_numpy(rng.random((1, 80, 80)))

    def views(**changes):
        return {"coronal": good, "sagittal": good, **changes}

    with pytest.raises(ShapeError, match="no sagittal view; both views are needed"):
        make({"coronal": good})
    with pytest.raises(ShapeError, match=r"sagittal view of shape \(3, 80, 80\); \(1, row, column\)"):
        make(views(sagittal=good.expand(3, 80, 80)))
    with pytest.raises(ShapeError, match=r"coronal view of shape \(80, 80\)"):
        make(views(coronal=good[0]))
    with pytest.raises(ShapeError, match="80 rows and 60 columns; rows to columns must be as 64 to 64"):
        make(views(coronal=good[..., :60]))
    with pytest.raises(ImageError, match="NaN or infinite values in the sagittal view"):
        make(views(sagittal=good * np.nan))
    with pytest.raises(ImageError, match="coronal view without contrast"):
        make(views(coronal=torch.zeros(1, 80, 80)))
    with pytest.raises(ShapeError, match="1 key.s. for two views"):
        StackViewsd("coronal", (64, 64))
    with pytest.raises(ShapeError, match=r"logits of shape \(3, 4, 4\); \(class, x, y, z\) is needed"):
        LabelsOnVolumeGridd("pred", (1, 1, 1))({"pred": torch.zeros(3, 4, 4)})
    with pytest.raises(ShapeError, match=r"stacked views of shape \(1, 1, 32, 64\); \(batch, 2, side, z\)"):
        StackedSwinX2S((32, 32, 64), 1, out_channels=2, feature_size=4, depths=(1,) * 4, num_heads=(1,) * 4)(
            torch.zeros(1, 1, 32, 64)
        )


def test_a_view_is_turned_as_a_volume_lies():
    """Row 0 is the head and column 0 the right or front: the last indices of z, and of x or y."""
    picture = torch.zeros(1, 64, 64)
    picture[0, 5, 9] = 1
    for percentiles in ((0, 100),):
        made = StackViewsd(["coronal", "sagittal"], (64, 64), percentiles=percentiles)
        view = made({"coronal": MetaTensor(picture), "sagittal": picture})["image"]
        assert (view[0] == 1).nonzero().tolist() == [[63 - 9, 63 - 5]]


def test_labels_of_another_grid(tmp_path):
    case, other = _ct(tmp_path, "a"), _ct(tmp_path, "b")
    image = nib.load(other["label"])
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[:-1], image.affine), other["label"])
    with pytest.raises(ShapeError, match="on other grids; they must share one"):
        RadiographsAndLabels(XrayField(img_size=(32, 32, 64), spacing_mm=(10, 10, 6)))(
            {"image": case["image"], "label": other["label"]}
        )
