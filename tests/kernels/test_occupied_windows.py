from __future__ import annotations

import pytest
import torch

from medvit.errors import ShapeError
from medvit.kernels.occupied_windows import constant_groups, occupied_windows
from medvit.kernels.occupied_windows.reference import occupied_windows_reference

GENERATOR = torch.Generator().manual_seed(3)


def _islands(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Three values in coarse blocks, and single voxels that differ."""
    coarse = torch.randint(0, 3, [-(-n // 9) if axis > 1 else n for axis, n in enumerate(shape)], generator=GENERATOR)
    for axis, n in enumerate(shape[2:], 2):
        coarse = coarse.repeat_interleave(9, axis).narrow(axis, 0, n)
    image = coarse.to(dtype)
    image.view(-1)[torch.randint(0, image.numel(), (image.numel() // 500,), generator=GENERATOR)] += 1
    return image


def _grid(spatial: tuple[int, ...], roi: tuple[int, ...], step: int) -> torch.Tensor:
    starts = [torch.arange(0, n - r + 1, step) for n, r in zip(spatial, roi, strict=True)]
    return torch.cartesian_prod(*starts).reshape(-1, len(spatial))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.uint8]
)
@pytest.mark.parametrize(
    ("spatial", "roi", "step"),
    [((31, 45), (8, 5), 3), ((29, 30, 27), (5, 6, 7), 2), ((40,), (6,), 4), ((9, 9), (9, 9), 1)],
)
def test_equals_the_definition(spatial, roi, step, dtype):
    image = _islands(2, 2, *spatial, dtype=dtype)
    origins = _grid(spatial, roi, step)
    found = occupied_windows(image, roi, origins)
    assert torch.equal(found, occupied_windows_reference(image, roi, origins))
    if len(origins) > 1:
        assert found.any() and not found.all()


def test_scattered_origins_and_a_transposed_image():
    image = _islands(1, 1, 40, 35).transpose(2, 3)
    origins = torch.stack([torch.randint(0, 30, (50,)), torch.randint(0, 33, (50,))], 1)
    assert torch.equal(occupied_windows(image, (5, 7), origins), occupied_windows_reference(image, (5, 7), origins))


def test_one_odd_voxel_occupies_just_the_windows_over_it():
    image = torch.full((1, 2, 20, 20, 20), -1.0)
    image[0, 1, 7, 8, 9] = torch.nextafter(torch.tensor(-1.0), torch.tensor(0.0))
    origins = _grid((20, 20, 20), (6, 6, 6), 2)
    over = ((origins <= torch.tensor([7, 8, 9])) & (torch.tensor([7, 8, 9]) < origins + 6)).all(1)
    assert torch.equal(occupied_windows(image, (6, 6, 6), origins)[0], over)


def test_values_are_compared_by_their_bits():
    image = torch.zeros(1, 1, 4, 12)
    image[..., 0] = -0.0
    image[..., 4:8] = torch.nan
    origins = torch.tensor([[0, 0], [0, 4], [0, 8], [0, 6]])
    assert occupied_windows(image, (4, 4), origins).tolist() == [[True, False, False, True]]


def test_groups_hold_the_same_values_in_every_channel_and_image():
    image = torch.zeros(2, 2, 4, 16)
    image[0, 1, :, 4:8] = 1
    image[1, 1, :, 8:12] = 1
    image[1, 0, 0, 0] = 5
    origins = torch.tensor([[0, 0], [0, 4], [0, 8], [0, 12]])
    a, b = constant_groups(image, origins, occupied_windows(image, (4, 4), origins)).tolist()
    assert b[0] == -1
    assert a[0] == a[2] == a[3] == b[1] == b[3]
    assert a[1] == b[2] != a[0]
    assert min(*a, *b[1:]) >= 0


def test_messages():
    image = torch.zeros(1, 1, 8, 8)
    for roi, origins in [((4, 4), [[5, 0]]), ((4, 4), [[-1, 0]]), ((4,), [[0]]), ((4, 4), [0, 0]), ((0, 4), [[0, 0]])]:
        with pytest.raises(ShapeError, match=r"Found windows of .* every window inside the image. Pad the image"):
            occupied_windows(image, roi, torch.tensor(origins))
    with pytest.raises(
        ShapeError, match=r"complex64; \(batch, channel, \*spatial\) of real numbers .* take the magnitude"
    ):
        occupied_windows(image.to(torch.complex64), (4, 4), torch.tensor([[0, 0]]))
