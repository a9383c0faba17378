"""The ``medvit`` section of a bundle's metadata.json: its data model and validation."""

from __future__ import annotations

import difflib
import json
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from medvit.errors import BundleError
from medvit.labels import Code, Label, _Strict

__all__ = [
    "CONFIG_KEYS",
    "METADATA_KEYS",
    "MIN_DICE",
    "BundleFacts",
    "Calibration",
    "ExpectedIntensities",
    "PrecisionCheck",
    "Validation",
    "Weights",
    "WeightsOrigin",
    "read_json",
    "refuse_unknown",
    "suggest_names",
]

METADATA_KEYS = frozenset(
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version "
    "optional_packages_version supported_apps name task description authors copyright data_source data_type dataset "
    "image_classes label_classes pred_classes eval_metrics intended_use references network_data_format medvit".split()
)
"""Keys of metadata.json: those of MONAI's bundle specification and model zoo, and medvit's own."""

CONFIG_KEYS = frozenset(
    "imports bundle_root dataset_dir output_dir device datalist network_def network preprocessing dataset dataloader "
    "inferer postprocessing handlers evaluator checkpointloader initialize run finalize fast_overlap fast_views fast_mirrored fast_used_folds label_maps".split()
)
"""Known ids of inference.json; any other id must be referenced by another entry.

``label_maps`` describes the meaning of the ids of label maps, for train.json and evaluate.json alike.
"""


MIN_DICE = 0.999
"""Lowest Dice of a label against fp32 for a lower precision to pass."""


class WeightsOrigin(_Strict):
    """Origin of weights that do not ship with a bundle; ``medvit bundles fetch`` shows it before any download."""

    address: str = Field(pattern=r"^https?://[^/@\s?#]+/[^\s?#]*[^/\s?#]$", description="address of the published file")
    size: int | None = Field(default=None, ge=1, description="size in bytes, where the publisher states it")
    checksum: str = Field(
        pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$",
        description="checksum of the published file, as its publisher states it",
    )
    licence: str = Field(description="licence of the weights, and conditions of their training data")
    format: Literal["torch", "safetensors"] = Field(
        description="torch: a checkpoint whose tensors are rewritten as safetensors, never run"
    )

    @property
    def file(self) -> str:
        """Name of the published file, also used on a mirror."""
        return self.address.rpartition("/")[2]


class Weights(_Strict):
    """Location and checksum of a bundle's weights."""

    file: str
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="sha256 of a file in the bundle; none for fetched weights"
    )
    origin: WeightsOrigin | None = Field(default=None, description="origin of weights that the bundle does not ship")

    @model_validator(mode="after")
    def _known(self) -> Weights:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\\" in self.file or ":" in self.file:
            raise ValueError("the file must lie in the bundle's folder")
        if self.sha256 is None and self.origin is None:
            raise ValueError("a sha256 is needed, or an origin to fetch the weights from")
        return self


class ExpectedIntensities(_Strict):
    """Range of values that images of the bundle's kind must reach, used for formats that state no modality."""

    unit: str
    lowest_at_most: float
    highest_at_least: float


class PrecisionCheck(_Strict):
    """Comparison of labels in a lower precision with those in fp32 on one case; it permits or forbids that precision.

    Attributes:
        precision: "bf16" or "int8".
        backend: backend that ran in this precision.
        case: sha256 of the reference case's voxels.
        dice: Dice of each label against fp32 by the eager backend, 0..1.
        weights_sha256: sha256 of the weights.
        versions: versions of packages.
        ranges_sha256: sha256 of the file of ranges for int8; empty for bf16.

    Examples:
        >>> from medvit.bundles import PrecisionCheck
        >>> check = PrecisionCheck(
        ...     precision="bf16",
        ...     backend="openvino",
        ...     case="0" * 64,
        ...     dice={"mandible": 0.9996, "spinal_cord": 0.9991},
        ...     weights_sha256="0" * 64,
        ...     versions={},
        ... )
        >>> check.lowest, check.passed
        (0.9991, True)
    """

    precision: Literal["bf16", "int8"]
    backend: str
    case: str = Field(description="sha256 of the reference case's voxels; its name could be a patient's")
    dice: dict[str, float] = Field(description="Dice of each label in either result, against fp32 and eager backend")
    weights_sha256: str
    versions: dict[str, str]
    ranges_sha256: str = ""

    @property
    def lowest(self) -> float:
        """Dice of the label that differs most; 0 without labels."""
        return min(self.dice.values(), default=0.0)

    @property
    def passed(self) -> bool:
        """True if the precision may be used."""
        return self.lowest >= MIN_DICE


class Calibration(_Strict):
    """Limits of the quality signals for a bundle's weights, from cases with known labels.

    Attributes:
        weights_sha256: sha256 of the weights.
        cases: number of cases.
        spoilt: number of cases with bad labels.
        bad: definition of bad labels, in words.
        limits: limit of each signal that separates bad from good labels: "entropy" (bits per voxel) and "moved" (the
            image's unit) are suspicious above it, "agreement" (Dice) below it.

    Examples:
        >>> from medvit.bundles import Calibration
        >>> known = Calibration(weights_sha256="0" * 64, cases=12, spoilt=2, bad="Dice below 0.7", limits={"entropy": 0.05})
        >>> known.limits["entropy"]
        0.05
    """

    weights_sha256: str
    cases: int = Field(ge=1, description="number of cases")
    spoilt: int = Field(default=0, ge=0, description="number of cases with a bad result")
    bad: str = Field(description="definition of a bad result, in words")
    limits: dict[Literal["entropy", "agreement", "moved"], float] = Field(
        description="limit of each signal of quality: above it (entropy in bits per voxel, moved in the image's "
        "unit) or below it (agreement), a result needs a check"
    )


class Validation(_Strict):
    """Cases behind a bundle's calibration and the anatomy that they show, on which its ratings are based.

    Attributes:
        weights_sha256: sha256 of the weights.
        real_cases: number of real patients; noise or radiographs computed from real scans count as real.
        synthetic_cases: number of images made from label maps or drawn.
        mean_dice: mean Dice over the labels of the real cases, 0..1; or None.
        body_parts: validated values of BodyPartExamined.
        field_of_view_mm: smallest and largest extent of the cases: right-left, front-back, head-foot; or None.

    Examples:
        >>> from medvit.bundles import Validation
        >>> Validation(weights_sha256="0" * 64, real_cases=12, mean_dice=0.85, body_parts=("HEAD",)).synthetic_cases
        0
    """

    weights_sha256: str
    real_cases: int = Field(
        ge=0,
        description="number of images of real patients; noise or radiographs computed from real scans count as real",
    )
    synthetic_cases: int = Field(default=0, ge=0, description="number of images made from label maps or drawn")
    mean_dice: float | None = Field(default=None, ge=0, le=1, description="mean Dice over the labels of the real cases")
    body_parts: tuple[str, ...] = Field(default=(), description="validated values of DICOM's BodyPartExamined")
    field_of_view_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None = Field(
        default=None, description="smallest and largest extent of the cases: right-left, front-back, head-foot"
    )


class ImportedModel(_Strict):
    """Origin of a bundle that was made from another program's model.

    Attributes:
        program: the program, stored as ``from``.
        dataset, configuration, trainer: names that the model bears there.
        folds: folds that the weights hold.
        checkpoints: sha256 of each fold's checkpoint.

    Examples:
        >>> from medvit.bundles.metadata import ImportedModel
        >>> ImportedModel.model_validate(
        ...     {"from": "nnU-Net v2", "dataset": "Dataset901", "configuration": "2d", "trainer": "nnUNetTrainer", "folds": ["0"]}
        ... ).program
        'nnU-Net v2'
    """

    program: str = Field(alias="from")
    dataset: str
    configuration: str
    trainer: str
    folds: tuple[str, ...]
    checkpoints: dict[str, str] = Field(default_factory=dict)


class BundleFacts(_Strict):
    """The ``medvit`` section of metadata.json, validated.

    Attributes:
        task: "segmentation", "restoration" or "reconstruction".
        dimensions: 2 for pictures, 3 for volumes.
        modalities: DICOM modalities that the bundle was made for; empty where they are not known, so that any runs.
        licence: licence of the bundle.
        state: "trained" or "not trained".
        weights: file, checksum and origin of the weights.
        values: range of values of its images, for formats without a modality; or None.
        derivation: code (DICOM CID 7203) of the derivation of a restored image; or None.
        labels: labels of a segmentation or reconstruction.
        imported: origin of a bundle that was made from another program's model; or None.
        precision_checks: results of ``medvit bundles precision-check``.
        quality: limits of the quality signals; None without calibration.
        validation: cases behind the calibration; or None.
        acceptable: lowest mean Dice of the validation for the rating "good", 0.6..1.

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> facts = open_bundle("headneck_ct_swin_unetr").facts
        >>> facts.mismatch("the bundle", picture=False, modality="MR")
        'modality MR, where the bundle is made for CT'
    """

    task: Literal["segmentation", "restoration", "reconstruction"]
    dimensions: Literal[2, 3]
    modalities: tuple[str, ...]
    licence: str
    state: Literal["trained", "not trained"]
    weights: Weights
    values: ExpectedIntensities | None = None
    derivation: Code | None = Field(
        default=None, description="how a restored image comes from its source, a code of DICOM CID 7203"
    )
    labels: tuple[Label, ...] = ()
    imported: ImportedModel | None = None
    precision_checks: tuple[PrecisionCheck, ...] = Field(
        default=(),
        validation_alias=AliasChoices("precision_checks", "gates"),
        description="results of `medvit bundles precision-check`; earlier versions wrote them as `gates`",
    )
    quality: Calibration | None = None
    validation: Validation | None = None
    acceptable: float = Field(
        default=0.70, ge=0.60, le=1, description="lowest mean Dice of the validation with which a result can be good"
    )

    def mismatch(self, name: str, picture: bool, modality: str | None) -> str | None:
        """Describe the mismatch between an image and the bundle, by the image's header; return None where it may fit.

        Args:
            name: name of the bundle in the text.
            picture: True for a 2-D picture, False for a volume.
            modality: DICOM's Modality; None where the format states none.
        """
        if picture != (self.dimensions == 2):
            kind = "a 2-D picture" if picture else "a volume"
            return f"{kind}, where {name} takes {'pictures' if self.dimensions == 2 else 'volumes'}"
        if modality is not None and self.modalities and modality not in self.modalities:
            return f"modality {modality}, where {name} is made for {' or '.join(self.modalities)}"
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object of a bundle's config.

    Raises:
        BundleError: the file is missing, unreadable or not JSON.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(
            f"no readable {path.name} in {path.parent.parent.name}", "a bundle needs it", "Install the bundle again."
        ) from error
    except ValueError as error:
        raise BundleError(
            f"{path.name} of {path.parent.parent.name}, which is not JSON ({error})", remedy="Correct it."
        ) from error
    return dict(content)


def refuse_unknown(content: dict[str, Any], known: frozenset[str], where: str, used: str) -> None:
    """Refuse keys that are neither known nor referenced in ``used``."""
    for key in content:
        if key not in known and f"@{key}" not in used:
            raise BundleError(
                f"the unknown key {key!r} in {where}",
                "nothing uses it",
                f"{suggest_names(key, sorted(known))} Correct or remove it.".lstrip(),
            )


def suggest_names(name: str, names: list[str]) -> str:
    """Return a question that offers the names most similar to a mistyped one; empty if there is none."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
