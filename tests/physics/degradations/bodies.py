"""Bodies with known values that several tests of degradations image."""

from __future__ import annotations

import numpy as np


def disk_image(shape: tuple[int, int], spacing: tuple[float, float], radius: float, centre=(0.0, 0.0)) -> np.ndarray:
    """A disk of ones with soft rims: each pixel holds the share of it that the disk covers (8 x 8 points)."""
    total = np.zeros(shape, np.float32)
    for a in (np.arange(8) + 0.5) / 8 - 0.5:
        for b in (np.arange(8) + 0.5) / 8 - 0.5:
            x = (np.arange(shape[0]) - (shape[0] - 1) / 2 + a) * spacing[0] - centre[0]
            y = (np.arange(shape[1]) - (shape[1] - 1) / 2 + b) * spacing[1] - centre[1]
            total += np.hypot(x[:, None], y) <= radius
    return total / 64
