"""Cases on which a model is fine-tuned: final labels with their images, split permanently into training and validation."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from medvit.bundles import Bundle
from medvit.errors import GeometryError, MedvitError
from medvit.io import files_below, write_volume
from medvit.io.dicom.header import read_dataset
from medvit.labels import Label
from medvit_label.errors import RequestError, request_words
from medvit_label.images.repository import ImageRepository
from medvit_label.images.source import LabelImage
from medvit_label.journal import Journal
from medvit_label.labels.label_files import label_map
from medvit_label.labels.store import LabelRepository, StoredLabel

__all__ = ["LEAST", "CaseCollector", "Cases", "SplitRepository", "divide"]

LEAST = 4
"""Least number of final labels for training: three to train on and one to validate on."""

TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class Cases:
    """Labels for training and validation.

    Attributes:
        training: labels to train on.
        validation: labels that score the weights before and after training; none was ever trained on.
        by: unit of the split, "patient" or "image"; all images of a unit are in the same part.
        excluded: reason for each image whose final label cannot be used.
    """

    training: tuple[StoredLabel, ...]
    validation: tuple[StoredLabel, ...]
    by: str
    excluded: dict[str, str] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the split in the form that clients get."""
        found: dict[str, Any] = {"by": self.by, "training": len(self.training), "validation": len(self.validation)}
        if self.excluded:
            found["set_aside"] = [{"image": name, "reason": reason} for name, reason in self.excluded.items()]
        return found


class SplitRepository:
    """Repository of the assignment of images to "training" or "validation", by model; an assignment never changes.

    Args:
        journal: the project's journal.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def parts(self, model: str) -> dict[str, str]:
        """Return the part ("training" or "validation") of each image that was ever used to train a model."""
        rows = self._journal.rows("SELECT * FROM parts WHERE model = ?", model)
        return {row["image"]: row["part"] for row in rows}

    def add(self, model: str, parts: dict[str, str]) -> None:
        """Store the parts of images that have none yet."""
        known = self.parts(model)
        for name, part in parts.items():
            if name not in known:
                self._journal.change("INSERT INTO parts VALUES (?, ?, ?)", model, name, part)


class CaseCollector:
    """Collector of a model's final labels with their images.

    Args:
        images: the project's images.
        labels: repository of labels.
        splits: repository of the parts.
    """

    def __init__(self, images: ImageRepository, labels: LabelRepository, splits: SplitRepository) -> None:
        self._images, self._labels, self._splits = images, labels, splits

    def collect(self, bundle: Bundle, share: float, folder: Path) -> Cases:
        """Write a model's final labels that count, with their images, into a folder, with a data list for
        ``medvit.training``.

        Files get neutral names, so that no image's name appears in scores or messages. Files are linked if the file
        system permits, else copied, so that they remain if an image is removed from the project. A label that cannot be
        used is excluded with the reason.

        Args:
            bundle: the bundle to train.
            share: share of the images for validation.
            folder: folder for the files.

        Raises:
            RequestError: there are too few labels, or all are of one patient.
        """
        folder.mkdir(parents=True, exist_ok=True)
        labels, files, excluded = self._usable(bundle, folder)
        there = self._images.listed()
        patients = {name: _patient(there[name], self._images.info(name)) for name in labels}
        groups: dict[str, list[str]] = {}
        for name, patient in patients.items():
            groups.setdefault(patient or f"image {name}", []).append(name)
        try:
            parts = divide(groups, self._splits.parts(bundle.name), share)
        except RequestError as error:
            raise error.framed(after=_excluded_note(excluded)) from None
        self._splits.add(bundle.name, parts)
        chosen = {part: [name for name in sorted(parts) if parts[name] == part] for part in (TRAINING, VALIDATION)}
        by = "patient" if all(patients.values()) else "image"
        content = {"description": f"split by {by}"} | {p: [files[n] for n in names] for p, names in chosen.items()}
        (folder / "datalist.json").write_text(json.dumps(content, indent=1) + "\n")
        training, validation = (tuple(labels[name] for name in chosen[part]) for part in (TRAINING, VALIDATION))
        return Cases(training, validation, by, excluded)

    def _usable(
        self, bundle: Bundle, folder: Path
    ) -> tuple[dict[str, StoredLabel], dict[str, dict[str, str]], dict[str, str]]:
        """Return, by image: the usable labels, the file names of label and image, and the reasons against the other
        labels.

        Raises:
            RequestError: fewer than ``LEAST`` labels are usable.
        """
        there, model = self._images.listed(), bundle.name
        labels: dict[str, StoredLabel] = {}
        files: dict[str, dict[str, str]] = {}
        excluded: dict[str, str] = {}
        wanted = {name: label for name, label in self._labels.finals().items() if label.info.get("model") == model}
        if len(wanted) >= LEAST:  # with fewer, no file needs to be read
            for number, (name, label) in enumerate(wanted.items(), 1):
                reason = (
                    _fault(label, bundle.facts.labels) if name in there else "the image is not in the project any more"
                )
                try:
                    made = {} if reason else _write_case(self._images.find(name), label, folder, f"case_{number:04d}")
                except MedvitError as error:
                    reason = f"its image cannot be used ({error.sentence(request_words)})"
                if reason:
                    excluded[name] = reason
                else:
                    labels[name], files[name] = label, made
        _require_enough(len(labels if len(wanted) >= LEAST else wanted), model, excluded)
        return labels, files, excluded


def _require_enough(count: int, model: str, excluded: dict[str, str]) -> None:
    """Refuse to train on fewer labels than ``LEAST``.

    Raises:
        RequestError: there are fewer; the message lists the excluded ones.
    """
    if count < LEAST:
        raise RequestError(
            f"{count} images with a final label for {model}",
            f"at least {LEAST} are needed: {LEAST - 1} to train on and one to validate on",
            "Submit more with the tag final.",
        ).framed(after=_excluded_note(excluded))


def _excluded_note(excluded: dict[str, str]) -> str:
    left = "; ".join(f"{name[:80]}: {reason}" for name, reason in list(excluded.items())[:5])
    return f"Set aside: {left}." if left else ""


def _fault(label: StoredLabel, table: Sequence[Label]) -> str:
    """Return the reason against training on a label; "" if there is none."""
    if not label.file.is_file():
        return "its file was removed"
    try:
        values = np.unique(label_map(label.file))
    except Exception as error:  # a truncated, empty or wrong file can raise any error
        return f"its file cannot be read ({type(error).__name__})"
    strange = [f"{value:g}" for value in values.tolist() if value and value not in {known.id for known in table}]
    return f"it has values that the model does not know ({', '.join(strange[:8])})" if strange else ""


def divide(groups: dict[str, list[str]], known: dict[str, str], share: float) -> dict[str, str]:
    """Assign a part to each image: a group stays together, and an image used for training never validates.

    New groups are taken in the order of a hash, so independently of their names, and go to validation until the share
    is reached.

    Args:
        groups: ids of images by group, such as a patient.
        known: parts assigned earlier.
        share: share of the images for validation.
    """
    parts: dict[str, str] = {}
    new = []
    for group, images in groups.items():
        earlier = {known[name] for name in images if name in known}
        if earlier:
            parts |= dict.fromkeys(images, TRAINING if TRAINING in earlier else VALIDATION)
        else:
            new.append(group)
    wanted = max(1, round(share * sum(map(len, groups.values()))))
    for group in sorted(new, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        held = sum(part == VALIDATION for part in parts.values())
        fits = held == 0 or held + len(groups[group]) <= wanted
        parts |= dict.fromkeys(groups[group], VALIDATION if fits else TRAINING)
    if len(set(parts.values())) < 2:
        raise RequestError(
            (
                f"the labels of {len(groups)} patients, which leaves nothing to "
                f"{'validate on' if TRAINING in parts.values() else 'train on'}"
            ),
            "labels of another patient are needed",
            "Submit some.",
        )
    return parts


def _patient(image: LabelImage, noted: dict[str, Any]) -> str | None:
    """Return a key of the image's patient: a client's note (``patient``) or DICOM's PatientID; None if there is
    neither.
    """
    if isinstance(noted.get("patient"), str | int):
        return f"noted {noted['patient']}"
    if image.series is None:
        return None
    for path in _files(image.path):
        try:
            header = read_dataset(
                path, stop_before_pixels=True, specific_tags=["PatientID", "SeriesInstanceUID", "StudyInstanceUID"]
            )
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        if header.get("SeriesInstanceUID") == image.series:
            patient = str(header.get("PatientID") or "").strip()
            return f"patient {patient}" if patient else f"study {header.get('StudyInstanceUID')}"
    return None


def _files(path: Path) -> Iterable[Path]:
    return sorted(files_below(path)) if path.is_dir() else [path]


def _write_case(image: LabelImage, label: StoredLabel, folder: Path, name: str) -> dict[str, str]:
    """Link or write a label and its image into a folder; return their file names."""
    ending = "".join(label.file.suffixes[-2:]) if label.file.suffix == ".gz" else label.file.suffix
    marked = f"{name}_labels{ending}"
    _link(label.file, folder / marked)
    if image.is_picture:
        shown = f"{name}{image.path.suffix.lower()}"
        _link(image.path, folder / shown)
    else:
        import nibabel as nib

        shown = f"{name}.nii"
        scan = image.open()
        stored = nib.load(label.file)
        shape = stored.shape
        if tuple(shape) != scan.array.shape[1:]:
            raise GeometryError(f"it has {scan.array.shape[1:]} voxels, its label {tuple(shape)}: it was changed")
        # with the label's affine, whatever the format and header of the original
        write_volume(folder / shown, scan.array[0], stored.affine)
    return {"image": shown, "label": marked}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
