from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer

from medvit.errors import BackendError, ShapeError
from medvit.inference import SlidingWindow
from medvit.progress import Cancelled, Progress


def _network(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.square(), -x], 1)


def _body(*shape: int, seed: int = 0) -> torch.Tensor:
    """An image that is constant but for an ellipsoid, as a scan with air around the patient."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    for axis, n in enumerate(shape[2:], 2):
        view = [1] * len(shape)
        view[axis] = n
        image[(torch.linspace(-2.5, 2.5, n).abs().view(view) > 1).expand(shape)] = 0.25
    return image


class Context(torch.nn.Module):
    """Depends on every voxel of a window, as instance norm does; counts the windows it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(x))
        ramp = torch.linspace(0, 1, x.shape[-1])
        x = x.contiguous()  # MONAI passes views, whose sums are in another order
        low = x - x.mean(tuple(range(1, x.ndim)), keepdim=True)
        return torch.cat([low, x.square() + ramp, 1 - low * ramp], 1)


SIZES = [(50, 41, 37), (16, 16, 16), (9, 40, 16), (48, 32, 17), (50, 41), (16, 12), (7, 5), (33, 70)]


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("spatial", SIZES)
def test_same_voxels_as_monai_at_equal_settings(spatial, mode):
    image = _body(2, 1, *spatial)
    for overlap, batch in itertools.product((0, 0.25, 0.5, 0.625), (1, 2, 3)):
        roi = (16, 12, 17)[: len(spatial)]
        ours = SlidingWindow(roi, overlap, mode=mode, sw_batch_size=batch)(image, Context())
        theirs = SlidingWindowInferer(roi, batch, overlap, mode)(image, Context())
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), (overlap, batch)


@pytest.mark.parametrize(
    "options",
    [
        {"sigma_scale": 0.25},
        {"sigma_scale": (0.1, 0.2)},
        {"padding_mode": "reflect"},
        {"padding_mode": "replicate"},
        {"padding_mode": "circular"},
        {"cval": -3.0},
        {"overlap": (0.25, 0.5)},
        {"roi_size": 16},
        {"roi_size": (16, None)},
        {"roi_size": (-1, 8)},
        {"device": "cpu", "sw_device": "cpu"},
    ],
)
def test_options_mean_what_they_mean_to_monai(options):
    settings = {"roi_size": (16, 24), "overlap": 0.5, "mode": "gaussian", **options}
    image = _body(1, 2, 14, 50)
    assert torch.equal(SlidingWindow(**settings)(image, _network), SlidingWindowInferer(**settings)(image, _network))


def test_double_precision_is_kept_and_half_is_summed_in_single():
    image = _body(1, 1, 40, 41)
    double = SlidingWindow((16, 16))(image.double(), Context())
    assert torch.equal(double, SlidingWindowInferer((16, 16), overlap=0.5, mode="gaussian")(image.double(), Context()))
    half = SlidingWindow((16, 16))(image.half(), lambda x: x)
    assert half.dtype == torch.float16
    assert float((half.double() - image.half().double()).abs().max()) < 1e-3


def test_equal_constant_windows_run_once():
    image = _body(2, 1, 64, 64, 64)
    whole, spared = Context(), Context()
    every = SlidingWindow((16, 16, 16), reuse_constant=False)(image, whole)
    assert torch.equal(SlidingWindow((16, 16, 16))(image, spared), every)
    assert sum(whole.calls) == 2 * 343
    empty = SlidingWindow((16, 16, 16)).windows((64, 64, 64)) * 2 - sum(spared.calls) + 1
    boxes = [(b, *o) for b in range(2) for o in itertools.product(range(0, 49, 8), repeat=3)]
    flat = [image[b, 0, i : i + 16, j : j + 16, k : k + 16].unique().numel() == 1 for b, i, j, k in boxes]
    assert empty == sum(flat) > 200


def test_each_value_runs_for_itself_and_batches_are_filled_with_windows_that_are_due():
    image = torch.zeros(1, 1, 64, 16)
    image[:, :, 32:48] = 1
    image[:, :, 48:] = torch.rand(16, 16)
    network = Context()
    ours = SlidingWindow((16, 16), 0, sw_batch_size=2)(image, network)
    assert network.calls == [2, 1]  # 0, 0 again, 1 and the occupied one
    assert torch.equal(ours, SlidingWindowInferer((16, 16), overlap=0, mode="gaussian")(image, Context()))


def test_a_network_that_uses_its_memory_again_does_not_spoil_what_is_kept():
    memory = torch.empty(1, 1, 16, 16)
    image = torch.zeros(1, 1, 48, 16)
    image[:, :, 16:32] = torch.rand(16, 16)
    assert torch.equal(SlidingWindow((16, 16), 0, mode="constant")(image, memory.copy_), image)


def test_a_network_in_training_mode_runs_every_window():
    network = Context().train()
    SlidingWindow((16, 16), 0)(torch.zeros(1, 1, 64, 16), network)
    assert sum(network.calls) == 4


def test_gradients_pass_through_reused_windows_too():
    image = torch.zeros(1, 1, 24, 8)
    image[:, :, :8] = 1
    factor = torch.tensor(2.0, requires_grad=True)
    SlidingWindow((8, 8), 0)(image, lambda x: x * factor + factor).sum().backward()
    assert float(factor.grad) == pytest.approx(64 + 3 * 64)


def test_a_metatensor_stays_one():
    image = MetaTensor(_body(1, 1, 20, 20), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    found = SlidingWindow((16, 16))(image, _network)
    theirs = SlidingWindowInferer((16, 16), overlap=0.5, mode="gaussian")(image, _network)
    assert isinstance(found, MetaTensor)
    assert torch.equal(found.affine, theirs.affine)
    assert torch.equal(found.as_tensor(), theirs.as_tensor())


def test_it_is_an_inferer_and_arguments_reach_the_network():
    inferer = SlidingWindow((16, 16))
    assert isinstance(inferer, Inferer)
    image = _body(1, 1, 20, 20)
    assert torch.allclose(inferer(image, lambda x, a, *, b: x * a + b, 2, b=1), image * 2 + 1, atol=1e-6)


@pytest.mark.parametrize("shape", [(50, 41, 37), (32, 32, 32), (20, 64, 33)])
@pytest.mark.parametrize("batch", [1, 3])
def test_progress_counts_every_call(shape, batch):
    seen: list[tuple[int, int]] = []
    progress = Progress(lambda stage, done, total: seen.append((done, total)))
    SlidingWindow((32, 32, 32), 0.5, sw_batch_size=batch)(torch.rand(1, 1, *shape), _network, progress=progress)
    assert [done for done, _ in seen] == list(range(len(seen)))
    assert seen[-1] == (seen[0][1], seen[0][1])


def test_cancel_takes_effect_between_windows():
    progress = Progress(lambda stage, done, total: done == 2 and progress.cancel())
    network = Context()
    with pytest.raises(Cancelled, match="nothing was written"):
        SlidingWindow((16, 16, 16), 0.5)(torch.rand(1, 1, 48, 48, 48), network, progress=progress)
    assert len(network.calls) == 3


def test_messages_of_the_constructor():
    for overlap in (1.0, -0.1, (0.5, 1.0)):
        with pytest.raises(ShapeError, match="at least 0 and below 1"):
            SlidingWindow((32, 32), overlap=overlap)
    with pytest.raises(BackendError, match="it must be one of auto, eager, compiled, openvino, cuda"):
        SlidingWindow((32, 32, 32), backend="tensorrt")
    with pytest.raises(BackendError, match="it must be fp32, bf16 or int8"):
        SlidingWindow((32, 32, 32), precision="fp16")
    with pytest.raises(
        BackendError, match="'eager' backend, which does not compute in it; openvino .CPU. and cuda take bf16"
    ):
        SlidingWindow((32, 32, 32), backend="eager", precision="bf16")
    with pytest.raises(BackendError, match="mode is 'gaussian' or 'constant', padding_mode one of"):
        SlidingWindow((32, 32, 32), mode="linear")
    with pytest.raises(BackendError, match="and padding_mode 'edge'; mode is"):
        SlidingWindow((32, 32, 32), padding_mode="edge")
    for wrong in ({"sw_batch_size": 0}, {"sigma_scale": 0.0}):
        with pytest.raises(ShapeError, match="at least one window per call and a Gaussian wider than 0"):
            SlidingWindow((32, 32, 32), **wrong)


@pytest.mark.parametrize(
    ("option", "step"),
    [
        ("progress", r"pass progress=Progress\(\.\.\.\)"),
        ("cache_roi_weight_map", "always kept"),
        ("cpu_thresh", "device='cpu'"),
        ("buffer_steps", r"call labels\(\)"),
        ("buffer_dim", r"call labels\(\)"),
        ("with_coord", "monai.inferers.SlidingWindowInferer"),
        ("sigma", "leave it out"),
    ],
)
def test_what_monai_takes_and_we_do_not_is_refused_by_name(option, step):
    with pytest.raises(BackendError, match=rf"Found option '{option}', which SlidingWindow does not take here.*{step}"):
        SlidingWindow((16, 16), **{option: 1})


@pytest.mark.parametrize("option", ["condition", "buffer_steps", "device"])
def test_options_of_a_call_are_refused_by_name(option):
    with pytest.raises(BackendError, match=rf"Found option '{option}', which SlidingWindow does not take here"):
        SlidingWindow((16, 16))(torch.zeros(1, 1, 20, 20), _network, **{option: 1})


def test_messages_of_a_call():
    run = SlidingWindow((16, 16))
    image = torch.rand(1, 1, 20, 20)
    with pytest.raises(ShapeError, match=r"one number for each axis after batch and channel .* missing axes"):
        run(image[0], _network)
    with pytest.raises(ShapeError, match=r"torch.int16; .* floating-point .* convert with .float\(\)"):
        run(image.short(), _network)
    with pytest.raises(ShapeError, match="Found a network that returns tuple; one tensor is needed"):
        run(image, lambda x: (x, x))
    for network in (lambda x: x[..., ::2], lambda x: x[:, :, 0], lambda x: x[[0, 0]]):
        with pytest.raises(ShapeError, match=r"Found a network that makes .* Resize inside the network"):
            run(image, network)
    with pytest.raises(ShapeError, match=r"padding_mode='reflect' cannot make \(20, 16\)"):
        SlidingWindow((16, 16), padding_mode="reflect")(torch.rand(1, 1, 20, 4), _network)
    sizes = iter((1, 2, 1, 1))
    with pytest.raises(ShapeError, match="Give every window the same channels"):
        run(image, lambda x: x.repeat(1, next(sizes), 1, 1))
