"""Evaluation of restoration: clean volumes are degraded by simulated physics and compared before and after the
network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mean, pstdev
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from pydantic import Field

from medvit.bundles import Bundle, Calibration
from medvit.errors import BundleError
from medvit.inference import LoadedBundle
from medvit.physics.degradations import LowDoseCT
from medvit.pipeline import Predictor
from medvit.restoration import Change, Restored, context_slices, judge_change, measure_change
from medvit.training.checked_settings import Count, Interval, Positive, checked_settings
from medvit.training.data import SliceStack, read_images
from medvit.training.evaluation.classical_denoisers import STRENGTHS, classical
from medvit.training.evaluation.evaluation_set import EvaluationSet, Report, Scorer, mean_rows, summary
from medvit.training.evaluation.outcomes import LabelOutcome, QualitySignal, ScoredCases
from medvit.training.objectives import ssim

__all__ = ["LowDoseEvaluation", "dose_table", "edge_response"]

_BODY_SHARE = 0.01
"""Smallest share of a slice's pixels above the window's lower end for the slice to be evaluated.

A slice with only air and a sliver of couch has a PSNR of 60 dB and more, which would distort the mean.
"""


@dataclass(frozen=True)
class _Scanned:
    """Evaluated slices of one volume, (i, j, k) float32 in the image's unit on RAS axes, clean and at each dose.

    At each dose the evaluated slices have their ``context`` neighbours on both sides, one group after another. A
    network uses no slices beyond these neighbours.
    """

    clean: SliceStack
    near: dict[str, NDArray[np.float32]]
    context: int

    def judged(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the evaluated slices of an image that also has their neighbours."""
        return np.ascontiguousarray(image[..., self.context :: 2 * self.context + 1])

    def poor(self, dose: str) -> NDArray[np.float32]:
        """Return the evaluated slices at a dose."""
        return self.judged(self.near[dose])


@checked_settings
class LowDoseEvaluation:
    """PSNR and SSIM in a window, and bias in a range, of clean volumes at simulated lower doses.

    All doses are evaluated on the same slices. PSNR and SSIM are computed per slice, on intensities clipped to the
    window, and averaged per case; otherwise one slice through the shoulders, where few photons arrive, would dominate.
    Bias is the mean difference from the clean volume where that is in ``bias_range``.

    Attributes:
        scanner: low-dose scanner at full dose; case n has the seed ``seed`` + n.
        doses: shares of the photons.
        seed: seed of the first case.
        slice_stride: step between evaluated slices, from the middle of the first stride; slices with less than 1 % of
            their pixels above the window's lower end (air and couch) are left out.
        window: intensity window of PSNR and SSIM, in the image's unit.
        bias_range: range of clean intensities for the bias, in the image's unit.
        acceptable_bias: bias beyond which a restored image is a bad outcome, for the rating.
        compared: classical denoisers (``medvit.training.evaluation.classical_denoisers``) to evaluate on the same
            slices, each at the best of ``STRENGTHS`` for these slices, which favours them.

    Edge response measures how much of the clean image's edges is left: over the 2 % of pixels with the steepest clean
    gradient in the window, the sum of the found gradient along the clean one over the sum of the clean one; 1 means
    kept, less means blurred. Noise does not change it on average, since its gradient has a random direction.
    """

    task: ClassVar[str] = "restoration"

    scanner: LowDoseCT
    doses: Annotated[tuple[Positive, ...], Field(min_length=1)]
    seed: int
    slice_stride: Count
    window: Interval
    bias_range: Interval
    compared: Sequence[str] = ()
    acceptable_bias: float = 1.0

    def judge(self, part: EvaluationSet) -> Scorer:
        """Prepare the cases; scores have ``{"per_dose", "compared", "cases"}`` in addition.

        Raises:
            SourceError: the list is wrong.
        """
        context = context_slices(part.bundle)
        scanned = [self._scan(volume, n, context) for n, volume in enumerate(_clean(part))]
        others = {} if part.watched else self._others(scanned)

        def scores(model: LoadedBundle, say: Report) -> dict[str, Any]:
            cases = {}
            for case in scanned:
                rows = {dose: self._compare(model, case, dose) for dose in case.near}
                cases[case.clean.name] = rows
                gains = [f"{row['psnr_before_db']:.2f} -> {row['psnr_db']:.2f} dB at {d}" for d, row in rows.items()]
                say(f"{case.clean.name}: PSNR {', '.join(gains)}")
            per_dose = mean_rows(cases)
            metrics = {"psnr_gain_db": mean(row["psnr_gain_db"] for row in per_dose.values())}
            for dose, row in per_dose.items():
                metrics |= {f"{name}_at_{dose.replace(' %', '_percent')}": value for name, value in row.items()}
            return {**summary(part, self.task, metrics), "per_dose": per_dose, "compared": others, "cases": cases}

        return scores

    def answers(self, part: EvaluationSet, model: LoadedBundle, say: Report) -> ScoredCases:
        """Score every case at every dose, with the shift of its soft tissue as signal."""
        found: list[LabelOutcome] = []
        ratings: dict[str, Callable[[Calibration], str]] = {}
        volumes = _clean(part)
        for number, volume in enumerate(volumes):
            case = self._scan(volume, number, context_slices(part.bundle))
            for dose in case.near:
                name, restored = f"{case.clean.name} at {dose}", self._restored(model, case, dose)
                bias = self._measure(restored, case.clean.image)["bias_hu"]
                across, down, _ = case.clean.spacing_mm
                change = measure_change(case.poor(dose), restored, (across, down), "HU")
                moved: dict[QualitySignal, float] = {"moved": abs(change.mean_difference or 0.0)}
                found.append(LabelOutcome(name, bias, abs(bias) > self.acceptable_bias, moved))
                ratings[name] = partial(_rating, change)
                say(f"{name}: moved {moved['moved']:.2f}, bias {bias:+.2f}")
        bad = f"bias of soft tissue beyond {self.acceptable_bias:g} HU"
        return ScoredCases(
            bad=bad, score="bias (HU)", answers=tuple(found), ratings={"plain": ratings}, scans=len(volumes)
        )

    def _others(self, scanned: Sequence[_Scanned]) -> dict[str, dict[str, dict[str, float]]]:
        """Score the compared denoisers at each dose, averaged over the cases, each at its best strength."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for method in self.compared:
            for dose in scanned[0].near:
                tried = [self._tried(method, scanned, dose, strength) for strength in STRENGTHS]
                found.setdefault(method, {})[dose] = max(tried, key=lambda row: row["psnr_db"])
        return found

    def _tried(self, method: str, scanned: Sequence[_Scanned], dose: str, strength: float) -> dict[str, float]:
        window = (float(self.window[0]), float(self.window[1]))
        restored = (classical(method, case.poor(dose), window, strength) for case in scanned)
        rows = [self._measure(image, case.clean.image) for image, case in zip(restored, scanned, strict=True)]
        return {"strength": strength, **{name: mean(r[name] for r in rows) for name in rows[0]}}

    def _scan(self, volume: SliceStack, number: int, context: int) -> _Scanned:
        depth = volume.image.shape[2]
        at = np.arange((self.slice_stride - 1) // 2, depth, self.slice_stride)
        at = at[(volume.image[..., at] > self.window[0]).mean((0, 1)) > _BODY_SHARE]
        if not len(at):
            raise BundleError(
                (
                    f"{volume.name} with {depth} slices, of which slice_stride {self.slice_stride} chooses none with a "
                    f"hundredth of its pixels above {self.window[0]:g}"
                ),
                "a smaller stride is needed",
                "Correct configs/evaluate.json.",
            )
        clean = SliceStack(volume.name, np.ascontiguousarray(volume.image[..., at]), volume.spacing_mm)
        around = (at[:, None] + np.arange(-context, context + 1)).clip(0, depth - 1).ravel()
        scanners = {f"{100 * dose:g} %": self.scanner.at_dose(dose, self.seed + number) for dose in self.doses}
        taken = np.ascontiguousarray(volume.image[..., around])
        return _Scanned(clean, {name: scan(taken, clean.spacing_mm) for name, scan in scanners.items()}, context)

    def _restored(self, model: LoadedBundle, case: _Scanned, dose: str) -> NDArray[np.float32]:
        affine = torch.diag(torch.tensor([*case.clean.spacing_mm, 1.0], dtype=torch.float64))
        source = MetaTensor(torch.from_numpy(case.near[dose])[None], affine=affine)
        result = Predictor(model).run(source)
        assert isinstance(result, Restored)  # the bundle is for restoration
        return case.judged(result.array)

    def _compare(self, model: LoadedBundle, case: _Scanned, dose: str) -> dict[str, float]:
        clean, poor, restored = case.clean, case.poor(dose), self._restored(model, case, dose)
        before, after = self._measure(poor, clean.image), self._measure(restored, clean.image)
        return {
            "psnr_before_db": before["psnr_db"],
            "psnr_db": after["psnr_db"],
            "psnr_gain_db": after["psnr_db"] - before["psnr_db"],
            "ssim_before": before["ssim"],
            "ssim": after["ssim"],
            "bias_before_hu": before["bias_hu"],
            "bias_hu": after["bias_hu"],
            "edge_before": before["edge"],
            "edge": after["edge"],
        }

    def _measure(self, image: NDArray[np.float32], clean: NDArray[np.float32]) -> dict[str, float]:
        """Compute PSNR in dB, SSIM, bias and edge response of (i, j, k) against the clean slices."""
        low, high = self.window
        a, b = (torch.from_numpy(np.clip(v, low, high)).double().movedim(2, 0)[:, None] for v in (image, clean))
        psnr = float((10 * ((high - low) ** 2 / (a - b).square().mean((1, 2, 3))).log10()).mean())
        inside = (clean >= self.bias_range[0]) & (clean <= self.bias_range[1])
        bias = float((image - clean)[inside].mean(dtype=np.float64)) if inside.any() else 0.0
        edge = edge_response(a[:, 0].numpy(), b[:, 0].numpy())
        return {"psnr_db": psnr, "ssim": float(ssim(a, b, high - low)), "bias_hu": bias, "edge": edge}


def _rating(change: Change, calibration: Calibration) -> str:
    return str(judge_change(change, calibration)["rating"])


def edge_response(image: NDArray[np.floating], clean: NDArray[np.floating], steepest: float = 0.02) -> float:
    """Compute the share of the clean slices' edge strength that an image keeps; 1 is all, 0 none.

    Args:
        image: (slice, i, j).
        clean: the clean slices, (slice, i, j).
        steepest: share of pixels taken as edges.
    """
    found, true = (np.stack(np.gradient(v, axis=(1, 2))) for v in (image, clean))
    size = np.square(true).sum(0)
    edges = (size >= np.quantile(size, 1 - steepest)) & (size > 0)
    whole = float(size[edges].sum())
    return float((found * true).sum(0)[edges].sum()) / whole if whole else 1.0


def _clean(part: EvaluationSet) -> list[SliceStack]:
    return read_images(part.bundle, part.data, part.root, part.split, part.reading)


def dose_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """Format the scores as Markdown tables: doses, then the compared denoisers."""
    lines = [
        "| dose | PSNR before | PSNR after | gain | SSIM before | after | bias before | after | edges before | after |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for dose, r in scores["per_dose"].items():
        lines.append(
            f"| {dose} | {r['psnr_before_db']:.2f} dB | {r['psnr_db']:.2f} dB | {r['psnr_gain_db']:+.2f} dB "
            f"| {r['ssim_before']:.4f} | {r['ssim']:.4f} | {r['bias_before_hu']:+.2f} HU | {r['bias_hu']:+.2f} HU "
            f"| {r['edge_before']:.2f} | {r['edge']:.2f} |"
        )
    lines.append(f"| **mean of {len(scores['cases'])} cases** | | | **{scores['score']:+.2f} dB** | | | | | | |")
    gains = {dose: [case[dose]["psnr_gain_db"] for case in scores["cases"].values()] for dose in scores["per_dose"]}
    spread = ", ".join(f"{pstdev(v):.2f} dB at {dose} (lowest {min(v):+.2f})" for dose, v in gains.items())
    lines += ["", f"Spread of the gain over cases: {spread}."]
    if scores["compared"]:
        lines += [
            "",
            "| same slices, nothing learnt | dose | best strength | PSNR after | gain | SSIM | edges |",
            "|---|---|---|---|---|---|---|",
        ]
    for method, doses in scores["compared"].items():
        for dose, r in doses.items():
            gain = r["psnr_db"] - scores["per_dose"][dose]["psnr_before_db"]
            lines.append(
                f"| {method.replace('_', ' ')} | {dose} | {r['strength']:g} | {r['psnr_db']:.2f} dB | {gain:+.2f} dB | {r['ssim']:.4f} | {r['edge']:.2f} |"
            )
    return "\n".join(lines)
