"""Same weights, same input, same output as MONAI's class and as the reference tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR

from medvit.errors import ImageError, ShapeError
from medvit.segmentation import SwinUNETR


def _perturbed(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return network.state_dict()


@pytest.mark.parametrize("options", [{}, {"use_v2": True}, {"downsample": "mergingv2"}], ids=str)
def test_equals_monai_with_the_same_weights(options):
    theirs = MonaiSwinUNETR(1, 3, feature_size=12, spatial_dims=3, **options).eval()
    ours = SwinUNETR(1, 3, feature_size=12, **options).eval()
    ours.load_state_dict(_perturbed(theirs))
    image = torch.rand(1, 1, 64, 32, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (ours(image) - theirs(image)).abs().max() < 1e-4


def test_two_dimensions():
    theirs = MonaiSwinUNETR(3, 2, feature_size=12, spatial_dims=2).eval()
    ours = SwinUNETR(3, 2, feature_size=12, spatial_dims=2).eval()
    ours.load_state_dict(_perturbed(theirs))
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (ours(image) - theirs(image)).abs().max() < 1e-4


def test_legacy_merging_is_another_function_on_the_same_weights():
    new, old = (
        SwinUNETR(1, 2, feature_size=12).eval(),
        SwinUNETR(1, 2, feature_size=12, downsample="merging_legacy").eval(),
    )
    old.load_state_dict(_perturbed(new))
    image = torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (new(image) - old(image)).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(33, 40, 64), (32, 32, 32), (7, 70, 31)])
def test_any_size_gives_logits_of_its_own_size(size):
    network = SwinUNETR(1, 2, feature_size=12).eval()
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(image)
        assert logits.shape == (1, 2, *size)
        whole = [-(-s // 32) * 32 for s in size]
        if whole == [32, 32, 32]:
            whole[0] = 64
        padded = torch.zeros(1, 1, *whole)
        padded[..., : size[0], : size[1], : size[2]] = image
        assert torch.equal(network(padded)[..., : size[0], : size[1], : size[2]], logits)


def test_wrong_rank_and_channels_are_named():
    with pytest.raises(
        ShapeError, match=r"shape \(1, 2, 64, 64, 64\); \(batch, channel, depth, height, width\) with 1 channel"
    ):
        SwinUNETR(1, 2, feature_size=12)(torch.zeros(1, 2, 64, 64, 64))
    with pytest.raises(ShapeError, match=r"\(batch, channel, height, width\) with 3 channel"):
        SwinUNETR(3, 2, feature_size=12, spatial_dims=2)(torch.zeros(3, 64, 64))


@pytest.mark.parametrize(
    ("channels", "feature_size", "parameters"),
    # models.md: 1 -> 14 channels at each size, and 4 -> 3 for BraTS21
    [((1, 14), 12, 4_078_220), ((1, 14), 24, 15_703_304), ((1, 14), 48, 62_187_296), ((4, 3), 48, 62_191_941)],
)
def test_published_parameter_counts(channels, feature_size, parameters):
    network = SwinUNETR(*channels, feature_size=feature_size)
    second = SwinUNETR(*channels, feature_size=feature_size, use_v2=True)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == 159
    added = second.state_dict().keys() - network.state_dict().keys()
    assert len(added) == 8
    assert all(".layers" in name and "c.0." in name for name in added)


def test_the_merging_can_be_changed_and_a_wrong_one_is_named():
    network = SwinUNETR(1, 2, feature_size=12, downsample="merging_legacy").eval()
    assert network.merging == "merging_legacy"
    fresh = SwinUNETR(1, 2, feature_size=12, downsample="mergingv2").eval()
    fresh.load_state_dict(network.state_dict())
    network.merging = "mergingv2"
    image = torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(network(image), fresh(image))
    with pytest.raises(
        ShapeError, match="Found patch merging 'old'; it must be one of merging, mergingv2, merging_legacy"
    ):
        network.merging = "old"
    with pytest.raises(ShapeError, match="Found patch merging 'old'"):
        SwinUNETR(1, 2, feature_size=12, downsample="old")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((1, 1, 32, 32, 32), float("nan")), "Found 32768 NaN or infinite values in the input"),
        (torch.zeros(1, 1, 32, 32, 32, dtype=torch.int16), "an input of torch.int16; floating-point numbers"),
    ],
)
def test_numbers_that_cannot_be_used_are_named(image, message):
    with pytest.raises(ImageError, match=message):
        SwinUNETR(1, 2, feature_size=12)(image)


@pytest.mark.parametrize(
    ("downsample", "use_v2", "key"),
    [
        ("merging_legacy", False, "legacy"),
        ("merging_legacy", True, "legacy_v2"),
        ("merging", False, "monai15plus"),
        ("merging", True, "monai15plus_v2"),
        ("mergingv2", False, "mergingv2"),
        ("mergingv2", True, "mergingv2_v2"),
    ],
)
def test_reference_tensors(shared, downsample, use_v2, key):
    weights = np.load(shared / "parity" / "swin_unetr_f12_weights.npz")
    tensors = np.load(shared / "parity" / "swin_unetr_f12_io.npz")
    network = SwinUNETR(1, 2, feature_size=12, downsample=downsample, use_v2=use_v2).eval()
    stored = {k.removeprefix("sd/"): weights[k] for k in weights.files if k.startswith("sd/")}
    state = network.state_dict()
    for name in state:
        if name in stored:
            state[name] = (
                torch.from_numpy(stored[name].astype(np.float32)).to(state[name].dtype).reshape(state[name].shape)
            )
    missing = [k for k in state if k not in stored and not k.endswith("relative_position_index")]
    assert not missing
    network.load_state_dict(state)
    wanted = [k for k in tensors.files if k.endswith(f"_{key}")]
    assert wanted, tensors.files
    with torch.inference_mode():
        found = network(torch.from_numpy(tensors["in_a"].astype(np.float32)))
    assert np.abs(found.numpy() - tensors[wanted[0]]).max() < 1e-4


def test_index_tables_may_be_left_out_and_nothing_else():
    network = SwinUNETR(1, 2, feature_size=12)
    state = network.state_dict()
    floats = {name: value for name, value in state.items() if value.is_floating_point()}
    assert len(floats) < len(state)
    assert SwinUNETR(1, 2, feature_size=12).load_state_dict(floats).missing_keys == []
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "out.conv.conv.bias"'):
        network.load_state_dict({name: value for name, value in floats.items() if name != "out.conv.conv.bias"})
