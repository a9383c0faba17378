"""Images of a case: found, hashed and decoded, in the case's own turn or ahead of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from medvit.errors import SourceError
from medvit.progress import Progress
from medvit_batch.cases import CaseJob

if TYPE_CHECKING:
    from medvit.io import Scan
    from medvit.io.dicom.preflight import Preflight

__all__ = ["Opened", "open_case", "read_case"]


@dataclass(frozen=True, eq=False)
class Opened:
    """Facts about a case before its pixels are decoded.

    Attributes:
        found: preflight of its series; None for an image file.
        digest: hash of everything in its images that decides the result.
    """

    found: Preflight | None
    digest: str


def open_case(job: CaseJob) -> Opened:
    """Find and hash a case's images, one file at a time.

    Raises:
        SourceError: the images cannot be read, or changed since the archive was scanned.
    """
    digest = hashlib.sha256()
    if job.group is None:
        assert job.key.image is not None
        try:
            with job.key.image.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise SourceError(f"the image, which cannot be opened ({why})", remedy="Check its permissions.") from error
        return Opened(None, digest.hexdigest())
    from medvit.io.dicom.preflight import sort_planes
    from medvit_batch.catalogue.series_groups import found_in

    volumes = sort_planes(job.group.planes)
    chosen = next((v for v in volumes if v.number == job.key.number), None)
    if chosen is None:
        raise SourceError(
            "that the series has other volumes than when the archive was scanned",
            "its files changed",
            "Run the batch again.",
        )
    files = {plane.file.name: plane.file for plane in chosen.planes}
    # the order of files in the archive does not change the images
    digest.update("".join(sorted(hashlib.sha256(file.read()).hexdigest() for file in files.values())).encode())
    digest.update(repr((chosen.part, chosen.kind, job.group.doubtful > 0)).encode())
    if job.group.lost:
        digest.update(repr(sorted(Counter(why for _, why in job.group.lost).items())).encode())
    return Opened(found_in(job.group, volumes), digest.hexdigest())


def read_case(job: CaseJob, opened: Opened, progress: Progress) -> Scan:
    """Decode a case's images, and de-identify them if the job asks for it.

    Raises:
        MedvitError: see ``medvit.io.open_volume`` and ``open_source``.
    """
    scan = _decoded(job, opened, progress)
    if job.note:
        scan = replace(scan, notes=(*scan.notes, job.note))
    if job.work.privacy is None:
        return scan
    from medvit.deidentification import deidentified_scan

    return deidentified_scan(scan, job.work.privacy)


def _decoded(job: CaseJob, opened: Opened, progress: Progress) -> Scan:
    from medvit.io import open_source
    from medvit.io.dicom import open_volume
    from medvit_batch.catalogue.series_groups import ARCHIVE

    if job.group is None or opened.found is None:
        assert job.key.image is not None
        return open_source(job.key.image, progress=progress, geometry=job.work.run.geometry)
    scan = open_volume(opened.found, str(job.key.number), job.work.run.on_irregular, ARCHIVE, progress).check()
    if not job.group.doubtful:
        return scan
    said = (
        f"{job.group.doubtful} damaged file(s) lie beside the images of this and other series; one of them may be a slice at "
        "the end of this volume."
    )
    return replace(scan, excluded=(*scan.excluded, said))
