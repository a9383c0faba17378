"""Generator of one synthetic image from one label map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.training.synthesis.artifacts import add_ghosts, add_rician_noise, blur, thicken_slices
from medvit.training.synthesis.deformation import flipped_ids, sampled_labels, sampling_grid, smooth_field
from medvit.training.synthesis.settings import Brightness, Pose, ScannerArtifacts

__all__ = ["Synthesis"]


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """Generator of images from label maps.

    Attributes:
        size: voxels of a sample along right, anterior, superior.
        spacing_mm: voxel sides.
        pose, brightness, scanner: limits of the random changes.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    pose: Pose = field(default_factory=Pose)
    brightness: Brightness = field(default_factory=Brightness)
    scanner: ScannerArtifacts = field(default_factory=ScannerArtifacts)

    def __call__(
        self, labels: Tensor, spacing_mm: tuple[float, float, float], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Synthesise an image and its labels.

        Args:
            labels: (i, j, k) ids on RAS axes, of any integer type; the computation runs on their device.
            spacing_mm: their voxel sides.
            rng: random generator; the result depends on it alone, except that CPU and GPU draw different noise.

        Returns:
            Image (1, *size) float32 in 0..1, and ids (1, *size) int64 on the same voxels.

        Raises:
            ShapeError: the labels are not three-dimensional integers from 0.
        """
        if labels.ndim != 3 or labels.is_floating_point() or int(labels.min()) < 0:
            raise ShapeError(
                f"a label map of shape {tuple(labels.shape)} and type {labels.dtype}",
                "(i, j, k) whole numbers from 0 on are needed",
                "Save ids, not probabilities.",
            )
        noise = torch.Generator(labels.device).manual_seed(int(rng.integers(2**31)))
        moved = self._moved(labels, spacing_mm, rng, noise)
        image = self._painted(moved, rng, noise)
        return self._scanned(image, rng, noise)[None], moved[None]

    def _moved(
        self, labels: Tensor, spacing_mm: tuple[float, float, float], rng: np.random.Generator, noise: torch.Generator
    ) -> Tensor:
        flip = bool(rng.random() < self.pose.flip)
        grid = sampling_grid(self.pose, (self.size, self.spacing_mm), (labels.shape, spacing_mm), flip, (rng, noise))
        moved = sampled_labels(labels, grid)
        return flipped_ids(moved, self.pose.pairs) if flip else moved

    def _painted(self, labels: Tensor, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        """Draw a brightness for each label, blur borders, apply a bias field; (i, j, k) in 0..1."""
        b = self.brightness
        count = max(int(labels.max()), max((max(p) for p in self.pose.pairs), default=0)) + 1
        mean, spread = rng.uniform(*b.mean, count), rng.uniform(*b.spread, count)
        for right, left in self.pose.pairs:
            mean[left], spread[left] = mean[right], spread[right]
        if rng.random() < b.dark_background:
            mean[0], spread[0] = b.mean[0], 0.0
        if b.bare > 0 and rng.random() < b.bare:
            gone = [0, *b.outside, *(b.rim if rng.random() < 0.5 else ())]
            black = [label for label in gone if label < count]
            mean[black], spread[black] = b.mean[0], 0.0
        tables = [torch.as_tensor(t, dtype=torch.float32, device=labels.device) for t in (mean, spread)]
        texture = torch.randn(labels.shape, generator=noise, device=labels.device)
        image = tables[0][labels] + tables[1][labels] * texture
        sigma = float(rng.uniform(*b.blur_mm))
        image = blur(image, [sigma / side for side in self.spacing_mm])
        image = image * (float(rng.uniform(0, b.bias)) * smooth_field(1, 4, labels.shape, noise)[0]).exp()
        return _stretched(image) ** float(np.exp(rng.normal(0, b.gamma)))

    def _scanned(self, image: Tensor, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        s = self.scanner
        if rng.random() < s.motion:
            image = add_ghosts(image, rng.uniform(-s.motion_mm, s.motion_mm, 3) / np.array(self.spacing_mm), rng)
        across = int(rng.integers(3))
        slices = float(rng.uniform(*s.slice_mm)) if rng.random() < s.thick else s.slice_mm[0]
        plane = float(rng.uniform(*s.plane_mm))
        for axis, side in enumerate(self.spacing_mm):
            image = thicken_slices(image, axis, (slices if axis == across else plane) / side)
        return _stretched(add_rician_noise(image, float(rng.uniform(0, s.noise)), noise))


def _stretched(image: Tensor) -> Tensor:
    """Map percentiles 0.5 and 99.5 to 0 and 1, as in inference; a constant image becomes 0."""
    low, high = (float(v) for v in np.percentile(image.cpu().numpy(), (0.5, 99.5)))
    return ((image - low) / max(high - low, 1e-6)).clamp(0, 1)
