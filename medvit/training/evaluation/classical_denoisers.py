"""Classical denoisers without training, for comparison with a network on the same slices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from medvit.errors import BundleError

__all__ = ["CLASSICAL", "STRENGTHS", "classical"]

STRENGTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15)
"""Shares of the estimated noise with which a method is tried.

The estimate assumes white noise; the noise of reconstructed CT is stronger in the fine detail from which it is
estimated, so with the full estimate the methods remove too much.
"""


def _noise(image: NDArray[np.float32]) -> float:
    """Estimate the standard deviation of the noise of a slice.

    It is the median of the absolute diagonal coefficients of the finest Haar wavelet, without zeros (clipped air), over
    0.6745 (D. Donoho and I. Johnstone, Biometrika 81, 1994).
    """
    i, j = (n - n % 2 for n in image.shape)
    even = image[:i, :j]
    detail = np.abs(even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]) / 2
    found = detail[detail > 0]
    return float(np.median(found)) / 0.6745 if found.size else 0.0


def _non_local_means(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Denoise by non-local means (A. Buades et al., CVPR 2005): patches of 5, search distance 6, h = 0.8 sigma."""
    from skimage.restoration import denoise_nl_means

    restored: NDArray[np.float32] = denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True, preserve_range=True
    ).astype(np.float32)
    return restored


def _total_variation(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Denoise by total variation (A. Chambolle, J. Math. Imaging Vis. 20, 2004) with the noise's sigma as weight."""
    from skimage.restoration import denoise_tv_chambolle

    restored: NDArray[np.float32] = denoise_tv_chambolle(image, weight=sigma).astype(np.float32)
    return restored


def _bm3d(image: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """Denoise by BM3D (K. Dabov et al., IEEE TIP 2007), see ``medvit.training.evaluation.bm3d_filter``."""
    from medvit.training.evaluation.bm3d_filter import bm3d

    return bm3d(image, sigma)


CLASSICAL: dict[str, Callable[[NDArray[np.float32], float], NDArray[np.float32]]] = {
    "non_local_means": _non_local_means,
    "bm3d": _bm3d,
    "total_variation": _total_variation,
}
"""Denoisers by name; each takes one slice (i, j) float32 and the standard deviation of its noise."""


def classical(
    name: str, volume: NDArray[np.float32], window: tuple[float, float], strength: float = 1.0
) -> NDArray[np.float32]:
    """Denoise a volume (i, j, k) slice by slice along k, clipped to the evaluated window.

    The volume is clipped first, since bone and air beyond the window would dominate patches and gradients. A slice
    without noise is unchanged. ``strength`` is the share of each slice's estimated noise that the method receives.

    Raises:
        BundleError: the method is unknown.
    """
    if name not in CLASSICAL:
        raise BundleError(
            f"the method {name!r} to compare with",
            f"it must be one of {', '.join(CLASSICAL)}",
            "Correct configs/evaluate.json.",
        )
    clipped = np.clip(volume, *window).astype(np.float32)
    slices = [clipped[..., k] for k in range(clipped.shape[2])]
    told = [strength * _noise(s) for s in slices]
    return np.stack([CLASSICAL[name](s, sigma) if sigma > 0 else s for s, sigma in zip(slices, told, strict=True)], -1)
