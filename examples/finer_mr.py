"""The slices that a bundle makes finer worst: truth, sinc and restored side by side, for looking.

    python examples/finer_mr.py OUT.png [--bundle NAME] [--factor 2] [--worst 3]

Takes the slices that ``medvit evaluate`` judges, makes them coarser by the factor, and draws those of each volume where the
restored slice gains least over sinc (k-space filled with zeros), with the sign of what is left wrong. Needs the data beside
the project (MEDVIT_SHARED).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from medvit.bundles import open_bundle
from medvit.inference import load_model
from medvit.physics.degradations import TruncatedMR
from medvit.training.evaluation import EvaluationSet, SuperResolutionEvaluation, evaluation_of
from medvit.training.evaluation.super_resolution import INTERPOLATIONS, choose, restored


def drawn(bundle_name: str, factor: int, count: int, out: Path) -> list[str]:
    """Draw the slices; return a line for each."""
    bundle = open_bundle(bundle_name)
    evaluation = evaluation_of(bundle)
    assert isinstance(evaluation, SuperResolutionEvaluation)
    model, rows = load_model(bundle, "cpu"), []
    for case in choose(evaluation, EvaluationSet(bundle=bundle)):
        clean, head = case.clean.image, case.head
        coarse = TruncatedMR(factor).coarse(clean, case.clean.spacing_mm)
        sinc = np.maximum(INTERPOLATIONS["sinc"](coarse, factor), 0)
        made = restored(model, coarse, case.clean.spacing_mm, factor)
        for k in range(clean.shape[2]):
            before, after = (float(np.square(v - clean)[..., k][head[..., k]].mean()) for v in (sinc, made))
            planes = [v[..., k] / case.whole for v in (clean, sinc, made)]
            rows.append((10 * np.log10(before / after), case.clean.name, k, planes))
    rows.sort(key=lambda row: row[0])
    worst = rows[:count]
    figure = Figure(figsize=(13, 4.2 * len(worst)), dpi=70, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(worst), 4, squeeze=False, gridspec_kw={"wspace": 0.02, "hspace": 0.1})
    for line, (gain, name, k, (clean, sinc, made)) in zip(axes, worst, strict=True):
        box = tuple(slice(max(0, int(a.min()) - 3), int(a.max()) + 4) for a in np.nonzero(clean > 0.1))
        pictures = (("truth", clean), ("sinc", sinc), (f"restored, {gain:+.2f} dB", made), ("left wrong", made - clean))
        for place, (title, plane) in zip(line, pictures, strict=True):
            low, high = (-0.15, 0.15) if title == "left wrong" else (0, 1)
            place.imshow(plane[box].T[::-1], cmap="gray", vmin=low, vmax=high, interpolation="nearest")
            place.set_title(f"{name} {k}: {title}" if title == "truth" else title, color="white", fontsize=10)
            place.set_axis_off()
    figure.savefig(out, facecolor="black", bbox_inches="tight")
    with Image.open(out) as picture:
        few = picture.convert("L").quantize(24)  # a third of the size, and nothing that can be seen is gone
    few.save(out, optimize=True)
    return [f"{name}, slice {k} of those judged: {gain:+.2f} dB over sinc" for gain, name, k, _ in worst]


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--bundle", default="mr_superres_restore_rwkv")
    arguments.add_argument("--factor", type=int, default=2)
    arguments.add_argument("--worst", type=int, default=3)
    asked = arguments.parse_args()
    print("\n".join(drawn(asked.bundle, asked.factor, asked.worst, asked.out)))
