"""Exported graphs answer like the network; what cannot be written is refused with nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from medvit.bundles import open_bundle
from medvit.cli.main import app
from medvit.errors import BundleError, ExportError, OutputError
from medvit.interop import export_bundle
from medvit.interop.export import _write_openvino, example_inputs, export_network
from medvit.reconstruction import StackedSwinX2S, SwinX2S
from medvit.restoration import RestoreRWKV
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.settings import DEFAULT_BUNDLE

ROOT = Path(__file__).resolve().parents[2]


def _perturbed(network: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network


def _small_rwkv() -> nn.Module:
    return _perturbed(RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1))


_X2S = {"img_size": (32, 32, 64), "in_channels": 1, "out_channels": 3, "feature_size": 4, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}  # fmt: skip


CASES = {
    "barlow_swin": (lambda: BarlowSwin(embed_dim=16, image_size=(64, 64)), [(1, 3, 128, 192)]),
    "barlow_swin, padded, several classes": (lambda: BarlowSwin(out_channels=3, embed_dim=16), [(2, 3, 100, 61)]),
    "swin_unetr": (
        lambda: SwinUNETR(1, 2, feature_size=12, downsample="merging_legacy", use_v2=True),
        [(1, 1, 64, 32, 40)],
    ),
    "swin_unetr 2-D": (lambda: SwinUNETR(3, 2, feature_size=12, spatial_dims=2), [(1, 3, 64, 96)]),
    "restore_rwkv, padded": (_small_rwkv, [(2, 1, 21, 16)]),
    "restore_rwkv, fused": (lambda: _small_rwkv().fuse(), [(1, 1, 8, 16)]),
    "swin_x2s": (lambda: SwinX2S(**_X2S), [(1, 1, 32, 64), (1, 1, 32, 64)]),
    "swin_x2s, stacked": (lambda: StackedSwinX2S(**_X2S), [(1, 2, 32, 64)]),
}
"""A network, and the shapes of its inputs."""


def _case(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    build, shapes = CASES[name]
    generator = torch.Generator().manual_seed(1)
    return _perturbed(build()), tuple(torch.rand(shape, generator=generator) for shape in shapes)


_LONG = ("restore_rwkv, padded", "swin_x2s", "swin_unetr", "swin_unetr 2-D", "barlow_swin, padded, several classes")
"""Half a minute each; Barlow-Swin and Restore-RWKV are left for every run, and all but Barlow-Swin's plain form are traced below."""

_ELSEWHERE = """
import sys, torch
inputs, wanted = torch.load('io.pt')
found = torch.export.load('net.pt2').module()(*inputs)
found = [found] if torch.is_tensor(found) else found
difference = max(float((f - w).abs().max()) for f, w in zip(found, wanted, strict=True))
print(difference, 'medvit' in sys.modules, 'monai' in sys.modules)
"""


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.soak if c in _LONG else ()) for c in CASES if "stacked" not in c],
)
def test_torch_export_answers_alike_without_medvit(case, tmp_path):
    network, inputs = _case(case)
    network.train(training := "fused" not in case)
    done = export_network(network, inputs, tmp_path / "net.pt2", "torch")
    assert network.training == training
    assert done.files == (tmp_path / "net.pt2",)
    assert done.shapes == tuple(CASES[case][1])
    assert done.difference < 1e-4 * max(1, done.scale)
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]
    with torch.inference_mode():
        wanted = network.eval()(*inputs)
    torch.save((inputs, [wanted] if isinstance(wanted, Tensor) else list(wanted)), tmp_path / "io.pt")
    outcome = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    difference, ours, monais = outcome.stdout.split()
    assert float(difference) < 1e-4 * max(1, done.scale)
    assert (ours, monais) == ("False", "False")
    assert str(ROOT).encode() not in (tmp_path / "net.pt2").read_bytes()


# sweeps are unrolled in a graph: the writing takes minutes
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize(
    "case",
    [
        "barlow_swin",
        *(
            pytest.param(c, marks=pytest.mark.soak)
            for c in ("swin_unetr", "restore_rwkv, padded", "restore_rwkv, fused", "swin_x2s")
        ),
    ],
)
def test_onnx_and_openvino_answer_alike(kind, case, tmp_path):
    pytest.importorskip("openvino", reason="there is no OpenVINO for this platform")
    pytest.importorskip("onnxscript", reason="the extra medvit[onnx] is not installed")
    path = tmp_path / f"net{'.onnx' if kind == 'onnx' else '.xml'}"
    network, inputs = _case(case)
    done = export_network(network, inputs, path, kind)
    print(f"{case}, {kind}: largest difference {done.difference:.2g}, largest value {done.scale:.2g}")
    assert done.difference < 1e-3 * max(1, done.scale)
    assert {p.name for p in tmp_path.iterdir()} == ({"net.onnx"} if kind == "onnx" else {"net.xml", "net.bin"})


@pytest.mark.parametrize("case", ["barlow_swin, padded, several classes", "swin_unetr 2-D", "restore_rwkv, padded", "swin_x2s, stacked"])  # fmt: skip
def test_a_traced_graph_answers_alike(case):
    """What MONAI's ckpt_export writes: plain operators alone, and no loop frozen into the numbers it gave for the example."""
    network, inputs = _case(case)
    others = tuple(1 - x for x in inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(network.eval(), inputs, check_trace=False)
        wanted = network(*others)
        assert float((traced(*others) - wanted).abs().max()) < 1e-4 * max(1, float(wanted.abs().max()))
    assert "medvit::" not in str(traced.inlined_graph)


def test_a_checkpoint_is_the_whole_state_dict(banded, tmp_path):
    done = export_bundle(open_bundle(banded), tmp_path / "model.pt", "checkpoint")
    assert done.difference == 0
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert {name: value.dtype for name, value in state.items()} == {"centres": torch.float32}
    assert torch.equal(state["centres"], torch.arange(8) / 8)


@pytest.mark.skipif(find_spec("onnxscript") is not None, reason="the extra medvit[onnx] is installed")
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_missing_extra_is_explained(kind, tmp_path):
    path = tmp_path / f"net{'.onnx' if kind == 'onnx' else '.xml'}"
    with pytest.raises(
        ExportError, match=rf"Found no package .*, which export to {kind} needs. .*pip install 'medvit\[onnx\]'"
    ):
        export_network(nn.Linear(2, 2), (torch.rand(1, 2),), path, kind)
    assert not list(tmp_path.iterdir())


def test_a_network_that_openvino_cannot_take_is_explained(tmp_path, monkeypatch):
    """A stand-in for the package, which refuses as it does: what is tested is what a user then reads."""

    def refuse(_: str) -> None:
        raise ValueError("no rule for an operator\nand forty lines more")

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(convert_model=refuse))
    monkeypatch.setattr("medvit.interop.export._write_onnx", lambda *_: None)
    with pytest.raises(ExportError, match=r"OpenVINO cannot take \(no rule for an operator\); .*Export to onnx"):
        _write_openvino(nn.Linear(2, 2), (torch.rand(1, 2),), tmp_path / "net.xml")


class _Unsure(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(())


class _Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (_Unsure(), "a written graph that differs from the network by up to .* nothing was written"),
        (_Branching(), "a _Branching that torch.export cannot record .* its forward must not branch on tensor values"),
    ],
)
def test_a_graph_that_is_not_the_network_is_not_written(network, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_network(network, (torch.rand(1, 8),), tmp_path / "net.pt2", "torch")
    assert not list(tmp_path.iterdir())


def test_names_and_existing_files(tmp_path):
    image = (torch.rand(1, 2),)
    with pytest.raises(ExportError, match="the name net.onnx for torch; it must end in .pt2"):
        export_network(nn.Linear(2, 2), image, tmp_path / "net.onnx", "torch")
    with pytest.raises(
        ExportError, match="export format 'tensorrt'; it must be one of torch, onnx, openvino, checkpoint"
    ):
        export_network(nn.Linear(2, 2), image, tmp_path / "net.pt2", "tensorrt")
    (tmp_path / "net.pt2").write_text("kept")
    with pytest.raises(OutputError, match="Found net.pt2 in place; .*overwrite=True"):
        export_network(nn.Linear(2, 2), image, tmp_path / "net.pt2", "torch")
    assert (tmp_path / "net.pt2").read_text() == "kept"
    assert export_network(nn.Linear(2, 2), image, tmp_path / "net.pt2", "torch", overwrite=True).difference == 0


@pytest.mark.soak
def test_the_command_exports_a_bundle_and_prints_the_agreement(tmp_path):
    path = tmp_path / "deep" / "net.pt2"
    outcome = CliRunner().invoke(app, ["bundles", "export", DEFAULT_BUNDLE, "-o", str(path)])
    assert outcome.exit_code == 0, outcome.output
    assert "on an input of 1 x 1 x 64 x 64 x 64: largest difference" in outcome.output
    assert path.is_file()
    (image,) = example_inputs(open_bundle(DEFAULT_BUNDLE))
    assert torch.export.load(path).module()(image).shape == (1, 8, 64, 64, 64)


def test_the_command_refuses_in_one_line(banded, tmp_path):
    def run(*args: object):
        return CliRunner().invoke(app, ["bundles", "export", *map(str, args)])

    assert run(banded, "-o", tmp_path / "a.pt2", "--format", "tensorrt").exit_code == 2
    wrong = run(banded, "-o", tmp_path / "a.onnx")
    assert wrong.exit_code == 1
    assert "must end in .pt2" in wrong.output
    done = run(banded, "-o", tmp_path / "a.pt2", "--json")
    assert json.loads(done.stdout)["max_abs_difference"] < 1e-5


def test_an_untrained_bundle_is_refused(banded, tmp_path):
    import shutil

    copy = Path(shutil.copytree(banded, tmp_path / "copy"))
    (copy / "models" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="no weights for copy"):
        export_bundle(open_bundle(copy), tmp_path / "a.pt2", "torch")
