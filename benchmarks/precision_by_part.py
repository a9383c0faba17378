"""Loss of agreement by bf16 in each part of a Swin UNETR: one window, the graph cut in two at each upsampling of the
decoder.

    python benchmarks/precision_by_part.py [--bundle NAME --case SCAN | --feature-size 24]

The part before the cut runs in bf16 by OpenVINO, the part after it (with the skip connections that end there) in fp32.
Printed for each cut, and for fp32 and bf16 throughout: relative L2 of the logits, share of voxels with the same label,
seconds per window.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.benchmarks.networks import Workload, bundle_workload, random_workload
from medvit.inference.backends import load_openvino, openvino_core
from medvit.inference.backends.openvino import _converted

openvino = load_openvino()
opset15 = openvino.opset15


def first_window(work: Workload) -> Tensor:
    """Return the first window, (1, channel, roi, roi, roi), padded if the image is smaller."""
    image = work.image[..., : work.roi, : work.roi, : work.roi]
    missing = [side for n in reversed(image.shape[2:]) for side in (0, work.roi - n)]
    return F.pad(image, missing).contiguous()


def compiled(model: Any, hint: str) -> Any:
    options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    return openvino_core().compile_model(model, "CPU", options).create_infer_request()


def whole(model: Any, hint: str) -> Callable[[np.ndarray], np.ndarray]:
    request = compiled(model, hint)

    def run(window: np.ndarray) -> np.ndarray:
        request.infer([window])
        return np.array(request.get_output_tensor(0).data)

    return run


def upsamplings(model: Any) -> list[Any]:
    return [op for op in model.get_ordered_ops() if op.get_type_name() == "ConvolutionBackpropData"]


def in_two(model: Any, number: int) -> Callable[[np.ndarray], np.ndarray]:
    """Run bf16 up to the input of an upsampling and fp32 after it."""
    inner, outer = model.clone(), model.clone()
    body = openvino.Model([upsamplings(inner)[number].input(0).get_source_output()], inner.get_parameters())
    joint = upsamplings(outer)[number].input(0)
    entry = opset15.parameter(joint.get_partial_shape(), np.float32)
    joint.replace_source_output(entry.output(0))
    tail = openvino.Model(outer.get_results(), [*outer.get_parameters(), entry])
    first, second = compiled(body, "bf16"), compiled(tail, "f32")

    def run(window: np.ndarray) -> np.ndarray:
        first.infer([window])
        second.infer([window, first.get_output_tensor(0).data])
        return np.array(second.get_output_tensor(0).data)

    return run


def row(name: str, run: Callable[[np.ndarray], np.ndarray], window: Tensor, wanted: Tensor) -> str:
    run(window.numpy())
    start = time.perf_counter()
    found = torch.from_numpy(run(window.numpy()))
    taken = time.perf_counter() - start
    error = float((found - wanted).norm() / wanted.norm())
    same = float((found.argmax(1) == wanted.argmax(1)).float().mean())
    return f"| {name} | {error:.1e} | {same:.4%} | {taken:.2f} s |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", help="a trained bundle, with --case")
    parser.add_argument("--case", type=Path)
    parser.add_argument("--feature-size", type=int, default=24, help="of random weights, without --bundle")
    given = parser.parse_args()
    work = bundle_workload(given.bundle, given.case) if given.bundle else random_workload(given.feature_size)
    window = first_window(work)
    with torch.inference_mode():
        wanted = work.mine(window).clone()
    model = _converted(work.mine, window)
    print(f"{work.name}\n\n| graph | logits, relative L2 | same labels | one window |\n|---|---|---|---|")
    print(row("fp32", whole(model, "f32"), window, wanted), flush=True)
    print(row("bf16", whole(model, "bf16"), window, wanted), flush=True)
    count = len(upsamplings(model))
    for number in reversed(range(count)):
        name = f"bf16, fp32 from upsampling {number + 1} of {count} on"
        print(row(name, in_two(model, number), window, wanted), flush=True)


if __name__ == "__main__":
    main()
