"""Small nnU-Nets with random weights, written to folders as nnunetv2 writes them."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medvit.interop.nnunet import NnunetNetwork
from medvit.interop.nnunet.plans import read_configuration

_RESAMPLING = {"is_seg": False, "order_z": 0, "force_separate_z": None}

_DATA = {**_RESAMPLING, "order": 3}
_LOGITS = {**_RESAMPLING, "order": 1}


def plans(kind: str = "PlainConvUNet", **changes: Any) -> dict[str, Any]:
    """Return plans of a network of two stages in three dimensions, with the configuration changed."""
    residual = kind == "ResidualEncoderUNet"
    architecture = {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2]],
            ("n_blocks_per_stage" if residual else "n_conv_per_stage"): [1, 2],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    settings = {
        "patch_size": [8, 16, 16],
        "spacing": [2.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": _DATA,
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": _LOGITS,
        "architecture": architecture,
        **changes,
    }
    return {
        "dataset_name": "Dataset007_Toy",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": settings},
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 50.0, "std": 20.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0}
        },
    }


def dataset(**changes: Any) -> dict[str, Any]:
    """Return a dataset of one MR channel and two labels, changed."""
    labels = {"background": 0, "Left Ear": 1, "Nose": 2}
    return {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **changes}


def published(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a state dict with every name that nnU-Net stores: twice for each layer, and the encoder twice."""
    state: dict[str, torch.Tensor] = {}
    for name, value in network.state_dict().items():
        names = [name]
        before, _, leaf = name.rpartition(".")
        owner, _, layer = before.rpartition(".")
        if layer in ("conv", "norm"):
            names.append(f"{owner}.all_modules.{0 if layer == 'conv' else 1}.{leaf}")
        state |= dict.fromkeys(names, value)
        state |= {f"decoder.{one}": value for one in names if one.startswith("encoder.")}
    return state


def write_model(
    place: Path,
    given_plans: Mapping[str, Any] | None = None,
    given_dataset: Mapping[str, Any] | None = None,
    *,
    heads: int = 3,
    folds: tuple[str, ...] = ("0",),
    configuration: str = "3d_fullres",
    **content: Any,
) -> Path:
    """Write a trained model to ``place/Dataset007_Toy/...`` and return the folder of the trainer.

    Args:
        place: an existing folder.
        given_plans, given_dataset: by default ``plans()`` and ``dataset()``.
        heads: channels of logits.
        folds: names of the folds.
        configuration: name of the configuration.
        content: changed entries of the checkpoints.
    """
    given_plans = copy.deepcopy(dict(given_plans or plans()))
    given_dataset = dict(given_dataset or dataset())
    trainer = content.get("trainer_name", "nnUNetTrainer")
    root = place / "Dataset007_Toy" / f"{trainer}__nnUNetPlans__{configuration}"
    root.mkdir(parents=True)
    (root / "plans.json").write_text(json.dumps(given_plans))
    (root / "dataset.json").write_text(json.dumps(given_dataset))
    architecture = {
        **read_configuration(given_plans, configuration).architecture,
        "in_channels": len(given_dataset["channel_names"]),
        "out_channels": heads,
    }
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network = NnunetNetwork(architecture)
        (root / f"fold_{fold}").mkdir()
        checkpoint = {
            "network_weights": published(network),
            "optimizer_state": {"state": {}, "param_groups": []},
            "current_epoch": 3,
            "init_args": {"plans": given_plans, "configuration": configuration, "fold": fold},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": (0, 1, 2),
            **content,
        }
        torch.save(checkpoint, root / f"fold_{fold}" / "checkpoint_final.pth")
    return root
