"""Data lists: the images and labels of training and validation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.training.data.volume_reading import VolumeReading

__all__ = [
    "DataList",
    "ImageLabelPair",
    "Sampler",
    "SamplerConfig",
    "case_name",
    "check_annotated",
    "data_root",
    "every_entry_names",
    "load_labels",
    "read_entries",
    "read_list",
    "validate_label_ids",
]


@dataclass(frozen=True)
class DataList:
    """Selection of images from a data list.

    Attributes:
        data: data list (JSON); None for the bundle's.
        root: folder of the list's paths; None for the shared data beside the project, or the list's folder.
        split: part of the list.
        reading: settings for reading NIfTI files.
    """

    data: Path | None = None
    root: Path | None = None
    split: str = "training"
    reading: VolumeReading = field(default_factory=VolumeReading, compare=False)


class Sampler(Protocol):
    """Source of batches for the training loop."""

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Return the objective's inputs, stacked along a first batch axis."""
        ...

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream; the same seed gives the same batches."""
        ...


class StepDataset(Dataset[tuple[Tensor, ...]]):
    """Dataset whose item n is the batch of step n, independent of process and order of access.

    Args:
        sampler: source of batches.
        size: number of samples in a batch.
        seed: seed of the run.
        rank: number of this process among several; each has its own random stream.
    """

    def __init__(self, sampler: Sampler, size: int, seed: int, rank: int = 0) -> None:
        self.sampler, self.size, self.seed, self.rank = sampler, size, seed, rank

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        self.sampler.reseed((self.seed, step, self.rank))
        return self.sampler.batch(self.size)


class SamplerConfig(Protocol):
    """Settings of a recipe from which a sampler is made."""

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> Sampler:
        """Read the images of a list and make a sampler of them."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImageLabelPair:
    """An image and its reference labels.

    Attributes:
        name: file name of the image without its suffix.
        image: the image.
        label: its labels.
        instances: True if the labels number single objects of one class, rather than classes.
        annotated: ids of the annotated classes; other classes are unknown in this case, not absent. None if all were
            annotated.
        reading: settings for reading NIfTI files.
    """

    name: str
    image: Path
    label: Path
    instances: bool = False
    annotated: frozenset[int] | None = None
    reading: VolumeReading = field(default_factory=VolumeReading, compare=False, repr=False)


def data_root(given: Path | None, data: Path) -> Path:
    """Return the folder of a list's paths: the given one, the shared data beside the project, or the list's own
    folder."""
    if given is not None:
        return given
    shared = Path(os.environ.get("MEDVIT_SHARED", Path(__file__).resolve().parents[3].parent / "shared"))
    return shared / "data" if (shared / "data").is_dir() else data.parent


def read_entries(bundle: Bundle, cases: DataList, keys: Sequence[str]) -> list[dict[str, Path]]:
    """Return the files of one part of a data list, by key.

    Args:
        bundle: bundle whose list is read if none is given.
        cases: the list, the folder of its paths, and the part.
        keys: files that each entry must name, "image" among them.

    Raises:
        SourceError: the list or part is missing, an entry lacks a key, a file is missing, or an image is in this part
            and another.
    """
    path = _list_path(bundle, cases)
    return _entries(_content(path), path, cases, keys)


def _entries(content: dict[str, Any], path: Path, cases: DataList, keys: Sequence[str]) -> list[dict[str, Path]]:
    parts = {name: entries for name, entries in content.items() if isinstance(entries, list)}
    chosen = parts.get(cases.split)
    if not chosen:
        raise SourceError(
            f"no {cases.split!r} entries in {path}", "give a list with some", f"Its parts: {', '.join(parts)}."
        )
    # a validation image must not be used for pretraining either, even without its label
    elsewhere = {_place(entry, path) for name, v in parts.items() if name != cases.split for entry in v}
    twice = sorted(elsewhere.intersection(_place(entry, path) for entry in chosen))
    if twice:
        raise SourceError(
            f"{twice[0]} in several parts of {path}", "a case may be in one part only", "Remove it from one."
        )
    base = data_root(cases.root, path)
    found = [{key: base / _named(entry, key, path) for key in keys} for entry in chosen]
    absent = next((file for entry in found for file in entry.values() if not file.is_file()), None)
    if absent is not None:
        raise SourceError(
            f"no {absent}",
            "every file of the list is needed",
            "Set {root} to the folder the list starts from.",
            option="root",
        )
    return found


def every_entry_names(bundle: Bundle, cases: DataList, key: str) -> bool:
    """Return True if every entry of one part of a list names a file under a key; only the list is read.

    Raises:
        SourceError: there is no readable list.
    """
    entries = _content(_list_path(bundle, cases)).get(cases.split)
    return isinstance(entries, list) and bool(entries) and all(isinstance(e, dict) and key in e for e in entries)


def _list_path(bundle: Bundle, cases: DataList) -> Path:
    return cases.data or bundle.root / "configs" / "datalist.json"


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError) as error:
        raise SourceError(
            f"no readable data list at {path} ({error})", "a JSON file with 'training' and 'validation' is needed"
        ) from error
    return content


def _named(entry: Any, key: str, path: Path) -> str:
    if not (isinstance(entry, dict) and isinstance(entry.get(key), str)):
        raise SourceError(
            f"an entry without {key!r} in {path}",
            f"each needs the path of its {key}",
            "Give a list whose entries have it: {data}.",
            option="data",
        )
    return str(entry[key])


def _place(entry: Any, path: Path) -> str:
    """Return an image's normalised path: a/../b.nii.gz becomes b.nii.gz."""
    return os.path.normpath(_named(entry, "image", path))


def read_list(
    bundle: Bundle,
    data: Path | None,
    root: Path | None,
    split: str,
    *,
    partly_labelled: bool = False,
    reading: VolumeReading | None = None,
) -> list[ImageLabelPair]:
    """Read the image-label pairs of one split.

    An entry may name the labels annotated in its case, ``"annotated": ["brainstem", "mandible"]``; the others are then
    unknown. In an entry without it, all of the bundle's labels are annotated.

    Args:
        bundle: bundle whose list is read if none is given, and whose label names entries use.
        data: the list; None for the bundle's.
        root: folder of the list's paths; None as for ``data_root``.
        split: part of the list.
        partly_labelled: True if the caller can handle cases in which some labels are unknown.
        reading: settings for reading NIfTI files; None for the defaults.

    Raises:
        SourceError: as for ``read_entries`` (every entry needs an image and a label); also for annotated labels that
            are unknown to the bundle or empty, and for partly labelled cases that the caller cannot handle.
    """
    cases = DataList(data, root, split)
    path = _list_path(bundle, cases)
    content = _content(path)
    instances = content.get("labels") == "instances"
    entries = _entries(content, path, cases, ("image", "label"))
    reading = reading or VolumeReading()
    pairs = []
    for entry, files in zip(content[split], entries, strict=True):
        name = case_name(files["image"])
        annotated = _annotated(entry, name, bundle, path)
        if annotated is not None and not partly_labelled:
            raise SourceError(
                f"{name} partly labelled in {path}",
                f"this recipe of {bundle.name} needs all labels of every case",
                "Remove the entry, or complete its labels and remove 'annotated'.",
            )
        pairs.append(
            ImageLabelPair(
                name=name,
                image=files["image"],
                label=files["label"],
                instances=instances,
                annotated=annotated,
                reading=reading,
            )
        )
    return pairs


def _annotated(entry: dict[str, Any], name: str, bundle: Bundle, path: Path) -> frozenset[int] | None:
    if "annotated" not in entry:
        return None
    named = entry["annotated"]
    known = {label.name: label.id for label in bundle.facts.labels}
    if not (isinstance(named, list) and named and all(isinstance(label, str) for label in named)):
        raise SourceError(
            f"{name} with annotated = {json.dumps(named)} in {path}",
            "the names of at least one label are needed",
            "Name the labels that were annotated, or leave 'annotated' out where all were.",
        )
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise SourceError(
            f"{', '.join(unknown)} among the annotated labels of {name} in {path}",
            f"{bundle.name} has {', '.join(known)}",
            "Use its names.",
        )
    ids = frozenset(known[label] for label in named)
    return None if len(ids) == len(known) else ids


def check_annotated(ids: np.ndarray, pair: ImageLabelPair, names: Mapping[int, str] | None = None) -> None:
    """Check that the labels of a pair have only classes that the list calls annotated.

    Args:
        ids: the class ids of the pair, any shape.
        pair: the pair.
        names: class names by id, for the message.

    Raises:
        SourceError: the labels have a class that the list does not call annotated.
    """
    if pair.annotated is None:
        return
    extra = sorted({int(v) for v in np.unique(ids)} - pair.annotated - {0})
    if extra:
        found = ", ".join(str(v) if names is None else names.get(v, str(v)) for v in extra)
        raise SourceError(
            f"label {found} in {pair.name}, which its data list does not list as annotated",
            "a partly drawn label cannot be used for training",
            "Add it to 'annotated' if all of it is labelled, else remove its voxels.",
        )


def case_name(path: Path) -> str:
    """Return a file's name without its suffix."""
    return path.name.removesuffix(".gz").removesuffix(".nii").removesuffix(".png")


def load_labels(pair: ImageLabelPair) -> np.ndarray:
    """Load the class ids of a pair as stored, (i, j, k) or, for pictures, (row, column); numbered objects become 1.

    Raises:
        SourceError: a picture of labels has colours or is damaged.
    """
    if pair.label.suffix.lower() != ".png":
        return np.asarray(pair.reading.label_map(pair.label).dataobj)
    from PIL import Image

    try:
        with Image.open(pair.label) as picture:
            ids = np.asarray(picture)
    except OSError as error:
        raise SourceError(
            f"labels of {pair.name} that cannot be read ({error})", "a complete PNG is needed", "Copy it again."
        ) from error
    if ids.ndim != 2:
        raise SourceError(
            f"labels of {pair.name} in colour",
            "one number a pixel (grey or palette PNG) is needed",
            "Save ids, not colours.",
        )
    return (ids > 0).astype(np.uint8) if pair.instances else ids


def validate_label_ids(ids: np.ndarray, name: str, classes: int, who: str = "the bundle") -> np.ndarray:
    """Return class ids unchanged after checking that they are integers within the network's classes.

    Args:
        ids: the labels of one case, any shape and type.
        name: name of the case, for the message.
        classes: number of classes, background included.
        who: owner of the classes, for the message.

    Raises:
        SourceError: fractions (a probability map, or interpolated labels), NaN, or an id below 0 or beyond the classes.
    """
    if ids.dtype.kind == "f" and not bool((ids == np.round(ids)).all()):  # NaN is not equal to itself
        raise SourceError(
            f"labels of {name} that are not whole numbers",
            "ids are needed, not probabilities or interpolated labels",
            "Save ids, and resample labels by nearest neighbour.",
        )
    low, high = (int(v) for v in (ids.min(), ids.max()))
    if low < 0 or high >= classes:
        raise SourceError(
            f"label {low if low < 0 else high} in {name}", f"{who} has labels 0..{classes - 1}", "Correct the labels."
        )
    return ids
