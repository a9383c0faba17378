"""Finding, checking and opening bundles. A bundle is the single truth about a model; nothing is said twice."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medvit.bundle_facts import (
    CONFIG_KEYS,
    METADATA_KEYS,
    Code,
    Facts,
    Label,
    Origin,
    Weights,
    nearest,
    read_json,
    refuse_unknown,
)
from medvit.errors import BundleError, ChecksumError
from medvit.settings import DEFAULT_BUNDLE
from medvit.store.manifest import Installed, read_manifest
from medvit.store.places import bundles_home, home

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BUNDLE_MARK",
    "DEFAULT_BUNDLE",
    "Bundle",
    "Code",
    "Facts",
    "Label",
    "Origin",
    "Weights",
    "bundle_folders",
    "load_weights",
    "open_bundle",
    "shipped_folders",
]


BUNDLE_MARK = "medvit_weights"
"""Attribute of a network whose weights were read from a bundle: they stay what they are, so a graph made of it is worth keeping."""


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
        metadata = read_json(self.root / "configs" / "metadata.json")
        refuse_unknown(metadata, METADATA_KEYS, "configs/metadata.json", used="")
        return metadata

    @cached_property
    def config(self) -> dict[str, Any]:
        """inference.json, its ids checked."""
        config = read_json(self.root / "configs" / "inference.json")
        refuse_unknown(config, CONFIG_KEYS, "configs/inference.json", used=json.dumps(config))
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
    def own_weights(self) -> Path:
        """Where the bundle's folder holds its weights, there or not."""
        return self.root / self.facts.weights.file

    @property
    def fetched(self) -> Installed | None:
        """What the store holds for this bundle: weights of exactly the checksum that its metadata ask for.

        Weights in the bundle's own folder go before, if its metadata state their sha256.
        """
        wanted = self.facts.weights
        if wanted.origin is None or (wanted.sha256 and self.own_weights.is_file()):
            return None
        entry = read_manifest().bundles.get(self.name)
        fits = entry is not None and entry.kind == "weights" and entry.download == wanted.origin.checksum
        return entry if fits else None

    @property
    def weights(self) -> Path:
        """The weights file: in the store if they were fetched, else in the bundle's folder."""
        entry = self.fetched
        return self.own_weights if entry is None else home() / entry.file

    @property
    def weights_sha256(self) -> str:
        """What the weights file must hash to: as the store's manifest or the metadata say.

        Raises:
            BundleError: the weights have not been fetched, so that nothing is known about them.
        """
        entry = self.fetched
        digest = self.facts.weights.sha256 if entry is None else entry.sha256
        if digest is None:
            self.require_trained()
            raise BundleError(self._not_fetched())
        return digest

    @property
    def state(self) -> str:
        """ "trained", "not trained", or for weights that do not ship "fetched" or "not fetched"."""
        if self.facts.state != "trained":
            return "not trained"
        if self.fetched is not None or self.root.parent == bundles_home():
            return "fetched" if self.weights.is_file() else "not fetched"
        if self.facts.weights.sha256 and self.weights.is_file():
            return "trained"
        return "not trained" if self.facts.weights.origin is None else "not fetched"

    def label(self, name: str) -> Label:
        """The label of that name.

        Raises:
            BundleError: no such label; the nearest names are offered.
        """
        by_name = {label.name: label for label in self.facts.labels}
        if name not in by_name:
            raise BundleError(
                f"Found no label {name!r} in {self.name};{nearest(name, list(by_name))} It has: {', '.join(by_name)}."
            )
        return by_name[name]

    def require_task(self, task: str) -> None:
        """Refuse a bundle made for another task."""
        if self.facts.task != task:
            raise BundleError(
                f"Found {self.name}, a bundle for {self.facts.task}; one for {task} is needed. Name another."
            )

    def require_trained(self) -> None:
        """Refuse a bundle whose weights are not there; nothing ever runs on random weights, nor fetches by itself."""
        state = self.state
        if state == "not fetched":
            raise BundleError(self._not_fetched())
        if state == "not trained":
            raise BundleError(
                f"Found no weights for {self.name} (state: not trained); a bundle runs only with its own. Choose another: medvit bundles list."
            )

    def _not_fetched(self) -> str:
        return (
            f"Found no weights for {self.name} (state: not fetched); a bundle runs only with its own. "
            f"Fetch them once: medvit bundles fetch {self.name}."
        )

    def verify(self) -> str:
        """Check configs and the weights' checksum; return the sha256.

        Raises:
            BundleError: a config is wrong or the weights are missing. ChecksumError: the weights are others.
        """
        _ = self.config, self.facts
        self.require_trained()
        return _checked(self.weights, self.weights_sha256)


def _folders(places: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            for folder in sorted(place.iterdir()):
                if (folder / "configs" / "metadata.json").is_file():
                    found.setdefault(folder.name, folder)
    return found


def shipped_folders() -> dict[str, Path]:
    """The bundles that came with this installation, by name."""
    here = Path(__file__).resolve().parent
    # a wheel carries the bundles inside the package, a checkout beside it
    return _folders([here / "_bundles", here.parent / "bundles"])


def bundle_folders() -> dict[str, Path]:
    """Every bundle that can be found, by name: ``MEDVIT_BUNDLES`` first, then those fetched, then those shipped."""
    given = [Path(p) for p in os.environ.get("MEDVIT_BUNDLES", "").split(os.pathsep) if p]
    return shipped_folders() | _folders([bundles_home()]) | _folders(given)


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
        f"Found no bundle named {str(name)!r}.{nearest(str(name), list(folders))} "
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

    from medvit.centres import widened

    path = Path(path).resolve()
    bundle = Bundle(path.parents[1])
    bundle.require_trained()
    if path == bundle.own_weights:
        path = bundle.weights  # fetched weights lie in the store; the config need not know
    content = path.read_bytes()
    # safetensors begin with the length of their JSON header, which may well look like a pickle's first byte
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise BundleError(
            f"Found a pickle in {path.name}, where safetensors is expected; a pickle can run code. Convert it: see CONTRIBUTING.md."
        )
    _checked(path, bundle.weights_sha256)
    try:
        state = widened(load(content), content)
    except Exception as error:
        raise BundleError(
            f"Found {path.name}, which is not safetensors ({error}); it must be. Install the bundle again."
        ) from error
    wanted = network.state_dict()
    # index tables follow from the network and step counters are not used: files of weights leave whole numbers out
    state |= {k: v for k, v in wanted.items() if k not in state and not v.is_floating_point()}
    wrong = sorted(wanted.keys() ^ state.keys()) or [k for k in wanted if wanted[k].shape != state[k].shape]
    if wrong:
        raise BundleError(
            f"Found weights of another network: {len(wrong)} tensors do not fit, the first is {wrong[0]}. Check network_def in inference.json."
        )
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})
    setattr(network, BUNDLE_MARK, bundle.weights_sha256)
    return network.eval()
