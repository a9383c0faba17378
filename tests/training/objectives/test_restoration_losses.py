"""Losses of restoration: known values, limits, gradients, and refused sizes and settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import ShapeError
from medvit.training.objectives import ssim
from medvit.training.objectives.restoration_losses import charbonnier, l1, ssim_loss


def _pair(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(*shape, generator=g, dtype=dtype)
    return (clean + 0.1 * torch.randn(*shape, generator=g, dtype=dtype)), clean


def test_l1_and_charbonnier_by_hand():
    a, b = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[1.0, 5.0]]]])
    assert l1(a, b).item() == pytest.approx(1.5)
    assert charbonnier(a, b, 4.0).item() == pytest.approx((4 + 5) / 2 - 4)
    assert charbonnier(a, a).item() == pytest.approx(0, abs=1e-9)
    assert charbonnier(a, b, 1e-6).item() == pytest.approx(1.5, rel=1e-4)


def test_charbonnier_has_a_gradient_where_images_are_equal():
    a = torch.zeros(1, 1, 2, 2, requires_grad=True)
    charbonnier(a, torch.zeros(1, 1, 2, 2)).backward()
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_ssim_of_two_constants_is_its_luminance_term():
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.7)
    c1 = 0.01**2
    assert ssim(a, b).item() == pytest.approx((2 * 0.35 + c1) / (0.25 + 0.49 + c1), rel=1e-5)


def test_ssim_equals_scikit_images():
    from skimage.metrics import structural_similarity

    found, clean = _pair(2, 1, 37, 29)
    for data_range in (1.0, 2.5):
        wanted = []
        for x, y in zip(found.numpy(), clean.numpy(), strict=True):
            # whole windows only: scikit-image gives the map, of which the rim holds incomplete ones
            _, at = structural_similarity(
                x[0], y[0], data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
            )  # fmt: skip
            wanted.append(at[5:-5, 5:-5].mean())
        assert ssim(found, clean, data_range).item() == pytest.approx(np.mean(wanted), abs=1e-9)


def test_ssim_of_equal_images_is_one_and_noise_lowers_it():
    noisy, clean = _pair(1, 2, 20, 20)
    assert ssim(clean, clean).item() == pytest.approx(1)
    assert ssim_loss(clean, clean).item() == pytest.approx(0, abs=1e-12)
    worse = clean + 3 * (noisy - clean)
    assert ssim(worse, clean) < ssim(noisy, clean) < 1


def test_ssim_in_float32_far_from_zero():
    noisy, clean = (x + 1000 for x in _pair(1, 1, 24, 24))
    exact = ssim(noisy, clean, 1.0)
    assert ssim(noisy.float(), clean.float(), 1.0).item() == pytest.approx(exact.item(), abs=2e-3)


@pytest.mark.parametrize("loss", [l1, charbonnier, ssim_loss])
def test_gradients_by_finite_differences(loss):
    restored, clean = _pair(1, 1, 11, 12)
    assert torch.autograd.gradcheck(lambda x: loss(x, clean), restored.requires_grad_())


@pytest.mark.parametrize("loss", [l1, charbonnier, ssim])
def test_what_does_not_fit_is_named(loss):
    a = torch.zeros(1, 1, 16, 16)
    for b in (torch.zeros(1, 2, 16, 16), torch.zeros(1, 1, 16, 15)):
        with pytest.raises(ShapeError, match=r"restored image of shape \(1, 1, 16, 16\) and a clean one of"):
            loss(a, b)
    with pytest.raises(ShapeError, match=r"both must be one \(batch, channel, \*spatial\)"):
        loss(a[0], a[0])
    with pytest.raises(ShapeError, match="with at least one pixel"):
        loss(a[:0], a[:0])
    with pytest.raises(ShapeError, match="Found torch.float32 on cpu and torch.float64 on cpu"):
        loss(a, a.double())
    with pytest.raises(ShapeError, match="both must be one floating type on one device"):
        loss(a, a.to("meta"))


def test_ssim_and_charbonnier_parameters():
    a = torch.zeros(1, 1, 16, 16)
    with pytest.raises(ShapeError, match="epsilon = 0; a positive number is needed"):
        charbonnier(a, a, 0)
    with pytest.raises(ShapeError, match="data_range = -1; a positive number is needed"):
        ssim(a, a, -1)
    with pytest.raises(
        ShapeError, match="sides of at least 11 is needed. Take larger crops, and volumes slice by slice"
    ):
        ssim(a[..., :10], a[..., :10])
    with pytest.raises(ShapeError, match="volumes slice by slice"):
        ssim(torch.zeros(1, 1, 16, 16, 16), torch.zeros(1, 1, 16, 16, 16))
