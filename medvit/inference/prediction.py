"""The output of a loaded bundle for one image, and how it was computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from medvit.io import GridImage

__all__ = ["Prediction"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """A postprocessed output, with the backend that computed it and the network's uncertainty.

    Attributes:
        output: label ids or intensities as the bundle's last step makes them, (channel, *spatial) on the CPU: a
            GridImage, or a MetaTensor or tensor where the postprocessing gives one.
        backend: backend of the network: "eager", "compiled", "openvino" or "cuda".
        precision: precision of the computation: "fp32" or "bf16".
        reason: reason for the choice of the backend, in plain words.
        entropies: mean bits per voxel of labels 1, 2 and so on, see ``medvit.inference.uncertainty``; empty for
            intensities.
        entropy_map: bits of every voxel on the network grid, if requested.
        mirrored: labels of the mirror image on the source grid, if requested; see
            ``medvit.inference.mirror_agreement``.

    Examples:
        >>> import torch
        >>> from medvit.inference import Prediction
        >>> Prediction(output=torch.zeros(1, 2, 2)).backend
        'eager'
    """

    output: GridImage | Tensor
    backend: str = "eager"
    precision: str = "fp32"
    reason: str = "the bundle's inferer takes no backend"
    entropies: tuple[float | None, ...] = ()
    entropy_map: NDArray[np.float32] | None = None
    mirrored: NDArray[np.int16] | None = None
