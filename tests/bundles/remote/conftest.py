"""A store of its own for each test, a server, and a small bundle with weights of the published layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from medvit.bundles.remote.resumable_download import Remote
from tests.bundles.remote.server import CONTENT, SHA256, Server, serving

ROOT = Path(__file__).resolve().parents[3]
BTCV = ROOT / "bundles" / "abdomen_ct_swin_unetr_btcv"
NAME = BTCV.name


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    """The store's folder, not there yet; no mirror, no other bundles, no proxy."""
    for name in (
        "MEDVIT_MIRROR",
        "MEDVIT_BUNDLES",
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "all_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MEDVIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def remote(server) -> Remote:
    server.files["/file"] = CONTENT
    return Remote(f"{server.base}/file", SHA256)


@pytest.fixture
def part(store) -> Path:
    return store / "cache" / "file.part"


@dataclass(frozen=True)
class Published:
    """A bundle that ships without weights, and the file that is published for it."""

    folder: Path
    file: str
    content: bytes


def small(folder: Path, content: bytes, address: str) -> Path:
    """The BTCV bundle at feature size 12 and on a coarse grid, pointing to another address."""
    shutil.copytree(BTCV, folder)
    for name in ("inference.json", "inference_monai.json"):
        path = folder / "configs" / name
        config = json.loads(path.read_text())
        config["network_def"]["feature_size"] = 12
        config["spacing_mm"], config["roi_size"] = [3.0, 3.0, 3.0], [64, 64, 64]
        path.write_text(json.dumps(config))
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    metadata["medvit"]["weights"]["origin"].update(address=address, checksum=f"md5:{md5}")
    path.write_text(json.dumps(metadata))
    return folder


@pytest.fixture(scope="session")
def state() -> dict[str, torch.Tensor]:
    """Random weights as MONAI's own network of that size names them, index tables included."""
    from monai.networks.nets import SwinUNETR

    torch.manual_seed(4)
    return SwinUNETR(1, 14, feature_size=12).state_dict()


@pytest.fixture(scope="session")
def checkpoint(state, tmp_path_factory) -> bytes:
    """The zoo's layout: a torch file with the weights under ``model``."""
    path = tmp_path_factory.mktemp("published") / "model.pt"
    torch.save({"model": state, "epoch": 7}, path)
    return path.read_bytes()


@pytest.fixture
def published(checkpoint, server, tmp_path, monkeypatch) -> Published:
    """A config-only bundle on the search path, whose weights the server has."""
    server.files["/zoo/model_v1.pt"] = checkpoint
    folder = small(tmp_path / "bundles" / NAME, checkpoint, f"{server.base}/zoo/model_v1.pt")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(folder.parent))
    return Published(folder, "model_v1.pt", checkpoint)
