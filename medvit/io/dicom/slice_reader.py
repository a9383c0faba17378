"""Reading a regular volume slice by slice, as a viewer needs it: any slice at once, and the whole volume behind it."""

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
    """A regular DICOM volume whose slices can be read alone and in any order. Its files stay open until ``close``.

    Args:
        source: the folder, file, zip or DICOMDIR.
        found: its preflight.
        chosen: the volume; one for which ``can_read`` is true.

    Attributes:
        shape: of the volume, (i, j, k); k counts the slices.
        affine: voxel index to RAS+ mm, 4x4.
        modality: as the headers state it, or None.
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
        """Tell whether a volume is a straight, even stack of several slices that nothing refuses."""
        usable = volume.worst() in ("note", "flag", "tags")
        return volume.kind == "volume" and volume.stack is not None and usable and volume.count > 1

    def read_slice(self, k: int) -> NDArray[np.float32]:
        """Read one slice, (i, j), as ``read_all`` gives it.

        Raises:
            SourceError, ImageError: pixels that cannot be read.
        """
        return read_slice(self._chosen.volume, k)

    def read_all(self, into: NDArray[np.float32], progress: Progress | None = None) -> Scan:
        """Read the whole volume as ``open_source`` gives it, its checks and notes included.

        Args:
            into: memory of the volume's shape, of any strides; slices can be looked at there while others are read.
            progress: told how far reading is; can cancel it.

        Raises:
            MedvitError: why it cannot be read.
        """
        scan = read_dicom(self._chosen.volume, progress=progress, into=into)
        return with_preflight_notes(scan, self._found, self._chosen).check()

    def close(self) -> None:
        """Close the files."""
        self._files.close()


def _reopened(chosen: VolumeChoice, files: Iterable[DicomFile]) -> VolumeChoice:
    """Return the same choice, its planes read through other handles of the same files."""
    fresh = {file.name: file for file in files}
    volume = chosen.volume
    assert volume.stack is not None

    def again(planes: Iterable[PlaneHeader]) -> tuple[PlaneHeader, ...]:
        return tuple(replace(plane, file=fresh[plane.file.name]) for plane in planes)

    stack = replace(volume.stack, planes=again(volume.stack.planes))
    return replace(chosen, volume=replace(volume, planes=again(volume.planes), stack=stack))
