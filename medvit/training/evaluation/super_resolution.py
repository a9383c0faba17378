"""Evaluation of super-resolution: clean volumes are made coarser, restored like a user's scan, and compared with
interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, pstdev
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import binary_fill_holes

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.inference import LoadedBundle
from medvit.physics import zero_fill
from medvit.physics.degradations import TruncatedMR
from medvit.pipeline import Predictor
from medvit.restoration import Restored, with_factor
from medvit.training.checked_settings import Count, checked_settings
from medvit.training.data import SliceStack, read_stacks
from medvit.training.evaluation.evaluation_set import EvaluationSet, Report, Scorer, mean_rows, summary
from medvit.training.evaluation.restoration import edge_response
from medvit.training.objectives import ssim_map
from medvit.transforms import percentile_range

__all__ = ["INTERPOLATIONS", "EvaluatedSlices", "SuperResolutionEvaluation", "choose", "finer_table", "restored"]

_PERCENTILES = (0.5, 99.5)
_HEAD = 0.1
_SHARE = 0.05
"""Smallest share of head in a slice for the slice to be evaluated."""


def _bicubic(coarse: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Interpolate by cubic convolution with a = -1/2 (R. Keys, IEEE Trans. ASSP 29(6), 1981), slice by slice, with
    Pillow."""
    from PIL import Image

    size = (coarse.shape[1] * factor, coarse.shape[0] * factor)
    slices = [
        np.asarray(Image.fromarray(coarse[:, :, k].copy()).resize(size, Image.Resampling.BICUBIC))
        for k in range(coarse.shape[2])
    ]
    return np.stack(slices, -1)


INTERPOLATIONS: dict[str, Callable[[NDArray[np.float32], int], NDArray[np.float32]]] = {
    "bicubic": _bicubic,
    "sinc": zero_fill,
}
"""Interpolations without training, from coarse (i, j, k) to (factor * i, factor * j, k). Sinc is zero filling of
k-space."""


@dataclass(frozen=True)
class EvaluatedSlices:
    """Evaluated slices of one volume.

    Attributes:
        clean: the slices, (i, j, k).
        head: mask of the head, (i, j, k).
        whole: the volume's range, the reference of PSNR and SSIM.
    """

    clean: SliceStack
    head: NDArray[np.bool_]
    whole: float


@checked_settings
class SuperResolutionEvaluation:
    """PSNR and SSIM inside the head of volumes that were made coarser and restored.

    Each clean volume is resampled to larger pixels (``TruncatedMR``, without noise) and restored like a user's coarse
    scan, by the bundle's preprocessing at that factor; bicubic and sinc interpolation (zero filling of k-space) of the
    same coarse scan are evaluated beside it. If the clean volume has no values below 0, all results are raised to 0,
    which removes half of the interpolations' ringing in air. The head is the region above a tenth of the volume's range
    (0.5th to 99.5th percentile, also the reference of PSNR and SSIM), with holes filled; PSNR and SSIM are computed per
    slice and averaged per case.

    Attributes:
        factors: coarse pixel size divided by fine pixel size.
        slice_stride: step between evaluated slices, from the middle of the first stride; slices with less than a
            twentieth of head are left out.

    Edge response is that of ``medvit.training.evaluation.restoration.edge_response`` over the slices; bias is the mean
    difference inside the head, in per cent of the clean mean there.
    """

    task: ClassVar[str] = "restoration"

    factors: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    slice_stride: Count

    def judge(self, part: EvaluationSet) -> Scorer:
        """Prepare the cases; scores have ``{"per_factor", "cases"}`` in addition.

        Raises:
            SourceError: the list is wrong.
        """
        chosen = choose(self, part)

        def scores(model: LoadedBundle, say: Report) -> dict[str, Any]:
            self._require_whole(model)
            cases = {}
            for case in chosen:
                rows = {f"x{factor}": _compare(model, case, factor) for factor in self.factors}
                cases[case.clean.name] = rows
                words = [
                    f"{row['psnr_db']:.2f} dB at {name} (bicubic {row['psnr_bicubic_db']:.2f}, sinc {row['psnr_sinc_db']:.2f})"
                    for name, row in rows.items()
                ]
                say(f"{case.clean.name}: PSNR {', '.join(words)}")
            per_factor = mean_rows(cases)
            metrics = {"psnr_gain_db": mean(row["gain_over_sinc_db"] for row in per_factor.values())}
            for factor, row in per_factor.items():
                metrics |= {f"{name}_at_{factor}": value for name, value in row.items()}
            return {**summary(part, self.task, metrics), "per_factor": per_factor, "cases": cases}

        return scores

    def chosen(self, volume: SliceStack) -> EvaluatedSlices:
        """Select the evaluated slices of a volume, cropped to sides that are multiples of every factor.

        Raises:
            BundleError: the stride selects no slice that shows a head, or the factors do not divide each other.
        """
        low, high = percentile_range(volume.image, _PERCENTILES)
        most = max(self.factors)
        i, j = (n - n % most for n in volume.image.shape[:2])
        slices = volume.image[:i, :j, (self.slice_stride - 1) // 2 :: self.slice_stride]
        head = np.empty(slices.shape, bool)
        for k in range(slices.shape[2]):
            head[..., k] = binary_fill_holes(slices[..., k] > low + _HEAD * (high - low))
        shown = head.mean((0, 1)) >= _SHARE
        if not shown.any() or any(i % factor or j % factor for factor in self.factors):
            raise BundleError(
                (
                    f"{volume.name} with {volume.image.shape[2]} slices, of which slice_stride {self.slice_stride} "
                    f"chooses none that shows a head, or factors {list(self.factors)} that do not divide each other"
                ),
                "slices with a head and such factors are needed",
                "Correct configs/evaluate.json.",
            )
        clean = SliceStack(volume.name, np.ascontiguousarray(slices[..., shown]), volume.spacing_mm)
        return EvaluatedSlices(clean, head[..., shown], high - low)

    def _require_whole(self, model: LoadedBundle) -> None:
        context = getattr(model.inferer, "context", 0)
        if context and self.slice_stride > 1:
            raise BundleError(
                (
                    f"slice_stride {self.slice_stride} for {model.bundle.name}, whose network sees {context} neighbours "
                    "of a slice"
                ),
                "a stride would choose other slices as neighbours",
                "Set slice_stride to 1 in configs/evaluate.json.",
            )


def choose(evaluation: SuperResolutionEvaluation, part: EvaluationSet) -> list[EvaluatedSlices]:
    """Select the evaluated slices of each volume of a part.

    Raises:
        SourceError: the list is wrong.
        BundleError: see ``SuperResolutionEvaluation.chosen``.
    """
    volumes = read_stacks(part.bundle, part.data, part.root, part.split, part.reading)
    return [evaluation.chosen(volume) for volume in volumes]


def _compare(model: LoadedBundle, case: EvaluatedSlices, factor: int) -> dict[str, float]:
    clean = case.clean
    coarse = TruncatedMR(factor).coarse(clean.image, clean.spacing_mm)
    least = 0.0 if clean.image.min() >= 0 else -np.inf
    found = {name: np.maximum(make(coarse, factor), least) for name, make in INTERPOLATIONS.items()}
    measured = {name: _measure(image, case) for name, image in found.items()}
    # a real scan has only magnitudes; the simulated one falls below 0 next to edges
    after = _measure(np.maximum(restored(model, coarse, clean.spacing_mm, factor), least), case)
    row = {f"psnr_{name}_db": one["psnr_db"] for name, one in measured.items()}
    row["psnr_db"] = after["psnr_db"]
    row |= {f"gain_over_{name}_db": after["psnr_db"] - one["psnr_db"] for name, one in measured.items()}
    row |= {f"ssim_{name}": one["ssim"] for name, one in measured.items()}
    return {
        **row,
        "ssim": after["ssim"],
        "edge_sinc": measured["sinc"]["edge"],
        "edge": after["edge"],
        "bias_percent": after["bias_percent"],
    }


def restored(
    model: LoadedBundle, coarse: NDArray[np.float32], spacing_mm: tuple[float, float, float], factor: int
) -> NDArray[np.float32]:
    """Restore a coarse scan (i, j, k) like a user's, to the grid finer by the factor.

    Args:
        model: the loaded bundle.
        coarse: the scan.
        spacing_mm: voxel sides of the result.
        factor: coarse pixel size divided by fine pixel size.
    """
    across, down, between = spacing_mm
    affine = torch.diag(torch.tensor([across * factor, down * factor, between, 1.0], dtype=torch.float64))
    source = MetaTensor(torch.from_numpy(coarse)[None], affine=affine)
    result = Predictor(with_factor(model, factor)).run(source)
    assert isinstance(result, Restored)  # the bundle is for restoration
    return result.array


def _measure(image: NDArray[np.float32], case: EvaluatedSlices) -> dict[str, float]:
    """Compute PSNR in dB and SSIM inside the head, edge response, and bias in per cent, of (i, j, k) against the clean
    slices."""
    clean, head = case.clean.image, case.head
    a, b = (torch.from_numpy(v.astype(np.float64)).movedim(2, 0)[:, None] for v in (image, clean))
    inside = torch.from_numpy(head).movedim(2, 0)[:, None]
    error = ((a - b).square() * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
    similar = ssim_map(a, b, case.whole)
    rim = [(n - m) // 2 for n, m in zip(a.shape[2:], similar.shape[2:], strict=True)]
    seen = inside[..., rim[0] : a.shape[2] - rim[0], rim[1] : a.shape[3] - rim[1]]
    per_slice = (similar * seen).sum((1, 2, 3)) / seen.sum((1, 2, 3)).clamp(min=1)
    return {
        "psnr_db": float((10 * (case.whole**2 / error).log10()).mean()),
        "ssim": float(per_slice.mean()),
        "edge": edge_response(a[:, 0].numpy(), b[:, 0].numpy()),
        "bias_percent": float(100 * ((a - b)[inside].mean() / b[inside].mean())),
    }


def finer_table(bundle: Bundle, scores: dict[str, Any]) -> str:
    """Format the scores as Markdown tables: by factor, then by case."""
    lines = [
        "| pixels wider | PSNR bicubic | sinc | restored | over bicubic | over sinc | SSIM bicubic | sinc | restored "
        "| edges sinc | restored | bias |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {factor} | {_figures(r)} | {r['ssim_bicubic']:.4f} | {r['ssim_sinc']:.4f} | {r['ssim']:.4f} | {r['edge_sinc']:.2f} "
        f"| {r['edge']:.2f} | {r['bias_percent']:+.2f} % |"
        for factor, r in scores["per_factor"].items()
    ]
    gains = {f: [case[f]["gain_over_sinc_db"] for case in scores["cases"].values()] for f in scores["per_factor"]}
    spread = ", ".join(f"{pstdev(v):.2f} dB at {f} (lowest {min(v):+.2f})" for f, v in gains.items())
    lines += ["", f"Spread of the gain over sinc among {len(scores['cases'])} volumes: {spread}.", ""]
    lines += ["| volume | pixels wider | PSNR bicubic | sinc | restored | over bicubic | over sinc | SSIM |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for name, case in scores["cases"].items():
        lines += [f"| {name} | {factor} | {_figures(r)} | {r['ssim']:.4f} |" for factor, r in case.items()]
    return "\n".join(lines)


def _figures(r: dict[str, float]) -> str:
    return (
        f"{r['psnr_bicubic_db']:.2f} dB | {r['psnr_sinc_db']:.2f} dB | {r['psnr_db']:.2f} dB "
        f"| {r['gain_over_bicubic_db']:+.2f} dB | {r['gain_over_sinc_db']:+.2f} dB"
    )
