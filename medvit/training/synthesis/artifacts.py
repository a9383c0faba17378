"""Simulated artifacts of an image (i, j, k): blur, thick slices, ghosts, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["add_ghosts", "add_rician_noise", "blur", "thicken_slices"]

_FWHM = 2 * math.sqrt(2 * math.log(2))


def blur(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Smooth by a Gaussian with standard deviation ``sigma`` voxels along each axis; borders are repeated."""
    for axis, wide in enumerate(sigma):
        if wide > 0.05:
            reach = max(1, math.ceil(3 * wide))
            at = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
            kernel = torch.exp(-(at**2) / (2 * wide**2))
            lines = image.movedim(axis, -1)
            flat = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (reach, reach), mode="replicate")
            image = F.conv1d(flat, (kernel / kernel.sum())[None, None]).view(lines.shape).movedim(-1, axis)
    return image


def thicken_slices(image: Tensor, axis: int, voxels: float) -> Tensor:
    """Simulate slices with a thickness of ``voxels``, linear between their centres; 1 or less changes nothing.

    A slice's profile is a Gaussian whose full width at half maximum is the thickness.
    """
    if voxels <= 1:
        return image
    sigma = [0.0, 0.0, 0.0]
    sigma[axis] = voxels / _FWHM
    lines = blur(image, sigma).movedim(axis, -1)
    length = lines.shape[-1]
    count = max(1, round(length / voxels))
    centres = (torch.arange(count, device=image.device) + 0.5) * length / count - 0.5
    low = centres.floor().long().clamp(0, length - 1)
    part = (centres - low).to(image.dtype)
    slices = lines[..., low] * (1 - part) + lines[..., (low + 1).clamp_max(length - 1)] * part
    flat = slices.reshape(-1, 1, count)
    return (
        F.interpolate(flat, size=length, mode="linear", align_corners=False).view(lines.shape).movedim(-1, axis)
    ).contiguous()


def add_ghosts(image: Tensor, moved: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Simulate one movement of the head: part of k-space along one axis is that of the moved head.

    Args:
        image: (i, j, k), 0 or more.
        moved: movement in voxels along each axis.
        rng: random generator of the encoding axis and of the moment, after the centre of k-space.
    """
    axis = int(rng.integers(3))
    spectrum = torch.fft.fftn(image)
    phase = torch.zeros(image.shape, dtype=torch.float32, device=image.device)
    for a, n in enumerate(image.shape):
        line = torch.fft.fftfreq(n, device=image.device) * float(moved[a])
        phase = phase + line.view([-1 if b == a else 1 for b in range(3)])
    # k-space is acquired from one end to the other; lines after the moment have the phase of the moved head
    taken = torch.fft.fftfreq(image.shape[axis], device=image.device) > float(rng.uniform(0.03, 0.3))
    after = taken.view([-1 if b == axis else 1 for b in range(3)])
    turned = torch.where(after, spectrum * torch.exp(-2j * math.pi * phase), spectrum)
    magnitude: Tensor = torch.fft.ifftn(turned).abs()
    return magnitude


def add_rician_noise(image: Tensor, sigma: float, noise: torch.Generator) -> Tensor:
    """Return the magnitude of the image with normal noise in its real and its imaginary part."""
    if sigma <= 0:
        return image
    real, imaginary = (
        sigma * torch.randn(image.shape, generator=noise, device=image.device, dtype=image.dtype) for _ in range(2)
    )
    return torch.sqrt((image + real) ** 2 + imaginary**2)
