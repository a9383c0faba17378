"""What a command that only infers need not wait for: imports of MONAI's that training needs."""

from __future__ import annotations

import sys

__all__ = ["import_monai_lightly"]

_UNNEEDED = ("ignite", "matplotlib.pyplot")
"""What MONAI imports as it is imported, where it is there: 1.3 s, for its training engine and for pictures in Jupyter."""


def import_monai_lightly() -> None:
    """Import MONAI without its engine of training; for processes of which it is known that they train nothing.

    MONAI can do without either package, but keeps to what it found: ``monai.engines`` cannot be used in this process afterwards.
    Both packages themselves can be. Nothing is done where MONAI is imported already.
    """
    if "monai" in sys.modules:
        return
    hidden = [name for name in _UNNEEDED if name not in sys.modules]
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: as if it were not installed
        import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
