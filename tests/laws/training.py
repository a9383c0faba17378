"""Rows of training: one step of each recipe that the bundles ship, by its loss and the gradient's length in each tensor."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from medvit.cli.main import app
from tests.laws.nifti import crop_nifti
from tests.laws.products import Numbers, Product
from tests.laws.rows import ROOT, Place, Row

_FIRST_MOMENT = 0.1
"""Adam's running mean after one step is this share of the gradient."""


def command(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """Run ``medvit`` in this process and return its output.

    Raises:
        RuntimeError: it ended with another exit code.
    """
    outcome = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if outcome.exit_code not in codes:
        raise RuntimeError(
            f"medvit {arguments[0]} ended with {outcome.exit_code}: {outcome.output}"
        ) from outcome.exception
    return outcome.output


def short_list(bundle: str, path: Path, cases: int = 2) -> Path:
    """Write the first cases of the bundle's data list as a new list."""
    content = json.loads((ROOT / "bundles" / bundle / "configs" / "datalist.json").read_text())
    for split, entries in content.items():
        if isinstance(entries, list):
            content[split] = entries[:cases]
    path.write_text(json.dumps(content))
    return path


def _one_step(bundle: str, recipe: str, *options: object) -> Callable[[Place], dict[str, Product]]:
    def make(place: Place) -> dict[str, Product]:
        data = short_list(bundle, place.folder / "list.json")
        command(
            "train", bundle, "--recipe", recipe, "--data", data, "--root", place.data, "-o", place.folder / "runs",
            "--steps", 1, "--device", "cpu", *options,
        )  # fmt: skip
        (checkpoint,) = (place.folder / "runs").rglob("checkpoint.pt")
        numbers = step_numbers(checkpoint)
        return {"step": Numbers.of(numbers, relative=1e-4, absolute=1e-6 * float(f"{numbers['gradient']:.1g}"))}

    return make


def step_numbers(checkpoint: Path) -> dict[str, Any]:
    """Return the loss of a run's only step, and the length of the clipped gradient: of all tensors, and of every tenth."""
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")
    moments = [
        float(entry["exp_avg"].double().norm()) / _FIRST_MOMENT for entry in state["optimizer"]["state"].values()
    ]
    return {
        "step": state["step"],
        "loss": float(state["mean"]),
        "tensors": len(moments),
        "gradient": float(torch.tensor(moments, dtype=torch.float64).norm()),
        "of_tensors": moments[::10],
    }


def _scores(bundle: str, cases: int = 1) -> Callable[[Place], dict[str, Product]]:
    def make(place: Place) -> dict[str, Product]:
        data = short_list(bundle, place.folder / "list.json", cases)
        return {"scores": score_numbers(bundle, data, place.data)}

    return make


def score_numbers(bundle: str, data: Path, root: Path) -> Numbers:
    """Run ``medvit evaluate`` and return the numbers of its JSON, without sentences.

    Evaluation takes the backend that was faster when measured, so a voxel or two may differ between runs.
    """
    text = command("evaluate", bundle, "--data", data, "--root", root, "--json", "--device", "cpu", codes=(0, 3))
    content = json.JSONDecoder().raw_decode(text[text.index("{") :])[0]
    return Numbers.of({key: value for key, value in content.items() if key not in ("notes", "set_aside")}, 5e-3)


def _scores_of_crop(bundle: str, source: str, box: tuple[slice, slice, slice]) -> Callable[[Place], dict[str, Product]]:
    """Compute scores on a box of one image, for bundles whose evaluation takes long."""

    def make(place: Place) -> dict[str, Product]:
        crop_nifti(place.data / source, place.folder / "image.nii.gz", box)
        data = place.folder / "list.json"
        content = json.loads((ROOT / "bundles" / bundle / "configs" / "datalist.json").read_text())
        content["validation"] = [{"image": "image.nii.gz"}]
        data.write_text(json.dumps(content))
        return {"scores": score_numbers(bundle, data, place.folder)}

    return make


RECIPES = {
    "hippocampus_mr_swin_unetr": ("train",),
    "headneck_ct_swin_unetr": ("train", "pretrain", "pretrain_simmim"),
    "brain_mr_swin_unetr": ("train",),
    "nuclei_barlow_swin": ("train", "pretrain"),
    "ct_denoise_restore_rwkv": ("train",),
    "mr_superres_restore_rwkv": ("train",),
    "headneck_xray_swin_x2s": ("train",),
}
"""Training configs of the bundles; ``test_every_recipe_has_its_row`` finds missing ones."""

CROPS = {
    "ct_denoise_restore_rwkv": (
        "ct_headneck_openkbp/pt_201_ct.nii.gz",
        (slice(32, 96), slice(32, 96), slice(60, 68)),
    ),
    "mr_superres_restore_rwkv": (
        "brain_mr/ms_patient07_MNI_T1.nii.gz",
        (slice(60, 124), slice(70, 134), slice(80, 88)),
    ),
}

FINE_TUNED = ("hippocampus_mr_swin_unetr", "ct_denoise_restore_rwkv", "mr_superres_restore_rwkv")
"""Bundles that also get a step from their own weights, since a restoration that starts as the identity has a gradient
only in its last layer.
"""

ROWS = [
    *(
        Row(name=f"step_{bundle}_{recipe}", make=_one_step(bundle, recipe), shared=True)
        for bundle, recipes in RECIPES.items()
        for recipe in recipes
    ),
    *(
        Row(
            name=f"step_{bundle}_tuned",
            make=_one_step(bundle, "train", "--from", bundle, "--no-compare"),
            bundle=bundle,
            shared=True,
        )
        for bundle in FINE_TUNED
    ),
    *(
        Row(name=f"scores_{bundle}", make=_scores(bundle), bundle=bundle, shared=True)
        for bundle in ("hippocampus_mr_swin_unetr", "nuclei_barlow_swin", "headneck_xray_swin_x2s")
    ),
    *(
        Row(name=f"scores_{bundle}", make=_scores_of_crop(bundle, *crop), bundle=bundle, shared=True)
        for bundle, crop in CROPS.items()
    ),
]
