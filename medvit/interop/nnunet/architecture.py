"""The network that nnU-Net's plans describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medvit.errors import BundleError

__all__ = ["read_architecture", "unsupported"]

_NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")


def unsupported(kind: str, name: str, known: Sequence[str]) -> BundleError:
    """Make the error for something in the plans that medvit does not support."""
    return BundleError(
        f"the {kind} {name!r} in plans.json", f"medvit knows {', '.join(known)}", "It cannot be imported."
    )


def read_architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read the network of a configuration, with ``architecture`` (nnunetv2 2.3.1 and later) or without.

    Args:
        settings: the configuration, with those that it inherits from.

    Returns:
        Fields of ``NnunetNetwork``, without its channels.

    Raises:
        BundleError: the network class or one of its settings is not supported; the message names it.
    """
    made = _new_architecture(settings["architecture"]) if "architecture" in settings else _old_architecture(settings)
    if made["kind"] not in _NETWORKS:
        raise unsupported("network class", str(made["kind"]), _NETWORKS)
    return made


def _new_architecture(architecture: Mapping[str, Any]) -> dict[str, Any]:
    path = str(architecture["network_class_name"])
    kind, given = path.rpartition(".")[2], dict(architecture["arch_kwargs"])
    if kind not in _NETWORKS:
        raise unsupported("network class", path, _NETWORKS)
    counts = "n_conv_per_stage" if kind == "PlainConvUNet" else "n_blocks_per_stage"
    dimensions = int(str(given["conv_op"])[-2])
    stages = int(given["n_stages"])
    known = {
        *("n_stages", "features_per_stage", "conv_op", "kernel_sizes", "strides", counts, "n_conv_per_stage_decoder"),
        *("conv_bias", "norm_op", "norm_op_kwargs", "dropout_op", "dropout_op_kwargs", "nonlin", "nonlin_kwargs"),
        *("deep_supervision", "nonlin_first", "stem_channels", "bottleneck_channels"),
    }
    unknown = [key for key, value in given.items() if key not in known and value]
    if given.get("nonlin_first") or given.get("bottleneck_channels") or given.get("stem_channels"):
        unknown += [key for key in ("nonlin_first", "bottleneck_channels", "stem_channels") if given.get(key)]
    if unknown:
        raise unsupported(f"setting of {kind}", unknown[0], sorted(known))
    features = given["features_per_stage"]
    return {
        "kind": kind,
        "dimensions": dimensions,
        "features": [features * 2**i for i in range(stages)] if isinstance(features, int) else list(features),
        "kernels": _each(given["kernel_sizes"], stages, dimensions),
        "strides": _each(given["strides"], stages, dimensions),
        "encoder_counts": _counts(given[counts], stages),
        "decoder_counts": _counts(given["n_conv_per_stage_decoder"], stages - 1),
        "conv_bias": bool(given.get("conv_bias", False)),
        "norm": _norm(given),
        "nonlinearity": _nonlinearity(given),
        "dropout": float((given.get("dropout_op_kwargs") or {}).get("p", 0.0)) if given.get("dropout_op") else 0.0,
    }


def _each(value: Any, stages: int, dimensions: int) -> list[list[int]]:
    rows = [value] * stages if isinstance(value, int) else value
    return [[row] * dimensions if isinstance(row, int) else [int(n) for n in row] for row in rows]


def _counts(value: Any, stages: int) -> list[int]:
    return [value] * stages if isinstance(value, int) else [int(n) for n in value]


def _norm(given: Mapping[str, Any]) -> dict[str, Any] | None:
    operation = given.get("norm_op")
    if operation is None:
        return None
    name = str(operation).rpartition(".")[2]
    kinds = {"InstanceNorm": "instance", "BatchNorm": "batch"}
    if name[:-2] not in kinds:
        raise unsupported("norm", str(operation), ("InstanceNorm2d/3d", "BatchNorm2d/3d"))
    return {"kind": kinds[name[:-2]], **dict(given.get("norm_op_kwargs") or {})}


def _nonlinearity(given: Mapping[str, Any]) -> dict[str, Any] | None:
    operation = given.get("nonlin")
    if operation is None:
        return None
    kinds = {"LeakyReLU": "leaky_relu", "ReLU": "relu"}
    name = str(operation).rpartition(".")[2]
    if name not in kinds:
        raise unsupported("activation", str(operation), tuple(kinds))
    return {"kind": kinds[name], **dict(given.get("nonlin_kwargs") or {})}


def _old_architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    kernels, strides = settings["conv_kernel_sizes"], settings["pool_op_kernel_sizes"]
    base, most = int(settings["UNet_base_num_features"]), int(settings["unet_max_num_features"])
    return {
        "kind": str(settings["UNet_class_name"]),
        "dimensions": len(settings["patch_size"]),
        "features": [min(base * 2**stage, most) for stage in range(len(kernels))],
        "kernels": [list(row) for row in kernels],
        "strides": [list(row) for row in strides],
        "encoder_counts": _counts(settings["n_conv_per_stage_encoder"], len(kernels)),
        "decoder_counts": _counts(settings["n_conv_per_stage_decoder"], len(kernels) - 1),
        "conv_bias": True,
        "norm": {"kind": "instance", "eps": 1e-5, "affine": True},
        "nonlinearity": {"kind": "leaky_relu", "inplace": True},
        "dropout": 0.0,
    }
