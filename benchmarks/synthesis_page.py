"""Page of synthetic heads for inspection: each row is one label map in three planes, every sample in another contrast.

    python benchmarks/synthesis_page.py [MAP ...] [-n 4] [--size 96] [--spacing 2] [-o synthesis.png]

Without maps it takes two of ../shared/data/brain_labels. The patient's right is on the viewer's left. The cerebral
white matter of both sides (2 and 41 of FreeSurfer) is outlined, red on the left side of the head, blue on the right, so
that a wrong flip is visible.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from medvit.training.data import data_root
from medvit.training.synthesis import Pose, Synthesis
from medvit.training.synthesis.sampler import read_map

PAIRS = tuple(
    zip((2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28, 30), (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62), strict=True)
)  # fmt: skip
"""Pairs of FreeSurfer's left and right ids in these maps."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("maps", nargs="*", type=Path)
    options.add_argument("-n", type=int, default=4)
    options.add_argument("--size", type=int, default=96)
    options.add_argument("--spacing", type=float, default=2.0)
    options.add_argument("-o", type=Path, default=Path("synthesis.png"))
    given = options.parse_args()
    known = data_root(None, Path.cwd()) / "brain_labels"
    maps = given.maps or [known / f"synthseg_training_seg_{n}.nii.gz" for n in ("01", "14")]
    synthesis = Synthesis(size=(given.size,) * 3, spacing_mm=(given.spacing,) * 3, pose=Pose(pairs=PAIRS))
    figure, axes = plt.subplots(3 * len(maps), given.n, figsize=(2.1 * given.n, 6.3 * len(maps)), squeeze=False)
    for row, path in enumerate(maps):
        source = read_map(path)
        for column in range(given.n):
            image, ids = synthesis(source.ids, source.spacing_mm, np.random.default_rng((row, column)))
            for plane, axis in enumerate((2, 1, 0)):
                panel = axes[3 * row + plane, column]
                middle = given.size // 2
                cut, marks = (np.take(v[0].numpy(), middle, axis) for v in (image, ids))
                panel.imshow(cut[::-1].T if axis else cut.T, cmap="gray", origin="lower", vmin=0, vmax=1)
                for label, colour in ((2, "red"), (41, "deepskyblue")):
                    mask = (marks == label).astype(float)
                    if axis and mask.any():
                        panel.contour(mask[::-1].T, [0.5], colors=colour, linewidths=0.5)
                panel.axis("off")
    figure.subplots_adjust(0, 0, 1, 1, 0.02, 0.02)
    figure.savefig(given.o, dpi=80)
    print(given.o)


if __name__ == "__main__":
    main()
