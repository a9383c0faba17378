"""The small-organ loss: closed forms, gradients in fp64, half precision, absent organs, mistakes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medvit.errors import ShapeError
from medvit.training.objectives.segmentation_losses import focal_tversky, focal_tversky_ce, weighted_dice_ce


def _drawn(*spatial: int, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *spatial, generator=g, dtype=torch.float64)
    return logits, torch.randint(0, classes - 1, (2, 1, *spatial), generator=g)  # the last class is absent


def test_closed_form_of_even_probabilities():
    """Two classes at probability 1/2 on 8 voxels, 2 of them organ: TP 1, FN 1, FP 3."""
    labels = torch.zeros(1, 1, 2, 2, 2, dtype=torch.int64)
    labels[0, 0, 0, 0] = 1
    logits = torch.zeros(1, 2, 2, 2, 2, dtype=torch.float64)
    for alpha, beta, gamma in ((0.7, 0.3, 4 / 3), (0.9, 0.1, 1.0), (0.5, 0.5, 2.0)):
        index = 1 / (1 + alpha * 1 + beta * 3)
        found = focal_tversky(logits, labels, alpha, beta, gamma)
        assert found.item() == pytest.approx((1 - index) ** (1 / gamma), rel=1e-6)


def test_even_weights_without_focus_are_dice_over_the_organs_present():
    logits, labels = _drawn(4, 5, 6)
    p, truth = logits.softmax(1), F.one_hot(labels[:, 0], 4).movedim(-1, 1)
    dice = [2 * (p * truth)[:, c].sum() / (p[:, c].sum() + truth[:, c].sum()) for c in (1, 2)]
    assert focal_tversky(logits, labels, 0.5, 0.5, 1.0).item() == pytest.approx(1 - float(sum(dice)) / 2, abs=1e-6)


def test_a_missed_voxel_is_dearer_than_a_spare_one():
    labels = torch.zeros(1, 1, 6, 6, dtype=torch.int64)
    labels[..., 2:4, 2:4] = 1
    fewer, more = labels.clone(), labels.clone()
    fewer[..., 2, 2], more[..., 2, 4] = 0, 1
    sure = [F.one_hot(x[:, 0], 2).movedim(-1, 1).double() * 40 for x in (fewer, more)]
    missed, spare = (float(focal_tversky(x, labels)) for x in sure)
    assert missed > spare > 0


@pytest.mark.parametrize("spatial", [(3, 4), (2, 3, 3)])
@pytest.mark.parametrize("loss", [focal_tversky, focal_tversky_ce])
def test_gradients_by_finite_differences(loss, spatial):
    logits, labels = _drawn(*spatial)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.requires_grad_())


def test_a_perfect_organ_costs_nothing_and_has_a_finite_gradient():
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int64)
    labels[..., 2:] = 1
    sure = (F.one_hot(labels[:, 0], 2).movedim(-1, 1).float() * 200).requires_grad_()
    loss = focal_tversky(sure, labels)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-7)
    assert bool(torch.isfinite(sure.grad).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_more_voxels_than_fp16_can_count(dtype):
    logits, labels = _drawn(48, 48, 48)
    rounded = logits.to(dtype).requires_grad_()
    for loss in (focal_tversky, focal_tversky_ce):
        found, exact = loss(rounded, labels), loss(rounded.detach().double(), labels)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(exact.item(), rel=1e-5)
    loss(rounded, labels).backward()
    assert bool(torch.isfinite(rounded.grad).all())


def test_gradient_in_float32_points_where_that_in_float64_does():
    logits, labels = _drawn(6, 7, 8)
    grads = []
    for dtype in (torch.float32, torch.float64):
        x = logits.to(dtype).requires_grad_()
        focal_tversky_ce(x, labels).backward()
        grads.append(x.grad.double())
    assert float((grads[0] - grads[1]).norm() / grads[1].norm()) < 1e-5


def test_absent_organs_do_not_count_and_no_organ_at_all_is_zero():
    logits, labels = _drawn(4, 4, 4)
    shifted = logits.clone()
    shifted[:, 3] -= 50
    # with class 3 silenced, the others are those of a network that has no class 3
    assert focal_tversky(shifted, labels).item() == pytest.approx(focal_tversky(logits[:, :3], labels).item())
    none = logits.requires_grad_()
    found = focal_tversky(none, torch.zeros_like(labels))
    found.backward()
    assert found.item() == 0
    assert torch.equal(none.grad, torch.zeros_like(none))
    assert torch.isfinite(focal_tversky_ce(logits, torch.zeros_like(labels)))


def test_the_same_cross_entropy_stands_beside_dice_and_tversky():
    logits, labels = _drawn(4, 4, 4)
    for weight in (0.1, 1.0):
        beside_dice = weighted_dice_ce(logits, labels, weight) - weighted_dice_ce(logits, labels, 0.5)
        beside = focal_tversky_ce(logits, labels, weight) - focal_tversky_ce(logits, labels, 0.5)
        assert beside.item() == pytest.approx(beside_dice.item())


def test_what_does_not_fit_is_named():
    logits, labels = _drawn(4, 4, 4)
    for wrong in (labels[:, 0], labels[..., :3]):
        with pytest.raises(ShapeError, match=r"Found labels of shape .* for logits of \(2, 4, 4, 4, 4\)"):
            focal_tversky(logits, wrong)
    with pytest.raises(ShapeError, match=r"label ids from 2 to 4; the logits have classes 0\.\.3"):
        focal_tversky_ce(logits, labels + 2)
    for name, value in (("alpha", 0.0), ("beta", -0.1), ("gamma", 0.5)):
        with pytest.raises(ShapeError, match=f"{name} = {value:g}.*The paper uses 0.7, 0.3 and 4/3"):
            focal_tversky(logits, labels, **{name: value})


def test_every_light_class_weighs_what_background_weighs():
    logits, labels = _drawn(5, 4, 3)
    for loss in (weighted_dice_ce, focal_tversky_ce):
        plain, light = loss(logits, labels, 1.0), loss(logits, labels, 0.2, light=(0, 2))
        weight = torch.tensor([0.2, 1.0, 0.2, 1.0], dtype=torch.float64)
        shift = F.cross_entropy(logits, labels[:, 0], weight=weight) - F.cross_entropy(logits, labels[:, 0])
        assert float(light - plain) == pytest.approx(float(shift), rel=1e-9)


def _partly(labels: torch.Tensor, unknown: dict[int, list[int]], classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove classes from the labels of single samples, as an annotator who did not draw them would have."""
    annotated, kept = torch.ones(len(labels), classes, dtype=torch.bool), labels.clone()
    for sample, organs in unknown.items():
        for organ in organs:
            annotated[sample, organ] = False
            kept[sample][kept[sample] == organ] = 0
    return kept, annotated


@pytest.mark.parametrize("loss", [weighted_dice_ce, focal_tversky_ce])
def test_with_all_classes_annotated_the_marginal_loss_is_the_full_one(loss):
    logits, labels = _drawn(3, 4, 5)
    one, other = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    full, marginal = loss(one, labels), loss(other, labels, annotated=torch.ones(2, 4, dtype=torch.bool))
    full.backward()
    marginal.backward()
    assert marginal.item() == pytest.approx(full.item(), rel=1e-12)
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-10, atol=1e-14)


def test_marginal_cross_entropy_and_dice_are_those_of_the_merged_classes():
    """Shi et al., section 3.2: background's probability is the sum of its own and of the classes not annotated."""
    logits, labels = _drawn(3, 4, 5, classes=4)
    kept, annotated = _partly(labels, {0: [2], 1: [1, 3]})
    p = logits.softmax(1)
    weighed, weights = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    overlap, total, held = [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    for n in range(2):
        merged = [c for c in range(1, 4) if not annotated[n, c]]
        background = p[n, 0] + p[n, merged].sum(0)
        for c in range(4):
            here = kept[n, 0] == c
            chance = background if c == 0 else p[n, c]
            weight = 0.1 if c == 0 else 1.0
            weighed, weights = weighed - weight * chance[here].log().sum(), weights + weight * float(here.sum())
            if c and annotated[n, c]:
                overlap[c] += chance[here].sum()
                total[c] += chance.sum() + float(here.sum())
                held[c] += float(here.sum())
    dice = [1 - 2 * overlap[c] / (total[c] + 1e-5) for c in range(1, 4) if held[c]]
    expected = weighed / weights + sum(dice) / len(dice)
    assert weighted_dice_ce(logits, kept, annotated=annotated).item() == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("loss", [weighted_dice_ce, focal_tversky_ce])
def test_an_organ_that_was_not_annotated_may_be_found_or_not_without_a_cost(loss):
    _, labels = _drawn(4, 4, 4)
    kept, annotated = _partly(labels, {0: [1], 1: [1]})
    sure = [F.one_hot(x[:, 0], 4).movedim(-1, 1).double() * 40 for x in (labels, kept)]
    found, not_found = (float(loss(x, kept, annotated=annotated)) for x in sure)
    assert found == pytest.approx(not_found, abs=1e-6)
    assert float(loss(sure[0], kept)) > found + 0.1  # the full loss takes it for background


@pytest.mark.parametrize("loss", [weighted_dice_ce, focal_tversky_ce])
def test_gradients_of_the_marginal_loss_by_finite_differences(loss):
    logits, labels = _drawn(2, 3, 3)
    kept, annotated = _partly(labels, {0: [2], 1: [1, 3]})
    assert torch.autograd.gradcheck(lambda x: loss(x, kept, annotated=annotated), logits.requires_grad_())


def test_the_marginal_loss_stays_finite_where_logits_are_large():
    _, labels = _drawn(4, 4, 4)
    kept, annotated = _partly(labels, {0: [1], 1: [1, 2]})
    wrong = (F.one_hot((labels[:, 0] + 1) % 4, 4).movedim(-1, 1).float() * 300).requires_grad_()
    weighted_dice_ce(wrong, kept, annotated=annotated).backward()
    assert bool(torch.isfinite(wrong.grad).all())


def test_annotated_classes_of_another_shape_are_refused():
    logits, labels = _drawn(2, 3)
    for annotated in (torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 4)):
        with pytest.raises(ShapeError, match=r"booleans of shape \(batch, class\) are needed. Give one for each class"):
            weighted_dice_ce(logits, labels, annotated=annotated)
