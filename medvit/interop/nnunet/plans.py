"""nnU-Net's ``plans.json`` and ``dataset.json``, read into plain facts: network, windows, resampling, intensities, labels.

Plans are read with ``architecture`` (nnunetv2 2.3.1 and later) and without; what medvit does not support is refused by
name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medvit.errors import BundleError
from medvit.interop.nnunet.architecture import read_architecture, unsupported
from medvit.interop.nnunet.resampling import Resampling

__all__ = ["Configuration", "DatasetFacts", "Normalization", "read_configuration", "read_dataset"]

_SCHEMES = (
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
_READERS = {
    "SimpleITKIO": "stored",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIO": "stored",
    "NibabelIOWithReorient": "RAS",
    "NaturalImage2DIO": "picture",
    "Tiff3DIO": "stored",
}
"""Readers of nnU-Net and the orientation of the arrays that they make."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """Normalisation of one channel.

    Attributes:
        scheme: nnU-Net's name.
        use_mask: True where a z-score is computed inside the image's nonzero region.
        statistics: mean, std, lowest and highest value in HU, for CT; else empty.
    """

    scheme: str
    use_mask: bool
    statistics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One configuration of the plans.

    Attributes:
        name: "2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres" or another name.
        dataset: name of the dataset.
        patch_size: size of a window in voxels, 2 or 3 numbers, in the order of the transposed axes.
        spacing: spacing of the network grid in mm, likewise; 2-D plans keep the spacing of the first axis.
        transpose: order of the axes: nnU-Net's array (z, y, x) is transposed by it.
        orientation: orientation of the arrays that the plans' reader makes: "stored", "RAS" or "picture".
        normalizations: one for each channel.
        resampling: resampling of images.
        resampling_logits: resampling of logits.
        architecture: fields of ``NnunetNetwork``, without its channels.
        previous_stage: configuration whose labels this one takes as input; None without a cascade.
    """

    name: str
    dataset: str
    patch_size: tuple[int, ...]
    spacing: tuple[float, ...]
    transpose: tuple[int, ...]
    orientation: str
    normalizations: tuple[Normalization, ...]
    resampling: Resampling
    resampling_logits: Resampling
    architecture: Mapping[str, Any]
    previous_stage: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Facts of ``dataset.json``.

    Attributes:
        channels: names of the channels, in order.
        labels: name and id of each label, without background and ignore label; regions have the id that is written.
        heads: number of channels of logits.
        regions: id to write for each head, in this order, a later region over an earlier one; None for plain labels.
        ignore: True where the dataset has an ignore label.
        ending: ending of image files.
        licence: licence as stated; "not stated" without one.
        description, reference: as stated; empty without one.
    """

    channels: tuple[str, ...]
    labels: tuple[tuple[str, int], ...]
    heads: int
    regions: tuple[int, ...] | None
    ignore: bool
    ending: str
    licence: str
    description: str
    reference: str


def read_configuration(plans: Mapping[str, Any], name: str) -> Configuration:
    """Read one configuration of ``plans.json``.

    Args:
        plans: content of the file.
        name: name of the configuration.

    Raises:
        BundleError: the plans are of nnU-Net v1, lack the configuration or a key, or name something unsupported.

    Examples:
        >>> from medvit.interop.nnunet.plans import read_configuration
        >>> read_configuration({"plans_per_stage": {}}, "3d_fullres")
        Traceback (most recent call last):
            ...
        medvit.errors.BundleError: Found plans of nnU-Net v1; ...
    """
    if "configurations" not in plans:
        if "plans_per_stage" in plans:
            raise v1_error("plans of nnU-Net v1")
        raise BundleError("no 'configurations' in plans.json", "plans of nnU-Net v2 are needed", "Check the file.")
    try:
        settings = _with_parents(plans["configurations"], name)
        channels = len(settings["normalization_schemes"])
        return Configuration(
            name=name,
            dataset=str(plans["dataset_name"]),
            patch_size=tuple(int(n) for n in settings["patch_size"]),
            spacing=tuple(float(s) for s in settings["spacing"]),
            transpose=tuple(int(a) for a in plans["transpose_forward"]),
            orientation=_orientation(str(plans["image_reader_writer"])),
            normalizations=tuple(_normalization(plans, settings, at) for at in range(channels)),
            resampling=_resampling(settings, "data", 3),
            resampling_logits=_resampling(settings, "probabilities", 1),
            architecture=read_architecture(settings),
            previous_stage=settings.get("previous_stage"),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BundleError(
            f"plans.json, whose configuration {name} cannot be read ({type(error).__name__}: {error})",
            "plans as nnunetv2 writes them are needed",
            "Check that the file is whole.",
        ) from error


def v1_error(found: str) -> BundleError:
    """Make the error for a folder of nnU-Net v1."""
    return BundleError(
        found,
        "models of nnU-Net v2 are imported; those of v1 differ in network and preprocessing",
        "Train the model with nnunetv2, or run it with nnU-Net v1.",
    )


def _with_parents(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name not in configurations:
        raise BundleError(
            f"no configuration {name!r} in plans.json",
            f"it has {', '.join(configurations)}",
            "Choose one with {configuration=...}.",
            option="configuration",
        )
    own = dict(configurations[name])
    parent = own.pop("inherits_from", None)
    return own if parent is None else {**_with_parents(configurations, parent), **own}


def _orientation(reader: str) -> str:
    if reader not in _READERS:
        raise unsupported("reader", reader, tuple(_READERS))
    return _READERS[reader]


def _normalization(plans: Mapping[str, Any], settings: Mapping[str, Any], channel: int) -> Normalization:
    scheme = str(settings["normalization_schemes"][channel])
    if scheme not in _SCHEMES:
        raise unsupported("normalisation", scheme, _SCHEMES)
    statistics: dict[str, float] = {}
    if scheme == "CTNormalization":
        key = "foreground_intensity_properties_per_channel"
        found = plans[key if key in plans else "foreground_intensity_properties_by_modality"][str(channel)]
        statistics = {
            "mean": float(found["mean"]),
            "std": float(found["std"]),
            "lowest": float(found["percentile_00_5"]),
            "highest": float(found["percentile_99_5"]),
        }
    return Normalization(scheme=scheme, use_mask=bool(settings["use_mask_for_norm"][channel]), statistics=statistics)


def _resampling(settings: Mapping[str, Any], of: str, order: int) -> Resampling:
    function = str(settings.get(f"resampling_fn_{of}", "resample_data_or_seg_to_shape"))
    if function == "no_resampling_hack":
        return Resampling(order=0, kind="none")
    if function != "resample_data_or_seg_to_shape":
        raise unsupported("resampling", function, ("resample_data_or_seg_to_shape", "no_resampling_hack"))
    given = settings.get(f"resampling_fn_{of}_kwargs", {})
    made = Resampling(
        order=int(given.get("order", order)),
        order_z=int(given.get("order_z", 0)),
        separate_z=given.get("force_separate_z"),
    )
    if made.order_z != 0 or not 0 <= made.order <= 5:
        raise unsupported("resampling", f"order {made.order}, order_z {made.order_z}", ("order 0 to 5, order_z 0",))
    return made


def read_dataset(dataset: Mapping[str, Any]) -> DatasetFacts:
    """Read ``dataset.json``.

    Args:
        dataset: content of the file.

    Raises:
        BundleError: it is of nnU-Net v1, or lacks channels or labels.

    Examples:
        >>> from medvit.interop.nnunet.plans import read_dataset
        >>> facts = read_dataset({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}})
        >>> facts.heads, facts.labels
        (2, (('liver', 1),))
    """
    if "channel_names" not in dataset and "modality" in dataset:
        raise v1_error("a dataset.json of nnU-Net v1")
    try:
        names = dataset["channel_names"]
        channels = tuple(str(names[str(at)]) for at in range(len(names)))
        labels = dict(dataset["labels"])
        ignore = labels.pop("ignore", None) is not None
        labels.pop("background", None)
        regions = any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values())
        if regions or "regions_class_order" in dataset:
            made = _region_facts(dataset, labels)
        else:
            pairs = tuple((str(name), int(_single(value))) for name, value in labels.items())
            heads = max((number for _, number in pairs), default=0) + 1
            made = {"labels": pairs, "heads": heads, "regions": None}
        return DatasetFacts(
            channels=channels,
            ignore=ignore,
            ending=str(dataset.get("file_ending", ".nii.gz")),
            licence=str(dataset.get("licence") or dataset.get("license") or "not stated"),
            description=str(dataset.get("description") or ""),
            reference=str(dataset.get("reference") or ""),
            **made,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise BundleError(
            f"dataset.json, which cannot be read ({type(error).__name__}: {error})",
            "channel_names and labels as nnunetv2 writes them are needed",
            "Check that the file is whole.",
        ) from error


def _single(value: Any) -> int:
    return int(value[0]) if isinstance(value, list | tuple) else int(value)


def _region_facts(dataset: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    # the order of the file is that of the heads; region i is written with the i-th number of regions_class_order
    written = [int(number) for number in dataset["regions_class_order"]]
    parts = {name: value if isinstance(value, list | tuple) else [value] for name, value in labels.items()}
    foreground = [name for name, values in parts.items() if any(int(n) != 0 for n in values)]
    pairs = tuple((str(name), number) for name, number in zip(foreground, written, strict=True))
    return {
        "labels": pairs,
        "heads": len(foreground),
        "regions": tuple(written),
    }
