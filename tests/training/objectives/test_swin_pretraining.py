"""Turns that are turns, boxes that are cut, contrast by hand, encoders that learn without labels, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medvit.errors import BundleError, ImageError, ShapeError
from medvit.segmentation import BarlowSwin, SwinUNETR
from medvit.training.loop import LoopSettings, TrainingLoop, start_from
from medvit.training.objectives import PictureObjective, SwinPretraining, SwinTasks, TwinsObjective
from medvit.training.objectives.barlow_twins import barlow_twins_loss, two_views
from medvit.training.objectives.swin_pretraining import cut_out, nt_xent, quarter_turned


def _objective(seed: int = 0, **tasks: float) -> SwinPretraining:
    torch.manual_seed(seed)
    network = SwinUNETR(1, 3, feature_size=12, window_size=4, depths=(1, 1, 1, 1))
    return SwinPretraining(network, SwinTasks(features=16, **tasks))


def _volumes(side: int = 32) -> Tensor:
    """Two volumes whose turns can be seen: a ramp, and a bright rod off the middle."""
    ramp = torch.linspace(0, 1, side).view(side, 1, 1).expand(side, side, 32)
    rod = torch.zeros(side, side, 32)
    rod[4:9, 16:26] = 1
    return torch.stack([ramp, rod])[:, None].contiguous()


def _learn(objective: torch.nn.Module, batch: Tensor, steps: int, rate: float) -> tuple[float, float]:
    """Return the loss for one fixed draw, before and after the steps."""

    def judged() -> float:
        torch.manual_seed(99)
        with torch.no_grad():
            return float(objective(batch))

    optimizer = torch.optim.AdamW(objective.parameters(), lr=rate)
    before = judged()
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        objective(batch).backward()
        optimizer.step()
    return before, judged()


def test_a_quarter_turn_moves_the_first_axis_to_the_second():
    """A voxel on the positive first axis lies on the positive second one afterwards, and k never moves."""
    volume = torch.zeros(1, 1, 5, 5, 3)
    volume[0, 0, 4, 2, 1] = 1
    places = [(4, 2), (2, 4), (0, 2), (2, 0)]
    turned = quarter_turned(volume.expand(4, -1, -1, -1, -1), torch.arange(4))
    for copy, (i, j) in zip(turned, places, strict=True):
        assert copy[0].nonzero().tolist() == [[i, j, 1]]


def test_rotation_targets_are_the_turns_that_the_encoder_sees():
    """Turning back by the target gives the volumes again, and it is the target that the rotation loss asks for."""
    objective, volumes = _objective(), _volumes()
    objective.rotation.weight.data.zero_()
    objective.rotation.bias.data = torch.tensor([0.0, 0.0, 30.0, 0.0])  # sure of two quarter turns, whatever it sees
    drawn = set()
    for seed in range(4):
        torch.manual_seed(seed)
        views = objective.views(volumes)
        assert torch.equal(quarter_turned(views.whole, (4 - views.turns) % 4), torch.cat([volumes, volumes]))
        assert float((views.seen == views.whole).float().mean()) < 0.75
        torch.manual_seed(seed)
        with torch.no_grad():
            rotation = objective.losses(volumes).rotation
        assert rotation.item() == pytest.approx(30 * float((views.turns != 2).float().mean()), abs=1e-4)
        drawn |= set(views.turns.tolist())
    assert drawn == {0, 1, 2, 3}


def test_cut_outs_cover_their_share_and_leave_the_rest():
    torch.manual_seed(0)
    volumes = torch.full((3, 1, 32, 32, 48), 2.0)  # noise is within 0..1, so a 2 is untouched
    cut = cut_out(volumes, 0.3, 0.25)
    shares = (cut != 2).float().mean((1, 2, 3, 4))
    assert shares.min() >= 0.3
    assert shares.max() < 0.3 + 0.25**3
    assert 0 <= float(cut[cut != 2].min()) <= float(cut[cut != 2].max()) <= 1
    masks = [tuple((c != 2).flatten().tolist()) for c in cut]
    assert len(set(masks)) == 3
    assert torch.equal(cut_out(volumes, 0.0, 0.25), volumes)


def test_contrast_by_hand():
    """Equal views of two volumes at right angles: one cosine of 1 among two of 0."""
    z = torch.eye(2, dtype=torch.float64)
    for temperature in (0.5, 0.1):
        wanted = -math.log(math.exp(1 / temperature) / (math.exp(1 / temperature) + 2))
        assert nt_xent(3 * z, 7 * z, temperature).item() == pytest.approx(wanted)
        assert nt_xent(z, z.flip(0), temperature).item() == pytest.approx(math.log(math.exp(1 / temperature) + 2))


def test_contrast_gradients_and_half_precision():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(3, 5, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(nt_xent, (a, b))
    with torch.autocast("cpu", torch.bfloat16):
        half = nt_xent(a.float(), b.float(), 0.05)
    assert half.item() == pytest.approx(nt_xent(a, b, 0.05).item(), rel=1e-5)
    assert nt_xent(a.half() * 300, b.half() * 300).item() == pytest.approx(nt_xent(a, b).item(), rel=1e-3)
    with pytest.raises(ShapeError, match=r"vectors of \(1, 5\) and \(1, 5\).*Give larger batches"):
        nt_xent(a[:1], b[:1])


def test_all_three_losses_reach_the_encoder_and_none_the_decoder():
    objective = _objective()
    losses = objective.losses(_volumes())
    encoder = list(objective.network.swinViT.parameters())
    for loss in losses:
        grads = torch.autograd.grad(loss, encoder, retain_graph=True, allow_unused=True)
        assert sum(g is not None and bool(g.abs().max() > 0) for g in grads) > 0.9 * len(encoder)
    sum(losses).backward()
    assert all(p.grad is None for n, p in objective.network.named_parameters() if not n.startswith("swinViT"))
    assert all(bool(p.grad.abs().max() > 0) for head in (objective.rotation, objective.inpainting, objective.contrast)
               for p in head.parameters() if p.ndim > 1)  # fmt: skip


def test_weights_weigh_and_one_seed_gives_one_loss():
    weighted, volumes = _objective(inpainting=2.0, rotation=0.5, contrast=0.25), _volumes()
    torch.manual_seed(5)
    with torch.no_grad():
        inpainting, rotation, contrast = weighted.losses(volumes)
        torch.manual_seed(5)
        total = weighted(volumes)
        torch.manual_seed(6)
        other = weighted(volumes)
    assert total.item() == pytest.approx(float(2 * inpainting + 0.5 * rotation + 0.25 * contrast), rel=1e-6)
    assert other.item() != total.item()


def test_the_three_tasks_are_learnt():
    before, after = _learn(_objective(), _volumes(), 6, 1e-3)
    assert after < before - 0.1


def test_averaged_weights_fit_the_whole_network():
    objective = _objective()
    state = objective.network.state_dict()
    assert objective.finish(state) is state
    fresh = SwinUNETR(1, 3, feature_size=12, window_size=4, depths=(1, 1, 1, 1))
    fresh.load_state_dict(state)


def test_volumes_that_cannot_be_used():
    objective, good = _objective(), _volumes()
    for wrong, message in (
        (good[:1], "batch of one volume; at least 2 are needed.*Raise batch_size"),
        (good[:, :, :16], r"\(16, 32, 32\) voxels; the first two sides must be equal"),
        (good[..., :24], r"\(32, 32, 24\) voxels; sides must be multiples of 32"),
        (good[:, :, 0], r"\(batch, channel, depth, height, width\) with 1 channel"),
    ):
        with pytest.raises(ShapeError, match=message):
            objective(wrong)
    with pytest.raises(ImageError, match="images from -1000 to 0; 0 to 1 is needed"):
        objective((good - 1) * 1000)
    with pytest.raises(ImageError, match="NaN or infinite"):
        objective(good / 0)


def test_settings_and_networks_that_cannot_be_used():
    for wrong in (
        {"cut_share": 1.0}, {"cut_side": 0.01}, {"temperature": 0.0}, {"features": 0}, {"contrast": -1.0},
    ):  # fmt: skip
        with pytest.raises(
            BundleError, match=rf"Found SwinTasks.{next(iter(wrong))} = .*Correct the config of the bundle"
        ):
            SwinTasks(**wrong)
    with pytest.raises(
        BundleError, match="do not fit together; one of inpainting, rotation and contrast must be above"
    ):
        SwinTasks(inpainting=0.0, rotation=0.0, contrast=0.0)
    flat = SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1, 1, 1, 1))
    with pytest.raises(ShapeError, match="SwinUNETR for pictures.*masked modelling"):
        SwinPretraining(flat)


def _twins() -> TwinsObjective:
    torch.manual_seed(0)
    return TwinsObjective(BarlowSwin(embed_dim=16, depths=(1, 1, 1), image_size=(64, 64)), hidden=16)


def test_twins_learn_in_the_encoder_alone_and_repeat():
    objective = _twins()
    g = torch.Generator().manual_seed(1)
    pictures = torch.rand(4, 3, 8, 8, generator=g).repeat_interleave(8, 2).repeat_interleave(8, 3)
    encoder = objective.network.encoder.embed.weight.detach().clone()
    head = objective.network.head[0].weight.detach().clone()
    before, after = _learn(objective, pictures, 12, 2e-3)
    assert after < 0.9 * before
    assert not torch.equal(objective.network.encoder.embed.weight, encoder)
    assert torch.equal(objective.network.head[0].weight, head)
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(float(objective.eval()(pictures).detach()))
    assert losses[0] == losses[1] != losses[2]


def test_training_from_twins_takes_the_encoder_and_keeps_its_own_decoder_and_the_start_of_its_head(tmp_path):
    class Pictures:
        def batch(self, size: int) -> tuple[Tensor]:
            return (torch.rand(size, 3, 64, 64),)

        def reseed(self, seed: object) -> None:
            pass

    run = TrainingLoop(
        _twins(),
        Pictures(),
        LoopSettings(steps=1, cooldown_steps=1, warmup_steps=0, batch_size=4, ema_decay=0.0),
        tmp_path,
    )
    encoder = {f"encoder.{key}": value for key, value in run.network.encoder.state_dict().items()}
    assert run.run().keys() == encoder.keys()
    network = BarlowSwin(embed_dim=16, depths=(1, 1, 1), image_size=(64, 64))
    PictureObjective(network, head_start=(4.0, -2.0))
    decoder = network.decoder[0].body[0][0].weight.detach().clone()
    assert "newly drawn: decoder.0." in str(start_from(network, str(run.checkpoint)))
    found = network.state_dict()
    assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in encoder.items())
    assert torch.equal(network.decoder[0].body[0][0].weight, decoder)
    assert (network.head[-1].weight.item(), network.head[-1].bias.item()) == (4.0, -2.0)
    # a killed run goes on with the encoder's average alone
    run = TrainingLoop(
        _twins(), Pictures(), LoopSettings(steps=2, cooldown_steps=1, warmup_steps=0, batch_size=4), tmp_path
    )
    assert run.run().keys() == encoder.keys()
    assert run.step == 2


def test_twins_are_the_published_loss_also_in_mixed_precision():
    objective = _twins().eval()
    pictures = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(7)
    plain = objective(pictures)
    torch.manual_seed(7)
    assert plain.item() == pytest.approx(objective.twins(*two_views(pictures)).item())
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = objective(pictures)
        torch.manual_seed(7)
        half = [objective.twins.project(view) for view in two_views(pictures)]
    # the projections are rounded, what is made of them is not
    assert half[0].dtype == torch.bfloat16
    exact = barlow_twins_loss(half[0].double(), half[1].double()) + objective.twins.penalty()
    assert mixed.item() == pytest.approx(exact.item(), rel=1e-4)
    with pytest.raises(ShapeError, match="a batch of at least 2"):
        objective(pictures[:1])
    with pytest.raises(ImageError, match="floats from .* to .*; 0 to 1 is needed"):
        objective(pictures * 255)
