"""Peak memory of sliding-window inference to labels: MONAI's inferer, and ours with and without whole logits.

    python benchmarks/memory.py [--quick]

The network costs almost nothing, so the inferer's own memory is measured: for two lengths of a volume, then for a whole
CT with few and with many classes (for many classes MONAI's memory is computed, not measured, since most machines have
too little). Each number is of a separate process, minus its memory before the inferer; the share of equal labels is
printed too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from medvit.inference import SlidingWindow


class Case(NamedTuple):
    """A volume (i, j, k), its classes and the side of its windows; with ``counted``, MONAI's memory is computed."""

    shape: tuple[int, int, int]
    classes: int
    roi: int
    counted: bool = False


CASES = (
    Case((128, 192, 192), 14, 64),
    Case((384, 192, 192), 14, 64),
    Case((512, 512, 300), 14, 96),
    Case((512, 512, 300), 105, 96, counted=True),
)
SIDES = ("monai", "logits", "labels")


def stand_in(classes: int) -> Callable[[Tensor], Tensor]:
    """Make a substitute for a network: channels that cost almost nothing, each the largest for some grey value."""
    ramp = torch.linspace(0, 1, classes)[:, None, None, None]
    return lambda window: (window - ramp).abs_().neg_()


def peak_so_far() -> int:
    """Return the peak memory in bytes from /proc, since getrusage's value is inherited from the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_of(side: str, case: Case, out: Path) -> int:
    """Return the peak bytes of this process while a side ran, minus those before; the labels are written to a file."""
    image = torch.rand(1, 1, *case.shape, generator=torch.Generator().manual_seed(0))
    network, roi = stand_in(case.classes), (case.roi,) * 3
    ours = SlidingWindow(roi, 0.5)
    with torch.inference_mode():
        ours.labels(
            image[:, :, : case.roi, : case.roi, : case.roi], network
        )  # a first call, so that loaded libraries are not counted
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current memory
        before = peak_so_far()
        if side == "monai":
            labels = SlidingWindowInferer(roi, overlap=0.5, mode="gaussian")(image, network).argmax(1)
        elif side == "logits":
            labels = ours(image, network).argmax(1)
        else:
            labels = ours.labels(image, network)[:, 0]
        peak = peak_so_far() - before
    np.save(out, labels.numpy().astype(np.uint8))
    return peak


def in_a_process(side: str, number: int, out: Path) -> int:
    command = [sys.executable, __file__, "--side", side, "--number", str(number), "--out", str(out)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def row(number: int, place: Path) -> str:
    case = CASES[number]
    counted = (case.classes + 1) * int(np.prod(case.shape)) * 4
    peaks = {} if not case.counted else {"monai": counted, "logits": 0}
    for side in SIDES:
        if side not in peaks:
            peaks[side] = in_a_process(side, number, place / f"{side}.npy")
    made = [np.load(place / f"{side}.npy") for side in SIDES if (place / f"{side}.npy").is_file()]
    same = "-" if len(made) == 1 else f"{min(float((m == made[0]).mean()) for m in made[1:]):.5%}"
    cells = [f"{peaks['monai'] / 1e9:.2f} GB{' (counted)' if case.counted else ''}"]
    cells += ["-" if not peaks["logits"] else f"{peaks['logits'] / 1e9:.2f} GB", f"{peaks['labels'] / 1e9:.2f} GB"]
    size = " x ".join(map(str, case.shape))
    ratio = f"{peaks['monai'] / peaks['labels']:.1f}"
    return f"| {size} | {case.classes} | {case.roi} | " + " | ".join(cells) + f" | {ratio} | {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the two small volumes alone")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(peak_of(given.side, CASES[given.number], given.out))
        return
    print("Peak memory beyond the image, in processes of their own; overlap 0.5, Gaussian weights, to labels.\n")
    print(
        "| volume | classes | window | MONAI's inferer, argmax | medvit's logits, argmax | medvit's labels() | MONAI's / labels() | same labels |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for number in range(2 if given.quick else len(CASES)):
        with tempfile.TemporaryDirectory() as place:
            print(row(number, Path(place)), flush=True)


if __name__ == "__main__":
    main()
