"""Faster start of commands that only run inference: MONAI imported without packages that only training needs."""

from __future__ import annotations

import sys

__all__ = ["import_monai_lightly"]

_UNNEEDED = ("ignite", "matplotlib.pyplot")
"""Packages that MONAI imports if they are installed (1.3 s), for its training engine and for pictures in Jupyter."""


def import_monai_lightly() -> None:
    """Import MONAI without its training engine, in a process that never trains.

    MONAI works without either package, but remembers that they were missing: ``monai.engines`` cannot be used in this process
    afterwards. Both packages can still be imported directly. If MONAI is already imported, this does nothing.

    Examples:
        >>> import sys
        >>> from medvit.inference import import_monai_lightly
        >>> import_monai_lightly()
        >>> "monai" in sys.modules
        True
    """
    if "monai" in sys.modules:
        return
    hidden = [name for name in _UNNEEDED if name not in sys.modules]
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
        import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
