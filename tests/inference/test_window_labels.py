"""Labels of a sliding window: the argmax of its logits, without holding them, for a region and in planes."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.data import MetaTensor
from torch.utils._python_dispatch import TorchDispatchMode

from medvit.errors import ShapeError
from medvit.inference import SlidingWindow, WholeImage
from medvit.progress import Cancelled, Progress
from tests.inference.test_sliding_window import SIZES, Context, _body, _network


@pytest.mark.parametrize("spatial", SIZES)
def test_labels_are_the_argmax_of_the_logits(spatial):
    image = _body(2, 1, *spatial)
    for overlap, batch in itertools.product((0, 0.25, 0.5, 0.625), (1, 3)):
        run = SlidingWindow((16, 12, 17)[: len(spatial)], overlap, sw_batch_size=batch)
        logits = run(image, Context())
        labels = run.labels(image, Context())
        assert labels.dtype == torch.uint8
        assert labels.shape == (2, 1, *spatial)
        top = logits.topk(2, 1).values
        clear = (top[:, 0] - top[:, 1]) > 1e-5  # dividing by the weights may make a tie
        assert clear.float().mean() > 0.95
        assert torch.equal(labels[:, 0].long()[clear], logits.argmax(1)[clear])


def test_labels_above_a_threshold_are_masks_of_each_channel():
    image = _body(1, 1, 40, 33)
    run = SlidingWindow((16, 16))
    probable = run(image, Context()).sigmoid()
    for threshold in (0.5, 0.7):
        masks = run.labels(image, Context(), threshold=threshold)
        assert masks.shape == (1, 3, 40, 33)
        clear = (probable - threshold).abs() > 1e-5
        assert torch.equal(masks.bool()[clear], (probable > threshold)[clear])
    with pytest.raises(ShapeError, match=r"one channel, .* give labels\(\) a threshold, as 0.5"):
        run.labels(image, lambda x: x)


def test_labels_never_hold_the_logits_of_the_volume():
    """The largest tensor any operation makes: a byte a voxel for labels, and sums of one window's length."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.untyped_storage().nbytes())
            return out

    peaks = {}
    for length in (64, 640):
        image = torch.rand(1, 1, length, 24, 24)
        for name in ("labels", "__call__"):
            largest = 0
            with Watch():
                getattr(SlidingWindow((16, 16, 16)), name)(image, lambda x: x.repeat(1, 14, 1, 1, 1))
            peaks[name, length] = largest
    sums = 14 * 16 * 24 * 24 * 4
    assert peaks["labels", 64] == sums
    assert peaks["labels", 640] == max(sums, 640 * 24 * 24 * 4)  # the image's own storage
    assert peaks["__call__", 640] == 14 * 640 * 24 * 24 * 4


def test_labels_report_progress_can_be_cancelled_and_keep_meta():
    seen: list[tuple[int, int]] = []
    image = MetaTensor(_body(1, 1, 40, 20), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    found = SlidingWindow((16, 16)).labels(
        image, _network, progress=Progress(lambda stage, done, total: seen.append((done, total)))
    )
    assert seen[-1] == (len(seen) - 1, len(seen) - 1)
    assert torch.equal(found.affine, image.affine)
    stopped = Progress(lambda stage, done, total: done == 1 and stopped.cancel())
    with pytest.raises(Cancelled, match="nothing was written"):
        SlidingWindow((16, 16)).labels(image, _network, progress=stopped)


def test_a_whole_picture_is_labelled_in_one_piece_and_a_larger_one_in_windows():
    run = WholeImage((32, 32), 0.5)
    for spatial, calls in (((20, 31), 1), ((20, 60), 3)):
        image, network = torch.rand(1, 1, *spatial), Context()
        labels = run.labels(image, network)
        assert len(network.calls) == calls
        logits = run(image, Context())
        top = logits.topk(2, 1).values
        clear = (top[:, 0] - top[:, 1]) > 1e-5
        assert torch.equal(labels[:, 0].long()[clear], logits.argmax(1)[clear])
