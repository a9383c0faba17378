"""A bundle that learns within seconds: the band bundle with its bands misplaced, and a project of phantoms to set them right."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from medvit.training.objectives import Objective
from tests.bands import make_bundle, oblique_affine, phantom


class BandObjective(Objective):
    """Cross-entropy of ``BandNetwork``."""

    def forward(self, *batch: Tensor) -> Tensor:
        """Images (batch, 1, i, j, k), labels of the same shape."""
        image, labels = batch
        return F.cross_entropy(self.network(image), labels[:, 0])


def make_learning_bundle(folder: Path) -> Path:
    """Make the band bundle with every band 0.07 too low, so that most voxels of a class are taken for the next one."""
    make_bundle(folder)
    configs = folder / "configs"
    train = json.loads((configs / "train.json").read_text())
    train["draws"] |= {"roi_size": [16, 16, 16], "rotation_deg": 0.0, "jitter": [2.0, 2.0], "swap_on_flip": []}
    train["objective"] = {"_target_": "tests.label.learning.BandObjective", "network": "@network_def"}
    train["loop"] |= {"steps": 100, "ema_decay": 0.9}
    (configs / "train.json").write_text(json.dumps(train))
    content = save({"centres": (torch.arange(8) / 8 - 0.07).half()})
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata = json.loads((configs / "metadata.json").read_text())
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (configs / "metadata.json").write_text(json.dumps(metadata))
    return folder


def make_cases(studies: Path, truth: Path, count: int) -> list[str]:
    """Phantoms with noise of their own as ``case0.nii.gz`` ..., and their labels in another folder; the names."""
    studies.mkdir(parents=True, exist_ok=True)
    truth.mkdir(parents=True, exist_ok=True)
    names = []
    for number in range(count):
        values, labels = phantom()
        noise = np.random.default_rng(number).normal(0, 4, values.shape)
        affine = oblique_affine(degrees=5.0 * number)
        nib.save(nib.Nifti1Image((values + noise).astype(np.float32), affine), studies / f"case{number}.nii.gz")
        nib.save(nib.Nifti1Image(labels, affine), truth / f"case{number}.nii.gz")
        names.append(f"case{number}")
    return names


def wait_for(done: Callable[[], Any], seconds: float = 180) -> Any:
    """Call ``done`` until it returns something; return that."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.2)
    return found
