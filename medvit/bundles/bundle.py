"""Finding, checking and opening bundles. A bundle is the single truth about a model; nothing is said twice."""

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
from medvit.bundles.store import Installed, bundles_home, read_manifest, store_folder
from medvit.errors import BundleError, ChecksumError
from medvit.labels import Code, Label
from medvit.settings import DEFAULT_BUNDLE

__all__ = ["DEFAULT_BUNDLE", "Bundle", "BundleFacts", "Code", "Label", "Weights", "WeightsOrigin"]


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
    def facts(self) -> BundleFacts:
        """Labels, weights, modality and the like, validated."""
        section = self.metadata.get("medvit")
        if section is None:
            raise BundleError(
                f"no 'medvit' section in the metadata of {self.name}",
                "it states labels and weights",
                "See CONTRIBUTING.md.",
            )
        try:
            return BundleFacts.model_validate(section)
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
        return self.own_weights if entry is None else store_folder() / entry.file

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
                f"Found no label {name!r} in {self.name};{suggest_names(name, list(by_name))} It has: {', '.join(by_name)}."
            )
        return by_name[name]

    def require_task(self, task: str) -> None:
        """Refuse a bundle made for another task."""
        if self.facts.task != task:
            raise BundleError(
                f"{self.name}, a bundle for {self.facts.task}", f"one for {task} is needed", "Name another."
            )

    def require_trained(self) -> None:
        """Refuse a bundle whose weights are not there; nothing ever runs on random weights, nor fetches by itself."""
        state = self.state
        if state == "not fetched":
            raise BundleError(self._not_fetched())
        if state == "not trained":
            raise BundleError(
                f"no weights for {self.name} (state: not trained)",
                "a bundle runs only with its own",
                "Choose another: medvit bundles list.",
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


def _checked(path: Path, expected: str) -> str:
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    if actual != expected:
        raise ChecksumError(
            f"{path.name} with sha256 {actual[:12]}..., but {expected[:12]}... is recorded in the bundle's metadata",
            "they must be equal",
            "The file is damaged or was exchanged: install the bundle again.",
        )
    return actual
