"""Evaluation of segmentation on images synthesised from label maps, whose reference is exact and whose contrast is
random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from monai.data import MetaTensor

from medvit.errors import BundleError
from medvit.segmentation import Result
from medvit.training.data import DataList, every_entry_names
from medvit.training.evaluation.evaluation_set import EvaluationSet
from medvit.training.evaluation.segmentation import LabelledCase, LabelOverlap
from medvit.training.synthesis import Synthesis, SyntheticSampler, SyntheticSettings

__all__ = ["SyntheticOverlap"]


@dataclass(frozen=True, kw_only=True)
class SyntheticOverlap(LabelOverlap):
    """Dice of every label in images synthesised from the list's label maps, each in several contrasts.

    If every entry of the list has an image and a label, the list is evaluated as by ``LabelOverlap``.

    Attributes:
        synthesis: generator of images from a map.
        targets: (source id, class id) pairs, as in ``SyntheticSettings``.
        per_map: number of images from each map.
        seed: image n of map m is drawn from ``(seed, m, n)``.

    Raises:
        BundleError: ``per_map`` is below 1.
    """

    synthesis: Synthesis
    targets: Sequence[tuple[int, int]]
    per_map: int
    seed: int

    def __post_init__(self) -> None:
        if self.per_map < 1:
            raise BundleError(
                f"per_map {self.per_map}",
                "at least one image from each map is needed",
                "Correct configs/evaluate.json.",
            )

    def is_real(self, part: EvaluationSet) -> bool:
        """Return True if the cases of a part are of real patients, which images synthesised from label maps are not."""
        return self.real_patients and every_entry_names(
            part.bundle, DataList(part.data, part.root, part.split), "label"
        )

    def cases(self, part: EvaluationSet) -> Sequence[LabelledCase]:
        """Return the cases.

        Raises:
            SourceError: the list is wrong.
            ShapeError: the targets are not the bundle's classes.
        """
        listed = DataList(part.data, part.root, part.split, part.reading)
        if every_entry_names(part.bundle, listed, "label"):
            return super().cases(part)
        settings = SyntheticSettings(self.synthesis, tuple((a, b) for a, b in self.targets))
        return _Heads(settings.sampler(part.bundle, listed, self.seed), self)


class _Heads(Sequence[LabelledCase]):
    """Cases synthesised on access, since all heads in several contrasts would need hundreds of MB."""

    def __init__(self, sampler: SyntheticSampler, told: SyntheticOverlap) -> None:
        self._sampler, self._told = sampler, told

    def __len__(self) -> int:
        return len(self._sampler.maps) * self._told.per_map

    def __iter__(self) -> Iterator[LabelledCase]:
        return (self[n] for n in range(len(self)))

    def __getitem__(self, number: int) -> LabelledCase:  # type: ignore[override]  # no slices
        if not 0 <= number < len(self):
            raise IndexError(number)
        which, nth = divmod(number, self._told.per_map)
        self._sampler.reseed((self._told.seed, which, nth))
        image, classes = self._sampler.draw_from(self._sampler.maps[which])
        affine = torch.diag(torch.tensor([*self._told.synthesis.spacing_mm, 1.0], dtype=torch.float64))
        name = f"{self._sampler.maps[which].name} in contrast {nth + 1}"
        return LabelledCase(name, MetaTensor(image, affine=affine), partial(_same, classes[0].numpy()))


def _same(truth: np.ndarray, result: Result) -> np.ndarray:
    """Return the reference, which has the image's grid by construction."""
    return truth
