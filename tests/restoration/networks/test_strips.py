"""Restore-RWKV in strips of rows gives the numbers of the whole map, and only where nothing observes the operators."""

from __future__ import annotations

import pytest
import torch

from medvit.restoration.networks import restore_rwkv, strips
from medvit.restoration.networks.restore_rwkv import Block, RestoreRWKV


def _network(**sizes) -> RestoreRWKV:
    torch.manual_seed(0)
    network = RestoreRWKV(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, **sizes).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network


def _whole(monkeypatch, network, image):
    with monkeypatch.context() as patched, torch.inference_mode():
        patched.setattr(restore_rwkv, "fits_strips", lambda block, x: False)
        return network(image)


@pytest.mark.parametrize("elements", [1, 2**11, 2**19])
@pytest.mark.parametrize("shape", [(1, 1, 40, 24), (2, 1, 16, 56), (1, 1, 8, 8)])
def test_strips_give_the_numbers_of_the_whole_map(monkeypatch, elements, shape):
    monkeypatch.setattr(strips, "_ELEMENTS", elements)
    network, image = _network(), torch.rand(shape)
    wanted = _whole(monkeypatch, network, image)
    with torch.inference_mode():
        for used in (network, network.fuse()):
            torch.testing.assert_close(used(image), wanted, rtol=1e-5, atol=1e-5)


def test_float64_agrees_to_rounding(monkeypatch):
    monkeypatch.setattr(strips, "_ELEMENTS", 2**10)
    network, image = _network().double(), torch.rand(1, 1, 32, 24, dtype=torch.float64)
    wanted = _whole(monkeypatch, network, image)
    with torch.inference_mode():
        torch.testing.assert_close(network(image), wanted, rtol=1e-12, atol=1e-12)


def test_training_and_autocast_run_on_the_whole_map():
    block, x = Block(4), torch.rand(1, 4, 8, 8)
    assert not strips.fits_strips(block, x)  # its parameters want gradients
    with torch.no_grad():
        assert strips.fits_strips(block, x)
        assert not strips.fits_strips(block, x.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert not strips.fits_strips(block, x)
