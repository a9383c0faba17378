"""Same weights, same input, same output and gradients as the published network; any size; nothing stale trusted."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.inference import SliceWise
from medvit.restoration import LIGHT, PUBLISHED, RestoreRWKV

TINY = {"dim": 4, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1}


def _tiny(**changes: object) -> RestoreRWKV:
    torch.manual_seed(0)
    return RestoreRWKV(**{**TINY, **changes}).eval()


def _image(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


# --- parity


def test_reference_output_from_the_published_keys_strictly(published, reference):
    network, state = published
    network.load_state_dict(state)  # the stored fused kernels are stale on purpose
    with torch.inference_mode():
        found = network(torch.from_numpy(reference["in_a"]))
    assert np.abs(found.numpy() - reference["out_a_paper"]).max() < 1e-4


def test_reference_taps(published, reference):
    network, state = published
    network.load_state_dict(state)
    taps: dict[str, torch.Tensor] = {}
    for name in (k.removeprefix("tap_a/") for k in reference if k.startswith("tap_a/")):
        network.get_submodule(name).register_forward_hook(lambda _m, _i, out, name=name: taps.__setitem__(name, out))
    with torch.inference_mode():
        network(torch.from_numpy(reference["in_a"]))
    for name, found in taps.items():
        wanted = reference[f"tap_a/{name}"]
        assert np.abs(found.numpy().reshape(wanted.shape) - wanted).max() < 1e-4 * max(1, np.abs(wanted).max()), name


def test_reference_loss_and_gradients(published, reference):
    network, state = published
    network.load_state_dict(state)
    network.double()
    image = torch.from_numpy(reference["in_a"]).double().requires_grad_()
    loss = F.l1_loss(network(image), torch.from_numpy(reference["label_a"]).double())
    loss.backward()
    assert loss.item() == pytest.approx(float(reference["loss_a_l1"]), rel=1e-9)
    assert np.allclose(image.grad.numpy(), reference["grad_in_a"], rtol=1e-6, atol=1e-10)
    parameters = dict(network.named_parameters())
    stored = [k for k in reference if k.startswith("grad_a/")]
    assert len(stored) > 100
    for key in stored:
        found, wanted = parameters[key.removeprefix("grad_a/")].grad.numpy(), reference[key]
        assert np.abs(found - wanted).max() < 1e-5 * max(np.abs(wanted).max(), 1e-6), key


# --- size


def test_parameter_counts_are_the_published_ones():
    full = RestoreRWKV()
    count = full.count()
    assert (count.stored, count.trained, count.fused) == (28_371_137, 27_996_737, 27_846_625)
    assert sum(p.numel() for p in full.parameters()) == 28_371_137
    assert sum(p.numel() for p in full.parameters() if p.requires_grad) == 27_996_737
    assert sum(p.numel() for p in full.fuse().parameters()) == 27_846_625
    assert len(full.state_dict()) == 1114


def test_light_variants_are_1_16_million_once_fused():
    assert RestoreRWKV.of_size(LIGHT).count().fused == 1_156_961
    assert RestoreRWKV(dim=12, num_blocks=(4, 4, 4, 4), num_refinement_blocks=4).count().fused == 1_155_649
    assert (PUBLISHED.dim, PUBLISHED.num_blocks, PUBLISHED.num_refinement_blocks) == (48, (4, 6, 6, 8), 4)


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (8, 16), (19, 33)])
def test_any_size_is_padded_and_cropped(size):
    network = _tiny()
    image = _image(2, 1, *size)
    with torch.inference_mode():
        found = network(image)
        assert found.shape == image.shape
        whole = [-(-s // 8) * 8 for s in size]
        padded = F.pad(image, (0, whole[1] - size[1], 0, whole[0] - size[0]), mode="replicate")
        assert torch.equal(network(padded)[..., : size[0], : size[1]], found)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (3, 3), (1, 2), (3, 1)])
def test_the_input_is_added_to_the_output(inputs, outputs):
    network = _tiny(in_channels=inputs, out_channels=outputs)
    torch.nn.init.zeros_(network.output.weight)
    torch.nn.init.zeros_(network.output.bias)
    image = _image(1, inputs, 8, 8)
    wanted = image[:, 1:2] if (inputs, outputs) == (3, 1) else image.expand(1, max(inputs, outputs), 8, 8)
    with torch.inference_mode():
        assert torch.equal(network(image), wanted)


def test_rows_and_columns_are_not_exchanged():
    network = _tiny()
    image = _image(1, 1, 8, 24)
    with torch.inference_mode():
        assert (network(image) - network(image.transpose(2, 3)).transpose(2, 3)).abs().max() > 1e-4


def test_a_volume_goes_through_slice_by_slice():
    network, volume = _tiny(), _image(1, 1, 9, 10, 3)
    with torch.inference_mode():
        found = SliceWise(2)(volume, network)
        for n in range(3):
            assert torch.allclose(found[..., n], network(volume[..., n]), atol=1e-6)


# --- fuse


def test_fuse_gives_a_new_network_with_the_same_output_and_ignores_stale_copies():
    network, image = _tiny(), _image(1, 1, 16, 24)
    for shift in network.shifts():
        shift.conv5x5_reparam.weight.data.fill_(float("nan"))
    with torch.inference_mode():
        wanted = network(image)
        fused = network.fuse()
        assert torch.allclose(fused(image), wanted, atol=1e-6)
        assert torch.equal(network(image), wanted)
    assert not fused.shifts()
    assert len(network.shifts()) == 2 * 8
    kept = [name for name in fused.state_dict() if "omni_shift" in name]
    assert kept and all(name.endswith("conv5x5_reparam.weight") for name in kept)


def test_training_after_fuse_does_not_reach_the_fused_network():
    network, image = _tiny(), _image(1, 1, 8, 8)
    fused = network.fuse()
    before = fused(image)
    for parameter in network.parameters():
        parameter.data.add_(0.1)
    assert torch.equal(fused(image), before)
    assert not torch.allclose(network(image), before)


def test_refresh_makes_the_stored_kernels_true():
    network = _tiny()
    shift = network.shifts()[0]
    shift.conv3x3.weight.data.add_(1)
    assert not torch.equal(shift.conv5x5_reparam.weight, shift.kernel())
    network.refresh()
    assert torch.equal(shift.conv5x5_reparam.weight, shift.kernel())


def test_a_training_step_reaches_every_trained_parameter_and_lowers_the_loss():
    network = _tiny().train()
    image, target = _image(2, 1, 16, 16), _image(2, 1, 16, 16) * 0.5
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), 1e-3)
    losses = []
    for _ in range(5):
        loss = F.l1_loss(network(image), target)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            for name, parameter in network.named_parameters():
                assert (parameter.grad is not None) == (not name.endswith("conv5x5_reparam.weight")), name
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- published checkpoints


# --- bad input


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 8, 8), (1, 1, 8, 8, 8)])
def test_wrong_rank_and_channels_are_named(shape):
    with pytest.raises(
        ShapeError, match=re.escape(f"shape {shape}; (batch, channel, height, width) with 1 channel(s)")
    ):
        _tiny()(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 0, 8), (1, 1, 8, 0)])
def test_no_pixels(shape):
    with pytest.raises(ShapeError, match="at least one pixel is needed"):
        _tiny()(torch.zeros(shape))


def test_other_types_and_devices():
    with pytest.raises(ShapeError, match="pixels of type torch.float64 for weights of type torch.float32"):
        _tiny()(torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    with pytest.raises(ShapeError, match="pixels on meta and weights on cpu; they must be on one device"):
        _tiny()(torch.zeros(1, 1, 8, 8, device="meta"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite(bad):
    image = _image(1, 1, 8, 8)
    image[0, 0, 3, 3] = bad
    with pytest.raises(ImageError, match="NaN or infinite pixels; all must be finite"):
        _tiny()(image)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 2, "out_channels": 3}, "2 input and 3 output channels; the input is added to the output"),
        ({"in_channels": 2, "out_channels": 1}, "an odd number of inputs"),
        ({"dim": 5}, "Found dim 5,"),
        ({"dim": 0}, "an even dim, four block counts and all of them at least 1"),
        ({"num_blocks": (1, 1, 1)}, "num_blocks (1, 1, 1)"),
        ({"num_blocks": (1, 0, 1, 1)}, "num_blocks (1, 0, 1, 1)"),
        ({"num_refinement_blocks": 0}, "0 refinement blocks"),
    ],
)
def test_sizes_that_make_no_network(changes, message):
    with pytest.raises(ShapeError, match=re.escape(message)):
        _tiny(**changes)
