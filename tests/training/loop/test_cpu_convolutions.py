"""Convolutions made fast on a CPU: the same numbers, gradients, names and files as the plain ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medvit.training.loop.cpu_convolutions import FoldedConv3d, speed_up_convolutions


def _pair(*args, **settings) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv3d(*args, **settings))
    quick = copy.deepcopy(plain)
    speed_up_convolutions(quick)
    return plain.double(), quick


@pytest.mark.parametrize("sides", [(8, 8, 8), (7, 6, 5), (1, 4, 3), (2, 2, 2), (33, 16, 9)])
@pytest.mark.parametrize("kernel", [3, 5, (3, 1, 3), (1, 3, 3)])
@pytest.mark.parametrize("batch", [1, 2])
def test_output_and_every_gradient_are_those_of_the_plain_convolution(sides, kernel, batch):
    around = kernel // 2 if isinstance(kernel, int) else tuple(side // 2 for side in kernel)
    plain, quick = _pair(3, 4, kernel, padding=around)
    assert type(quick[0]) is FoldedConv3d
    image = torch.randn(batch, 6, *sides)[:, ::2].requires_grad_()  # not contiguous
    exact = image.detach().double().requires_grad_()
    found, wanted = quick(image), plain(exact)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-5)
    weights = torch.randn(wanted.shape, dtype=torch.float64)
    (found * weights.float()).sum().backward()
    (wanted * weights).sum().backward()
    assert image.grad is not None and exact.grad is not None
    torch.testing.assert_close(image.grad.double(), exact.grad, rtol=0, atol=5e-5)
    for a, b in zip(quick.parameters(), plain.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2, "padding": 1},
        {"padding": 0},
        {"dilation": 2, "padding": 2},
        {"groups": 2, "padding": 1},
        {"padding": 1, "padding_mode": "replicate"},
        {"padding": "same"},
    ],
)
def test_other_convolutions_are_left_alone(settings):
    _, quick = _pair(4, 4, 3, **settings)
    assert type(quick[0]) is nn.Conv3d


def test_names_shapes_and_values_of_all_tensors_stay():
    plain, quick = _pair(3, 4, 3, padding=1)
    parameter = next(quick.parameters())
    speed_up_convolutions(quick)  # once more changes nothing
    assert next(quick.parameters()) is parameter
    assert list(plain.state_dict()) == list(quick.state_dict())
    for a, b in zip(plain.state_dict().values(), quick.state_dict().values(), strict=True):
        assert torch.equal(a.float(), b)


def test_small_volumes_go_to_onednn_and_large_ones_as_they_are():
    torch.manual_seed(0)
    convolution = nn.Conv3d(3, 4, 3, padding=1)
    speed_up_convolutions(convolution)
    for side, halves in ((32, True), (96, False)):
        image = torch.randn(1, 3, side, side, 4)
        with torch.profiler.profile(record_shapes=True) as profile:
            found = convolution(image)
        done = {event.key: event.input_shapes for event in profile.key_averages(group_by_input_shape=True)}
        assert not any("slow_conv3d" in name for name in done)
        assert (done["aten::conv3d"][0][0] == 2) is halves
        torch.testing.assert_close(found, F.conv3d(image, convolution.weight, convolution.bias, padding=1))
