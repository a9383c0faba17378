"""NIfTI volumes and label maps of a data list, read by the rules that ``medvit.open_source`` follows."""

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
    """A way to read the volumes of a data list, and the remarks collected on them.

    Attributes:
        geometry: "sform" or "qform" of NIfTI files to take; None for the sform where it is stated.
        notes: what was converted, rounded or assumed, by file, each once.
        flags: what a person must look at, by file, each once.
    """

    geometry: str | None = None
    notes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)

    def load(self, path: Path) -> Any:
        """Load a NIfTI as a nibabel image whose affine is in millimetres; voxels are read when used.

        Raises:
            SourceError: it cannot be read. GeometryError: it has no usable place in the world.
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
        """Load a label map as a nibabel image in memory; ids saved through floats are rounded, others stay as they are.

        Raises:
            SourceError, GeometryError: as ``load``.
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
        """Count the files of each remark, without their names."""
        return dict(Counter(line.partition(": ")[2] for line in (*self.flags, *self.notes)))

    def remark(self, name: str, notes: Sequence[str], flags: Sequence[str] = ()) -> None:
        """Collect what was found in a file, once however often it is read."""
        for said, kept in ((notes, self.notes), (flags, self.flags)):
            kept += [line for line in (f"{name}: {text}" for text in said) if line not in kept]
