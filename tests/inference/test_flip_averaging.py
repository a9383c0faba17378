"""The mean of a window's answer and its mirror image's: by the formula, through every way of asking, and what is refused."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import ShapeError
from medvit.inference import FlipAveraging, SlidingWindow
from medvit.progress import Progress


class _Uneven(torch.nn.Module):
    """Looks at place and at one side more than at the other; gives the same memory again, as a CUDA graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.eval()
        self.answer: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ramp = torch.linspace(0, 1, x.shape[2]).reshape(-1, *[1] * (x.ndim - 3))
        made = torch.cat([x[:, :1] * ramp, x[:, :1] + x[:, 1:], x[:, :1] - ramp, x[:, :1].square()], 1)
        self.answer = made if self.answer is None or self.answer.shape != made.shape else self.answer.copy_(made)
        return self.answer


def _image(*spatial: int) -> torch.Tensor:
    torch.manual_seed(0)
    place = torch.linspace(-1, 1, spatial[0]).reshape(-1, *[1] * (len(spatial) - 1)).expand(spatial)
    return torch.stack([torch.rand(spatial), place])[None]


_PAIRS = {"axis": 0, "negated_channels": [1], "swapped_classes": [[1, 2]]}


def test_the_mean_of_both_answers_with_sides_exchanged():
    windows = torch.rand(3, 2, 5, 4, 6)[:, :, ::1, ::2]
    kept = windows.clone()
    found = FlipAveraging(**_PAIRS).both(_Uneven())(windows)
    turned = windows.flip(2)
    turned[:, 1] *= -1
    other = _Uneven()(turned).flip(2)
    expected = (_Uneven()(windows) + torch.stack([other[:, n] for n in (0, 2, 1, 3)], 1)) / 2
    torch.testing.assert_close(found, expected)
    assert torch.equal(windows, kept)


@pytest.mark.parametrize("axis", [0, 1])
def test_what_is_said_of_a_mirror_image_is_the_mirror_image_of_what_is_said(axis):
    """So a patient's sides are treated alike, which neither answer alone does."""
    both = FlipAveraging(axis, (), [[1, 2]]).both(_Uneven())
    windows = torch.rand(1, 2, 6, 5)
    answer = both(windows)
    mirrored = both(windows.flip(axis + 2)).flip(axis + 2)[:, [0, 2, 1, 3]]
    torch.testing.assert_close(answer, mirrored)
    assert not torch.allclose(_Uneven()(windows), _Uneven()(windows.flip(axis + 2)).flip(axis + 2)[:, [0, 2, 1, 3]])


@pytest.mark.parametrize("spatial", [(16, 12, 10), (21, 12, 7)])
def test_every_way_of_asking_gives_the_same(spatial):
    image = _image(*spatial)
    image[..., :4] = image.mean()  # constant windows, which are run once
    told = {"roi_size": (8, 8, 4), "overlap": 0.5, "backend": "eager", "padding_mode": "replicate"}
    mirrored = SlidingWindow(**told, mirrored=FlipAveraging(**_PAIRS))
    logits = mirrored(image, _Uneven())
    expected = SlidingWindow(**told)(image, FlipAveraging(**_PAIRS).both(_Uneven()))
    torch.testing.assert_close(logits, expected)
    assert not torch.allclose(logits, SlidingWindow(**told)(image, _Uneven()))
    assert torch.equal(mirrored.labels(image, _Uneven()), logits.argmax(1, keepdim=True).to(torch.uint8))
    planes: list[torch.Tensor] = []
    mirrored.stream(image, _Uneven(), lambda some: planes.append(some.clone()), Progress())
    torch.testing.assert_close(torch.cat(planes, 1), logits[0])


def test_settings_that_do_not_fit_are_refused():
    for exchanged in ([[1, 2], [2, 3]], [[1, 1]], [[1, 2, 3]]):
        with pytest.raises(ShapeError, match=r"Found the classes \[.*\] to exchange; .*Name each class in one pair"):
            FlipAveraging(swapped_classes=exchanged)
    inferer = SlidingWindow((4, 4, 4), mirrored=FlipAveraging(negated_channels=[2]))
    with pytest.raises(
        ShapeError, match=r"windows of \(1, 2, 4, 4, 4\); axis 0 and channels \[2\].*Correct 'mirrored'"
    ):
        inferer(_image(8, 8, 8), _Uneven())
    inferer = SlidingWindow((4, 4, 4), mirrored=FlipAveraging(swapped_classes=[[3, 4]]))
    with pytest.raises(ShapeError, match="Found 4 classes, of which 3 and 4 are to be exchanged. Correct 'mirrored'"):
        inferer(_image(8, 8, 8), _Uneven())
    with pytest.raises(ShapeError, match="axis 3 and channels"):
        SlidingWindow((4, 4, 4), mirrored=FlipAveraging(3))(_image(8, 8, 8), _Uneven())
