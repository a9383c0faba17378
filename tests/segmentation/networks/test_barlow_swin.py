"""Same weights, same input, same output as the published Keras model; any size; every part trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import medvit
from medvit.errors import ImageError, ShapeError
from medvit.segmentation import BarlowSwin
from medvit.segmentation.networks.barlow_swin import _Block


def _small(**options: object) -> BarlowSwin:
    torch.manual_seed(0)
    return BarlowSwin(**({"embed_dim": 16, "image_size": (128, 128)} | options)).eval()


@pytest.fixture(scope="module")
def keras(shared):
    with np.load(shared / "parity" / "barlow_swin_keras_e16_128x192.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def ported(keras):
    return medvit.load_published(BarlowSwin(embed_dim=16).eval(), keras)


def _image(keras) -> torch.Tensor:
    return torch.from_numpy(keras["in_nhwc"]).permute(0, 3, 1, 2)


def test_reference_tensors(keras, ported):
    with torch.inference_mode():
        logits = ported(_image(keras))
        maps = ported.encoder(_image(keras))
    assert np.abs(logits.permute(0, 2, 3, 1).numpy() - keras["out_logit_nhwc"]).max() < 1e-4
    assert np.abs(logits.sigmoid().permute(0, 2, 3, 1).numpy() - keras["out_prob_nhwc"]).max() < 1e-5
    for number, found in enumerate(maps, 1):
        assert np.abs(found.permute(0, 2, 3, 1).numpy() - keras[f"skip{number}"]).max() < 1e-4


def test_published_parameter_counts():
    """models.md: Keras counts weights and running statistics, and does not see the bias tables."""
    network = BarlowSwin()
    named = dict(network.named_parameters())
    tables = sum(p.numel() for name, p in named.items() if name.endswith("relative_position_bias_table"))
    running = sum(b.numel() for name, b in network.named_buffers() if not name.endswith("num_batches_tracked"))
    assert tables == 2_352
    assert sum(p.numel() for p in named.values()) - tables + running == 7_001_829
    assert sum(p.numel() for name, p in named.items() if name.startswith("encoder.")) - tables == 6_608_544


def _plain_block(block: _Block, x: torch.Tensor) -> torch.Tensor:
    """The published block with roll, partition, mask and reverse written out."""
    _, height, width, channels = x.shape
    w, shift = block.window_size, 0 if min(height, width) <= block.window_size else block.shift
    code = torch.zeros(height, width)
    if shift:
        for n, rows in enumerate((slice(-w), slice(-w, -shift), slice(-shift, None))):
            for m, columns in enumerate((slice(-w), slice(-w, -shift), slice(-shift, None))):
                code[rows, columns] = 3 * n + m

    def windows(t: torch.Tensor) -> torch.Tensor:
        return t.view(height // w, w, width // w, w, -1).transpose(1, 2).reshape(-1, w * w, t.shape[-1])

    heads, size = block.num_heads, channels // block.num_heads
    q, k, v = (
        block.qkv(windows(block.norm1(x)[0].roll((-shift, -shift), (0, 1))))
        .view(-1, w * w, 3, heads, size)
        .permute(2, 0, 3, 1, 4)
    )
    at = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")).reshape(2, -1)
    apart = at[:, :, None] - at[:, None, :] + w - 1
    bias = block.relative_position_bias_table[apart[0] * (2 * w - 1) + apart[1]].permute(2, 0, 1)
    region = windows(code[..., None])[..., 0]
    mask = (region[:, None, :] != region[:, :, None]).float() * -100
    scores = (q * size**-0.5) @ k.transpose(-2, -1) + bias + mask[:, None]
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, w * w, channels)
    whole = (
        block.proj(mixed)
        .view(height // w, width // w, w, w, channels)
        .transpose(1, 2)
        .reshape(1, height, width, channels)
    )
    x = x + whole.roll((shift, shift), (1, 2))
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("size", [(8, 12), (4, 12), (12, 4), (4, 4)])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_block_is_the_published_one_also_where_a_side_is_one_window(size, shift):
    torch.manual_seed(1)
    block = _Block(16, 4, 4, shift)
    block.relative_position_bias_table.data.normal_()
    x = torch.randn(1, *size, 16)
    with torch.inference_mode():
        assert (block(x) - _plain_block(block, x)).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(64, 64), (256, 320), (347, 260), (63, 65), (1, 200), (200, 1), (1, 1)])
def test_any_size_gives_logits_of_its_own_size(size):
    network = _small()
    image = torch.rand(1, 3, *size)
    whole = torch.zeros(1, 3, *(-(-s // 64) * 64 for s in size))
    whole[..., : size[0], : size[1]] = image
    with torch.inference_mode():
        logits = network(image)
        assert logits.shape == (1, 1, *size)
        assert torch.equal(network(whole)[..., : size[0], : size[1]], logits)
        assert bool(torch.isfinite(logits).all())


def test_several_classes_channels_and_pictures():
    network = _small(in_channels=1, out_channels=4, depths=(1, 2, 3), num_heads=4)
    with torch.inference_mode():
        assert network(torch.rand(2, 1, 96, 64)).shape == (2, 4, 96, 64)


def test_positions_are_used_as_stored_or_interpolated():
    encoder = _small().encoder
    assert torch.equal(encoder.placed(32, 32), encoder.positions.view(32, 32, 16))
    rows = torch.linspace(0, 1, 32).repeat_interleave(32)
    encoder.positions.data = rows[:, None].repeat(1, 16)
    moved = encoder.placed(64, 16)
    assert moved.shape == (64, 16, 16)
    assert torch.allclose(moved[:, 0], moved[:, -1])
    assert bool((moved[1:, 0, 0] >= moved[:-1, 0, 0]).all())  # still grows downwards, so axes were not exchanged


def test_a_table_of_another_size_is_kept_as_stored_and_a_guess_is_said(ported, keras):
    assert ported.encoder.positions.shape == (1536, 16)
    with torch.inference_mode(), pytest.warns(UserWarning, match="it is read as 32 x 48 tokens"):
        assert ported(torch.rand(1, 3, 256, 384)).shape == (1, 1, 256, 384)
    known = medvit.load_published(BarlowSwin(embed_dim=16, image_size=(128, 192)).eval(), keras)
    with torch.inference_mode():
        assert known(torch.rand(1, 3, 256, 256)).shape == (1, 1, 256, 256)
    square = _small(image_size=(64, 64))
    square.load_state_dict(_small(image_size=(256, 256)).state_dict())
    assert square.encoder.grid == (64, 64)


def test_every_parameter_is_trained():
    """The published relative-position tables never were."""
    network = _small().train()
    network(torch.rand(2, 3, 128, 128)).square().mean().backward()
    # a bias just before a batch norm cannot change the output; all others must move
    still = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not [name for name in still if not name.endswith("bias")]
    assert not [name for name in still if "relative_position_bias_table" in name]


@pytest.mark.parametrize(
    ("image", "kind", "message"),
    [
        (torch.rand(1, 1, 64, 64), ShapeError, r"shape \(1, 1, 64, 64\); \(batch, channel, height, width\) with 3 channel"),
        (torch.rand(3, 64, 64), ShapeError, "Add the missing axes"),
        (torch.rand(1, 3, 0, 64), ShapeError, r"shape \(1, 3, 0, 64\)"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ImageError, "an input of torch.uint8; floating-point numbers"),
        (torch.full((1, 3, 64, 64), float("nan")), ImageError, "Found 12288 NaN or infinite values in the input"),
    ],
)  # fmt: skip
def test_a_wrong_input_is_named(image, kind, message):
    with pytest.raises(kind, match=message):
        _small()(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2, 2)}, "depths for 2 stages; the decoder is made for 3"),
        ({"embed_dim": 20}, "20 channels for 8 heads; the heads must divide them"),
        ({"image_size": (130, 128)}, r"image_size of \(130, 128\); both sides must be multiples of 4"),
    ],
)
def test_a_wrong_construction_is_named(options, message):
    with pytest.raises(ShapeError, match=message):
        BarlowSwin(**options)
