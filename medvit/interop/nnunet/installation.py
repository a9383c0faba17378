"""Installation of an imported model to the user's store."""

from __future__ import annotations

import hashlib
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_write import staging_folder
from medvit.bundles import Bundle, bundle_folders
from medvit.bundles.store import Installed, bundles_home, locked, os_errors_as_store_errors, read_manifest, record
from medvit.errors import BundleError
from medvit.interop.nnunet.bundle_files import ModelFacts, inference_config, metadata
from medvit.progress import Progress
from medvit.user_folders import store_folder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check_name", "install"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")


def check_name(name: str, overwrite: bool) -> None:
    """Refuse a name that is not one, or that a bundle has.

    Args:
        name: name of the new bundle.
        overwrite: True where a bundle of the store may be replaced.

    Raises:
        BundleError: the name cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise BundleError(
            f"{name!r} where a bundle's name is needed: letters, digits, '_', '-' and '.' alone",
            remedy="Choose another with {name=...}.",
            option="name",
        )
    there = bundle_folders().get(name)
    if there is None:
        return
    if there.parent != bundles_home():
        raise BundleError(
            f"a bundle named {name} outside the store",
            "an import replaces only bundles of the store",
            "Choose another name with {name=...}.",
            option="name",
        )
    if not overwrite:
        raise BundleError(
            f"a bundle named {name} in the store",
            "bundles are never replaced silently",
            "Choose another name with {name=...}, or add {overwrite=True}.",
            option=("name", "overwrite"),
        )


def install(name: str, facts: ModelFacts, weights: dict[str, Tensor], progress: Progress) -> int:
    """Write the bundle to a staging folder and move it to its place by one rename; return the size of the weights.

    Args:
        name: name of the bundle, see ``check_name``.
        facts: facts about the model.
        weights: tensors of all folds.
        progress: can cancel.

    Raises:
        StoreError: the store cannot be written; nothing is left behind.
    """
    target = bundles_home() / name
    with locked(name), os_errors_as_store_errors():
        read_manifest()
        store_folder().mkdir(parents=True, exist_ok=True)
        with staging_folder(store_folder()) as aside:
            made = aside / name
            for folder in ("configs", "models"):
                (made / folder).mkdir(parents=True)
            path = made / "models" / "model.safetensors"
            _save(weights, path)
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _write_json(made / "configs" / "metadata.json", metadata(facts, sha256))
            _write_json(made / "configs" / "inference.json", inference_config(facts))
            Bundle(made).verify()
            progress.check()
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                os.replace(target, aside / "before")
            try:
                os.replace(made, target)
            except OSError:
                if (aside / "before").exists():
                    os.replace(aside / "before", target)
                raise
            size = (target / "models" / "model.safetensors").stat().st_size
        record(name, _entry(target, facts, sha256))
    return size


def _save(weights: dict[str, Tensor], path: Path) -> None:
    """Write the weights; a refusal of the system is an OSError, as for other files."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(weights, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _entry(target: Path, facts: ModelFacts, sha256: str) -> Installed:
    together = hashlib.sha256("".join(facts.checksums.values()).encode()).hexdigest()
    return Installed(
        kind="bundle",
        version="0.1.0",
        file=(target / "models" / "model.safetensors").relative_to(store_folder()).as_posix(),
        sha256=sha256,
        download=f"sha256:{together}",
        source="medvit bundles import nnunet",
        licence=facts.licence,
        agreed="--yes",
        installed=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
