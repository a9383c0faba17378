"""The losses of two views: published numbers, limits that are known, gradients, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import ShapeError
from medvit.training.objectives.two_view_losses import view_agreement, view_losses


def test_reference_numbers(shared):
    with np.load(shared / "parity" / "swin_x2s_f4_32x32x64.npz") as file:
        logits = [torch.from_numpy(file[name].astype(np.float64)) for name in ("out_cor", "out_sag")]
        found = view_losses(logits, torch.from_numpy(file["label"]))
        assert np.abs(found.labels.numpy() - file["loss_self"]).max() < 1e-6
        assert np.abs(found.agreement.numpy() - file["loss_mutual"]).max() < 1e-6
        assert abs(float(found.total) - float(file["loss_total"])) < 1e-6


def test_equals_monais_dice_ce(rng):
    from monai.losses import DiceCELoss

    logits = [torch.from_numpy(rng.normal(size=(2, 4, 5, 6, 7))) for _ in range(2)]
    labels = torch.from_numpy(rng.integers(0, 3, (2, 1, 5, 6, 7)))  # class 3 is absent
    judge = DiceCELoss(to_onehot_y=True, softmax=True)
    for own, view in zip(view_losses(logits, labels).labels, logits, strict=True):
        assert float(own) == pytest.approx(float(judge(view, labels)))


def test_views_that_agree_and_are_right_cost_nothing():
    labels = torch.zeros(1, 1, 4, 4, 4, dtype=torch.int64)
    labels[..., 2:] = 1
    sure = torch.nn.functional.one_hot(labels[:, 0], 2).movedim(-1, 1).double() * 40
    found = view_losses([sure, sure], labels)
    assert float(found.total) < 1e-6
    against = view_losses([sure, -sure], labels)
    assert against.agreement.min() > 10 and against.labels[1] > 20


def test_agreement_is_a_divergence(rng):
    a, b = (torch.from_numpy(rng.normal(size=(1, 3, 2, 2, 2))) for _ in range(2))
    p, q = a.softmax(1), b.softmax(1)
    assert float(view_agreement([a, b])[0]) == pytest.approx(float((q * (q / p).log()).mean()))
    assert view_agreement([a, b]).min() > 0
    assert view_agreement([a, a]).abs().max() < 1e-12
    assert (view_agreement([a + 5, b]) - view_agreement([a, b])).abs().max() < 1e-12
    extreme = view_agreement([a * 1000, b * 1000])
    assert bool(torch.isfinite(extreme).all())


def test_gradients(rng):
    logits = [torch.from_numpy(rng.normal(size=(1, 3, 2, 2, 3))).requires_grad_() for _ in range(2)]
    labels = torch.from_numpy(rng.integers(0, 3, (1, 1, 2, 2, 3)))
    assert torch.autograd.gradcheck(lambda a, b: view_losses([a, b], labels).total, logits)


def test_shapes_and_ids_that_do_not_fit():
    view, labels = torch.zeros(1, 3, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    with pytest.raises(ShapeError, match="two or more views of one shape"):
        view_losses([view], labels)
    with pytest.raises(ShapeError, match="two or more views of one shape"):
        view_agreement([view, view[..., :1]])
    with pytest.raises(ShapeError, match=r"labels of shape \(1, 2, 2, 2\) for logits of \(1, 3, 2, 2, 2\)"):
        view_losses([view, view], labels[0])
    with pytest.raises(ShapeError, match=r"label ids from 0 to 3; the logits have classes 0\.\.2"):
        view_losses([view, view], labels + torch.tensor([0, 3.0]))
