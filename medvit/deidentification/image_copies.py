"""De-identified copies of the images of a case, to which the new UIDs in its results refer."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset

from medvit.atomic_write import hashes_within, os_errors_as_output_errors
from medvit.deidentification.header_identifiers import identifiers_of
from medvit.deidentification.headers import deidentified
from medvit.deidentification.identifiers import Identifiers
from medvit.deidentification.pseudonyms import Privacy
from medvit.errors import ImageError
from medvit.io import DicomFile
from medvit.io.dicom.header import read_dataset

__all__ = ["IMAGES", "add_images"]

IMAGES = "images"
"""Name of the folder of the copies."""


def add_images(folder: Path, files: Iterable[DicomFile], privacy: Privacy) -> None:
    """Write de-identified copies of DICOM files to ``images`` and add them to the folder's ``run.json``.

    Pixels are copied bit for bit, compressed ones without decompression.

    Args:
        folder: a folder of results, with ``run.json``.
        files: the files of the case.
        privacy: the key and the options.

    Raises:
        ImageError: the pixels contain overlays in their spare bits, or an image lacks a UID.
        OutputError: a file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from pydicom.data import get_testdata_file
        >>> from medvit.deidentification import Privacy, add_images
        >>> from medvit.io import DicomFile
        >>> path = Path(get_testdata_file("CT_small.dcm"))
        >>> file = DicomFile(path.name, lambda: path.open("rb"), path.stat().st_size)
        >>> Path("result").mkdir()
        >>> _ = Path("result/run.json").write_text('{"files": {}}')
        >>> add_images(Path("result"), [file], Privacy(key=b"a secret that nobody can guess"))
        >>> Path("result/images/0001.dcm").is_file()
        True
    """
    home, sources = folder / IMAGES, list(files)
    known, person = _identified(sources, privacy)
    with os_errors_as_output_errors(folder):
        home.mkdir()
        for number, file in enumerate(sources, 1):
            _copy(file, home / f"{number:04d}.dcm", partial(deidentified, privacy=privacy, known=known, person=person))
        record = folder / "run.json"
        content = json.loads(record.read_text())
        content["files"] |= {f"{IMAGES}/{name}": digest for name, digest in hashes_within(home).items()}
        record.write_text(json.dumps(content, indent=2) + "\n")
        for path in (*home.iterdir(), record):
            with path.open("r+b") as written:
                os.fsync(written.fileno())


def _identified(files: list[DicomFile], privacy: Privacy) -> tuple[Identifiers, str | None]:
    """Collect the identifiers of all headers; return them with the patient."""
    known, person = Identifiers(), None
    for file in files:
        with warnings.catch_warnings(), file.open() as stream:
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(stream, stop_before_pixels=True, force=True)
            known |= identifiers_of([header], privacy.retain)
            person = privacy.person(header) if person is None else person
    return known, person


def _copy(file: DicomFile, path: Path, clean: Callable[[Dataset], Dataset]) -> None:
    with warnings.catch_warnings(), file.open() as stream:
        warnings.simplefilter("ignore")
        source = read_dataset(stream, force=True)
        if any(
            tag.group & 0xFF00 == 0x6000 and tag.element == 0x0102 and source[tag].value for tag in list(source.keys())
        ):
            raise ImageError(
                "overlays within the pixels, whose text may name the patient",
                "{medvit.deidentification.add_images()} writes pixels as they are",
                "Leave {medvit.deidentification.add_images()} out for this series.",
                option="medvit.deidentification.add_images()",
            )
        made = clean(source)
        if not (made.get("SOPClassUID") and made.get("SOPInstanceUID")):
            raise ImageError(
                "images without a SOPClassUID or SOPInstanceUID",
                "{medvit.deidentification.add_images()} needs both to write a file",
                "Leave {medvit.deidentification.add_images()} out for this series.",
                option="medvit.deidentification.add_images()",
            )
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = source.file_meta.get("TransferSyntaxUID", pydicom.uid.ImplicitVRLittleEndian)
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = made.SOPClassUID, made.SOPInstanceUID
        made.file_meta = meta
        pydicom.dcmwrite(path, made, enforce_file_format=True)
