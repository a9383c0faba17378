"""Each network, projector, degradation and loader with each fault: refused by name, never a traceback of torch's, never a guess."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import CheckpointError, ImageError, MedvitError, ShapeError
from medvit.physics.degradations import LowDoseCT, TruncatedMR
from medvit.physics.degradations.low_count_pet import LowCountPET
from medvit.physics.degradations.low_resolution_mr import LowResolutionMR
from medvit.physics.drr import Geometry, Projector
from medvit.reconstruction import StackedSwinX2S, SwinX2S
from medvit.restoration import RestoreRWKV
from medvit.segmentation import BarlowSwin, SwinUNETR

_X2S = {"img_size": (32, 32, 64), "in_channels": 1, "out_channels": 2, "feature_size": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}  # fmt: skip
MODELS: dict[str, tuple[Callable[[], nn.Module], list[tuple[int, ...]]]] = {
    "SwinUNETR": (lambda: SwinUNETR(1, 2, feature_size=12), [(1, 1, 32, 32, 64)]),
    "BarlowSwin": (lambda: BarlowSwin(embed_dim=8), [(1, 3, 64, 64)]),
    "RestoreRWKV": (lambda: RestoreRWKV(1, 1, 4, (1, 1, 1, 1), 1), [(1, 1, 16, 16)]),
    "SwinX2S": (lambda: SwinX2S(**_X2S), [(1, 1, 32, 64), (1, 1, 32, 64)]),
    "StackedSwinX2S": (lambda: StackedSwinX2S(**_X2S), [(1, 2, 32, 64)]),
}
"""How to build each, and the shapes of its inputs."""


@lru_cache
def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]().eval()


def _with(value: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x.index_fill(-1, torch.tensor([3]), value)


_SHAPE = r"Found (an input|stacked views|a coronal view) of shape \(.*\); .* is needed[.,] "
FAULTS: dict[str, tuple[Callable[[Tensor], Any], type[MedvitError], str]] = {
    "channels": (lambda x: torch.cat([x, x], 1), ShapeError, _SHAPE),
    "no batch axis": (lambda x: x[0], ShapeError, _SHAPE),
    "an axis too many": (lambda x: x[..., None], ShapeError, _SHAPE),
    "a number": (lambda x: torch.tensor(1.0), ShapeError, _SHAPE),
    "an empty side": (lambda x: x[..., :0], ShapeError, r"Found .* of shape \(1, .*0\); .* is needed"),
    "an empty batch": (lambda x: x[:0], ShapeError, r"(Found an input of shape \(0, |an empty batch as coronal view)"),
    "NaN": (_with(float("nan")), ImageError, r"Found .*NaN or infinite (values|pixels).*must be finite\. Replace them"),
    "infinity": (_with(float("inf")), ImageError, r"NaN or infinite (values|pixels).*must be finite\. Replace them"),
    "float64": (Tensor.double, ShapeError, r"float64 for weights of (type )?torch\.float32; they must be one type"),
    "float16": (Tensor.half, ShapeError, r"float16 for weights of (type )?torch\.float32; they must be one type"),
    "whole numbers": (Tensor.byte, MedvitError, r"torch\.uint8.*(needed\. Scale|one type\. Convert)"),
    "a numpy array": (Tensor.numpy, ImageError, r"Found a ndarray as .*; a torch tensor is needed\. Make one with"),
    "nothing": (lambda x: None, ImageError, r"Found a NoneType as .*; a torch tensor is needed"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("model", MODELS)
def test_each_network_names_each_fault(model, fault):
    change, kind, message = FAULTS[fault]
    first, *others = (torch.rand(shape) for shape in MODELS[model][1])
    with torch.inference_mode(), pytest.raises(kind, match=message):
        _network(model)(change(first), *others)


@pytest.mark.parametrize("model", ["SwinUNETR", "BarlowSwin", "RestoreRWKV"])
def test_sides_that_do_not_divide_are_padded_and_cropped(model):
    image = torch.rand(MODELS[model][1][0])[..., :-3]
    with torch.inference_mode():
        result = _network(model)(image)
    assert result.shape[2:] == image.shape[2:]
    assert bool(result.isfinite().all())


@pytest.mark.parametrize(
    ("coronal", "sagittal", "message"),
    [
        ((1, 1, 32, 61), (1, 1, 32, 64), r"coronal view of shape \(1, 1, 32, 61\).*1, 32, 64\) is needed"),
        ((1, 1, 32, 64), (1, 1, 64, 32), r"sagittal view of shape \(1, 1, 64, 32\).*1, 32, 64\) is needed"),
        ((1, 1, 32, 64), (1, 2, 32, 64), r"sagittal view of shape \(1, 2, 32, 64\)"),
        ((2, 1, 32, 64), (1, 1, 32, 64), "2 coronal and 1 sagittal views; each patient needs one of each"),
    ],
)
def test_views_that_do_not_match(coronal, sagittal, message):
    with pytest.raises(ShapeError, match=message):
        _network("SwinX2S")(torch.rand(coronal), torch.rand(sagittal))


def test_the_second_view_is_looked_at_too():
    with pytest.raises(ImageError, match="NaN or infinite values in a view"):
        _network("SwinX2S")(torch.rand(1, 1, 32, 64), torch.full((1, 1, 32, 64), float("nan")))
    with pytest.raises(ShapeError, match="Found a sagittal view of torch.float64 for weights of torch.float32"):
        _network("SwinX2S")(torch.rand(1, 1, 32, 64), torch.rand(1, 1, 32, 64).double())


LOADED = ["SwinUNETR", "BarlowSwin", "RestoreRWKV", "SwinX2S"]


@pytest.mark.parametrize("wanted", LOADED)
@pytest.mark.parametrize("given", LOADED)
def test_a_checkpoint_of_another_model_is_named(given, wanted, tmp_path):
    """Every pair, from a file as our training writes it; the network stays as it was."""
    save_file({k: v.contiguous() for k, v in _network(given).state_dict().items()}, tmp_path / "w.safetensors")
    network = MODELS[wanted][0]()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    if given == wanted:
        medvit.load_published(network, tmp_path / "w.safetensors")
        assert torch.equal(next(network.parameters()), next(_network(given).parameters()))
        return
    message = f"Found weights that look like {given}'s.*{wanted}'s are needed. Give the right file, or build a {given}"
    with pytest.raises(CheckpointError, match=message):
        medvit.load_published(network, tmp_path / "w.safetensors")
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize("model", LOADED)
@pytest.mark.parametrize("form", ["w.pt", "w.safetensors", "w.npz"])
def test_a_truncated_file_of_each_model_is_named(model, form, tmp_path):
    state, path = _network(model).state_dict(), tmp_path / form
    if form == "w.pt":
        torch.save(state, path)
    elif form == "w.npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(
        CheckpointError, match=f"Found {form}, which is damaged or incomplete.*Download or copy it again"
    ):
        medvit.load_published(MODELS[model][0](), path)


@pytest.mark.parametrize("model", LOADED)
def test_weights_with_nan_are_refused(model):
    state = dict(_network(model).state_dict())
    name = next(k for k, v in state.items() if v.is_floating_point())
    state[name] = torch.full_like(state[name], float("nan"))
    with pytest.raises(
        CheckpointError, match=f"Found NaN or infinite values in {re.escape(name)}; weights must be finite"
    ):
        medvit.load_published(MODELS[model][0](), state)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_an_era_that_nobody_stated_is_asked_for_with_how_to_tell(wrapper):
    content = {wrapper: _network("SwinUNETR").state_dict()}
    with pytest.raises(
        CheckpointError, match=r"Give merging='merging_legacy' if .*monai_version below 1\.5.*or merging='merging' if"
    ):
        medvit.load_published(MODELS["SwinUNETR"][0](), content)


DEGRADATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "LowDoseCT": lambda image, spacing: LowDoseCT()(image, spacing),
    "LowCountPET": lambda image, spacing: LowCountPET()(image, spacing),
    "LowResolutionMR": lambda image, spacing: LowResolutionMR(voxel_mm=(2.0,) * len(spacing))(image, spacing),
    "TruncatedMR": lambda image, spacing: TruncatedMR(2)(image, spacing),
}
POOR: dict[str, tuple[Any, Any, type[MedvitError], str]] = {
    "one axis": (np.zeros(8), (1.0,), ShapeError, r"an image of shape \(8,\); \(i, j\) or \(i, j, k\)"),
    "no voxels": (np.zeros((8, 0)), (1.0, 1.0), ShapeError, r"at least one voxel is needed"),
    "a spacing too few": (np.zeros((8, 8, 8)), (1.0, 1.0), ShapeError, "one positive number for each is needed"),
    "a negative spacing": (np.zeros((8, 8)), (1.0, -1.0), ShapeError, "one positive number for each is needed"),
    "NaN": (
        np.full((8, 8), np.nan),
        (1.0, 1.0),
        ImageError,
        "not finite real numbers; all must be finite. Replace them",
    ),
    "infinity": (np.full((8, 8), np.inf), (1.0, 1.0), ImageError, "not finite real numbers; all must be finite"),
    "complex": (np.zeros((8, 8), complex), (1.0, 1.0), ImageError, "not finite real numbers"),
    "words": (np.array([["a", "b"]]), (1.0, 1.0), ImageError, "not finite real numbers"),
}


@pytest.mark.parametrize("fault", POOR)
@pytest.mark.parametrize("name", DEGRADATIONS)
def test_each_degradation_names_each_fault(name, fault):
    image, spacing, kind, message = POOR[fault]
    with pytest.raises(kind, match=message):
        DEGRADATIONS[name](image, spacing)


@pytest.fixture(scope="module")
def projector() -> Projector:
    geometry = Geometry(
        source_to_isocenter_mm=1800.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=(6, 5),
        pixel_spacing_mm=(4.0, 4.0),
    )
    return Projector(geometry, np.diag([2.0, 2.0, 2.0, 1.0]), (6, 6, 6))


@pytest.mark.parametrize(
    ("volume", "kind", "message"),
    [
        (torch.rand(1, 1, 6, 6, 6), ShapeError, r"volume of shape \(1, 1, 6, 6, 6\); \(i, j, k\)"),
        (torch.rand(6, 6, 5), ShapeError, r"volume of shape \(6, 6, 5\); \(i, j, k\) = \(6, 6, 6\)"),
        (torch.zeros(6, 6, 6, dtype=torch.int16), ShapeError, r"volume of torch.int16; float is needed"),
        (torch.full((6, 6, 6), float("nan")), ImageError, "NaN or infinite values in the volume"),
        (torch.full((6, 6, 6), float("inf")), ImageError, "NaN or infinite values in the volume"),
        (np.zeros((6, 6, 6), np.float32), ImageError, "Found a ndarray as volume; a torch tensor is needed"),
    ],
)
def test_the_projector_names_each_fault(projector, volume, kind, message):
    with pytest.raises(kind, match=message):
        projector(volume)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_door_refuses_one_voxel_that_is_no_number(value, banded, tmp_path):
    """A NaN would become a confident label: argmax takes it for the largest logit."""
    array = np.random.default_rng(0).uniform(-1000, 500, (12, 12, 12)).astype(np.float32)
    array[5, 6, 7] = value
    path: Path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    message = "Found 1 NaN or infinite values among 1728 voxels; all must be finite"
    with pytest.raises(ImageError, match=message):
        medvit.segment(path, bundle=banded)
    outcome = CliRunner().invoke(app, ["segment", str(path), "-b", str(banded), "-o", str(tmp_path / "out")])
    assert outcome.exit_code == 1
    assert message in " ".join(outcome.output.split())
    assert not list((tmp_path / "out").glob("*.nii.gz"))
