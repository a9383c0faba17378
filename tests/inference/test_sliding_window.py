from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference

from medvit.errors import BackendError, ShapeError
from medvit.inference import SlidingWindow
from medvit.progress import Cancelled, Progress


def _network(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, x.square(), -x], 1)


def test_same_voxels_as_monai_at_equal_settings():
    image = torch.rand(1, 1, 50, 41, 37, generator=torch.Generator().manual_seed(0))
    ours = SlidingWindow((32, 32, 32), 0.5)(image, _network, progress=Progress())
    theirs = sliding_window_inference(image, (32, 32, 32), 1, _network, overlap=0.5, mode="gaussian")
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shape", [(50, 41, 37), (32, 32, 32), (20, 64, 33)])
def test_progress_counts_every_window(shape):
    seen: list[tuple[int, int]] = []
    progress = Progress(lambda stage, done, total: seen.append((done, total)))
    SlidingWindow((32, 32, 32), 0.5)(torch.rand(1, 1, *shape), _network, progress=progress)
    assert [done for done, _ in seen] == list(range(len(seen)))
    assert seen[-1] == (seen[0][1], seen[0][1])


def test_cancel_takes_effect_between_windows():
    progress = Progress(lambda stage, done, total: done == 2 and progress.cancel())
    calls = 0

    def network(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return x

    with pytest.raises(Cancelled, match="nothing was written"):
        SlidingWindow((16, 16, 16), 0.5)(torch.rand(1, 1, 48, 48, 48), network, progress=progress)
    assert calls == 3


def test_messages():
    with pytest.raises(ShapeError, match="at least 0 and below 1"):
        SlidingWindow((32, 32, 32), overlap=1.0)
    with pytest.raises(BackendError, match="only 'eager' is there"):
        SlidingWindow((32, 32, 32), backend="openvino")
    with pytest.raises(BackendError, match="only 'fp32' is there"):
        SlidingWindow((32, 32, 32), precision="bf16")
