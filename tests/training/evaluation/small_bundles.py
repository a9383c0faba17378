"""Small bundles and data lists for tests of the evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser

from medvit.bundles import Bundle, open_bundle
from medvit.training.loop import publish
from tests.bands import oblique_affine

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "bundles"
RESTORATION, TWO_VIEWS = "ct_denoise_restore_rwkv", "headneck_xray_swin_x2s"


def silent(_: str) -> None:
    pass


def edit(folder: Path, name: str, change) -> None:
    path = folder / "configs" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def write_list(folder: Path, entry, label: bool = True) -> Path:
    """A list of one training and one validation case, in ``folder``."""
    keys = ("image", "label") if label else ("image",)
    cases = {split: [{k: entry(split)[k] for k in keys}] for split in ("training", "validation")}
    (folder / "list.json").write_text(json.dumps(cases))
    return folder / "list.json"


def published(folder: Path) -> Bundle:
    """The bundle with random weights of its own network."""
    torch.manual_seed(0)
    network = ConfigParser(dict(open_bundle(folder).config)).get_parsed_content("network_def")
    publish(open_bundle(folder), network.state_dict())
    return open_bundle(folder)


def ct(folder: Path, name: str, moved: int = 0) -> dict[str, str]:
    """A body with a bone and a marked mandible, on an oblique grid."""
    hounsfield = np.full((30, 28, 40), -1000, np.int16)
    hounsfield[5:25, 5:23] = np.random.default_rng(moved).normal(40, 15, (20, 18, 40))
    hounsfield[12:16, 10:14] = 900
    hounsfield[18:22, 8:20, 20 + moved : 26 + moved] = 700
    labels = np.zeros_like(hounsfield, dtype=np.uint8)
    labels[18:22, 8:20, 20 + moved : 26 + moved] = 7
    affine = oblique_affine((8.0, 8.0, 8.0), 5.0)
    nib.save(nib.Nifti1Image(hounsfield, affine), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_oar.nii.gz")
    return {"image": f"{name}_ct.nii.gz", "label": f"{name}_oar.nii.gz"}
