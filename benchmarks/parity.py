"""Comparison with published models: parameters, keys loaded, largest difference of outputs.

    python benchmarks/parity.py

The reference tensors of the shared data were made by the published implementations; weights are loaded by
``medvit.load_published``, which uses every key or refuses. Parameters are counted at the published sizes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import medvit
from medvit.kernels.bi_wkv import bi_wkv
from medvit.reconstruction import SwinX2S, swin_x2s
from medvit.restoration import RestoreRWKV
from medvit.segmentation import BarlowSwin, SwinUNETR

PARITY = Path(os.environ.get("MEDVIT_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "parity"


def _read(name: str) -> dict[str, np.ndarray]:
    with np.load(PARITY / name) as stored:
        return {key: stored[key] for key in stored.files}


def _state(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    found = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    return {k: torch.from_numpy(v if v.dtype == np.int64 else v.astype(np.float32)) for k, v in found.items()}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _parameters(network: nn.Module) -> str:
    return f"{sum(p.numel() for p in network.parameters()):,}"


def _worst(found: Tensor, wanted: np.ndarray) -> float:
    return float(np.abs(found.numpy() - wanted).max())


def swin_unetr() -> tuple[str, str, str, float]:
    weights, tensors = _state(_read("swin_unetr_f12_weights.npz")), _read("swin_unetr_f12_io.npz")
    plain = {k: v for k, v in weights.items() if "c." not in k.split("layers", 1)[-1][:3]}
    worst = 0.0
    for merging, key in (("merging", "monai15plus"), ("mergingv2", "mergingv2"), ("merging_legacy", "legacy")):
        for v2 in (False, True):
            network = SwinUNETR(1, 2, feature_size=12, use_v2=v2).eval()
            medvit.load_published(network, dict(weights if v2 else plain), merging=merging)
            wanted = next(tensors[k] for k in tensors if k.endswith(f"_{key}_v2" if v2 else f"_{key}"))
            worst = max(worst, _worst(network(_tensor(tensors["in_a"])), wanted))
    counts = [_parameters(SwinUNETR(1, 14, feature_size=size)) for size in (12, 24, 48)]
    return (
        "Swin UNETR, 14 classes, features 12 / 24 / 48",
        "4,078,220 / 15,703,304 / 62,187,296",
        " / ".join(counts),
        worst,
    )


def barlow_swin() -> tuple[str, str, str, float]:
    keras = _read("barlow_swin_keras_e16_128x192.npz")
    network = medvit.load_published(BarlowSwin(embed_dim=16).eval(), keras)
    found = network(_tensor(keras["in_nhwc"]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    whole = BarlowSwin(image_size=(512, 512))
    tables = sum(p.numel() for n, p in whole.named_parameters() if "bias_table" in n or "relative" in n)
    running = sum(b.numel() for n, b in whole.named_buffers() if "running" in n)
    ours = sum(p.numel() for p in whole.parameters()) - tables + running
    return (
        "Barlow-Swin (Keras counts running statistics, not bias tables)",
        "7,001,829 + 2,352",
        f"{ours:,} + {tables:,}",
        _worst(found, keras["out_logit_nhwc"]),
    )


def restore_rwkv() -> tuple[str, str, str, float]:
    arrays = _read("restore_rwkv_dim16.npz")
    network = RestoreRWKV(dim=16, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).eval()
    medvit.load_published(network, _state(arrays))
    worst = _worst(network(_tensor(arrays["in_a"])), arrays["out_a_paper"])
    worst = max(worst, _worst(network.fuse()(_tensor(arrays["in_a"])), arrays["out_a_paper"]))
    count = RestoreRWKV().count()
    ours = f"{count.stored:,} / {count.trained:,} / {count.fused:,}"
    return "Restore-RWKV, dim 48 (stored / trained / fused)", "28,371,137 / 27,996,737 / 27,846,625", ours, worst


def x2s() -> tuple[str, str, str, float]:
    arrays = _read("swin_x2s_f4_32x32x64.npz")
    network = SwinX2S(
        (32, 32, 64), 1, out_channels=3, feature_size=4, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 4)
    ).eval()
    medvit.load_published(network, _state(arrays))
    coronal, sagittal = network(_tensor(arrays["in_cor"]), _tensor(arrays["in_sag"]))
    with torch.device("meta"):
        counts = [_parameters(swin_x2s(size, out_channels=4)) for size in ("tiny", "small", "base", "large")]
    worst = max(_worst(coronal, arrays["out_cor"]), _worst(sagittal, arrays["out_sag"]))
    return (
        "Swin-X2S, 4 classes, Tiny / Small / Base / Large",
        "32,556,218 / 130,064,248 / 313,842,502 / 557,798,324",
        " / ".join(counts),
        worst,
    )


def operator() -> tuple[str, str, str, float]:
    """Compare in float64, by relative error, the forward pass and all four gradients."""
    arrays, worst = _read("biwkv_fp64.npz"), 0.0
    for case in sorted({name.split("/")[0] for name in arrays}):
        leaves = [torch.from_numpy(arrays[f"{case}/{n}"]).double().requires_grad_() for n in "wukv"]
        y = bi_wkv(*leaves)
        grads = torch.autograd.grad(y, leaves, torch.from_numpy(arrays[f"{case}/gy"]).double())
        for found, name in zip((y.detach(), *grads), ("y", "gw", "gu", "gk", "gv"), strict=True):
            wanted = arrays[f"{case}/{name}"]
            scale = float(np.linalg.norm(wanted))
            worst = max(
                worst, float(np.linalg.norm(found.numpy() - wanted)) / scale if scale else float(found.abs().max())
            )
    return "bi-WKV operator, float64, relative, with gradients", "-", "-", worst


def main() -> None:
    warnings.simplefilter("ignore")
    rows: tuple[Callable[[], tuple[str, str, str, float]], ...] = (swin_unetr, barlow_swin, restore_rwkv, x2s)
    print(
        "| model | published parameters | parameters here | equal | published keys loaded | max difference |\n|---|---|---|---|---|---|"
    )
    with torch.inference_mode():
        for row in rows:
            name, published, ours, worst = row()
            print(
                f"| {name} | {published} | {ours} | {'yes' if published == ours else 'NO'} | all, strictly | {worst:.1e} |"
            )
    name, _, _, worst = operator()
    print(f"| {name} | - | - | - | - | {worst:.1e} |")


if __name__ == "__main__":
    main()
