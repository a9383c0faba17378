"""Data lists: which images and labels belong to training and validation."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from torch import Tensor

from medvit.bundles import Bundle
from medvit.errors import SourceError

__all__ = ["DataList", "Draws", "Pair", "Sampler", "data_root", "load_labels", "read_list"]


@dataclass(frozen=True)
class DataList:
    """Which images a run takes.

    Attributes:
        data: data list (JSON); None for the bundle's.
        root: folder the list's paths start from; None for the shared data beside the project, or the list's folder.
        split: the part of the list.
    """

    data: Path | None = None
    root: Path | None = None
    split: str = "training"


class Sampler(Protocol):
    """What the loop draws batches from."""

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """What the objective takes, stacked along a first batch axis."""
        ...

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new stream; the same seed gives the same batches."""
        ...


class Draws(Protocol):
    """How samples are drawn: a recipe's settings, from which a sampler is made."""

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> Sampler:
        """Read the images of a list and draw from them."""
        ...


@dataclass(frozen=True)
class Pair:
    """An image and its reference labels.

    Attributes:
        name: the image's file name without its ending.
        image: the image.
        label: its labels.
        instances: whether the labels number single objects of the one class there is, rather than classes.
    """

    name: str
    image: Path
    label: Path
    instances: bool = False


def data_root(given: Path | None, data: Path) -> Path:
    """Where a list's paths start: the folder given, the shared data beside the project, or the list's own folder."""
    if given is not None:
        return given
    shared = Path(os.environ.get("MEDVIT_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
    return shared / "data" if (shared / "data").is_dir() else data.parent


def read_list(bundle: Bundle, data: Path | None, root: Path | None, split: str) -> list[Pair]:
    """The pairs of one split.

    Raises:
        SourceError: no such list or split, a missing file, or a file in two splits.
    """
    path = data or bundle.root / "configs" / "datalist.json"
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(
            f"Found no readable data list at {path} ({error}); a JSON file with 'training' and 'validation' is needed."
        ) from error
    if not content.get(split):
        raise SourceError(
            f"Found no {split!r} entries in {path}; give a list with some. Its parts: {', '.join(k for k, v in content.items() if isinstance(v, list))}."
        )
    seen = [{entry["image"] for entry in v} for v in content.values() if isinstance(v, list)]
    shared = set.intersection(*seen) if len(seen) > 1 else set()
    if shared:
        raise SourceError(
            f"Found {sorted(shared)[0]} in several parts of {path}; a case may train or judge, not both. Remove it from one."
        )
    base = data_root(root, path)
    instances = content.get("labels") == "instances"
    pairs = [Pair(_plain_name(e["image"]), base / e["image"], base / e["label"], instances) for e in content[split]]
    for pair in pairs:
        for file in (pair.image, pair.label):
            if not file.is_file():
                raise SourceError(
                    f"Found no {file}; every file of the list is needed. Set --root to the folder the list starts from."
                )
    return pairs


def _plain_name(path: str) -> str:
    return Path(path).name.removesuffix(".gz").removesuffix(".nii").removesuffix(".png")


def load_labels(pair: Pair) -> np.ndarray:
    """The class ids of a pair as stored, (i, j, k) or, for pictures, (row, column); numbered objects become 1.

    Raises:
        SourceError: a picture of labels in colour or damaged.
    """
    if pair.label.suffix.lower() != ".png":
        return np.asarray(nib.load(pair.label).dataobj)
    from PIL import Image

    try:
        with Image.open(pair.label) as picture:
            ids = np.asarray(picture)
    except OSError as error:
        raise SourceError(
            f"Found labels of {pair.name} that cannot be read ({error}); a complete PNG is needed. Copy it again."
        ) from error
    if ids.ndim != 2:
        raise SourceError(
            f"Found labels of {pair.name} in colour; one number a pixel (grey or palette PNG) is needed. Save ids, not colours."
        )
    return (ids > 0).astype(np.uint8) if pair.instances else ids
