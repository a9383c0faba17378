"""Segmentation judged on images synthesised from label maps: the reference is exact, the contrast any."""

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
    """Dice of every label in images made from the list's label maps, each in several contrasts.

    A list whose every entry has a label holds images that were taken: it is judged as ``LabelOverlap`` judges it.

    Attributes:
        synthesis: makes an image from a map.
        targets: (source id, class id) pairs, as in ``SyntheticSettings``.
        per_map: images from each map.
        seed: image n of map m is drawn from ``(seed, m, n)``.

    Raises:
        BundleError: fewer than one image from a map.
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
        """Say whether the cases of a part are of real patients: not where images are made from label maps."""
        return self.real_patients and every_entry_names(
            part.bundle, DataList(part.data, part.root, part.split), "label"
        )

    def cases(self, part: EvaluationSet) -> Sequence[LabelledCase]:
        """What judges.

        Raises:
            SourceError: the list is wrong. ShapeError: targets that are not the bundle's classes.
        """
        listed = DataList(part.data, part.root, part.split, part.reading)
        if every_entry_names(part.bundle, listed, "label"):
            return super().cases(part)
        settings = SyntheticSettings(self.synthesis, tuple((a, b) for a, b in self.targets))
        return _Heads(settings.sampler(part.bundle, listed, self.seed), self)


class _Heads(Sequence[LabelledCase]):
    """Cases made when they are asked for: a whole head in several contrasts fills hundreds of MB."""

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
    """The reference: made on the image's own grid."""
    return truth
