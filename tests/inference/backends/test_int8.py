"""Layers in int8 from ranges: the same arithmetic as round and clip, refusals, and the precision check of a bundle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn
from typer.testing import CliRunner

import medvit
from medvit.bundles import Bundle, PrecisionCheck, open_bundle, record_precision_check, require_precision_check
from medvit.cli.main import app
from medvit.errors import BackendError, BundleError
from medvit.inference import SlidingWindow

openvino = pytest.importorskip("openvino")

from medvit.inference.backends import openvino_core  # noqa: E402
from medvit.inference.backends.int8 import insert_ranges, layers_of, missing_instructions, read_ranges  # noqa: E402
from medvit.inference.backends.openvino import _converted  # noqa: E402

SMALL = "hippocampus_mr_swin_unetr"
needs_vnni = pytest.mark.skipif(missing_instructions() is not None, reason="this processor has no VNNI")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDVIT_CACHE", str(tmp_path / "cache"))


def _rounded(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, levels: int) -> torch.Tensor:
    step = (high - low) / (levels - 1)
    return ((values.clamp(low, high) - low) / step).round() * step + low


@needs_vnni
@pytest.mark.parametrize("kind", [nn.Conv3d, nn.ConvTranspose3d])
def test_a_quantised_layer_computes_with_rounded_and_clipped_numbers(kind: type[nn.Module]):
    torch.manual_seed(0)
    layer = kind(8, 16, 2 if kind is nn.ConvTranspose3d else 3, bias=False).eval()
    image = torch.rand(1, 8, 10, 10, 10)
    graph = _converted(layer, image)
    graph.reshape(list(image.shape))
    (digest,) = layers_of(graph)
    insert_ranges(graph, {digest: (0.0, 0.9)})
    found = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(image.numpy())[0]
    assert sum(node.get_type_name() == "FakeQuantize" for node in graph.get_ops()) == 2
    axis = 1 if kind is nn.ConvTranspose3d else 0
    largest = layer.weight.detach().abs().amax([n for n in range(5) if n != axis], keepdim=True)
    with torch.no_grad():
        layer.weight.copy_(_rounded(layer.weight, -largest, largest, 255))
        wanted = layer(_rounded(image, torch.tensor(0.0), torch.tensor(0.9), 256))
    assert np.abs(found - wanted.numpy()).max() < 2e-3 * float(wanted.abs().max())


def _with_ranges(folder: Path) -> Bundle:
    """Copy the small bundle, with a range for each of two layers of its first encoder."""
    root = shutil.copytree(open_bundle(SMALL).root, folder / SMALL)
    network = medvit.Predictor(root, device="cpu").loaded.network
    import hashlib

    layers = {
        name: {
            "weights": hashlib.sha256(tensor.detach().numpy().tobytes()).hexdigest(),
            "low": 0.0 if name.startswith("encoder1.layer.conv1") else -8.0,
            "high": 1.0 if name.startswith("encoder1.layer.conv1") else 8.0,
        }
        for name, tensor in network.named_parameters()
        if name in ("encoder1.layer.conv1.conv.weight", "encoder1.layer.conv2.conv.weight")
    }
    assert len(layers) == 2
    (root / "models" / "int8_ranges.json").write_text(json.dumps({"layers": layers}))
    return Bundle(root)


def _scan(folder: Path) -> Path:
    image = gaussian_filter(np.random.default_rng(0).normal(size=(35, 51, 35)), 3) * 1000 + 500
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / "image.nii.gz")
    return folder / "image.nii.gz"


@needs_vnni
def test_a_bundle_runs_in_int8_after_its_check_has_passed(tmp_path: Path):
    bundle, scan = _with_ranges(tmp_path), _scan(tmp_path)
    arguments = ["segment", str(scan), "-b", str(bundle.root), "-d", "cpu", "--precision", "int8", "-o"]
    refused = CliRunner().invoke(app, [*arguments, str(tmp_path / "no")])
    assert refused.exit_code == 1
    assert "Found precision 'int8' for hippocampus_mr_swin_unetr and no precision check for it" in refused.output
    checked = CliRunner().invoke(
        app, ["bundles", "precision-check", str(bundle.root), "--precision", "int8", "--case", str(scan), "--json"]
    )
    assert checked.exit_code in (0, 3), checked.output
    found = json.loads(checked.output)
    assert (found["precision"], found["backend"]) == ("int8", "openvino")
    assert found["ranges_sha256"] == bundle.int8_ranges_sha256
    passing = PrecisionCheck(**{k: found[k] for k in PrecisionCheck.model_fields} | {"dice": {"left": 1.0}})
    record_precision_check(Bundle(bundle.root), passing)
    ran = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")], catch_exceptions=False)
    assert ran.exit_code in (0, 3), ran.output
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert (settings["precision"], settings["backend"]) == ("int8", "openvino")
    (graph,) = (tmp_path / "cache" / "openvino").glob("*-*/graph.xml")
    assert graph.read_text().count('type="FakeQuantize"') == 4
    content = json.loads(bundle.int8_ranges.read_text())
    content["layers"]["encoder1.layer.conv1.conv.weight"]["high"] = 2.0
    bundle.int8_ranges.write_text(json.dumps(content))
    with pytest.raises(BackendError, match="no precision check of other weights or ranges only"):
        require_precision_check(Bundle(bundle.root), "int8")


@needs_vnni
def test_int8_without_ranges_is_refused(tmp_path: Path):
    with pytest.raises(BackendError, match="int8 needs the ranges of a bundle's layers; leave the precision out"):
        SlidingWindow(8, precision="int8")(torch.rand(1, 1, 8, 8, 8), nn.Conv3d(1, 2, 1).eval())
    with pytest.raises(BundleError, match=r"no int8_ranges\.json.*Leave the precision out, or make them"):
        read_ranges(open_bundle("nuclei_barlow_swin").int8_ranges)


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": {"a": {"low": 0}}}', '{"layers": {"a": 1}}'])
def test_damaged_ranges_are_refused(text: str, tmp_path: Path):
    (tmp_path / "int8_ranges.json").write_text(text)
    with pytest.raises(BundleError, match="ranges for int8 in int8_ranges.json that cannot be read"):
        read_ranges(tmp_path / "int8_ranges.json")


def test_ranges_of_other_weights_are_refused():
    graph = _converted(nn.Conv3d(1, 2, 3).eval(), torch.rand(1, 1, 4, 4, 4))
    with pytest.raises(BundleError, match=r"ranges for int8 of 1 layer\(s\) that the network does not have"):
        insert_ranges(graph, {"0" * 64: (0.0, 1.0)})


@pytest.mark.parametrize("backend", ["eager", "cuda", "compiled"])
def test_other_backends_do_not_take_int8(backend: str):
    with pytest.raises(BackendError, match=f"precision 'int8' for the '{backend}' backend, which does not compute"):
        SlidingWindow(8, backend=backend, precision="int8")


def test_a_processor_without_avx2_is_refused_for_int8_and_runs_fp32(tmp_path: Path):
    """PyTorch is told that the processor has no AVX2."""
    code = f"""
import numpy as np, torch, medvit
from medvit.errors import BackendError
from medvit.inference import SlidingWindow
from pathlib import Path
assert torch.backends.cpu.get_cpu_capability() == "DEFAULT"
try:
    SlidingWindow(8, precision="int8", ranges=Path("any"))(torch.rand(1, 1, 8, 8, 8), torch.nn.Conv3d(1, 2, 1).eval())
    raise AssertionError
except BackendError as error:
    assert "this processor has no AVX2, and int8 needs AVX2 with VNNI; leave the precision out" in str(error), error
np.save({str(tmp_path / "labels.npy")!r}, medvit.segment({str(_scan(tmp_path))!r}, {SMALL!r}, device="cpu", backend="eager").array)
"""
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = medvit.segment(tmp_path / "image.nii.gz", SMALL, device="cpu", backend="eager").array
    assert np.array_equal(np.load(tmp_path / "labels.npy"), wanted)


def test_another_precision_cannot_be_checked(tmp_path: Path):
    line = ["bundles", "precision-check", SMALL, "--precision", "fp8", "--case", str(_scan(tmp_path))]
    outcome = CliRunner().invoke(app, line)
    assert outcome.exit_code == 1
    assert "Found precision 'fp8' to check; it must be bf16 or int8. Correct --precision." in outcome.output
