"""MONAI's export commands as each bundle's README has them, on small copies: what they write answers as the network does."""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from safetensors.torch import save

from medvit.bundles import Bundle, open_bundle
from medvit.inference import load_model
from medvit.inference.backends import openvino_core
from medvit.interop.export import example_inputs

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, tuple[dict[str, Any], list[int]]] = {
    "headneck_ct_swin_unetr": ({"feature_size": 12}, [32, 32, 64]),
    "nuclei_barlow_swin": ({"embed_dim": 16, "image_size": [64, 64]}, [64, 64]),
    "ct_denoise_restore_rwkv": ({"dim": 4, "num_blocks": [1, 1, 1, 1]}, [16, 16]),
    "mr_superres_restore_rwkv": ({"dim": 4}, [16, 16]),
    "headneck_xray_swin_x2s": ({"feature_size": 4, "depths": [2, 1, 1, 1], "num_heads": [1, 1, 1, 1]}, [32, 64]),
}
"""A smaller network for each bundle, and the sides of its input."""

_SLOW = ("ct_denoise_restore_rwkv", "mr_superres_restore_rwkv", "headneck_xray_swin_x2s", "headneck_ct_swin_unetr")
"""What writes a graph of these takes half a minute; sweeps and reductions are unrolled in the first two."""


@pytest.fixture(params=SMALL)
def bundle(request, tmp_path) -> Bundle:
    """A copy with random weights of a smaller network, stored as a bundle's are: fp16, whole numbers left out."""
    options, sides = SMALL[request.param]
    folder = Path(shutil.copytree(ROOT / "bundles" / request.param, tmp_path / request.param))
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["network_def"] |= options
    if "img_size" in config:
        config["img_size"] = [32, 32, 64]
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    state = ConfigParser(config).get_parsed_content("network_def").state_dict()
    content = save({k: v.half().contiguous() for k, v in state.items() if v.is_floating_point()})
    (folder / "models").mkdir(exist_ok=True)
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = sides
    metadata["medvit"]["weights"] = {
        "file": "models/model.safetensors",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    metadata["medvit"]["state"] = "trained"
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return open_bundle(folder)


def _run(bundle: Bundle, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's line of that command, run from the bundle's folder as ``python -m monai.bundle`` runs it."""
    (line,) = re.findall(
        rf"^python -m (monai\.bundle {command} .*)$", (bundle.root / "docs" / "README.md").read_text(), re.MULTILINE
    )
    monkeypatch.chdir(bundle.root)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of the tracer about sizes, which the README explains, and of PyTorch's exporters
        runpy.run_module("monai.bundle", run_name="__main__")


def _difference(bundle: Bundle, answer: Any) -> float:
    """Between the written network's answer and the bundle's, as a share of the largest value."""
    (image,) = example_inputs(bundle)
    with torch.no_grad():
        wanted = load_model(bundle, "cpu").network(image)
        return float((answer(image) - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize(
    "bundle", [pytest.param(n, marks=pytest.mark.soak if n in _SLOW else ()) for n in SMALL], indirect=True
)
def test_ckpt_export(bundle, monkeypatch):
    """The weights are the bundle's, and nothing in the file needs medvit."""
    _run(bundle, "ckpt_export", monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.load(bundle.root / "models" / "model.ts")
    assert "medvit::" not in str(traced.inlined_graph)
    assert _difference(bundle, traced) < 1e-4


@pytest.mark.parametrize(
    "bundle", [pytest.param(name, marks=pytest.mark.soak if name in _SLOW else ()) for name in SMALL], indirect=True
)
def test_onnx_export(bundle, monkeypatch):
    pytest.importorskip("onnxscript", reason="the extra medvit[onnx] is not installed")
    pytest.importorskip("openvino", reason="there is no OpenVINO for this platform")
    _run(bundle, "onnx_export", monkeypatch)
    path = bundle.root / "models" / "model.onnx"
    # a second engine would end out of order with the first, whose stack for signals it would free: see openvino_core
    compiled = openvino_core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert _difference(bundle, lambda image: torch.from_numpy(compiled([image.numpy()])[0])) < 1e-3
