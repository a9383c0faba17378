"""Contrast windows: the values drawn black and white. Presets of CT reading, and windows from a header or the values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ContrastWindow", "ct_presets", "default_window", "suggest_window"]


@dataclass(frozen=True)
class ContrastWindow:
    """A contrast window: centre and width in the image's unit (DICOM PS3.3 C.11.2.1.2).

    Attributes:
        name: name for people.
        center: value at the middle of the greys.
        width: distance between the values drawn black and white.

    Examples:
        >>> from medvit.reports import ContrastWindow
        >>> ContrastWindow("Bone", 400, 1800).limits
        (-500.0, 1300.0)
    """

    name: str
    center: float
    width: float

    @property
    def limits(self) -> tuple[float, float]:
        """The values drawn black and white."""
        return self.center - self.width / 2, self.center + self.width / 2


_CT = (
    ContrastWindow("Soft tissue", 40, 400),
    ContrastWindow("Lung", -600, 1500),
    ContrastWindow("Bone", 400, 1800),
    ContrastWindow("Brain", 40, 80),
    ContrastWindow("Subdural", 75, 215),
    ContrastWindow("Liver", 60, 160),
    ContrastWindow("Mediastinum", 50, 350),
    ContrastWindow("Angiography", 300, 600),
)
"""Presets for CT in Hounsfield units, as radiologists use them (e.g. Radiopaedia, "Windowing (CT)")."""

_SHARES = (("Full", 0.0, 100.0), ("Usual", 1.0, 99.0), ("Bright", 5.0, 99.9), ("Dark parts", 0.5, 80.0))
"""Presets for images without an absolute scale: percentiles of their own values."""


def ct_presets(modality: str | None, values: NDArray[Any]) -> tuple[ContrastWindow, ...]:
    """Return the contrast windows to offer for an image.

    Args:
        modality: DICOM's Modality; None where unknown, and for a CT whose values are not Hounsfield units.
        values: values of the image, any shape, a sample suffices; not used for CT.

    Returns:
        The presets of CT, or windows from percentiles of the values.

    Examples:
        >>> import numpy as np
        >>> from medvit.reports import ct_presets
        >>> [window.name for window in ct_presets("CT", np.zeros(1))][:3]
        ['Soft tissue', 'Lung', 'Bone']
    """
    return _CT if modality == "CT" else tuple(_of_shares(values))


def _of_shares(values: NDArray[Any]) -> list[ContrastWindow]:
    flat = np.asarray(values, dtype=np.float32).ravel()
    flat = flat[:: max(1, flat.size // 200_000)]
    found = []
    for name, low, high in _SHARES:
        a, b = (float(v) for v in np.percentile(flat, (low, high)))
        found.append(ContrastWindow(name, (a + b) / 2, max(b - a, 1e-6)))
    return found


def default_window(modality: str | None, values: NDArray[Any], headers: Sequence[Any] = ()) -> ContrastWindow:
    """Choose the initial contrast window: soft tissue for CT, else the header's, else the middle 98 % of the values.

    Args:
        modality: DICOM's Modality; None where unknown, and for a CT whose values are not Hounsfield units.
        values: values of the image, any shape, a sample suffices.
        headers: headers of the image's slices, if any.

    Returns:
        The contrast window.

    Examples:
        >>> import numpy as np
        >>> from medvit.reports import default_window
        >>> default_window("MR", np.arange(101)).limits
        (1.0, 99.0)
    """
    if modality == "CT":
        return _CT[0]
    stated = suggest_window(headers[len(headers) // 2]) if headers else None
    return stated or _of_shares(values)[1]


def suggest_window(header: Any) -> ContrastWindow | None:
    """Return the first contrast window that a DICOM header states, or None."""
    center, width = header.get("WindowCenter"), header.get("WindowWidth")
    try:
        first = [
            v[0] if isinstance(v, (list, tuple)) or type(v).__name__ == "MultiValue" else v for v in (center, width)
        ]
        middle, across = float(first[0]), float(first[1])
    except (TypeError, ValueError, IndexError):
        return None
    return ContrastWindow("As stated", middle, across) if across > 1 and np.isfinite([middle, across]).all() else None
