"""Restoration: clean volumes degraded by known physics, compared with the clean ones before and after the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.model import Model, apply
from medvit.pipeline import open_for
from medvit.progress import Progress
from medvit.restoration.degradations import LowDoseCT
from medvit.settings import RunSettings
from medvit.training.evaluation.part import Judge, Part, Say, summary
from medvit.training.restoration import Slices, read_images
from medvit.training.restoration_losses import ssim

__all__ = ["DoseRestoration", "dose_table"]


@dataclass(frozen=True)
class _Scanned:
    """One volume's slices, clean and at each dose; (i, j, k) float32 in the image's unit on RAS axes."""

    clean: Slices
    poor: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class DoseRestoration:
    """PSNR and SSIM in a window, and bias in a range, of clean volumes taken again at lower doses.

    Doses are judged on the same slices. PSNR and SSIM are of each slice, on intensities clipped to the window, and their mean
    a case's: one slice through the shoulders, where few photons arrive, would otherwise decide. Bias is the mean difference to the clean volume where that lies in ``bias_range``.

    Attributes:
        scanner: the low-dose scanner at full dose; case n is taken with ``seed`` + n.
        doses: shares of the photons.
        seed: the first case's.
        slice_stride: every how manyth slice is judged, from the middle of the first stride on; those that show nothing above
            the window's lower end are left out.
        window: intensities that PSNR and SSIM look at, in the image's unit.
        bias_range: clean intensities among which the bias is taken, in the image's unit.
    """

    task: ClassVar[str] = "restoration"

    scanner: LowDoseCT
    doses: Sequence[float]
    seed: int
    slice_stride: int
    window: Sequence[float]
    bias_range: Sequence[float]

    def __post_init__(self) -> None:
        ordered = all(len(r) == 2 and r[0] < r[1] for r in (self.window, self.bias_range))
        if not (self.doses and min(self.doses) > 0 and self.slice_stride >= 1 and ordered):
            raise BundleError(
                f"Found doses {list(self.doses)}, slice_stride {self.slice_stride}, window {list(self.window)} and bias_range "
                f"{list(self.bias_range)}; positive doses, a stride of at least 1 and ranges in order are needed. "
                "Correct configs/evaluate.json."
            )

    def judge(self, part: Part) -> Judge:
        """See ``Evaluation``; ``{"per_dose", "cases"}`` beside what all scores have.

        Raises:
            SourceError: the list is wrong.
        """
        scanned = [self._scan(volume, n) for n, volume in enumerate(_clean(part))]

        def scores(model: Model, say: Say) -> dict[str, Any]:
            self._require_whole(model)
            cases = {}
            for case in scanned:
                rows = {dose: self._compare(model, case, dose) for dose in case.poor}
                cases[case.clean.name] = rows
                gains = [f"{row['psnr_before_db']:.2f} -> {row['psnr_db']:.2f} dB at {d}" for d, row in rows.items()]
                say(f"{case.clean.name}: PSNR {', '.join(gains)}")
            per_dose = {
                dose: {name: mean(case[dose][name] for case in cases.values()) for name in row}
                for dose, row in next(iter(cases.values())).items()
            }
            metrics = {"psnr_gain_db": mean(row["psnr_gain_db"] for row in per_dose.values())}
            for dose, row in per_dose.items():
                metrics |= {f"{name}_at_{dose.replace(' %', '_percent')}": value for name, value in row.items()}
            return {**summary(part, self.task, metrics), "per_dose": per_dose, "cases": cases}

        return scores

    def _scan(self, volume: Slices, number: int) -> _Scanned:
        chosen = np.ascontiguousarray(volume.image[..., (self.slice_stride - 1) // 2 :: self.slice_stride])
        chosen = chosen[..., (chosen > self.window[0]).any((0, 1))]
        if not chosen.shape[2]:
            raise BundleError(
                f"Found {volume.name} with {volume.image.shape[2]} slices, of which slice_stride {self.slice_stride} chooses none that "
                f"shows anything above {self.window[0]:g}; a smaller stride is needed. Correct configs/evaluate.json."
            )
        # each slice is restored by itself, so that how far apart the chosen ones lie tells the network nothing
        clean = Slices(volume.name, chosen, volume.spacing_mm)
        scanners = {f"{100 * dose:g} %": self.scanner.at_dose(dose, self.seed + number) for dose in self.doses}
        return _Scanned(clean, {name: scan(chosen, clean.spacing_mm) for name, scan in scanners.items()})

    def _require_whole(self, model: Model) -> None:
        context = getattr(model.inferer, "context", 0)
        if context and self.slice_stride > 1:
            raise BundleError(
                f"Found slice_stride {self.slice_stride} for {model.bundle.name}, whose network sees {context} neighbours of a slice; "
                "they would be the wrong ones. Set slice_stride to 1 in configs/evaluate.json."
            )

    def _compare(self, model: Model, case: _Scanned, dose: str) -> dict[str, float]:
        clean, poor = case.clean, case.poor[dose]
        affine = torch.diag(torch.tensor([*clean.spacing_mm, 1.0], dtype=torch.float64))
        source = MetaTensor(torch.from_numpy(poor)[None], affine=affine)
        ready = open_for(model.bundle, source, RunSettings(), Progress())
        restored = np.asarray(apply(model, {"image": ready.scan.meta_tensor()}))[0]
        before, after = self._measure(poor, clean.image), self._measure(restored, clean.image)
        return {
            "psnr_before_db": before[0],
            "psnr_db": after[0],
            "psnr_gain_db": after[0] - before[0],
            "ssim_before": before[1],
            "ssim": after[1],
            "bias_before_hu": before[2],
            "bias_hu": after[2],
        }

    def _measure(self, image: NDArray[np.float32], clean: NDArray[np.float32]) -> tuple[float, float, float]:
        """PSNR in dB, SSIM and bias of (i, j, k) against the clean one."""
        low, high = self.window
        a, b = (torch.from_numpy(np.clip(v, low, high)).double().movedim(2, 0)[:, None] for v in (image, clean))
        psnr = float((10 * ((high - low) ** 2 / (a - b).square().mean((1, 2, 3))).log10()).mean())
        inside = (clean >= self.bias_range[0]) & (clean <= self.bias_range[1])
        bias = float((image - clean)[inside].mean(dtype=np.float64)) if inside.any() else 0.0
        return psnr, float(ssim(a, b, high - low)), bias


def _clean(part: Part) -> list[Slices]:
    return read_images(part.bundle, part.data, part.root, part.split)


def dose_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """The scores as a Markdown table."""
    lines = ["| dose | PSNR before | PSNR after | gain | SSIM before | SSIM after | bias before | bias after |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for dose, r in scores["per_dose"].items():
        lines.append(
            f"| {dose} | {r['psnr_before_db']:.2f} dB | {r['psnr_db']:.2f} dB | {r['psnr_gain_db']:+.2f} dB "
            f"| {r['ssim_before']:.4f} | {r['ssim']:.4f} | {r['bias_before_hu']:+.2f} HU | {r['bias_hu']:+.2f} HU |"
        )
    lines.append(f"| **mean of {len(scores['cases'])} cases** | | | **{scores['score']:+.2f} dB** | | | | |")
    return "\n".join(lines)
