"""Limit on the memory of one image, checked against file headers before anything is decompressed.

A file of a few megabytes can unpack to many gigabytes, by accident or on purpose. Every reader passes the size that the
header states to ``check_memory`` before it decodes or decompresses, so that all entry points refuse alike.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from medvit.errors import SourceError, TooLargeError

__all__ = [
    "VARIABLE",
    "check_image_memory",
    "check_memory",
    "limit_memory",
    "memory_limit",
    "parse_size",
    "physical_memory",
    "say_bytes",
]

VARIABLE = "MEDVIT_MEMORY_LIMIT"
"""Environment variable that sets the limit; processes started later inherit it."""

_SHARE = 4
"""Divisor of the machine's memory that gives the default limit."""

_FLOAT = 4
"""Bytes of a decoded voxel; images are kept as float32."""

_UNKNOWN = 8 * 2**30
"""Memory assumed, in bytes, for a machine that does not report it."""

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_LARGEST = 10**24
"""Upper bound for a stated size, in bytes; larger sizes are cut to it."""

_GROUP_FILES = ("memory.max", "memory/memory.limit_in_bytes")
"""Files below /sys/fs/cgroup in which Linux states the memory of a container (versions 2 and 1)."""


def parse_size(text: str) -> int:
    """Parse a size such as "4GB", "512MiB" or "2e9" bytes.

    Args:
        text: a number with one of the units B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).

    Returns:
        Bytes, at least 1.

    Raises:
        SourceError: the text is not a size above zero.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or not 0 < float(match[1]) < math.inf:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise SourceError(f"the memory limit {shown!r}", "a size above zero is needed", "Write it as 4GB or 512MiB.")
    power = "kmgt".find(match[2].lower()) + 1
    unit = 1024**power if match[3] else _UNITS[match[2].lower()]
    return max(1, min(int(float(match[1]) * unit), _LARGEST))


def say_bytes(count: float) -> str:
    """Format a number of bytes for people: "17.2 GB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"


def physical_memory() -> int:
    """Return the memory that this process may use, in bytes: the machine's or, where smaller, the container's."""
    found = [_machine_memory()]
    for name in _GROUP_FILES:
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            found.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(found)


def _machine_memory() -> int:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if sys.platform == "win32":
        return _windows_memory()
    return _UNKNOWN


def _windows_memory() -> int:
    import ctypes

    # MEMORYSTATUSEX: its own length, the load, then seven sizes, of which the first is the physical memory
    status = (ctypes.c_ulonglong * 8)()
    ctypes.cast(status, ctypes.POINTER(ctypes.c_ulong))[0] = ctypes.sizeof(status)
    library = getattr(ctypes, "windll")  # noqa: B009  # mypy knows it on Windows alone
    return int(status[1]) if library.kernel32.GlobalMemoryStatusEx(status) else _UNKNOWN


def memory_limit() -> int:
    """Return the limit in bytes: the configured one, else a quarter of the available memory.

    Returns:
        Bytes that one image may take.

    Raises:
        SourceError: the environment variable holds no size.

    Examples:
        >>> from medvit.io import limit_memory, memory_limit
        >>> with limit_memory("2GB"):
        ...     memory_limit()
        2000000000
    """
    stated = os.environ.get(VARIABLE, "")
    if not stated.strip():
        return physical_memory() // _SHARE
    try:
        return parse_size(stated)
    except SourceError as error:
        raise error.framed(after=f"It is set by the environment variable {VARIABLE}.") from error


@contextlib.contextmanager
def limit_memory(size: str | int) -> Iterator[None]:
    """Set the limit for this process and the processes it starts, until the block ends.

    Args:
        size: bytes, or a text as ``parse_size`` reads it, e.g. "4GB".

    Yields:
        None.

    Raises:
        SourceError: ``size`` is not a size above zero.

    Examples:
        >>> from medvit.io import limit_memory
        >>> from medvit.io.memory_limits import memory_limit
        >>> with limit_memory("2GB"):
        ...     memory_limit()
        2000000000
    """
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(parse_size(str(size)))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def check_memory(needed: int, found: str, remedy: str) -> None:
    """Refuse an object that would take more memory than the limit.

    Args:
        needed: bytes.
        found: the object, for the message: "a NIfTI of 2048 x 2048 x 1000 voxels".
        remedy: the step to take apart from raising the limit: "Crop or resample it".

    Raises:
        TooLargeError: ``needed`` is above the limit.
    """
    limit = memory_limit()
    if needed <= limit:
        return
    whence = "" if os.environ.get(VARIABLE) else ", a quarter of the memory here"
    enough = f"{needed / 1000**3 * 1.05:.1f}GB" if needed > 1000**3 else f"{needed / 1000**2 * 1.05 + 1:.0f}MB"
    raise TooLargeError(
        f"{found}, which takes {say_bytes(needed)} of memory",
        f"the limit is {say_bytes(limit)}{whence}",
        f"{remedy}, or raise the limit: {{medvit.io.limit_memory()='{enough}'}} or {VARIABLE}={enough}.",
        option="medvit.io.limit_memory()",
    )


def check_image_memory(shape: Sequence[int], found: str, beside: int = 0, values: int = 1) -> None:
    """Refuse an image that would take more memory than the limit after decoding to float32.

    Args:
        shape: voxels or pixels along each axis, as the header states them.
        found: kind of image, with the article: "a NIfTI".
        beside: bytes that are decompressed in addition to the voxels.
        values: number of values in each voxel or pixel.

    Raises:
        TooLargeError: the image would exceed the limit.
    """
    count = 1
    for side in shape:
        count *= max(0, int(side))  # Python's own integers, which cannot overflow
    what = "pixels" if len(shape) == 2 else "voxels"
    sides = " x ".join(str(int(side)) for side in shape)
    check_memory(count * values * _FLOAT + beside, f"{found} of {sides} {what}", "Crop or resample it")
