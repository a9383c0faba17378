"""Measures of a structure: numbers, with a reason for each measure that cannot be taken."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["StructureMeasures"]


@dataclass(frozen=True)
class StructureMeasures:
    """Measures of one labelled structure; every measure of its kind is either in ``values`` or in ``absent``.

    Attributes:
        structure: "femur", "hip", "vertebra" or "rib".
        values: values by name; the name ends with the unit, ``_mm`` or ``_deg``.
        absent: reasons why measures could not be taken, in plain words, by name.
    """

    structure: str
    values: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: float | str) -> None:
        """Add a measure, or the reason why it could not be taken."""
        if isinstance(value, str):
            self.absent[name] = value
        else:
            self.values[name] = round(float(value), 2)
