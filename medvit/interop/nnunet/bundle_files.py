"""The files of an imported nnU-Net: metadata.json and inference.json of a MONAI bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from medvit.interop.nnunet.plans import Configuration, DatasetFacts
from medvit.labels import Label

__all__ = ["ModelFacts", "inference_config", "metadata"]

_SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
_WEIGHTS = "models/model.safetensors"
_ROOM = "medvit.interop.nnunet"


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about an imported model that its bundle states.

    Attributes:
        configuration: the configuration of the plans.
        dataset: facts of dataset.json.
        labels: the labels.
        folds: names of the folds.
        mirror_axes: axes along which inference mirrors.
        trainer: name of the trainer class.
        modalities: DICOM modalities; empty where they are not known.
        licence: licence of the weights, or "not stated".
        provenance: origin of the weights, for readers.
        checksums: sha256 of each checkpoint, by fold.
    """

    configuration: Configuration
    dataset: DatasetFacts
    labels: tuple[Label, ...]
    folds: tuple[str, ...]
    mirror_axes: tuple[int, ...]
    trainer: str
    modalities: tuple[str, ...]
    licence: str
    provenance: str
    checksums: Mapping[str, str]

    @property
    def is_picture(self) -> bool:
        """True for a model of 2-D pictures."""
        return self.configuration.orientation == "picture"

    @property
    def architecture(self) -> dict[str, Any]:
        """Fields of ``NnunetNetwork``."""
        channels = {"in_channels": len(self.dataset.channels), "out_channels": self.dataset.heads}
        return {**dict(self.configuration.architecture), **channels}


def metadata(facts: ModelFacts, sha256: str) -> dict[str, Any]:
    """Compose metadata.json.

    Args:
        facts: facts about the model.
        sha256: sha256 of the weights file.
    """
    configuration, dataset = facts.configuration, facts.dataset
    heads = {str(at): name for at, name in enumerate(_heads(facts))}
    about = "nnU-Net v2 ({}, {}, {} fold{} {})".format(
        *(facts.architecture["kind"], configuration.name, len(facts.folds)),
        *("" if len(facts.folds) == 1 else "s", ", ".join(facts.folds)),
    )
    names = [label.title for label in facts.labels]
    shape = list(configuration.patch_size)
    return {
        "schema": _SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "imported"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"medvit": version("medvit"), "scipy": version("scipy")},
        "supported_apps": {},
        "name": f"{configuration.dataset} ({configuration.name})",
        "task": f"Segmentation of {', '.join(names[:8])}{' and others' if len(names) > 8 else ''}",
        "description": f"{about}, imported by medvit. {dataset.description}".strip(),
        "authors": "not stated",
        "copyright": f"Weights: {facts.licence}",
        "data_source": facts.provenance,
        "data_type": "dicom, nibabel",
        "image_classes": f"channels: {', '.join(dataset.channels)}",
        "label_classes": "single-channel labels with the ids of channel_def",
        "pred_classes": f"{dataset.heads} channels of logits",
        "eval_metrics": {},
        "intended_use": "For research use, not for diagnosis",
        "references": [
            "F. Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature Methods 18, 2021",
            *([dataset.reference] if dataset.reference else []),
        ],
        "network_data_format": {
            "inputs": {"image": _format(len(dataset.channels), shape, dict(enumerate(dataset.channels)), "magnitude")},
            "outputs": {"pred": _format(dataset.heads, shape, heads, "segmentation")},
        },
        "medvit": {
            "task": "segmentation",
            "dimensions": 2 if facts.is_picture else 3,
            "modalities": list(facts.modalities),
            "licence": facts.licence,
            "state": "trained",
            "weights": {"file": _WEIGHTS, "sha256": sha256},
            "labels": [label.model_dump() for label in facts.labels],
            "imported": {
                "from": "nnU-Net v2",
                "dataset": configuration.dataset,
                "configuration": configuration.name,
                "trainer": facts.trainer,
                "folds": list(facts.folds),
                "checkpoints": dict(facts.checksums),
            },
        },
    }


def _format(channels: int, shape: list[int], names: Mapping[Any, str], kind: str) -> dict[str, Any]:
    return {
        "type": "image",
        "format": kind,
        "num_channels": channels,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": True,
        "channel_def": {str(at): name for at, name in names.items()},
    }


def _heads(facts: ModelFacts) -> Sequence[str]:
    if facts.dataset.regions is not None:
        return [name for name, _ in facts.dataset.labels]
    by_id = {label.id: label.name for label in facts.labels}
    return ["background", *(by_id.get(number, f"label_{number}") for number in range(1, facts.dataset.heads))]


_HEAD: dict[str, Any] = {
    "imports": ["$import glob", "$import os", "$import torch"],
    "bundle_root": ".",
    "dataset_dir": "$@bundle_root + '/data'",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*')))",
}

_NETWORK = {
    "_target_": "medvit.bundles.load_weights",
    "network": "$@network_def.to(@device)",
    "path": f"$@bundle_root + '/{_WEIGHTS}'",
}

_SAVER = {
    "_target_": "monai.transforms.SaveImaged",
    "keys": "pred",
    "output_dir": "@output_dir",
    "output_postfix": "labels",
    "output_ext": ".nii.gz",
    "output_dtype": "$__import__('numpy').uint8",
    "resample": False,
    "squeeze_end_dims": True,
    "separate_folder": False,
    "print_log": False,
}

_TAIL: dict[str, Any] = {
    "dataset": {
        "_target_": "monai.data.Dataset",
        "data": "$[{'image': path} for path in @datalist]",
        "transform": "@preprocessing",
    },
    "dataloader": {
        "_target_": "monai.data.DataLoader",
        "dataset": "@dataset",
        "batch_size": 1,
        "shuffle": False,
        "num_workers": 0,
    },
    "evaluator": {
        "_target_": "monai.engines.SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "amp": False,
    },
    "run": ["$@evaluator.run()"],
}
"""Entries for ``python -m monai.bundle run``, equal in every bundle."""


def inference_config(facts: ModelFacts) -> dict[str, Any]:
    """Compose inference.json, which ``medvit`` and ``python -m monai.bundle run`` execute alike.

    Args:
        facts: facts about the model.
    """
    configuration, regions = facts.configuration, facts.dataset.regions
    first = 3 - len(configuration.patch_size)  # windows of a 2-D network have one plane along the first axis
    axes = [axis + first for axis in facts.mirror_axes]
    labels = {
        "_target_": f"{_ROOM}.NnunetLabelsd",
        "keys": "pred",
        "image_key": "image",
        "regions": None if regions is None else list(regions),
    }
    return {
        **_HEAD,
        "used_folds": None,
        "fast_used_folds": 1,
        "mirrored": {"_target_": f"{_ROOM}.AxisMirroring", "axes": axes} if axes else None,
        "fast_mirrored": None,
        "network_def": {
            "_target_": f"{_ROOM}.FoldEnsemble",
            "architecture": facts.architecture,
            "folds": len(facts.folds),
            "used": "@used_folds",
        },
        "network": _NETWORK,
        "preprocessing": {
            "_target_": "monai.transforms.Compose",
            "transforms": [
                {"_target_": "medvit.transforms.OpenSourceImaged", "keys": "image"},
                _preprocessing(configuration),
            ],
        },
        "inferer": {
            "_target_": f"{_ROOM}.NnunetWindows",
            "patch_size": list(configuration.patch_size),
            "step": 0.5,
            "exclusive": regions is None,
            "mirrored": "@mirrored",
        },
        "postprocessing": {"_target_": "monai.transforms.Compose", "transforms": [labels, _SAVER]},
        **_TAIL,
    }


def _preprocessing(configuration: Configuration) -> dict[str, Any]:
    normalizations = [
        {"scheme": one.scheme, "use_mask": one.use_mask, **one.statistics} for one in configuration.normalizations
    ]
    return {
        "_target_": f"{_ROOM}.NnunetPreprocessd",
        "keys": "image",
        "spacing": list(configuration.spacing),
        "transpose": list(configuration.transpose),
        "normalizations": normalizations,
        "resampling": asdict(configuration.resampling),
        "resampling_logits": asdict(configuration.resampling_logits),
        "orientation": configuration.orientation,
    }
