"""Weights of bundles: small or fetched, fitting MONAI's class, and never a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

import medvit
from medvit.bundles import load_weights, open_bundle
from medvit.errors import BundleError, ChecksumError
from medvit.settings import DEFAULT_BUNDLE
from tests.bundles.test_bundle import BUNDLES, _edit


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_weights_ship_small_or_are_fetched(folder):
    weights = open_bundle(folder).facts.weights
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 16_500_000
    trained = open_bundle(folder).facts.state == "trained"
    assert (folder / weights.file in files) == (trained and weights.sha256 is not None)
    assert weights.sha256 or weights.origin.address.startswith("https://")


def test_weights_fit_monais_class_strictly():
    """The shipped tensors are MONAI's, name for name; only index tables that follow from the size are left out."""
    from monai.networks.nets import SwinUNETR
    from safetensors.torch import load_file

    bundle = open_bundle(DEFAULT_BUNDLE)
    network = SwinUNETR(1, 8, feature_size=12, spatial_dims=3)
    missing, unexpected = network.load_state_dict(load_file(bundle.weights), strict=False)
    assert not unexpected
    assert all(name.endswith("relative_position_index") for name in missing)


def test_wrong_checksum(copy, examples):
    path = copy / "models" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ChecksumError, match=r"is recorded in the bundle's metadata; they must be equal"):
        open_bundle(copy).verify()
    with pytest.raises(ChecksumError, match="The file is damaged or was exchanged"):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle=copy)


@pytest.mark.parametrize("protocol", ["zip", "legacy", "plain"])
def test_a_pickle_where_safetensors_is_expected_never_runs(protocol, copy, examples, tmp_path):
    witness = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (witness,))

    path = copy / "models" / "model.safetensors"
    if protocol == "plain":
        path.write_bytes(pickle.dumps(Attack()))
    else:
        torch.save({"x": Attack()}, path, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(BundleError, match="Found a pickle in model.safetensors"):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle=copy)
    assert not witness.exists()


def test_neither_safetensors_nor_pickle_and_other_networks(copy):
    import hashlib

    path = copy / "models" / "model.safetensors"

    def put(content: bytes) -> None:
        path.write_bytes(content)
        _edit(
            copy, "metadata.json", lambda m: m["medvit"]["weights"].update(sha256=hashlib.sha256(content).hexdigest())
        )

    put(b"something else entirely")
    with pytest.raises(BundleError, match="not a safetensors file"):
        load_weights(torch.nn.Linear(2, 2), path)
    from safetensors.torch import save

    put(save({"weight": torch.zeros(2, 2)}))
    with pytest.raises(BundleError, match="1 tensors do not fit, the first is bias"):
        load_weights(torch.nn.Linear(2, 2), path)
