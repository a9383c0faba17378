"""Reader of a regular volume slice by slice, for viewers: single slices at once, the whole volume in the background."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvit.io.dicom.header import PlaneHeader
from medvit.io.dicom.preflight import Preflight, SeriesVolume, VolumeChoice
from medvit.io.dicom.read import read_dicom, read_slice
from medvit.io.dicom.source import dicom_files, with_preflight_notes
from medvit.io.files import DicomFile
from medvit.io.geometry import Affine, flip_lps_ras
from medvit.io.scan import Scan
from medvit.progress import Progress

__all__ = ["SliceReader"]


class SliceReader:
    """Reader of a regular DICOM volume, whose slices can be read alone and in any order. Its files stay open until
    ``close``.

    Args:
        source: the folder, file, zip or DICOMDIR.
        found: its preflight.
        chosen: the volume; one for which ``can_read`` is true.

    Attributes:
        shape: (i, j, k) of the volume; k counts the slices.
        affine: (4, 4), voxel index to RAS+ mm.
        modality: Modality of the headers, or None.
        hounsfield: True for a CT whose headers state Hounsfield units.
        series: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID, where the headers state one for all slices, else empty.
    """

    def __init__(self, source: Path, found: Preflight, chosen: VolumeChoice) -> None:
        self._files = ExitStack()
        if not source.is_dir():  # the reader outlives the preflight's own handle on a zip
            files, _ = self._files.enter_context(dicom_files(source))
            chosen = _reopened(chosen, files)
        self._found, self._chosen = found, chosen
        volume, stack = chosen.volume, chosen.volume.stack
        assert stack is not None
        self.shape = (stack.planes[0].columns, stack.planes[0].rows, len(stack.planes))
        self.affine: Affine = flip_lps_ras(stack.affine)
        self.modality = volume.modality or None
        self.hounsfield, self.series = volume.hounsfield, volume.series
        frames = {plane.frame_of_reference for plane in volume.planes}
        self.frame_of_reference = frames.pop() if len(frames) == 1 else ""

    @staticmethod
    def can_read(volume: SeriesVolume) -> bool:
        """Return True for a straight, regular stack of several slices without a finding that prevents reading."""
        usable = volume.worst() in ("note", "flag", "tags")
        return volume.kind == "volume" and volume.stack is not None and usable and volume.count > 1

    def read_slice(self, k: int) -> NDArray[np.float32]:
        """Read one slice, (i, j), with the same values as ``read_all``.

        Raises:
            SourceError, ImageError: the pixels cannot be read.
        """
        return read_slice(self._chosen.volume, k)

    def read_all(self, into: NDArray[np.float32], progress: Progress | None = None) -> Scan:
        """Read the whole volume as ``open_source`` does, with the same checks and notes.

        Args:
            into: array of the volume's shape, with any strides; its slices can be displayed while others are read.
            progress: shows the progress of reading; can cancel it.

        Raises:
            MedvitError: the volume cannot be read.
        """
        scan = read_dicom(self._chosen.volume, progress=progress, into=into)
        return with_preflight_notes(scan, self._found, self._chosen).check()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _reopened(chosen: VolumeChoice, files: Iterable[DicomFile]) -> VolumeChoice:
    """Return the same choice with its planes bound to other handles of the same files."""
    fresh = {file.name: file for file in files}
    volume = chosen.volume
    assert volume.stack is not None

    def again(planes: Iterable[PlaneHeader]) -> tuple[PlaneHeader, ...]:
        return tuple(replace(plane, file=fresh[plane.file.name]) for plane in planes)

    stack = replace(volume.stack, planes=again(volume.stack.planes))
    return replace(chosen, volume=replace(volume, planes=again(volume.planes), stack=stack))
