"""Published checkpoints are converted without a change of a number; what does not fit or would run code is refused."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import nibabel as nib
import pytest
import torch

import medvit
from medvit.bundles import open_bundle
from medvit.bundles.remote.convert_checkpoint import convert
from medvit.errors import BundleError
from tests.bands import oblique_affine, phantom
from tests.bundles.remote.conftest import BTCV, NAME
from tests.bundles.remote.fetching import edit, fetch_small, files, put


def test_the_merging_is_the_old_one(published, tmp_path):
    """Weights of before MONAI 1.5 give other labels in today's order, so it matters that the bundle says which."""
    nib.save(nib.Nifti1Image(phantom((48, 40, 36))[0], oblique_affine((3.0, 3.0, 3.0))), tmp_path / "scan.nii.gz")
    fetch_small()
    old = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu").array
    config = published.folder / "configs" / "inference.json"
    assert '"downsample": "merging_legacy"' in config.read_text()
    config.write_text(config.read_text().replace("merging_legacy", "merging"))
    new = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu").array
    assert (old != new).mean() > 0.01


def test_conversion_is_the_same_each_time_and_changes_no_number(published, state, tmp_path):
    from safetensors.torch import load_file

    first = fetch_small().entry.sha256
    assert fetch_small(overwrite=True).entry.sha256 == first
    stored = load_file(open_bundle(NAME).weights)
    learnt = {k for k in state if not k.endswith("relative_position_index")}
    assert stored.keys() == learnt
    assert all(torch.equal(stored[k], state[k]) for k in learnt)


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best_acc": 0.8}],
    ids=["plain", "data parallel"],
)
def test_the_layouts_in_which_such_weights_are_published(wrap, state, published, tmp_path):
    torch.save(wrap(state), tmp_path / "other.pt")
    convert(open_bundle(NAME), tmp_path / "other.pt", tmp_path / "other.safetensors")
    convert(open_bundle(NAME), put(tmp_path, published.content), tmp_path / "zoo.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == (tmp_path / "zoo.safetensors").read_bytes()


def test_the_shipped_bundle_takes_the_published_sizes(tmp_path):
    """Feature size 48, as the zoo's checkpoint has: names and shapes of MONAI's network of that size, strictly."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(1, 14, feature_size=48)
    assert sum(p.numel() for p in network.parameters()) == 62_187_296
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    convert(open_bundle(BTCV), tmp_path / "model.pt", tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 4 * 62_187_296


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out.conv.conv.bias"), "1 tensors do not fit, the first is out.conv.conv.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 tensors do not fit, the first is extra"),
        (lambda s: s.update({"out.conv.conv.bias": torch.zeros(13)}), "1 tensors do not fit, the first is out.conv.conv.bias"),
        (lambda s: s["swinViT.layers1.0.blocks.0.attn.relative_position_index"].add_(1), "1 tensors do not fit, the first is swinViT"),
        (lambda s: s["out.conv.conv.bias"].fill_(float("nan")), "NaN or infinite values in given.pt, first in out.conv.conv.bias"),
        (lambda s: s.clear(), "no state dict in given.pt"),
        (lambda s: s.update(epoch=3), "no state dict in given.pt"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change, message, state, published, tmp_path):
    changed = {k: v.clone() for k, v in state.items()}
    change(changed)
    torch.save({"model": changed}, tmp_path / "given.pt")
    with pytest.raises(BundleError, match=message):
        convert(open_bundle(NAME), tmp_path / "given.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_that_would_run_code_never_does(kind, published, tmp_path, server, store):
    """Even one that the metadata vouch for."""
    witness = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (witness,))

    path = tmp_path / "evil.pt"
    if kind == "plain":
        path.write_bytes(pickle.dumps({"model": Attack()}))
    else:
        torch.save({"model": Attack()}, path, _use_new_zipfile_serialization=kind == "zip")
    server.files["/zoo/model_v1.pt"] = content = path.read_bytes()
    _vouch(published.folder, content)
    with pytest.raises(
        BundleError,
        match="objects other than tensors in model_v1.pt: reading them would run code, .* nothing in it was run",
    ):
        fetch_small()
    assert not witness.exists()
    assert "manifest.json" not in files(store)
    assert open_bundle(NAME).state == "not fetched"


def _vouch(folder: Path, content: bytes) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    edit(folder, lambda m: m["medvit"]["weights"]["origin"].update(checksum=f"md5:{md5}"))


def test_what_is_no_checkpoint_at_all(published, server):
    for content, message in (
        (b"nothing of the kind", "or the file is not a checkpoint"),
        (b"PK\3\4 cut", "is not a readable torch file"),
    ):
        server.files["/zoo/model_v1.pt"] = content
        _vouch(published.folder, content)
        with pytest.raises(BundleError, match=message):
            fetch_small()


def test_published_safetensors_are_checked_the_same(state, published, server):
    from safetensors.torch import save

    learnt = {k: v for k, v in state.items() if not k.endswith("relative_position_index")}
    server.files["/zoo/model_v1.pt"] = content = save(learnt)
    _vouch(published.folder, content)
    edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(format="safetensors"))
    assert fetch_small().bundle.verify() == hashlib.sha256(content).hexdigest()
