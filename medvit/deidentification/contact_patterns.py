"""Patterns of identifying addresses in text: e-mail, web, telephone, network and file paths, UIDs."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["contact_spans"]

_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+",
        r"\b[a-z][a-z0-9+.-]{0,20}://\S+|\bwww\.\S+",
        r"(?<![\w.-])(?:[a-z0-9-]{2,63}\.){1,4}(?:com|org|net|edu|gov|eu|de|fr|uk|ch|nl)(?![\w-])(?:/\S*)?",
        r"(?<!\w)\+\d[\d ()/-]{6,}\d",  # international telephone
        r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])",  # US social security
        r"(?<![\w.-])(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-.]\d{4}(?![\w-])",  # North American telephone
        r"(?<!\w)\(0\d{1,4}\) ?\d[\d /-]{3,}\d",
        r"(?<![^\W_])(?:tel|telefon|telephone|phone|fax|mobile?|cell|handy)[.: ]{1,3}[(\d][\d ()/.-]{4,}\d",
        r"(?<![\d.])(?:192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d{1,3}\.\d{1,3}(?![\d.])",
        r"\\\\[\w.$-]{1,64}\\(?:[^\\\r\n:\"<>|]{1,64}\\)*[^\s\\]*",
        r"(?<![^\W_])[a-z]:[\\/](?:[^\\/\r\n:\"<>|]{1,64}[\\/])*[^\s\\/]*",
        r"(?<![\w./])/(?:home|users|data|mnt|media|export|srv|var|tmp|pacs|archive|dicom|volumes)/\S+",
    )
)

_UID = re.compile(r"(?<![\d.])(?:[0-2](?:\.\d+){5,}|2\.25\.\d{9,39})(?!\d|\.\d)")
_STANDARDS = re.compile(r"1\.2\.840\.10008\.(?:\d{1,3}\.){0,8}\d{1,3}")
_SHORTEST_UID = 16
"""Smallest number of characters of a UID; shorter texts may be version numbers."""


def contact_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each address and of each UID that the standard does not define; spans may overlap."""
    for pattern in _PATTERNS:
        for match in pattern.finditer(text):
            yield match.span()
    for match in _UID.finditer(text):
        if len(match[0]) >= _SHORTEST_UID and not _STANDARDS.fullmatch(match[0]):
            yield match.span()
