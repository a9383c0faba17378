"""Pre-training without labels, each fault of the published notebook ruled out by a test of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import ImageError, ShapeError
from medvit.segmentation import BarlowSwin
from medvit.training.objectives import split_by_picture
from medvit.training.objectives.barlow_twins import BarlowTwins, ViewSettings, barlow_twins_loss, to_unit, two_views
from medvit.training.objectives.segmentation_losses import bce_dice


def _twins(**options: float) -> BarlowTwins:
    torch.manual_seed(0)
    return BarlowTwins(BarlowSwin(embed_dim=16, image_size=(64, 64)), hidden=32, **options)


def _pictures(count: int = 8, size: int = 64) -> torch.Tensor:
    return (torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2)) * 255).to(torch.uint8)


def test_reference_losses(shared):
    with np.load(shared / "parity" / "barlow_swin_keras_e16_128x192.npz") as arrays:
        stored = {name: torch.from_numpy(arrays[name]) for name in ("bt_z_a", "bt_z_b", "out_logit_nhwc", "target")}
        twins, supervised = float(arrays["bt_loss_lambda5e-3"]), float(arrays["loss_bce_dice"])
    assert barlow_twins_loss(stored["bt_z_a"], stored["bt_z_b"]).item() == pytest.approx(twins, abs=1e-5)
    logits, target = (stored[name].permute(0, 3, 1, 2) for name in ("out_logit_nhwc", "target"))
    assert bce_dice(logits, target).item() == pytest.approx(supervised, abs=1e-6)


def test_bce_dice_refuses_shapes_that_would_broadcast():
    with pytest.raises(ShapeError, match=r"logits of \(2, 1, 8, 8\) and a target of \(2, 8, 8\)"):
        bce_dice(torch.zeros(2, 1, 8, 8), torch.zeros(2, 8, 8))
    assert bool(torch.isfinite(bce_dice(torch.full((1, 1, 4, 4), -99.0), torch.zeros(1, 1, 4, 4))))


def test_the_loss_is_lowest_for_equal_views_with_independent_features():
    z, _ = torch.linalg.qr(torch.randn(16, 5, generator=torch.Generator().manual_seed(0)) - 0.0)
    z = z - z.mean(0)
    z, _ = torch.linalg.qr(z)
    assert barlow_twins_loss(z, z).item() == pytest.approx(0, abs=1e-5)
    assert barlow_twins_loss(z, z.flip(0)).item() > 1


def test_a_constant_feature_spoils_nothing():
    z = torch.randn(8, 4)
    z[:, 2] = 3.0
    z.requires_grad_()
    loss = barlow_twins_loss(z, z)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(z.grad).all())


def test_a_batch_of_one_is_named():
    with pytest.raises(ShapeError, match=r"projections of \(1, 8\) and \(1, 8\).*a batch of at least 2"):
        barlow_twins_loss(torch.zeros(1, 8), torch.zeros(1, 8))


# fault: rotated copies made before the random split


def test_all_copies_of_a_picture_are_on_one_side():
    copies = [f"cell{n}_{angle}" for n in range(200) for angle in (0, 90, 180, 270)]
    training, held = split_by_picture(copies, picture=lambda name: name.rsplit("_", 1)[0])
    sources = [{name.rsplit("_", 1)[0] for name in side} for side in (training, held)]
    assert not sources[0] & sources[1]
    assert 0.08 < len(held) / len(copies) < 0.22
    assert len(training) + len(held) == len(copies)


def test_the_split_does_not_move_when_pictures_are_added():
    few, many = ([f"p{n}" for n in range(count)] for count in (50, 90))
    held = set(split_by_picture(few)[1])
    assert held == set(split_by_picture(reversed(many))[1]) & set(few)


# fault: inputs divided by 255 twice


def test_pictures_are_scaled_once():
    raw = _pictures()
    unit = to_unit(raw)
    assert unit.dtype == torch.float32
    assert float(unit.max()) > 0.9
    assert torch.equal(to_unit(unit), unit)
    same = ViewSettings(crop=1.0, rotation_deg=0.0)
    for given in (raw, unit):
        view, _ = two_views(given, same, torch.Generator().manual_seed(0))
        distance = torch.minimum((view - unit).abs().amax((1, 2, 3)), (view - unit.flip(3)).abs().amax((1, 2, 3)))
        assert float(distance.max()) < 1e-5


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.full((1, 3, 4, 4), 200.0), "floats from 200 to 200; 0 to 1 is needed. Give uint8, or divide by 255 once"),
        (torch.full((1, 3, 4, 4), float("nan")), "floats from nan to nan"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.int64), "pictures of torch.int64; uint8, or floats in 0..1"),
    ],
)  # fmt: skip
def test_other_ranges_are_named(images, message):
    with pytest.raises(ImageError, match=message):
        to_unit(images)


# fault: relative-position tables never trained; λ and the weight penalty never reaching the loss


def test_pretraining_moves_the_tables_and_the_whole_encoder():
    twins = _twins()
    before = {name: p.detach().clone() for name, p in twins.named_parameters()}
    optimizer = torch.optim.SGD(twins.parameters(), lr=0.05, momentum=0.9)
    for step in range(4):
        optimizer.zero_grad()
        twins(*two_views(_pictures(4), generator=torch.Generator().manual_seed(step))).backward()
        optimizer.step()
    still = [name for name, p in twins.named_parameters() if torch.equal(p, before[name])]
    assert not [name for name in still if name.endswith(("relative_position_bias_table", "positions", "weight"))]


def test_lambda_reaches_the_loss():
    views = two_views(_pictures(4), generator=torch.Generator().manual_seed(0))
    small, large = (_twins(off_diagonal=value, weight_penalty=0.0) for value in (0.0, 0.5))
    z_a, z_b = (small.project(view).detach() for view in views)
    apart = barlow_twins_loss(z_a, z_b, 0.5) - barlow_twins_loss(z_a, z_b, 0.0)
    assert float(apart) > 0.01
    assert (large(*views) - small(*views)).item() == pytest.approx(float(apart), rel=1e-3)


def test_the_weight_penalty_reaches_loss_and_gradients():
    views = two_views(_pictures(4), generator=torch.Generator().manual_seed(0))
    without, with_it = _twins(weight_penalty=0.0), _twins(weight_penalty=0.1)
    squares = sum(float(with_it.projector[n].weight.square().sum()) for n in (0, 3))
    assert (with_it(*views) - without(*views)).item() == pytest.approx(0.1 * squares, rel=1e-3)
    for twins in (without, with_it):
        twins(*views).backward()
    extra = with_it.projector[0].weight.grad - without.projector[0].weight.grad
    assert torch.allclose(extra, 0.2 * with_it.projector[0].weight, atol=1e-4)


def test_published_projector():
    """The projector is that of docs/models.md: average pool, twice Dense 256, BN, ReLU, then Dense 256."""
    twins = BarlowTwins(BarlowSwin())
    shapes = [
        tuple(p.shape) for name, p in twins.projector.named_parameters() if name.endswith("weight") and p.ndim == 2
    ]
    assert shapes == [(256, 384), (256, 256), (256, 256)]
    assert twins.off_diagonal == 5e-3


# views


def test_views_are_independent_repeatable_and_in_range():
    images = _pictures()
    a, b = two_views(images, generator=torch.Generator().manual_seed(5))
    again, _ = two_views(images, generator=torch.Generator().manual_seed(5))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert a.shape == images.shape
    assert float(a.min()) >= 0
    assert float(a.max()) <= 1


def test_a_rotation_turns_without_stretching_a_picture_that_is_not_square():
    """A disc stays a disc: its two extents stay equal in pixels."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(120.0), indexing="ij")
    disc = (((y - 29.5) ** 2 + (x - 59.5) ** 2) < 15**2).float()[None, None].repeat(6, 1, 1, 1)
    view, _ = two_views(disc, ViewSettings(crop=1.0, rotation_deg=40.0, rotated=1.0), torch.Generator().manual_seed(1))
    for picture in view[:, 0] > 0.5:
        rows, columns = (int(picture.any(axis).sum()) for axis in (1, 0))
        assert abs(rows - columns) <= 2
        assert abs(rows - 30) <= 2
