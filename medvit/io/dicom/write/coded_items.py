"""Coded items: a value, its coding scheme and its meaning (PS3.3 section 8)."""

from __future__ import annotations

from pydicom import Dataset

__all__ = ["SOURCE_IMAGE", "coded_item"]

SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
"""Purpose of a reference to the image from which another was made."""


def coded_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a coded item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
