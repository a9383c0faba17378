"""What a structure's measures come out as: numbers, and a reason for each that its shape does not allow."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["StructureMeasures"]


@dataclass(frozen=True)
class StructureMeasures:
    """Measures of one labelled structure; every one of its kind is either in ``values`` or in ``absent``.

    Attributes:
        structure: "femur", "hip", "vertebra" or "rib".
        values: by name; the name's ending is the unit, ``_mm`` or ``_deg``.
        absent: why a measure could not be taken, in plain words, by its name.
    """

    structure: str
    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float | str) -> None:
        """Add a measure, or the reason why there is none."""
        if isinstance(value, str):
            self.absent[name] = value
        else:
            self.values[name] = round(float(value), 2)
