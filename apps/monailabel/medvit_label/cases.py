"""The cases a model is fine-tuned on: the newest final labels, split once and for all into those that train and those that judge."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom

import medvit
from medvit_label.errors import RequestError
from medvit_label.images import Image
from medvit_label.labels import FINAL, StoredLabel

if TYPE_CHECKING:
    from medvit_label.service import Service

__all__ = ["LEAST", "Cases", "collect", "divide", "lay_out"]

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
    """

    training: tuple[StoredLabel, ...]
    validation: tuple[StoredLabel, ...]
    by: str

    def said(self) -> dict[str, Any]:
        """The split as clients are told it."""
        return {"by": self.by, "training": len(self.training), "validation": len(self.validation)}


def collect(service: Service, model: str, share: float) -> Cases:
    """The newest final labels of a model's kind, in two parts; what part an image is in never changes.

    Args:
        service: the project.
        model: the bundle's name.
        share: of images to hold out, roughly.

    Raises:
        RequestError: too few labels, or all of one patient.
    """
    newest = {
        label.image: label
        for label in service.labels.all()
        if label.tag == FINAL and label.info.get("model") == model and label.file.is_file()
    }
    there = service.images.listed()
    labels = {name: label for name, label in newest.items() if name in there}
    if len(labels) < LEAST:
        raise RequestError(
            f"Found {len(labels)} images with a final label for {model}; at least {LEAST} are needed: {LEAST - 1} to learn from and one "
            "to judge by. Submit more with the tag final."
        )
    patients = {name: _patient(there[name], service.journal.info(name)) for name in labels}
    groups: dict[str, list[str]] = {}
    for name, patient in patients.items():
        groups.setdefault(patient or f"image {name}", []).append(name)
    known = {row["image"]: row["part"] for row in service.journal.rows("SELECT * FROM parts WHERE model = ?", model)}
    parts = divide(groups, known, share)
    for name, part in parts.items():
        if name not in known:
            service.journal.change("INSERT INTO parts VALUES (?, ?, ?)", model, name, part)
    chosen = {part: tuple(labels[n] for n in sorted(parts) if parts[n] == part) for part in (TRAINING, VALIDATION)}
    return Cases(chosen[TRAINING], chosen[VALIDATION], "patient" if all(patients.values()) else "image")


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
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=["PatientID", "SeriesInstanceUID", "StudyInstanceUID"]
            )
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        if header.get("SeriesInstanceUID") == image.series:
            patient = str(header.get("PatientID") or "").strip()
            return f"patient {patient}" if patient else f"study {header.get('StudyInstanceUID')}"
    return None


def _files(path: Path) -> Iterable[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def lay_out(service: Service, cases: Cases, folder: Path) -> Path:
    """The cases as files under plain names with a data list beside them, as ``medvit.training`` takes them.

    A link is made where the file system allows it, else a copy: an image that is taken out of the project meanwhile stays, and
    no name of an image gets into scores or messages.

    Raises:
        MedvitError: an image cannot be opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"description": f"split by {cases.by}"}
    number = 0
    for part, labels in ((TRAINING, cases.training), (VALIDATION, cases.validation)):
        content[part] = []
        for label in labels:
            number += 1
            names = _one(service, label, folder, f"case_{number:04d}")
            content[part].append(names)
    path = folder / "datalist.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _one(service: Service, label: StoredLabel, folder: Path, name: str) -> dict[str, str]:
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
        scan = medvit.open_source(image.path, image.series)
        # on the very grid of the label, whatever the original's format and header
        nib.save(nib.Nifti1Image(scan.array[0], nib.load(label.file).affine), folder / shown)
    return {"image": shown, "label": marked}


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
