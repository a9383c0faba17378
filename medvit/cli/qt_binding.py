"""Detection of the installed Qt binding and its known faults, without importing Qt or torch."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["installed_binding", "known_fault"]

_BINDINGS = ("PySide6_Essentials", "PySide6", "PyQt6", "PyQt5", "PySide2")


def installed_binding() -> tuple[str, str] | None:
    """Return distribution name and version of an installed Qt binding; None if there is none."""
    for name in _BINDINGS:
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def known_fault(found: tuple[str, str] | None, python: tuple[int, int] = sys.version_info[:2]) -> str | None:
    """Return a message on a known fault of a Qt binding with this version of Python; None if there is none.

    Each call of PySide6 6.12.0 that returns None releases a reference to None that it does not own. Before Python 3.12,
    in which None became immortal (PEP 683), the interpreter ends with "deallocating None" after some ten thousand such
    calls.
    """
    if found is None or not found[0].startswith("PySide6") or not found[1].startswith("6.12.") or python >= (3, 12):
        return None
    return (
        f"Found {found[0]} {found[1]} on Python {python[0]}.{python[1]}, where windows end after some minutes without a word "
        "(it loses references to None); another version or Python 3.12 is needed. "
        f'Run: pip install "{found[0]}<6.12"'
    )
