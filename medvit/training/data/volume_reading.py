"""Reading of the NIfTI volumes and label maps of a data list, by the rules of ``medvit.open_source``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import MedvitError, SourceError
from medvit.io import load_nifti, storage_step, whole_numbers

__all__ = ["VolumeReading"]


@dataclass
class VolumeReading:
    """Settings for reading the volumes of a data list, and the remarks collected on them.

    Attributes:
        geometry: "sform" or "qform" of NIfTI files; None for the sform if it is stated.
        notes: conversions, roundings and assumptions, by file, each once.
        flags: issues that a person must check, by file, each once.
    """

    geometry: str | None = None
    notes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    def load(self, path: Path) -> Any:
        """Load a NIfTI as a nibabel image whose affine is in millimetres; voxels are read when used.

        Raises:
            SourceError: the file cannot be read.
            GeometryError: it has no usable affine.
        """
        try:
            image, place = load_nifti(path, self.geometry)
        except MedvitError:
            raise
        except Exception as error:
            raise SourceError(
                f"{path.name}, which cannot be read ({error})", "NIfTI is needed", "Convert it."
            ) from error
        self.remark(path.name, place.notes, place.flags)
        return image

    def label_map(self, path: Path) -> Any:
        """Load a label map as a nibabel image; ids that were saved through floats are rounded.

        Raises:
            SourceError, GeometryError: as for ``load``.
        """
        image = self.load(path)
        try:
            stored = np.asarray(image.dataobj)
        except (OSError, EOFError, ValueError) as error:
            raise SourceError(
                f"{path.name}, which cannot be read ({error})", "a complete NIfTI is needed", "Copy it again."
            ) from error
        header = image.header.copy()
        header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)  # nibabel clears them on loading
        ids, note = whole_numbers(stored, storage_step(header)) or (stored, None)
        self.remark(path.name, (note,) if note else ())
        return type(image)(ids, image.affine, image.header)

    def counted(self) -> dict[str, int]:
        """Count the files of each remark; the result has no file names."""
        return dict(Counter(line.partition(": ")[2] for line in (*self.flags, *self.notes)))

    def remark(self, name: str, notes: Sequence[str], flags: Sequence[str] = ()) -> None:
        """Collect remarks on a file, each once, however often the file is read."""
        for said, kept in ((notes, self.notes), (flags, self.flags)):
            kept += [line for line in (f"{name}: {text}" for text in said) if line not in kept]
