"""Images on a DICOMweb service such as Orthanc: listed by QIDO-RS, fetched by WADO-RS; SEGs are stored by STOW-RS."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.io.dicom import Login, status_of, web_client, web_words
from medvit.io.dicom.header import read_dataset
from medvit_label.errors import AccessError, ArchiveError, GoneError, UnknownError
from medvit_label.images.source import LabelImage, Listing

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient

__all__ = ["DicomWebImages", "require_login"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_FRESH_S = 5.0
_SILENT_S = 60.0
"""Seconds that the service may be silent; Orthanc reads a whole series before it begins to answer."""


def require_login(url: str, login: Login) -> str:
    """Send one query to a service, to check the login before the server starts.

    Returns:
        Empty text if the service answers; else a sentence with the fault, which may be temporary.

    Raises:
        ArchiveError: the service needs a login, or refuses the given one.
    """
    try:
        web_client(url, 5.0, login).search_for_studies(limit=1)
    except Exception as error:
        words = web_words("the DICOMweb service", error, login)
        if status_of(error) in (401, 403):
            raise ArchiveError(words) from None
        return words
    return ""


class DicomWebImages:
    """Image series of a DICOMweb service.

    Args:
        url: address of the service, for example ``http://127.0.0.1:8042/dicom-web``.
        cache: folder for fetched series.
        modalities: modalities to list.
        login: the login for the service.
    """

    keeps_segs = True

    def __init__(self, url: str, cache: Path, modalities: tuple[str, ...], login: Login) -> None:
        self._client: DICOMwebClient = web_client(url, _SILENT_S, login)
        self._login = login
        self._cache, self._modalities = cache, modalities
        self._fetching = threading.Lock()
        self._counts: dict[str, int] = {}
        self._listing = Listing(self._look, _FRESH_S)

    def listed(self) -> dict[str, LabelImage]:
        """Return the service's image series by SeriesInstanceUID.

        Raises:
            ArchiveError: the service does not answer, or needs another login.
        """
        return self._listing.current()

    def _look(self) -> dict[str, LabelImage]:
        found: dict[str, LabelImage] = {}
        counts: dict[str, int] = {}
        for modality in self._modalities:
            asked = {"search_filters": {"Modality": modality}, "fields": ["NumberOfSeriesRelatedInstances"]}
            for entry in self._ask(lambda asked=asked: self._client.search_for_series(get_remaining=True, **asked)):
                series, study = _value(entry, "0020000E"), _value(entry, "0020000D")
                if _UID.fullmatch(series) and _UID.fullmatch(study):
                    found[series] = LabelImage(
                        id=series, path=self._cache / series, series=series, study=study, modality=modality
                    )
                    count = _value(entry, "00201209")
                    counts[series] = int(count) if count.isdigit() else 0
        self._counts = counts
        return found

    def _ask(self, call: Any) -> Any:
        try:
            return call()
        except Exception as error:
            raise ArchiveError(web_words("the DICOMweb service", error, self._login)) from error

    def find(self, name: str) -> LabelImage:
        """Return the series of a UID; fetch it into the cache unless the cache holds all of it.

        Raises:
            UnknownError: there is no such series. GoneError: the service has none of its slices.
        """
        image = self.listed().get(name)
        if image is None or image.study is None:
            raise UnknownError(f"no series {name[:80]!r} at the DICOMweb service", "ask for one that is listed")
        with self._fetching:
            if not self._whole(image):
                self._fetch(image)
        return image

    def _whole(self, image: LabelImage) -> bool:
        """Return True if the cache holds as many slices as the service, which may still be receiving some."""
        there = sum(1 for _ in image.path.glob("*.dcm")) if image.path.is_dir() else 0
        return there > 0 and self._counts.get(image.id, 0) in (0, there)

    def _fetch(self, image: LabelImage) -> None:
        slices = self._ask(lambda: self._client.retrieve_series(image.study, image.series))
        if not slices:
            raise GoneError(f"no slices of series {image.id}", "it was removed from the service", "Ask for another.")
        self._cache.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".part-", dir=self._cache))
        try:
            for number, dataset in enumerate(slices):
                dataset.save_as(aside / f"{number:05d}.dcm", enforce_file_format=True)
            shutil.rmtree(image.path, ignore_errors=True)
            os.replace(aside, image.path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def add(self, name: str, file: Path) -> str:
        """Refuse an upload, since images must be sent to the service itself.

        Raises:
            AccessError: always.
        """
        raise AccessError(
            "an image for a DICOMweb project", "this server cannot add images to it", "Send it to the archive itself."
        )

    def store(self, seg: Path) -> dict[str, Any]:
        """Store a SEG at the service.

        Raises:
            ArchiveError: the service refuses it.
        """
        dataset = read_dataset(seg)
        answer = self._ask(lambda: self._client.store_instances([dataset]))
        if "FailedSOPSequence" in answer and len(answer.FailedSOPSequence):
            raise ArchiveError(
                "that the DICOMweb service refused the SEG", "the label is kept here", "See the service's log."
            )
        return {"SeriesInstanceUID": str(dataset.SeriesInstanceUID), "SOPInstanceUID": str(dataset.SOPInstanceUID)}


def _value(entry: dict[str, Any], tag: str) -> str:
    return str((entry.get(tag, {}).get("Value") or [""])[0])
