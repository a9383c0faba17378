"""Labels of a segmentation, their codes, and the measurements of a label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Code", "Label", "LabelMeasures"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Code(_Strict):
    """A coded concept (DICOM PS3.3, 8.8)."""

    value: str
    scheme: str
    meaning: str


class Label(_Strict):
    """A class that a bundle segments."""

    id: int = Field(ge=1, description="value in the label map")
    name: str = Field(pattern=r"^[a-z0-9_]+$", description="name on the command line and in files")
    title: str = Field(description="name for people")
    color: tuple[int, int, int] = Field(description="display colour, RGB 0..255")
    category: Code
    type: Code
    laterality: Code | None = None
    volume_ml: tuple[float, float] | None = Field(
        default=None, description="smallest and largest volume in the training data, mL; none for pictures"
    )
    expected: Literal["always", "in_view", "optional"] = Field(
        default="always",
        description="always: every image of the bundle's kind shows it; in_view: where its region is imaged; optional: it may be absent",
    )


@dataclass(frozen=True, kw_only=True)
class LabelMeasures:
    """Measurements of one label; those of an absent label are None.

    Attributes:
        id, name, title: as in the bundle.
        voxels: number of voxels with the label.
        volume_ml: number of voxels times voxel volume, in millilitres; None for pictures.
        mean, std: mean and population standard deviation of the image's values inside the label, in the image's own
            units (HU for CT; for colours the mean of the channels).
        centroid_mm: centre of mass, RAS+ millimetres.
        extent_mm: side lengths of the bounding box along i, j, k, in millimetres.
        longest_diameter_mm: largest distance across the label's surface (see ``longest_diameter``); None for pictures.
        touches_border: True where the label touches the edge of the image, so that a part may be missing.
    """

    id: int
    name: str
    title: str
    voxels: int
    volume_ml: float | None
    mean: float | None
    std: float | None
    centroid_mm: tuple[float, ...] | None
    extent_mm: tuple[float, ...] | None
    longest_diameter_mm: float | None
    touches_border: bool
