"""The published weights and input give the published output; other sizes work; mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medvit.errors import BundleError, ImageError, ShapeError
from medvit.kernels.window_attention.layout import window_layout
from medvit.reconstruction import SWIN_X2S_SIZES, SwinX2S, fuse_views, swin_x2s
from medvit.reconstruction.networks.swin_encoder import bias_windows
from medvit.reconstruction.networks.swin_x2s_published import translate

SMALL = {"feature_size": 4, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 4)}


def _network(size=(32, 32, 64), **options) -> SwinX2S:
    torch.manual_seed(3)
    return SwinX2S(size, 1, out_channels=3, **{**SMALL, **options}).eval()


def _views(size=(32, 32, 64), batch=1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    coronal = torch.rand(batch, 1, size[0], size[2], generator=generator)
    return coronal, torch.rand(batch, 1, size[1], size[2], generator=generator)


@pytest.fixture(scope="module")
def published(shared) -> dict[str, np.ndarray]:
    with np.load(shared / "parity" / "swin_x2s_f4_32x32x64.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def checkpoint(published) -> dict[str, Tensor]:
    """The published state dict, stored masks and index tables included."""
    stored = {k.removeprefix("sd/"): v for k, v in published.items() if k.startswith("sd/")}
    return {k: torch.from_numpy(v if v.dtype == np.int64 else v.astype(np.float32)) for k, v in stored.items()}


def _run(network: SwinX2S, published: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    views = (torch.from_numpy(published[name].astype(np.float32)) for name in ("in_cor", "in_sag"))
    with torch.inference_mode():
        return network(*views)


def test_reference_tensors(published, checkpoint):
    network = _network()
    network.load_state_dict(translate(checkpoint, network))
    coronal, sagittal = _run(network, published)
    assert np.abs(coronal.numpy() - published["out_cor"]).max() < 1e-4
    assert np.abs(sagittal.numpy() - published["out_sag"]).max() < 1e-4
    assert np.array_equal(fuse_views(coronal, sagittal).argmax(1).numpy(), published["argmax_fused"])


def test_names_are_the_published_ones(checkpoint):
    assert set(_network().state_dict()) == {k for k in checkpoint if not k.endswith("attn_mask")}


def test_the_stored_masks_are_what_the_operator_computes(checkpoint):
    for stage, plane in ((0, (16, 32)), (1, (8, 16))):
        layout = window_layout(plane, (7, 7), (3, 3))
        apart = layout.region[:, :, None] != layout.region[:, None, :]
        stored = checkpoint[f"swinViT.layers.{stage}.blocks.1.attn_mask"].numpy()
        assert np.array_equal(np.where(apart, -100.0, 0.0), stored)


@pytest.mark.parametrize(
    ("size", "count"), [("tiny", 32_556_218), ("small", 130_064_248), ("base", 313_842_502), ("large", 557_798_324)]
)
def test_published_parameter_counts(size, count):
    """models.md, at 4 classes, one input channel and 128 x 128 x 160."""
    with torch.device("meta"):
        network = swin_x2s(size)
    assert sum(p.numel() for p in network.parameters()) == count


def test_an_unknown_size_is_named():
    with pytest.raises(ShapeError, match="Swin-X2S size 'huge'; it must be one of tiny, small, base, large"):
        swin_x2s("huge")
    assert list(SWIN_X2S_SIZES) == ["tiny", "small", "base", "large"]


def test_stages_that_divide_by_the_window():
    """At 224 the maps are 112, 56, 28 and 14: whole windows, on which the published code stops."""
    network = _network((224, 224, 32), depths=(2, 1, 1, 1), feature_size=2, num_heads=(1, 1, 1, 1))
    with torch.inference_mode():
        coronal, _ = network(*_views((224, 224, 32)))
    assert coronal.shape == (1, 3, 224, 224, 32)
    assert bias_windows((224, 224), (7, 7), 4) == [((7, 7), (3, 3))] * 4


def test_shifted_whole_windows_equal_the_formula():
    """A shifted block on a map of two windows a side, against attention written out token by token."""
    from medvit.reconstruction.networks.swin_encoder import _Attention

    torch.manual_seed(0)
    attention = _Attention(4, 2, (7, 7), (3, 3)).double()
    torch.nn.init.normal_(attention.relative_position_bias_table)
    x = torch.randn(1, 14, 14, 4, dtype=torch.float64)
    with torch.inference_mode():
        found = attention(x)
        q, k, v = attention.qkv(x).view(196, 3, 2, 2).unbind(1)  # (token, head, 2) each
        place = np.stack(np.meshgrid(np.arange(14), np.arange(14), indexing="ij"), -1).reshape(-1, 2)
        window = ((place - 3) % 14) // 7
        # after the roll by 3 the first three rows and columns join the last window, but not its region
        wrapped = place < 3
        table = attention.relative_position_bias_table.view(13, 13, 2)
        expected = torch.zeros(196, 2, 2, dtype=torch.float64)
        for i in range(196):
            mates = np.flatnonzero((window == window[i]).all(1))
            offset = (place[i] - 3) % 14 - (place[mates] - 3) % 14 + 6
            scores = torch.einsum("hc,jhc->jh", q[i], k[mates]) * 2**-0.5 + table[offset[:, 0], offset[:, 1]]
            scores[torch.from_numpy((wrapped[mates] != wrapped[i]).any(1))] -= 100
            expected[i] = torch.einsum("jh,jhc->hc", scores.softmax(0), v[mates])
        expected = attention.proj(expected.reshape(1, 14, 14, 4))
    assert (found - expected).abs().max() < 1e-12


def test_both_views_and_the_batch_matter():
    network = _network()
    front, side = _views(batch=2)
    with torch.inference_mode():
        coronal, sagittal = network(front, side)
        alone, _ = network(front[1:], side[1:])
        other, _ = network(front, side.flip(0))
    assert coronal.shape == sagittal.shape == (2, 3, 32, 32, 64)
    assert (coronal[1:] - alone).abs().max() < 1e-5
    assert (coronal - other).abs().max() > 1e-6
    network(front.requires_grad_(), side)[1].sum().backward()
    assert front.grad is not None and front.grad.abs().max() > 0


@pytest.mark.parametrize("size", [(64, 64, 64), (32, 32, 96), (64, 64, 32)])
def test_a_checkpoint_loads_at_another_size(checkpoint, size):
    network = _network(size)
    network.load_state_dict(translate(checkpoint, network))
    with torch.inference_mode():
        coronal, sagittal = network(*_views(size))
    assert coronal.shape == sagittal.shape == (1, 3, *size)
    assert bool(torch.isfinite(coronal).all())


def test_a_table_keeps_the_value_of_each_offset(checkpoint):
    """The third stage is one window of 4 x 8 tokens at 32 x 64 pixels and several of 7 x 7 at 64 x 64."""
    network = _network((64, 64, 64))
    moved = translate(checkpoint, network)
    name = "swinViT.layers.2.blocks.0.attn.relative_position_bias_table"
    old, new = checkpoint[name].view(7, 15, -1), moved[name].view(13, 13, -1)
    assert torch.equal(new[3:10], old[:, 1:14])
    assert torch.equal(new[0], new[3]) and torch.equal(new[12], new[9])


def test_wrappings_and_prefixes(published, checkpoint):
    network = _network()
    wrapped = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in checkpoint.items()}}
    network.load_state_dict(translate(wrapped, network))
    coronal, _ = _run(network, published)
    assert np.abs(coronal.numpy() - published["out_cor"]).max() < 1e-4


def test_every_key_is_used_or_named(checkpoint):
    network = _network()
    short = {k: v for k, v in checkpoint.items() if k != "out.conv.conv.bias"}
    with pytest.raises(BundleError, match=r"it lacks 1 tensor\(s\): out\.conv\.conv\.bias\. Build the network"):
        translate(short, network)
    with pytest.raises(BundleError, match=r"has beside those of the network 1 tensor\(s\): head\.weight"):
        translate({**checkpoint, "head.weight": torch.zeros(2)}, network)
    with pytest.raises(
        BundleError, match=r"1 tensor\(s\) of another Swin-X2S: out\.conv\.conv\.bias \(5,\) for \(3,\)"
    ):
        translate({**checkpoint, "out.conv.conv.bias": torch.zeros(5)}, network)
    with pytest.raises(BundleError, match=r"without a mapping of tensors \(epoch\)"):
        translate({"epoch": 3}, network)
    with pytest.raises(BundleError, match="it is empty"):
        translate({}, network)
    with pytest.raises(BundleError, match="31 depths and 2 bottleneck positions"):
        translate({**checkpoint, "expand_.0.weight": torch.zeros(31, 1, 1, 1, 1)}, network)
    table = "swinViT.layers.0.blocks.0.attn.relative_position_bias_table"
    with pytest.raises(BundleError, match=r"layers\.0.*with 9 rows; a window of \(7, 7\) has 169"):
        translate({**checkpoint, table: torch.zeros(9, 1)}, _network((64, 64, 64)))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((32, 32, 32), "leaves one voxel at the bottleneck, where normalisation needs at least two"),
        ((32, 64, 64), "x and y must be equal and every side a multiple of 32"),
        ((48, 48, 64), "x and y must be equal and every side a multiple of 32"),
        ((0, 0, 64), "every side a multiple of 32"),
        ((64, 64), r"needs \(x, y, z\) voxels and a window of two sides"),
    ],
)
def test_sizes_that_cannot_be(size, message):
    with pytest.raises(ShapeError, match=message):
        _network(size)


def test_options_that_do_not_fit():
    with pytest.raises(ShapeError, match="both need 4 numbers, one a stage"):
        _network(depths=(2, 2))
    with pytest.raises(ShapeError, match="3 heads for the 4 channels of stage 1; the heads must divide them"):
        _network(num_heads=(3, 6, 12, 24))
    with pytest.raises(ShapeError, match=r"window of \(3, 12\) for a feature map of \(32, 8\)"):
        bias_windows((64, 16), (3, 12), 1)


def test_views_that_do_not_fit():
    network, (front, side) = _network(), _views()
    with pytest.raises(
        ShapeError, match=r"coronal view of shape \(1, 2, 32, 64\); \(batch, channel, x, z\) = \(batch, 1, 32, 64\)"
    ):
        network(front.expand(1, 2, 32, 64), side)
    with pytest.raises(ShapeError, match=r"sagittal view of shape \(1, 1, 32, 96\)"):
        network(front, torch.zeros(1, 1, 32, 96))
    with pytest.raises(ShapeError, match=r"coronal view of shape \(32, 64\)"):
        network(front[0, 0], side)
    with pytest.raises(ShapeError, match="2 coronal and 1 sagittal views; each patient needs one of each"):
        network(front.expand(2, 1, 32, 64), side)
    with pytest.raises(ImageError, match="NaN or infinite values in a view"):
        network(front * torch.nan, side)
    with pytest.raises(ShapeError, match="coronal logits of .* they must be equal"):
        fuse_views(torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 3, 2, 2, 3))
