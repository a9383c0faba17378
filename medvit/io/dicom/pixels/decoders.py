"""Transfer syntaxes: those that medvit can decode, the decoder for each, and the remedy for others (PS3.5 10, annex A)."""

from __future__ import annotations

from functools import lru_cache

from pydicom.uid import UID, RLELossless

__all__ = ["ITK_ONLY", "decoding_plugin", "missing_decoder"]

ITK_ONLY = (
    "1.2.840.10008.1.2.4.51",  # JPEG extended, 12 bits
    "1.2.840.10008.1.2.4.53",  # JPEG spectral selection, 12 bits
    "1.2.840.10008.1.2.4.55",  # JPEG full progression, 12 bits
)
"""JPEG processes that pydicom's permissively licensed decoders do not support but SimpleITK's reader does."""

_VIDEO = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101", "1.2.840.10008.1.2.4.102", "1.2.840.10008.1.2.4.103",
          "1.2.840.10008.1.2.4.104", "1.2.840.10008.1.2.4.105", "1.2.840.10008.1.2.4.106", "1.2.840.10008.1.2.4.107",
          "1.2.840.10008.1.2.4.108")  # fmt: skip

_HELP = {
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
}
"""Python package that decodes a transfer syntax."""


def decoding_plugin(syntax: str) -> str:
    """Return the plugin of pydicom that decodes a transfer syntax; empty where pydicom may try all that are installed.

    RLE is decoded by pydicom itself. pylibjpeg-rle, which pydicom tries first where it is installed, panics at damaged frames
    (an exception that no ``except Exception`` catches) and accepts some that state an impossible number of segments.
    """
    return "pydicom" if syntax == RLELossless else ""


@lru_cache(maxsize=64)
def missing_decoder(syntax: str) -> tuple[str, str, str] | None:
    """Return the fault, the requirement and the remedy for a transfer syntax that cannot be decoded; None for others."""
    from pydicom.pixels import get_decoder

    uid = UID(syntax)
    known = not uid.is_private and uid.name != str(uid) and uid.is_transfer_syntax
    name = uid.name if known else "unknown"
    if syntax in ITK_ONLY or (known and (not uid.is_compressed or uid.is_deflated)):
        return None
    try:
        if known and get_decoder(uid).is_available:
            return None
    except NotImplementedError:
        pass
    found = f"pixels in the transfer syntax {name} ({syntax}), which cannot be decoded here"
    if syntax in _VIDEO:
        return found, "still images are needed", "Export the frames as single images."
    package = _HELP.get(syntax, "python-gdcm") if known else None
    if package:
        return found, f"the package {package} helps", f"Install it (pip install {package}) and run again."
    return found, "a standard transfer syntax is needed", "Export the series uncompressed and run again."
