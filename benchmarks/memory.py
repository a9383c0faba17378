"""Peak memory of sliding-window inference to labels: MONAI's inferer, and ours with and without whole logits.

    python benchmarks/memory.py [--quick]

The network costs nothing, so what is measured is the inferer's own: two lengths of a volume, then a whole CT with few and with
many classes (MONAI's for many is counted, not run: it takes more than most machines have). Each figure is of a process of its
own, what it held before the inferer ran taken off; the share of equal labels stands beside it.
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
    """A volume (i, j, k), its classes and its windows' side; ``counted`` where MONAI's side is arithmetic."""

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
    """In place of a network: channels that cost next to nothing, each the largest for some grey value."""
    ramp = torch.linspace(0, 1, classes)[:, None, None, None]
    return lambda window: (window - ramp).abs_().neg_()


def peak_so_far() -> int:
    """Bytes; of /proc, since what getrusage says is inherited from the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def peak_of(side: str, case: Case, out: Path) -> int:
    """Bytes this process held at most while a side ran, beyond what it held before; the labels go to a file."""
    image = torch.rand(1, 1, *case.shape, generator=torch.Generator().manual_seed(0))
    network, roi = stand_in(case.classes), (case.roi,) * 3
    ours = SlidingWindow(roi, 0.5)
    with torch.inference_mode():
        ours.labels(
            image[:, :, : case.roi, : case.roi, : case.roi], network
        )  # what a first call loads is no part of it
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from what is held now
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
