"""The ``medvit`` section of a bundle's metadata.json: what a bundle states about itself, read and validated."""

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
"""What MONAI's bundle specification and zoo put in metadata.json, and ours."""

CONFIG_KEYS = frozenset(
    "imports bundle_root dataset_dir output_dir device datalist network_def network preprocessing dataset dataloader "
    "inferer postprocessing handlers evaluator checkpointloader initialize run finalize fast_overlap fast_views fast_mirrored label_maps".split()
)
"""Ids of inference.json that readers know; any other must at least be used by one of them. ``label_maps`` says what the ids of
label maps mean, for train.json and evaluate.json alike."""


MIN_DICE = 0.999
"""Lowest Dice of a label against fp32 with which a lower precision passes."""


class WeightsOrigin(_Strict):
    """Where weights that do not ship come from; ``medvit bundles fetch`` shows it before anything moves."""

    address: str = Field(pattern=r"^https?://[^/@\s?#]+/[^\s?#]*[^/\s?#]$", description="of the published file")
    size: int | None = Field(default=None, ge=1, description="bytes, where the publisher states them")
    checksum: str = Field(
        pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$",
        description="of the published file, as its publisher gives it",
    )
    licence: str = Field(description="of the weights, and what their data ask for")
    format: Literal["torch", "safetensors"] = Field(
        description="torch: a checkpoint whose tensors are rewritten as safetensors, never run"
    )

    @property
    def file(self) -> str:
        """The published file's name, under which a mirror holds it."""
        return self.address.rpartition("/")[2]


class Weights(_Strict):
    """Where the weights lie and what they must be."""

    file: str
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="of the file in the bundle; none where weights are fetched"
    )
    origin: WeightsOrigin | None = Field(default=None, description="where to fetch them, if the bundle ships without")

    @model_validator(mode="after")
    def _known(self) -> Weights:
        path = PurePosixPath(self.file)
        if path.is_absolute() or ".." in path.parts or "\\" in self.file or ":" in self.file:
            raise ValueError("the file must lie in the bundle's folder")
        if self.sha256 is None and self.origin is None:
            raise ValueError("a sha256 is needed, or an origin to fetch the weights from")
        return self


class ExpectedIntensities(_Strict):
    """What an image of the bundle's kind must reach, where its format states no modality."""

    unit: str
    lowest_at_most: float
    highest_at_least: float


class PrecisionCheck(_Strict):
    """How far labels in a lower precision were from those in fp32 on a case: what allows, or forbids, ``--precision``."""

    precision: Literal["bf16"]
    backend: str
    case: str = Field(description="sha256 of the reference case's voxels; no name, which could be a patient's")
    dice: dict[str, float] = Field(description="of each label that either run found, against fp32 by the eager backend")
    weights_sha256: str
    versions: dict[str, str]

    @property
    def lowest(self) -> float:
        """Dice of the label that differs most."""
        return min(self.dice.values(), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether the precision may be used."""
        return self.lowest >= MIN_DICE


class Calibration(_Strict):
    """What the signals of quality mean for a bundle's weights, found on cases whose answer is known."""

    weights_sha256: str
    cases: int = Field(ge=1, description="how many")
    spoilt: int = Field(default=0, ge=0, description="how many of them held a bad answer")
    bad: str = Field(description="what counted as a bad answer, in words")
    limits: dict[Literal["entropy", "agreement", "moved"], float] = Field(
        description="of each signal that tells bad answers from others: above it (entropy in bits a voxel, moved in the image's "
        "unit), or below it (agreement), an answer is worth a look"
    )


class Validation(_Strict):
    """The cases behind a bundle's calibration, and the anatomy that they show: what its ratings rest on."""

    weights_sha256: str
    real_cases: int = Field(
        ge=0,
        description="scans or pictures of real patients; noise or radiographs computed from real scans count as real",
    )
    synthetic_cases: int = Field(default=0, ge=0, description="images made from label maps or drawn")
    mean_dice: float | None = Field(default=None, ge=0, le=1, description="over the labels of the real cases")
    body_parts: tuple[str, ...] = Field(default=(), description="validated values of DICOM's BodyPartExamined")
    field_of_view_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None = Field(
        default=None, description="smallest and largest extent of the cases: right-left, front-back, head-foot"
    )


class BundleFacts(_Strict):
    """The ``medvit`` section of metadata.json."""

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
        """What an image is where the bundle was made for something else, by its header alone; None where it may fit.

        Args:
            name: what the words call the bundle.
            picture: whether it is a 2-D picture rather than a volume.
            modality: DICOM's Modality; None where the format does not state one.
        """
        if picture != (self.dimensions == 2):
            kind = "a 2-D picture" if picture else "a volume"
            return f"{kind}, where {name} takes {'pictures' if self.dimensions == 2 else 'volumes'}"
        if modality is not None and modality not in self.modalities:
            return f"modality {modality}, where {name} is made for {' or '.join(self.modalities)}"
        return None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a bundle's config.

    Raises:
        BundleError: it is missing, unreadable or not JSON.
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
    """Refuse keys that are neither known nor referred to in ``used``."""
    for key in content:
        if key not in known and f"@{key}" not in used:
            raise BundleError(
                f"Found the unknown key {key!r} in {where}; nothing uses it.{suggest_names(key, sorted(known))} Correct or remove it."
            )


def suggest_names(name: str, names: list[str]) -> str:
    """A question offering the names nearest to a mistyped one, or nothing."""
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
