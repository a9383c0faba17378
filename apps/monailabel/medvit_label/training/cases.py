"""The cases a model is fine-tuned on: the newest final labels, split once and for all into those that train and those that judge."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom

from medvit.errors import GeometryError, MedvitError
from medvit.io import files_below
from medvit.io.dicom.header import read_dataset
from medvit.labels import Label
from medvit_label.errors import RequestError
from medvit_label.images.local import Image
from medvit_label.labels.label_files import label_map
from medvit_label.labels.store import StoredLabel

if TYPE_CHECKING:
    from medvit_label.project import Project

__all__ = ["LEAST", "Cases", "collect", "divide"]

LEAST = 4
"""Final labels with which training may begin: three to learn from and one held out."""

TRAINING, VALIDATION = "training", "validation"


@dataclass(frozen=True)
class Cases:
    """Labels by what they are for.

    Attributes:
        training: what is learned from.
        validation: what judges, before and after; it is never trained on, nor ever was here.
        by: what was kept together: "patient" or "image".
        aside: images whose final label cannot be trained on, with the reason.
    """

    training: tuple[StoredLabel, ...]
    validation: tuple[StoredLabel, ...]
    by: str
    aside: dict[str, str] = field(default_factory=dict)

    def said(self) -> dict[str, Any]:
        """The split as clients are told it."""
        told: dict[str, Any] = {"by": self.by, "training": len(self.training), "validation": len(self.validation)}
        if self.aside:
            told["set_aside"] = [{"image": name, "reason": words} for name, words in self.aside.items()]
        return told


def collect(service: Project, model: str, share: float, folder: Path) -> Cases:
    """Lay out the final labels that count of a model's kind with their images, in two parts; an image's part never changes.

    They become files under plain names with a data list beside them, as ``medvit.training`` takes them: a link is made where
    the file system allows it, else a copy, so that an image that is taken out of the project meanwhile stays, and no name of an
    image gets into scores or messages. A label that cannot be trained on is set aside with the reason; the others train.

    Args:
        service: the project.
        model: the bundle's name.
        share: of images to hold out, roughly.
        folder: where the files go.

    Raises:
        RequestError: too few labels, or all of one patient.
    """
    folder.mkdir(parents=True, exist_ok=True)
    labels, files, aside = _usable(service, model, folder)
    there = service.images.listed()
    patients = {name: _patient(there[name], service.journal.info(name)) for name in labels}
    groups: dict[str, list[str]] = {}
    for name, patient in patients.items():
        groups.setdefault(patient or f"image {name}", []).append(name)
    known = {row["image"]: row["part"] for row in service.journal.rows("SELECT * FROM parts WHERE model = ?", model)}
    try:
        parts = divide(groups, known, share)
    except RequestError as error:
        raise RequestError(f"{error}{_told(aside)}") from None
    for name, part in parts.items():
        if name not in known:
            service.journal.change("INSERT INTO parts VALUES (?, ?, ?)", model, name, part)
    chosen = {part: [name for name in sorted(parts) if parts[name] == part] for part in (TRAINING, VALIDATION)}
    by = "patient" if all(patients.values()) else "image"
    content = {"description": f"split by {by}"} | {part: [files[n] for n in names] for part, names in chosen.items()}
    (folder / "datalist.json").write_text(json.dumps(content, indent=1) + "\n")
    training, validation = (tuple(labels[name] for name in chosen[part]) for part in (TRAINING, VALIDATION))
    return Cases(training, validation, by, aside)


def _usable(
    service: Project, model: str, folder: Path
) -> tuple[dict[str, StoredLabel], dict[str, dict[str, str]], dict[str, str]]:
    """Return the labels that can be trained on, the files of each with its image, and why others cannot; all by image.

    Raises:
        RequestError: fewer than ``LEAST`` can.
    """
    there, table = service.images.listed(), service.model(model).facts.labels
    labels: dict[str, StoredLabel] = {}
    files: dict[str, dict[str, str]] = {}
    aside: dict[str, str] = {}
    wanted = {name: label for name, label in service.labels.finals().items() if label.info.get("model") == model}
    if len(wanted) >= LEAST:  # else nothing is read for nothing
        for number, (name, label) in enumerate(wanted.items(), 1):
            reason = _fault(label, table) if name in there else "the image is not in the project any more"
            try:
                made = {} if reason else _one(service, label, folder, f"case_{number:04d}")
            except MedvitError as error:
                reason = f"its image cannot be used ({error})"
            if reason:
                aside[name] = reason
            else:
                labels[name], files[name] = label, made
    _require_enough(len(labels if len(wanted) >= LEAST else wanted), model, aside)
    return labels, files, aside


def _require_enough(count: int, model: str, aside: dict[str, str]) -> None:
    """Refuse to train on fewer labels than ``LEAST``.

    Raises:
        RequestError: there are fewer; those set aside are named.
    """
    if count < LEAST:
        raise RequestError(
            f"Found {count} images with a final label for {model}; at least {LEAST} are needed: {LEAST - 1} to learn from and one "
            f"to judge by. Submit more with the tag final.{_told(aside)}"
        )


def _told(aside: dict[str, str]) -> str:
    left = "; ".join(f"{name[:80]}: {words}" for name, words in list(aside.items())[:5])
    return f" Set aside: {left}." if left else ""


def _fault(label: StoredLabel, table: Sequence[Label]) -> str:
    """Return the reason against training on a label; empty where there is none."""
    if not label.file.is_file():
        return "its file was taken away"
    try:
        values = np.unique(label_map(label.file))
    except Exception as error:  # cut, empty or of another kind: whatever the reader meets
        return f"its file cannot be read ({type(error).__name__})"
    strange = [f"{value:g}" for value in values.tolist() if value and value not in {known.id for known in table}]
    return f"it has values that the model does not know ({', '.join(strange[:8])})" if strange else ""


def divide(groups: dict[str, list[str]], known: dict[str, str], share: float) -> dict[str, str]:
    """A part for each image: a group stays together, and what trained once never judges.

    New groups are taken in the order of a hash, which has nothing to do with names, and held out until the share is reached.

    Args:
        groups: images by what must stay together.
        known: parts given earlier.
        share: of images to hold out.

    Raises:
        RequestError: nothing is left for one of the parts.
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
            f"Found the labels of {len(groups)} patients, which leaves nothing to {'judge by' if TRAINING in parts.values() else 'learn from'}; "
            "labels of another patient are needed. Submit some."
        )
    return parts


def _patient(image: Image, noted: dict[str, Any]) -> str | None:
    """What tells images of one patient: a note of the client's (``patient``), or DICOM's PatientID. None where neither is there."""
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


def _one(service: Project, label: StoredLabel, folder: Path, name: str) -> dict[str, str]:
    image = service.images.find(label.image)
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
        shape = nib.load(label.file).shape
        if tuple(shape) != scan.array.shape[1:]:
            raise GeometryError(f"it has {scan.array.shape[1:]} voxels, its label {tuple(shape)}: it was changed")
        # on the very grid of the label, whatever the original's format and header
        nib.save(nib.Nifti1Image(scan.array[0], nib.load(label.file).affine), folder / shown)
    return {"image": shown, "label": marked}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
