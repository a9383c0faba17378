"""A bundle's network is built when it is needed: with a graph in the cache it is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from medvit.bundles import ConfigReader, open_bundle
from medvit.errors import ChecksumError
from medvit.inference import load_model
from medvit.inference.backends import BackendRequest, DeferredNetwork, select_backend
from medvit.inference.backends.network_fingerprint import fingerprint

NAME = "nuclei_barlow_swin"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3, padding=1), nn.PReLU()).eval()


def _fails() -> nn.Module:
    raise AssertionError("the network was built")


def test_a_recorded_network_tells_its_fingerprint_without_being_built(empty_cache):
    first = DeferredNetwork(_network, {"network": "small"}, "0" * 64)
    assert not first.is_recorded
    assert first.fingerprint() == fingerprint(_network()) and first.is_recorded
    assert len(list(empty_cache.rglob("*.json"))) == 1
    second = DeferredNetwork(_fails, {"network": "small"}, "0" * 64)
    assert second.is_recorded and second.fingerprint() == first.fingerprint()
    assert second.parameters() == sum(p.numel() for p in _network().parameters())
    with pytest.raises(AssertionError, match="was built"):
        second(torch.zeros(1, 1, 4, 4, 4))


@pytest.mark.parametrize("config, weights", [({"network": "other"}, "0" * 64), ({"network": "small"}, "1" * 64)])
def test_another_config_or_other_weights_are_another_network(empty_cache, config, weights):
    DeferredNetwork(_network, {"network": "small"}, "0" * 64).fingerprint()
    assert not DeferredNetwork(_fails, config, weights).is_recorded


@pytest.mark.parametrize(
    "damage", ["", "{}", "[]", '{"fingerprint": "x", "parameters": 1, "sources": {"absent.py": "0"}}']
)
def test_a_damaged_record_and_one_of_changed_sources_are_passed_over(empty_cache, damage):
    DeferredNetwork(_network, {}, "0" * 64).fingerprint()
    (record,) = empty_cache.rglob("*.json")
    record.write_text(damage)
    again = DeferredNetwork(_network, {}, "0" * 64)
    assert not again.is_recorded and again.fingerprint() == fingerprint(_network())
    assert json.loads(record.read_text())["fingerprint"] == fingerprint(_network())


def test_in_a_cache_that_cannot_be_written_nothing_is_recorded(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "file"))
    assert DeferredNetwork(_network, {}, "0" * 64).fingerprint() == fingerprint(_network())
    assert not DeferredNetwork(_network, {}, "0" * 64).is_recorded


def test_eager_runs_the_built_network_whose_parameters_can_be_trained_and_exported(empty_cache):
    network = DeferredNetwork(_network, {}, "0" * 64)
    batch = torch.rand(1, 1, 4, 4, 4)
    with torch.inference_mode():
        chosen = select_backend(network, batch, BackendRequest(backend="eager"))
        assert torch.equal(chosen.run(batch), _network()(batch))
    assert not any(parameter.is_inference() for parameter in network.built().parameters())
    assert chosen.run is network.built()


def test_a_bundle_with_a_record_is_built_at_its_first_use(empty_cache, tmp_path):
    folder = tmp_path / NAME
    shutil.copytree(open_bundle(NAME).root, folder)
    first = load_model(folder, "cpu")
    assert isinstance(first.runnable, DeferredNetwork) and first.runnable._network is not None
    digest = first.runnable.fingerprint()
    config = folder / "configs" / "inference.json"
    config.touch()  # loaded anew
    second = load_model(folder, "cpu")
    assert second.runnable.is_recorded and second.runnable._network is None
    assert fingerprint(second.network) == digest and second.network is second.runnable._network
    assert not second.network.training
    reader = ConfigReader({**second.bundle.config, "bundle_root": str(folder), "device": "cpu"})
    assert fingerprint(reader.get("network")) == digest


def test_damaged_weights_are_refused_although_the_network_is_not_built(empty_cache, tmp_path):
    folder = tmp_path / NAME
    shutil.copytree(open_bundle(NAME).root, folder)
    load_model(folder, "cpu").runnable.fingerprint()
    weights = folder / open_bundle(NAME).facts.weights.file
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ChecksumError, match="The file is damaged or was exchanged"):
        load_model(folder, "cpu")
