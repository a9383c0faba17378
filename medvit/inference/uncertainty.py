"""Uncertainty of a network about its labels: the entropy of the probabilities of its own labels.

In a voxel labelled with probability p, the entropy of "this label or not" is -p log2 p - (1-p) log2 (1-p): 0 bits for a
certain network, 1 bit for p = 0.5. The mean over the voxels of a label needs no second run. Networks are overconfident,
so the meaning of a number is calibrated per bundle on cases with known labels (``medvit evaluate --calibrate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medvit.labels import Label

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LabelEntropy", "by_name"]

_BLOCK = 2**22
"""Number of voxels processed at a time: little memory, and few enough that float32 counts are exact."""


class LabelEntropy:
    """Accumulator of the mean entropy of each label, from logits in one piece or plane by plane, on the network grid.

    Args:
        keep_map: also keep the entropy of each voxel, for ``map``.

    Examples:
        >>> import torch
        >>> from medvit.inference import LabelEntropy
        >>> entropy = LabelEntropy()
        >>> entropy.add_planes(torch.tensor([[9.0, 0.0], [0.0, 0.0], [-9.0, 0.1]]))  # label 2 at the second voxel only
        >>> entropy.values()
        (None, 0.9392)
    """

    def __init__(self, keep_map: bool = False) -> None:
        self._sums: Tensor | None = None
        self._keep = keep_map
        self._kept: list[Tensor] = []

    def add_planes(self, logits: Tensor) -> None:
        """Add logits, (class, *spatial): background first, or a single class whose label is set above 0."""
        import torch

        flat = logits.detach().reshape(len(logits), -1)
        bits: list[Tensor] = []
        for block in torch.split(flat, _BLOCK, 1):  # in blocks, to avoid a second copy of all logits
            best, own = _bits(block.float())
            sums = _sums(best, own, max(1, len(logits) - 1))
            self._sums = sums if self._sums is None else self._sums + sums
            if self._keep:
                bits.append(own.cpu())
        if self._keep:
            self._kept.append(torch.cat(bits).reshape(logits.shape[1:]))

    def values(self) -> tuple[float | None, ...]:
        """Return the mean bits per voxel of labels 1, 2 and so on; None for a label without voxels."""
        if self._sums is None:
            return ()
        return tuple(
            round(bits / count, 4) if count else None for bits, count in zip(*self._sums.tolist(), strict=True)
        )

    def map(self) -> Tensor | None:
        """Return the bits of every voxel for its own label or background, (*spatial) float32; None if not kept."""
        import torch

        return torch.cat(self._kept) if self._kept else None


def by_name(entropies: Sequence[float | None], labels: Sequence[Label]) -> dict[str, float]:
    """Return the entropies of labels with voxels, by label name.

    Args:
        entropies: mean bits per voxel of labels 1, 2 and so on, or None, as from ``LabelEntropy.values``.
        labels: labels to name.

    Returns:
        Mean bits per voxel, 0..1, by label name.

    Examples:
        >>> from medvit.inference import by_name
        >>> by_name((0.25, None), [])
        {}
    """
    found = dict(enumerate(entropies, 1))
    return {label.name: bits for label in labels if (bits := found.get(label.id)) is not None}


def _bits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label of each voxel of (class, voxel) and the entropy of that label, both (voxel,)."""
    if len(logits) == 1:
        chance, best = logits[0].sigmoid(), (logits[0] > 0).long()
    else:
        chance, best = logits.softmax(0).max(0)
    chance = chance.clamp(1e-7, 1 - 1e-7)
    return best, -(chance * chance.log2() + (1 - chance) * (1 - chance).log2())


def _sums(best: Tensor, bits: Tensor, count: int) -> Tensor:
    """Sum the bits and count the voxels of each label, (2, label) float64 on the CPU."""
    import torch

    summed = torch.zeros(2, count + 1, device=bits.device)
    summed[0].index_add_(0, best, bits)
    summed[1].index_add_(0, best, torch.ones_like(bits))
    return summed[:, 1:].cpu().double()
