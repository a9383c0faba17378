"""Finding, checking and opening bundles. A bundle is the single truth about a model; nothing is said twice."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medvit.errors import BundleError, ChecksumError
from medvit.settings import DEFAULT_BUNDLE

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT_BUNDLE", "Bundle", "Code", "Facts", "Label", "bundle_folders", "load_weights", "open_bundle"]

_METADATA_KEYS = frozenset(
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version "
    "optional_packages_version supported_apps name task description authors copyright data_source data_type dataset "
    "image_classes label_classes pred_classes eval_metrics intended_use references network_data_format medvit".split()
)
"""What MONAI's bundle specification and zoo put in metadata.json, and ours."""

_CONFIG_KEYS = frozenset(
    "imports bundle_root dataset_dir output_dir device datalist network_def network preprocessing dataset dataloader "
    "inferer postprocessing handlers evaluator checkpointloader initialize run finalize fast_overlap".split()
)
"""Ids of inference.json that readers know; any other must at least be used by one of them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Code(_Strict):
    """A coded concept (DICOM PS3.3, 8.8)."""

    value: str
    scheme: str
    meaning: str


class Label(_Strict):
    """One class a bundle marks."""

    id: int = Field(ge=1, description="value in the label map")
    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name on the command line and in files")
    title: str = Field(description="name for people")
    color: tuple[int, int, int] = Field(description="display colour, RGB 0..255")
    category: Code
    type: Code
    laterality: Code | None = None
    volume_ml: tuple[float, float] | None = Field(
        default=None, description="smallest and largest volume in the training data, mL; none for pictures"
    )


class Weights(_Strict):
    """Where the weights lie and what they must be."""

    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Values(_Strict):
    """What an image of the bundle's kind must reach, where its format states no modality."""

    unit: str
    lowest_at_most: float
    highest_at_least: float


class Facts(_Strict):
    """The ``medvit`` section of metadata.json."""

    task: Literal["segmentation", "restoration", "reconstruction"]
    dimensions: Literal[2, 3]
    modalities: tuple[str, ...]
    licence: str
    state: Literal["trained", "not trained"]
    weights: Weights
    values: Values | None = None
    labels: tuple[Label, ...] = ()


@dataclass(frozen=True)
class Bundle:
    """An opened bundle folder; configs are read when first asked for."""

    root: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.root.name

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """metadata.json, its keys checked."""
        metadata = _read_json(self.root / "configs" / "metadata.json")
        _refuse_unknown(metadata, _METADATA_KEYS, "configs/metadata.json", used="")
        return metadata

    @cached_property
    def config(self) -> dict[str, Any]:
        """inference.json, its ids checked."""
        config = _read_json(self.root / "configs" / "inference.json")
        _refuse_unknown(config, _CONFIG_KEYS, "configs/inference.json", used=json.dumps(config))
        return config

    @cached_property
    def facts(self) -> Facts:
        """Labels, weights, modality and the like, validated."""
        section = self.metadata.get("medvit")
        if section is None:
            raise BundleError(
                f"Found no 'medvit' section in the metadata of {self.name}; it states labels and weights. See CONTRIBUTING.md."
            )
        try:
            return Facts.model_validate(section)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"Found medvit.{where} in the metadata of {self.name}: {first['msg']}. Correct or remove the key."
            ) from None

    @property
    def version(self) -> str:
        """The bundle's version."""
        return str(self.metadata["version"])

    @property
    def intended_use(self) -> str:
        """The sentence that must stand on every result."""
        return str(self.metadata["intended_use"])

    @property
    def weights(self) -> Path:
        """The weights file."""
        return self.root / self.facts.weights.file

    def label(self, name: str) -> Label:
        """The label of that name.

        Raises:
            BundleError: no such label; the nearest names are offered.
        """
        by_name = {label.name: label for label in self.facts.labels}
        if name not in by_name:
            raise BundleError(
                f"Found no label {name!r} in {self.name};{_nearest(name, list(by_name))} It has: {', '.join(by_name)}."
            )
        return by_name[name]

    def require_task(self, task: str) -> None:
        """Refuse a bundle made for another task."""
        if self.facts.task != task:
            raise BundleError(
                f"Found {self.name}, a bundle for {self.facts.task}; one for {task} is needed. Name another."
            )

    def require_trained(self) -> None:
        """Refuse a bundle whose weights are not there; nothing ever runs on random weights."""
        if self.facts.state != "trained" or not self.weights.is_file():
            raise BundleError(
                f"Found no weights for {self.name} (state: not trained); a bundle runs only with its own. Choose another: medvit bundles list."
            )

    def verify(self) -> str:
        """Check configs and the weights' checksum; return the sha256.

        Raises:
            BundleError: a config is wrong or the weights are missing. ChecksumError: the weights are others.
        """
        _ = self.config, self.facts
        self.require_trained()
        return _checked(self.weights, self.facts.weights.sha256)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(
            f"Found no readable {path.name} in {path.parent.parent.name}; a bundle needs it. Install the bundle again."
        ) from error
    except ValueError as error:
        raise BundleError(
            f"Found {path.name} of {path.parent.parent.name}, which is not JSON ({error}). Correct it."
        ) from error
    return dict(content)


def _refuse_unknown(content: dict[str, Any], known: frozenset[str], where: str, used: str) -> None:
    for key in content:
        if key not in known and f"@{key}" not in used:
            raise BundleError(
                f"Found the unknown key {key!r} in {where}; nothing uses it.{_nearest(key, sorted(known))} Correct or remove it."
            )


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def _search_path() -> list[Path]:
    here = Path(__file__).resolve().parent
    given = [Path(p) for p in os.environ.get("MEDVIT_BUNDLES", "").split(os.pathsep) if p]
    # a wheel carries the bundles inside the package, a checkout beside it
    return [*given, here / "_bundles", here.parent / "bundles"]


def bundle_folders() -> dict[str, Path]:
    """Every bundle that can be found, by name: ``MEDVIT_BUNDLES`` first, then those shipped."""
    found: dict[str, Path] = {}
    for place in _search_path():
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if (folder / "configs" / "metadata.json").is_file():
                    found.setdefault(folder.name, folder)
    return found


def open_bundle(name: str | os.PathLike[str]) -> Bundle:
    """A bundle by name or by the path of its folder.

    Raises:
        BundleError: no such bundle; the nearest names are offered.
    """
    folders = bundle_folders()
    if str(name) in folders:
        return Bundle(folders[str(name)])
    if (Path(name) / "configs" / "metadata.json").is_file():
        return Bundle(Path(name).resolve())
    raise BundleError(
        f"Found no bundle named {str(name)!r}.{_nearest(str(name), list(folders))} "
        f"Installed: {', '.join(folders) or 'none'}. See: medvit bundles list."
    )


def _checked(path: Path, expected: str) -> str:
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ChecksumError(
            f"Found {path.name} with sha256 {actual[:12]}..., but {expected[:12]}... is recorded in the bundle's metadata; "
            "they must be equal. The file is damaged or was exchanged: install the bundle again."
        )
    return actual


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a bundle's safetensors strictly into its network, after checking them against the bundle's checksum.

    Stored fp16 numbers become the network's own type. This is the ``network`` of every bundle's configs, so that
    ``python -m monai.bundle run`` checks the same as ``medvit``.

    Args:
        network: the network, on its device.
        path: ``models/model.safetensors`` inside the bundle.

    Returns:
        The network in evaluation mode.

    Raises:
        BundleError: no weights, not safetensors (a pickle could run code), or other tensors than the network's.
        ChecksumError: the file is not the one recorded in the metadata.
    """
    from safetensors.torch import load

    path = Path(path).resolve()
    bundle = Bundle(path.parents[1])
    bundle.require_trained()
    content = path.read_bytes()
    if content[:2] == b"PK" or content[:1] == b"\x80":
        raise BundleError(
            f"Found a pickle in {path.name}, where safetensors is expected; a pickle can run code. Convert it: see CONTRIBUTING.md."
        )
    _checked(path, bundle.facts.weights.sha256)
    try:
        state = load(content)
    except Exception as error:
        raise BundleError(
            f"Found {path.name}, which is not safetensors ({error}); it must be. Install the bundle again."
        ) from error
    wanted = network.state_dict()
    state |= {k: v for k, v in wanted.items() if k.endswith("relative_position_index")}
    wrong = sorted(wanted.keys() ^ state.keys()) or [k for k in wanted if wanted[k].shape != state[k].shape]
    if wrong:
        raise BundleError(
            f"Found weights of another network: {len(wrong)} tensors do not fit, the first is {wrong[0]}. Check network_def in inference.json."
        )
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})
    return network.eval()
