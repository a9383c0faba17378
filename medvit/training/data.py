"""Data lists: which images and labels belong to training and validation."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.training.patches import Case

__all__ = ["Pair", "data_root", "load_case", "load_labels", "read_list"]


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


def load_case(pair: Pair, classes: int) -> Case:
    """A pair on the closest RAS axes, in memory.

    Raises:
        SourceError: image and labels on different grids, or ids the bundle does not know.
    """
    image, labels = (nib.as_closest_canonical(nib.load(p)) for p in (pair.image, pair.label))
    if image.shape != labels.shape or not np.allclose(image.affine, labels.affine, atol=1e-3):
        raise SourceError(
            f"Found {pair.name} with image and labels on different grids; they must share one. Resample the labels first."
        )
    ids = np.asarray(labels.dataobj)
    if ids.max() >= classes:
        raise SourceError(
            f"Found label {int(ids.max())} in {pair.name}; the bundle knows 0..{classes - 1}. Correct the labels."
        )
    return Case.build(pair.name, image.get_fdata(dtype=np.float32), ids, image.header.get_zooms()[:3])
