"""Volumes that can be viewed while they are being read: slices on the screen first, the others in the background."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import MedvitError
from medvit.io import Affine, Scan, read_image, read_image_slice
from medvit.io.dicom import SliceReader
from medvit.progress import Cancelled, Progress
from medvit_napari.reading.display_grid import Canonical

__all__ = ["FileFilling", "Filling", "SeriesFilling"]


class Filling(ABC):
    """Array for napari, (inferior, posterior, left) float32, that a background thread fills.

    A request for one slice along the last stored axis reads that slice at once, if it has not been read and can be read
    alone. Other cuts show the part read so far; ``on_done`` callbacks tell when to redraw them. The complete scan is
    the same as from any other reader of medvit.

    Args:
        stored: array of zeros, (i, j, k), to be filled.
        affine: 4x4 matrix from voxel index to RAS+ mm.
        close: closes the files; called when reading has ended.
    """

    modality: str | None = None
    """Modality in the headers; None if none is stated."""

    hounsfield: bool = False
    """True for a CT whose headers state Hounsfield units."""

    series: str = ""
    """SeriesInstanceUID of a DICOM series."""

    space: str = ""
    """FrameOfReferenceUID, if the headers state one for all slices."""

    def __init__(self, stored: NDArray[np.float32], affine: Affine, close: Callable[[], None] = lambda: None) -> None:
        self._close, self._stored = close, stored
        self._there = np.zeros(stored.shape[2], bool)
        i, j, k = stored.shape
        self.grid = Canonical((i, j, k), affine)
        self._shown = self.grid.show(self._stored)
        self._axis = self.grid.order.index(2)
        self._scan: Scan | None = None
        self._error: BaseException | None = None
        self._done = threading.Event()
        self._wanted = Progress(self._tell)
        self.on_done: list[Callable[[], None]] = []
        self.on_progress: list[Callable[[int, int], None]] = []
        self._thread = threading.Thread(target=_fill, args=(weakref.ref(self), close), daemon=True, name="medvit-read")

    @abstractmethod
    def _read_slice(self, k: int) -> NDArray[np.float32] | None:
        """Return one slice, (i, j); None if it cannot be read before the others."""

    @abstractmethod
    def _read_whole(self) -> Scan:
        """Read and check the whole scan."""

    # attributes that napari expects of an array
    dtype = np.dtype(np.float32)
    ndim = 3

    @property
    def loaded(self) -> NDArray[np.float32]:
        """Values read so far, with zeros elsewhere; access does not wait."""
        return self._shown

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape along napari's axes."""
        return tuple(self._shown.shape)

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(self._shown.size)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return int(self._shown.nbytes)

    def __getitem__(self, key: Any) -> NDArray[np.float32]:
        if not self._done.is_set():
            one = self._slice_of(key)
            if one is not None:
                self._fetch(one)
        found: NDArray[np.float32] = self._shown[key]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        self.scan()
        return np.asarray(self._shown, dtype=dtype)

    def _slice_of(self, key: Any) -> int | None:
        """Return the stored slice in which a cut lies; None for a cut across slices."""
        parts = key if isinstance(key, tuple) else (key,)
        at = parts[self._axis] if len(parts) > self._axis and Ellipsis not in [p for p in parts if p is ...] else None
        count = len(self._there)
        if isinstance(at, slice):  # napari 0.9 requests a slab of one slice
            start, stop, step = at.indices(count)
            at = start if stop - start == step == 1 else None
        if not isinstance(at, (int, np.integer)):
            return None
        at = int(at) % count
        return count - 1 - at if self._axis in self.grid.flips else at

    def _fetch(self, k: int) -> None:
        if self._there[k]:
            return
        try:
            values = self._read_slice(k)
        except (MedvitError, OSError, ValueError):
            return  # the reading thread meets the same error and reports it
        if values is not None and not self._there[k]:
            self._stored[:, :, k] = values
            self._there[k] = True

    def _tell(self, stage: str, done: int, total: int) -> None:
        """Mark the slices read so far, and call the progress callbacks."""
        if stage == "read" and total == len(self._there):
            self._there[:done] = True
            for call in list(self.on_progress):
                call(done, total)

    def start(self) -> Filling:
        """Start reading in the background; return self."""
        self._thread.start()
        return self

    def read_all(self) -> None:
        """Read the missing slices in the calling thread."""
        try:
            self._scan = self._read_whole()
        except BaseException as error:
            self._error = error
        finally:
            self._there[:] = True
            self._done.set()
            self._close()
        if not isinstance(self._error, Cancelled):
            for call in list(self.on_done):
                call()

    def stop(self) -> None:
        """Stop reading, since the layer is not needed any more."""
        self._wanted.cancel()

    @property
    def is_done(self) -> bool:
        """True if all has been read, or reading failed."""
        return self._done.is_set()

    @property
    def is_blank(self) -> bool:
        """True if no slice has been read yet."""
        return not self._there.any()

    @property
    def error(self) -> BaseException | None:
        """Error that ended the reading; None if there was none."""
        return self._error

    def scan(self) -> Scan:
        """Return the whole scan; wait until it has been read.

        Raises:
            MedvitError: the scan could not be read.
        """
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._scan is not None
        return self._scan


class SeriesFilling(Filling):
    """DICOM series, decoded slice by slice.

    Args:
        reader: reader of a regular volume; closed when reading has ended.
    """

    def __init__(self, reader: SliceReader) -> None:
        memory = np.zeros(reader.shape[::-1], np.float32)  # the system provides zeroed pages only when they are used
        super().__init__(memory.transpose(2, 1, 0), reader.affine, reader.close)
        self._reader = reader
        self.modality, self.series, self.hounsfield = reader.modality, reader.series, reader.hounsfield
        self.space = reader.frame_of_reference

    def _read_slice(self, k: int) -> NDArray[np.float32]:
        return self._reader.read_slice(k)

    def _read_whole(self) -> Scan:
        return self._reader.read_all(self._stored, self._wanted)


class FileFilling(Filling):
    """NIfTI, NRRD or MetaImage file; slices of an uncompressed NIfTI can be read alone, others appear when all has been
    read.

    Args:
        path: the file.
        header: grid of the file; see ``image_grid``.
    """

    def __init__(self, path: Path, header: Scan) -> None:
        super().__init__(np.zeros(header.array.shape[1:], np.float32, order="F"), header.affine)
        self._path = path

    def _read_slice(self, k: int) -> NDArray[np.float32] | None:
        return read_image_slice(self._path, k)

    def _read_whole(self) -> Scan:
        scan = read_image(self._path).check()
        self._wanted.check()
        self._stored = scan.array[0]
        self._shown = self.grid.show(self._stored)
        return scan


def _fill(filling: weakref.ref[Filling], close: Callable[[], None]) -> None:
    alive = filling()
    if alive is None:
        close()
    else:
        alive.read_all()
