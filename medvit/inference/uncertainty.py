"""How undecided a network was about its own labels: the entropy of its probabilities where it gave them.

In a voxel that was given to a label with probability p, the entropy of "this label or not" is -p log2 p - (1-p) log2 (1-p): 0
bits where the network is sure, 1 where it might as well be wrong. Its mean over the label's voxels costs no second run.
Networks are surer than they should be, so what a number means for a bundle is found on cases whose answer is known
(``medvit evaluate --calibrate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from medvit.labels import Label

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LabelEntropy", "by_name"]

_BLOCK = 2**22
"""Voxels taken at a time: little memory, and counts that float32 still holds exactly."""


class LabelEntropy:
    """Mean entropies of labels, of logits that come in one piece or plane by plane, on the network's own grid.

    Args:
        keep_map: also keep each voxel's bits, for ``map``.
    """

    def __init__(self, keep_map: bool = False) -> None:
        self._sums: Tensor | None = None
        self._keep = keep_map
        self._kept: list[Tensor] = []

    def add_planes(self, logits: Tensor) -> None:
        """Take the next logits, (class, *spatial): background first, or one class of which above 0 is the label."""
        import torch

        flat = logits.detach().reshape(len(logits), -1)
        bits: list[Tensor] = []
        for block in torch.split(flat, _BLOCK, 1):  # never a second copy of all logits
            best, own = _bits(block.float())
            sums = _sums(best, own, max(1, len(logits) - 1))
            self._sums = sums if self._sums is None else self._sums + sums
            if self._keep:
                bits.append(own.cpu())
        if self._keep:
            self._kept.append(torch.cat(bits).reshape(logits.shape[1:]))

    def values(self) -> tuple[float | None, ...]:
        """Bits a voxel, of labels 1, 2 and so on; None where a label was given to no voxel."""
        if self._sums is None:
            return ()
        return tuple(
            round(bits / count, 4) if count else None for bits, count in zip(*self._sums.tolist(), strict=True)
        )

    def map(self) -> Tensor | None:
        """Bits of every voxel, of the label or the background it was given to, (*spatial) float32; None if not kept."""
        import torch

        return torch.cat(self._kept) if self._kept else None


def by_name(entropies: Sequence[float | None], labels: Sequence[Label]) -> dict[str, float]:
    """Those of the labels that were given, by their names."""
    found = dict(enumerate(entropies, 1))
    return {label.name: bits for label in labels if (bits := found.get(label.id)) is not None}


def _bits(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The label that each of (class, voxel) was given to, and how undecided that was, (voxel,)."""
    if len(logits) == 1:
        chance, best = logits[0].sigmoid(), (logits[0] > 0).long()
    else:
        chance, best = logits.softmax(0).max(0)
    chance = chance.clamp(1e-7, 1 - 1e-7)
    return best, -(chance * chance.log2() + (1 - chance) * (1 - chance).log2())


def _sums(best: Tensor, bits: Tensor, count: int) -> Tensor:
    """Bits and voxels by label, (2, label) float64 on the CPU."""
    import torch

    summed = torch.zeros(2, count + 1, device=bits.device)
    summed[0].index_add_(0, best, bits)
    summed[1].index_add_(0, best, torch.ones_like(bits))
    return summed[:, 1:].cpu().double()
