"""Two small bundles for states left by an earlier commit: one that labels by brightness, one that restores."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from medvit.training.objectives import Objective
from tests.bands import DENOISING, BandNetwork, make_bundle

BANDS, DENOISE = "bands", "denoise"
"""Names of the two bundles."""

_MISPLACED = -0.07
"""Offset by which every band is too low, so that a training in a label project can improve it."""


class Bands(BandNetwork):
    """Network of the test bundle, under a name that does not change when tests are moved."""


class CrossEntropy(Objective):
    """Cross-entropy of a network with one logit for each class."""

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of images (batch, 1, i, j, k) with labels of the same shape."""
        image, labels = batch
        return F.cross_entropy(self.network(image), labels[:, 0])


def make_bands(folder: Path) -> Path:
    """Make a bundle for CT that labels by brightness and can be trained within seconds.

    The configs are those of the default bundle, so that they name medvit's classes as the commit in use names them.
    """
    make_bundle(folder)
    configs = folder / "configs"
    for name in ("datalist", "inference_monai", "pretrain", "pretrain_simmim"):
        (configs / f"{name}.json").unlink(missing_ok=True)
    inference = _read(configs / "inference.json")
    inference["network_def"]["_target_"] = f"{__name__}.{Bands.__name__}"
    _write(configs / "inference.json", inference)
    train = _read(configs / "train.json")
    train["draws"] |= {
        "roi_size": [16, 16, 16], "organ_fraction": 0.75, "rotation_deg": 0.0, "scale": [0.85, 1.2], "swap_on_flip": [],
        "jitter": [2.0, 2.0],
    }  # fmt: skip
    train["objective"] = {"_target_": f"{__name__}.{CrossEntropy.__name__}", "network": "@network_def"}
    train["loop"] = _loop(
        train, batch_size=1, learning_rate=0.003, ema_decay=0.9, checkpoint_every=100, validate_every=0
    )
    _write(configs / "train.json", train)
    content = save({"centres": (torch.arange(8) / 8 + _MISPLACED).half()})
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = _read(configs / "metadata.json")
    digest = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["weights"]["sha256"] = metadata["medvit"]["validation"]["weights_sha256"] = digest
    _write(configs / "metadata.json", metadata)
    return folder


def make_denoise(folder: Path) -> Path:
    """Make the denoising bundle with a Restore-RWKV of 19,000 weights and a recipe of a few steps.

    Every number of the recipe is stated here, so that training ends with the same weights though the shipped bundle's recipe may
    be changed; only the names of medvit's classes are taken from the shipped bundle.
    """
    shutil.copytree(DENOISING, folder, ignore=shutil.ignore_patterns("models", "docs"))
    configs = folder / "configs"
    inference = _read(configs / "inference.json")
    inference["network_def"] |= {"dim": 2, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}
    _write(configs / "inference.json", inference)
    train = _read(configs / "train.json")
    train["scanner"] |= {"photons_per_ray": 35000.0, "electronic_noise": 3.2, "bowtie": 0.0}
    train["scanner"]["beam"] |= {"views": 8, "kernel": "ramp"}
    train["draws"] |= {
        "dose": [0.05, 1.5], "crop": [16, 16], "body_above": -500.0, "neighbour_steps": [1], "slab": 1, "pool": 1, "uses": 1,
    }  # fmt: skip
    train["held"][0] |= {
        "between": [0.2, 0.3], "beside": 2, "noise_levels": [0.002, 0.004, 0.008, 0.016, 0.032], "rate": 0.05,
    }  # fmt: skip
    train["objective"] |= {
        "loss": "charbonnier_widest", "identity_start": True, "output_rate": 0.1, "contrast_start": [0.25, 20.0],
        "window": [0.21, 0.31], "outside": 0.1,
    }  # fmt: skip
    train["loop"] = _loop(train, batch_size=2, learning_rate=0.001, ema_decay=0.9, checkpoint_every=4, validate_every=2)
    _write(configs / "train.json", train)
    evaluate = _read(configs / "evaluate.json")
    evaluate["scanner"] = train["scanner"]
    evaluate["evaluation"] |= {"doses": [0.25], "slice_stride": 2, "compared": []}
    _write(configs / "evaluate.json", evaluate)
    return folder


def _loop(train: dict[str, Any], **changes: Any) -> dict[str, Any]:
    known = {
        "steps": 100,
        "cooldown_steps": 3,
        "warmup_steps": 2,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "patience": 0,
        "seed": 0,
    }
    return {"_target_": train["loop"]["_target_"], **known, **changes}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
