"""An opened bundle: its configs, metadata and weights. It is the only source of facts about a model."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medvit.bundles.metadata import (
    CONFIG_KEYS,
    METADATA_KEYS,
    BundleFacts,
    Weights,
    WeightsOrigin,
    read_json,
    refuse_unknown,
    suggest_names,
)
from medvit.bundles.store import Installed, bundles_home, read_manifest
from medvit.errors import BundleError, ChecksumError
from medvit.labels import Code, Label
from medvit.settings import DEFAULT_BUNDLE
from medvit.user_folders import store_folder

__all__ = ["DEFAULT_BUNDLE", "Bundle", "BundleFacts", "Code", "Label", "Weights", "WeightsOrigin"]


@dataclass(frozen=True)
class Bundle:
    """An opened bundle folder; configs are read on first use.

    Attributes:
        root: the folder, with ``configs/metadata.json`` and ``configs/inference.json``.

    Examples:
        >>> from medvit.bundles import Bundle, bundle_folders
        >>> bundle = Bundle(bundle_folders()["headneck_ct_swin_unetr"])
        >>> bundle.facts.task, bundle.facts.modalities
        ('segmentation', ('CT',))
    """

    root: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.root.name

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """Content of metadata.json, with known keys only."""
        metadata = read_json(self.root / "configs" / "metadata.json")
        refuse_unknown(metadata, METADATA_KEYS, "configs/metadata.json", used="")
        return metadata

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of inference.json, with known ids only."""
        config = read_json(self.root / "configs" / "inference.json")
        refuse_unknown(config, CONFIG_KEYS, "configs/inference.json", used=json.dumps(config))
        return config

    @cached_property
    def facts(self) -> BundleFacts:
        """The ``medvit`` section of the metadata: labels, weights, modality and the like, validated."""
        section = self.metadata.get("medvit")
        if section is None:
            raise BundleError(
                f"no 'medvit' section in the metadata of {self.name}",
                "the section states labels and weights",
                "See CONTRIBUTING.md.",
            )
        try:
            return BundleFacts.model_validate(section)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise BundleError(
                f"medvit.{where} in the metadata of {self.name}: {first['msg']}", remedy="Correct or remove the key."
            ) from None

    @property
    def version(self) -> str:
        """Version of the bundle."""
        return str(self.metadata["version"])

    @property
    def intended_use(self) -> str:
        """Sentence that every result must state."""
        return str(self.metadata["intended_use"])

    @property
    def own_weights(self) -> Path:
        """Path of the weights in the bundle's folder; the file may not exist."""
        return self.root / self.facts.weights.file

    @property
    def int8_ranges(self) -> Path:
        """Path of the ranges for int8; the file may not exist."""
        return self.root / "models" / "int8_ranges.json"

    @property
    def int8_ranges_sha256(self) -> str:
        """Sha256 of the file of ranges for int8; empty without one."""
        file = self.int8_ranges
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""

    @property
    def fetched(self) -> Installed | None:
        """Entry of the store for this bundle's weights, with exactly the checksum in its metadata; None where there is
        none.

        Weights in the bundle's own folder take precedence if its metadata states their sha256.
        """
        wanted = self.facts.weights
        if wanted.origin is None or (wanted.sha256 and self.own_weights.is_file()):
            return None
        entry = read_manifest().bundles.get(self.name)
        fits = entry is not None and entry.kind == "weights" and entry.download == wanted.origin.checksum
        return entry if fits else None

    @property
    def weights(self) -> Path:
        """Path of the weights file: in the store if fetched, else in the bundle's folder."""
        entry = self.fetched
        return self.own_weights if entry is None else store_folder() / entry.file

    @property
    def weights_sha256(self) -> str:
        """Expected sha256 of the weights file, from the store's manifest or the metadata.

        Raises:
            BundleError: the weights have not been fetched, so that their checksum is unknown.
        """
        entry = self.fetched
        digest = self.facts.weights.sha256 if entry is None else entry.sha256
        if digest is None:
            self.require_trained()
            raise self._not_fetched()
        return digest

    @property
    def state(self) -> str:
        """State of the weights: "trained", "not trained", or for weights that do not ship "imported", "fetched" or "not fetched"."""
        if self.facts.state != "trained":
            return "not trained"
        if self.facts.imported is not None and self.weights.is_file():
            return "imported"
        if self.fetched is not None or self.root.parent == bundles_home():
            return "fetched" if self.weights.is_file() else "not fetched"
        if self.facts.weights.sha256 and self.weights.is_file():
            return "trained"
        return "not trained" if self.facts.weights.origin is None else "not fetched"

    def label(self, name: str) -> Label:
        """Return the label of the given name.

        Raises:
            BundleError: there is no such label; the message offers similar names.
        """
        by_name = {label.name: label for label in self.facts.labels}
        if name not in by_name:
            raise BundleError(
                f"no label {name!r} in {self.name}",
                remedy=f"{suggest_names(name, list(by_name))} It has: {', '.join(by_name)}.".lstrip(),
            )
        return by_name[name]

    def require_task(self, task: str) -> None:
        """Refuse a bundle made for another task.

        Raises:
            BundleError: the bundle is for another task.
        """
        if self.facts.task != task:
            raise BundleError(
                f"{self.name}, a bundle for {self.facts.task}", f"one for {task} is needed", "Name another bundle."
            )

    def require_trained(self) -> None:
        """Refuse a bundle without weights; medvit never runs random weights and never downloads by itself.

        Raises:
            BundleError: the weights are missing.
        """
        state = self.state
        if state == "not fetched":
            raise self._not_fetched()
        if state == "not trained":
            raise BundleError(
                f"no weights for {self.name} (state: not trained)",
                "a bundle needs its weights to run",
                "Choose another: {medvit.bundles.bundle_folders()}.",
                option="medvit.bundles.bundle_folders()",
            )

    def _not_fetched(self) -> BundleError:
        return BundleError(
            f"no weights for {self.name} (state: not fetched)",
            "a bundle needs its weights to run",
            f"Fetch them once: {{medvit.bundles.remote.fetch()=FetchRequest(name='{self.name}')}}.",
            option="medvit.bundles.remote.fetch()",
        )

    def verify(self) -> str:
        """Check the configs and the checksum of the weights; return the sha256.

        Raises:
            BundleError: a config is wrong, or the weights are missing.
            ChecksumError: the checksum differs.
        """
        _ = self.config, self.facts
        self.require_trained()
        return _checked(self.weights, self.weights_sha256)


def _checked(path: Path, expected: str) -> str:
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ChecksumError(
            f"{path.name} with sha256 {actual[:12]}..., but {expected[:12]}... is recorded in the bundle's metadata",
            "they must be equal",
            "The file is damaged or was exchanged: install the bundle again.",
        )
    return actual
