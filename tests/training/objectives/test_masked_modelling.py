"""Masks of the right share, a loss of hidden voxels alone, encoders of both kinds, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import BundleError, ImageError, ShapeError
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.training.objectives import MaskedModelling
from medvit.training.objectives.masked_modelling import _unfolded, draw_masks, masked_l1


def _swin(dims: int) -> SwinUNETR:
    return SwinUNETR(1, 3, feature_size=12, window_size=4, depths=(1, 1, 1, 1), spatial_dims=dims)


def _barlow() -> BarlowSwin:
    return BarlowSwin(embed_dim=16, depths=(1, 1, 1), image_size=(64, 64))


def _case(kind: str) -> tuple[MaskedModelling, Tensor]:
    """An objective and a batch of two smooth images for it."""
    torch.manual_seed(0)
    network = {"volumes": lambda: _swin(3), "pictures": lambda: _swin(2), "barlow": _barlow}[kind]()
    ramp = torch.linspace(0, 1, 64)
    picture = torch.stack([ramp[:, None].expand(64, 64), (ramp * ramp).expand(64, 64)])[:, None]
    images = {"volumes": picture[:, :, ::2, ::2, None].expand(-1, -1, -1, -1, 32), "pictures": picture,
              "barlow": picture.expand(-1, 3, -1, -1)}[kind]  # fmt: skip
    return MaskedModelling(network, mask_size=8), images.contiguous()


KINDS = pytest.mark.parametrize("kind", ["volumes", "pictures", "barlow"])


def test_masks_hide_the_same_number_of_patches_anywhere():
    torch.manual_seed(0)
    masks = draw_masks(64, (4, 5), 0.6)
    assert masks.shape == (64, 4, 5)
    assert masks.flatten(1).sum(1).unique().tolist() == [12]
    often = masks.float().mean(0)
    assert 0.35 < often.min() < often.max() < 0.85
    assert draw_masks(3, (1, 2), 0.01).sum() == 3
    assert draw_masks(3, (1, 2), 0.99).sum() == 3


def test_only_hidden_voxels_count():
    image, mask = torch.zeros(1, 2, 4, 4, dtype=torch.float64), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., :2, :2] = True
    restored = torch.where(mask, 0.25, 7.0).expand(1, 2, 4, 4).double().requires_grad_()
    loss = masked_l1(restored, image, mask)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert torch.equal(restored.grad != 0, mask.expand(1, 2, 4, 4))


def test_unfolding_is_pytorchs_pixel_shuffle_and_its_like_in_three_dimensions():
    flat = torch.arange(2 * 3 * 16 * 2 * 5, dtype=torch.float32).view(2, 48, 2, 5)
    assert torch.equal(_unfolded(flat, 3), nn.functional.pixel_shuffle(flat, 4))
    folded = torch.zeros(1, 2 * 8, 2, 2, 2)
    folded[0, 8 + 0b101, 1, 0, 1] = 1  # second channel, offsets 1, 0, 1 within the feature at 1, 0, 1
    assert _unfolded(folded, 2).nonzero().tolist() == [[0, 1, 3, 0, 3]]


@KINDS
def test_hidden_voxels_do_not_reach_the_encoder_and_the_network_stays_clean(kind):
    objective, images = _case(kind)
    mask = torch.zeros(2, 1, *images.shape[2:], dtype=torch.bool)
    mask[:, :, :8] = True
    other = torch.where(mask, 1 - images, images)
    with torch.no_grad():
        plain = objective._deepest(images)
        assert not torch.equal(objective._deepest(other), plain)
        restored = objective.restore(images, mask)
        assert restored.shape == images.shape
        assert torch.equal(objective.restore(other, mask), restored)
        objective.token.add_(1)
        assert not torch.equal(objective.restore(images, mask), restored)
        # no hook is left behind
        assert torch.equal(objective._deepest(images), plain)


@KINDS
def test_gradients_reach_encoder_token_and_head_and_not_the_decoder(kind):
    objective, images = _case(kind)
    objective(images).backward()
    part = "encoder." if kind == "barlow" else "swinViT."
    for name, parameter in objective.network.named_parameters():
        inside = name.startswith(part)
        assert (parameter.grad is not None and bool(parameter.grad.abs().max() > 0)) == inside, name
    assert bool(objective.token.grad.abs().max() > 0)
    assert bool(objective.head.weight.grad.abs().max() > 0)


@pytest.mark.parametrize("kind", ["pictures", "barlow"])
def test_masked_modelling_is_learnt(kind):
    objective, images = _case(kind)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3)
    losses = []
    for step in range(10):
        torch.manual_seed(step)
        loss = objective(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_one_seed_gives_one_loss_and_a_copy_uses_its_own_network():
    objective, images = _case("barlow")
    twin = copy.deepcopy(objective)
    losses = []
    with torch.no_grad():
        for one, seed in ((objective, 1), (twin, 1), (objective, 2)):
            torch.manual_seed(seed)
            losses.append(float(one(images)))
        assert losses[0] == losses[1] != losses[2]
        objective.network.encoder.embed.weight.zero_()
        torch.manual_seed(1)
        assert float(twin(images)) == losses[0]


def test_what_cannot_be_used():
    with pytest.raises(
        BundleError, match="Found a Linear; masked modelling supports the encoders of SwinUNETR and Barlow"
    ):
        MaskedModelling(nn.Linear(2, 2))
    for size, ratio in ((6, 0.6), (2, 0.6), (8, 0.0), (8, 1.0)):
        with pytest.raises(
            BundleError, match=f"mask_size {size} and ratio {ratio:g}; a multiple of the token's 4 voxels"
        ):
            MaskedModelling(_barlow(), size, ratio)
    objective, images = _case("pictures")
    with pytest.raises(ShapeError, match=r"images of \(64, 48\); sides must be multiples of 32"):
        objective(images[..., :48])
    with pytest.raises(ShapeError, match="hold more than one patch of 64"):
        MaskedModelling(_swin(2), 64)(images)
    with pytest.raises(ShapeError, match="with 1 channel"):
        objective(images.expand(-1, 2, -1, -1))
    with pytest.raises(ImageError, match="images from -1 to 0; 0 to 1 is needed"):
        objective(images - 1)
