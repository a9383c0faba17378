"""Sliding-window inference: MONAI's inferer against ours, in turn, same network, same windows, same weights.

    python benchmarks/sliding_window.py [--case PATH] [--runs 3]

The time is measured with the head-and-neck bundle's network and windows on a real CT that is not cropped, so that there
is air around the patient (an OpenKBP scan of the shared data unless --case names another). Both sides run the same
network object, so the ratio is that of the inferers. For memory see memory.py.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer
from timing import in_turn, seconds
from torch import Tensor

from medvit.inference import SlidingWindow
from medvit.inference.tiling import tile
from medvit.kernels.occupied_windows import occupied_windows

BUNDLE = "headneck_ct_swin_unetr"
SHARED = Path(os.environ.get("MEDVIT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
CASE = SHARED / "data" / "ct_headneck_openkbp" / "pt_100_ct.nii.gz"


def uncropped(case: Path) -> tuple[torch.nn.Module, Tensor, dict[str, object]]:
    """Return the bundle's network, an image (1, 1, i, j, k) after its preprocessing without the crop, and its inferer's
    settings."""
    from medvit.inference import load_model
    from medvit.pipeline import Predictor

    model = load_model(BUNDLE, "cpu")
    ready = dict(Predictor(model).prepare(case).data)
    for transform in model.preprocessing.transforms:
        if type(transform).__name__ != "CropToBodyd":
            ready = transform(ready)
    inferer = model.inferer
    settings = {"roi_size": inferer.roi_size, "overlap": inferer.overlap, "mode": inferer.mode}
    return model.network, ready["image"].as_tensor()[None], settings


def time_both(case: Path, runs: int) -> None:
    network, image, settings = uncropped(case)
    ours, theirs = SlidingWindow(**settings), SlidingWindowInferer(**settings)
    tiling = tile(image.shape[2:], ours.roi_size, ours.overlap)
    padded = tiling.pad(image, "constant", 0.0)
    ran = []

    def counted(window: Tensor) -> Tensor:
        ran.append(len(window))
        return network(window)

    with torch.inference_mode():
        a, b = theirs(image, network), ours(image, counted)
        agreement = float((a - b).abs().max() / a.abs().max())
        same = float((a.argmax(1) == ours.labels(image, network)[:, 0]).float().mean())
        monai, mine, ratio = in_turn(lambda: theirs(image, network), lambda: ours(image, network), runs)
    find = seconds(lambda: occupied_windows(padded, tiling.roi, tiling.origins))
    threads = torch.get_num_threads()
    print(f"{case.name}, not cropped: {tuple(image.shape[2:])}, windows of {tiling.roi}; {threads} threads")
    print(
        f"largest difference of logits {agreement:.1e} of the largest; labels by the streaming path equal at {same:.6%}"
    )
    print(f"windows run: {sum(ran)} of {len(tiling.origins)}; finding them took {find * 1e3:.0f} ms\n")
    print("| work | MONAI's inferer | medvit's | ratio (pair by pair, median) |\n|---|---|---|---|")
    print(f"| logits of one CT | {monai:.1f} s | {mine:.1f} s | {ratio:.2f} |\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, default=CASE, help="a CT of head and neck")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    time_both(given.case, given.runs)


if __name__ == "__main__":
    main()
