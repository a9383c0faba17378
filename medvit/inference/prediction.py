"""The output of a loaded bundle for one image, and how it was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Prediction"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A postprocessed output, with the backend that computed it and the network's uncertainty.

    Attributes:
        output: label ids or intensities as the bundle's last step makes them, (channel, *spatial) on the CPU; a MetaTensor
            where the postprocessing gives one.
        backend: of the network: "eager", "compiled", "openvino" or "cuda".
        precision: in which the network computed: "fp32" or "bf16".
        reason: why this backend was taken, in plain words.
        entropies: bits a voxel of labels 1, 2 and so on, see ``medvit.inference.uncertainty``; empty for intensities.
        entropy_map: bits of every voxel of the network's grid, where they were asked for.
        mirrored: labels of the mirror image on the source's grid, where they were asked for; see ``medvit.inference.mirror_agreement``.
    """

    output: Tensor
    backend: str = "eager"
    precision: str = "fp32"
    reason: str = "the bundle's inferer takes no backend"
    entropies: tuple[float | None, ...] = ()
    entropy_map: NDArray[np.float32] | None = None
    mirrored: NDArray[np.int16] | None = None
