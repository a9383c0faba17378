"""Kinds of product that a digest row pins, each with its JSON form and its comparison.

Integer arrays and lines of text are compared by sha256 and stored compressed, so that a failure states how much differs and
where. Floating-point values are stored themselves and compared within a stated tolerance.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

VOXEL_SHARE_ELSEWHERE = 1e-3
"""Largest share of foreground voxels that may differ on another processor or with other libraries."""

NUMBERS_FACTOR_ELSEWHERE, FIELD_FACTOR_ELSEWHERE = 100.0, 10.0
"""Factors by which tolerances are larger there: for numbers, which few voxels may change, and for arrays."""

_SHOWN = 6
"""Upper limit of differences in a message."""


class Product(Protocol):
    """A product of medvit, with a JSON form and a comparison with a later product."""

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form, with its ``kind``."""
        ...

    def differences(self, found: Any, elsewhere: bool) -> list[str]:
        """List the differences of ``found``; ``elsewhere`` allows for another processor or other libraries."""
        ...


def _pack(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def _unpack(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


@dataclass(frozen=True, eq=False)
class Voxels:
    """An integer array, stored in run-length coding."""

    array: NDArray[np.int32]

    @classmethod
    def of(cls, array: Any) -> Voxels:
        """Make the product of an integer or boolean array."""
        plain = np.asarray(array)
        if plain.dtype.kind not in "iub":
            raise TypeError(f"Found {plain.dtype} values; integers are needed. Use Field for floating-point arrays.")
        return cls(np.ascontiguousarray(plain, dtype=np.int32))

    @property
    def sha256(self) -> str:
        """Hash of shape and values, independent of the integer type."""
        return hashlib.sha256(repr(self.array.shape).encode() + self.array.astype("<i4").tobytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return shape, hash, voxels of each value, and the runs: values, then lengths."""
        flat = self.array.ravel()
        starts = np.flatnonzero(np.r_[True, flat[1:] != flat[:-1]]) if flat.size else np.zeros(0, np.int64)
        lengths = np.diff(np.r_[starts, flat.size])
        runs = np.concatenate([flat[starts], lengths]).astype("<i4").tobytes()
        counts = dict(zip(*(part.tolist() for part in np.unique(flat, return_counts=True)), strict=True))
        few = {str(value): count for value, count in counts.items()} if len(counts) <= 64 else {}
        return {
            "kind": "voxels", "shape": list(self.array.shape), "sha256": self.sha256, "voxels": few, "runs": _pack(runs)
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Voxels:
        """Read what ``to_json`` wrote."""
        runs = np.frombuffer(_unpack(content["runs"]), "<i4")
        values, lengths = runs[: len(runs) // 2], runs[len(runs) // 2 :]
        return cls(np.repeat(values, lengths).astype(np.int32).reshape(content["shape"]))

    def differences(self, found: Voxels, elsewhere: bool) -> list[str]:
        """Describe the number of voxels that differ, with position and values."""
        if self.sha256 == found.sha256:
            return []
        if self.array.shape != found.array.shape:
            return [f"shape {found.array.shape}, expected {self.array.shape}"]
        changed = np.argwhere(self.array != found.array)
        foreground = max(1, int(np.count_nonzero(self.array)))
        if elsewhere and len(changed) <= VOXEL_SHARE_ELSEWHERE * foreground:
            return []
        pairs = Counter(
            zip(
                self.array[self.array != found.array].tolist(),
                found.array[self.array != found.array].tolist(),
                strict=True,
            )
        )
        kinds = ", ".join(f"{a} to {b}: {count}" for (a, b), count in pairs.most_common(_SHOWN))
        low, high = changed.min(axis=0).tolist(), changed.max(axis=0).tolist()
        first = tuple(changed[0].tolist())
        return [
            f"{len(changed)} of {self.array.size} voxels differ ({foreground} are not 0), first at {first}, within "
            f"{low} to {high}; {kinds}"
        ]


@dataclass(frozen=True)
class Numbers:
    """Named floating-point values, compared within ``relative`` or ``absolute``, whichever allows more; text exactly."""

    values: dict[str, Any]
    relative: float = 1e-5
    absolute: float = 1e-6

    @classmethod
    def of(cls, content: Any, relative: float = 1e-5, absolute: float = 1e-6) -> Numbers:
        """Make the product of nested mappings and lists; the name of a value is its path."""
        found: dict[str, Any] = {}
        _flatten(content, "", found)
        return cls(found, relative, absolute)

    def to_json(self) -> dict[str, Any]:
        """Return the values rounded to nine digits, and the tolerance."""
        return {
            "kind": "numbers", "relative": self.relative, "absolute": self.absolute,
            "values": {name: float(f"{v:.9g}") if isinstance(v, float) else v for name, v in self.values.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Numbers:
        """Read what ``to_json`` wrote."""
        return cls(dict(content["values"]), content["relative"], content["absolute"])

    def differences(self, found: Numbers, elsewhere: bool) -> list[str]:
        """List values that are missing, new or beyond the tolerance."""
        factor = NUMBERS_FACTOR_ELSEWHERE if elsewhere else 1.0
        wrong = [f"{name}: missing" for name in self.values.keys() - found.values.keys()]
        wrong += [f"{name}: not expected" for name in found.values.keys() - self.values.keys()]
        for name in self.values.keys() & found.values.keys():
            a, b = self.values[name], found.values[name]
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b))
            allowed = factor * max(self.absolute, self.relative * abs(a)) if numeric else 0.0
            if not (abs(a - b) <= allowed if numeric else a == b):
                wrong.append(f"{name}: {b!r}, expected {a!r}" + (f" within {allowed:.3g}" if numeric else ""))
        return _shortened(sorted(wrong), "values")


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """A floating-point array: every nth value in memory order, and the mean of each plane; compared within ``absolute``."""

    shape: tuple[int, ...]
    every: int
    samples: NDArray[np.float32]
    means: NDArray[np.float32]
    absolute: float

    @classmethod
    def of(cls, array: Any, absolute: float, most: int = 4000) -> Field:
        """Sample an array at up to ``most`` places."""
        plain = np.ascontiguousarray(array, dtype=np.float32)
        every = max(1, -(-plain.size // most))
        while every > 1 and plain.shape[-1] % every == 0:  # else all samples lie in few columns
            every += 1
        means = plain.reshape(-1, plain.shape[-1]).mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(shape=plain.shape, every=every, samples=plain.ravel()[::every], means=means, absolute=absolute)

    def to_json(self) -> dict[str, Any]:
        """Return the sampled values and the tolerance."""
        packed = {"samples": self.samples, "means": self.means}
        return {
            "kind": "field", "shape": list(self.shape), "every": self.every, "absolute": self.absolute,
            "range": [float(f"{v:.6g}") for v in (self.samples.min(), self.samples.max())],
            **{name: _pack(values.astype("<f4").tobytes()) for name, values in packed.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Field:
        """Read what ``to_json`` wrote."""
        samples, means = (np.frombuffer(_unpack(content[name]), "<f4") for name in ("samples", "means"))
        return cls(
            shape=tuple(content["shape"]),
            every=content["every"],
            samples=samples,
            means=means,
            absolute=content["absolute"],
        )

    def differences(self, found: Field, elsewhere: bool) -> list[str]:
        """Describe the number of samples beyond the tolerance, with value and position of the worst."""
        if (self.shape, self.every) != (found.shape, found.every):
            return [f"shape {found.shape}, expected {self.shape}"]
        allowed = self.absolute * (FIELD_FACTOR_ELSEWHERE if elsewhere else 1.0)
        wrong = []
        for what in ("samples", "means"):
            apart = np.abs(getattr(found, what).astype(np.float64) - getattr(self, what))
            beyond = ~(apart <= allowed)  # not a number is beyond, too
            if beyond.any():
                worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
                place = np.unravel_index(worst * self.every, self.shape) if what == "samples" else (worst,)
                wrong.append(
                    f"{int(beyond.sum())} of {len(apart)} {what} differ by more than {allowed:g}, the most at "
                    f"{tuple(int(n) for n in place)}: {getattr(found, what)[worst]:g}, expected {getattr(self, what)[worst]:g}"
                )
        return wrong


@dataclass(frozen=True)
class Lines:
    """Text that must stay the same: a table, contours, the elements of a DICOM object.

    Attributes:
        lines: the text.
        rounded: it hashes values that were rounded from floating point, so that it is not compared elsewhere.
    """

    lines: tuple[str, ...]
    rounded: bool = False

    @property
    def sha256(self) -> str:
        """Hash of all lines."""
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the hash and the text, compressed if it is long."""
        text = "\n".join(self.lines)
        stored: Any = list(self.lines) if len(text) <= 2000 else _pack(text.encode())
        mark = {"rounded": True} if self.rounded else {}
        return {"kind": "lines", **mark, "sha256": self.sha256, "count": len(self.lines), "text": stored}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Lines:
        """Read what ``to_json`` wrote."""
        text = content["text"]
        lines = text if isinstance(text, list) else _unpack(text).decode().split("\n")
        return cls(tuple(lines), content.get("rounded", False))

    def differences(self, found: Lines, elsewhere: bool) -> list[str]:
        """Describe the number of lines that differ, with the first one."""
        if self.sha256 == found.sha256 or (elsewhere and self.rounded):
            return []
        changes = [
            line[:200]
            for line in difflib.unified_diff(self.lines, found.lines, lineterm="", n=0)
            if line[:1] in "+-" and not line.startswith(("---", "+++"))
        ]
        return _shortened(changes, f"lines (- expected, + found; {len(self.lines)} lines were expected)")


KINDS: dict[str, Any] = {"voxels": Voxels, "numbers": Numbers, "field": Field, "lines": Lines}


def from_json(content: Mapping[str, Any]) -> Product:
    """Read the JSON form of any product."""
    product: Product = KINDS[content["kind"]].from_json(content)
    return product


def compare(expected: Mapping[str, Product], found: Mapping[str, Product], elsewhere: bool = False) -> list[str]:
    """List all differences of a row's products, each with the product's name.

    Args:
        expected: the products as stored.
        found: the products made now.
        elsewhere: the products were stored where the processor or the libraries compute otherwise: few voxels may
            differ, and lines are compared only where no voxel of the row does.
    """
    problems = [f"{name}: missing" for name in sorted(expected.keys() - found.keys())]
    problems += [f"{name}: not expected" for name in sorted(found.keys() - expected.keys())]
    both = sorted(expected.keys() & found.keys())
    kinds = {name: (type(expected[name]).__name__, type(found[name]).__name__) for name in both}
    alike = [name for name in both if kinds[name][0] == kinds[name][1]]
    unlike = any(expected[n].differences(found[n], False) for n in alike if isinstance(expected[n], Voxels))
    for name in both:
        if name not in alike:
            problems.append(f"{name}: {kinds[name][1]}, expected {kinds[name][0]}")
        elif not (elsewhere and unlike and isinstance(expected[name], Lines)):
            problems += [f"{name}: {words}" for words in expected[name].differences(found[name], elsewhere)]
    return problems


def json_lines(content: Any) -> Lines:
    """Write nested content as sorted, indented JSON lines."""
    return Lines(tuple(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).split("\n")))


def _flatten(content: Any, name: str, found: dict[str, Any]) -> None:
    if isinstance(content, Mapping):
        for key, value in content.items():
            _flatten(value, f"{name}.{key}" if name else str(key), found)
    elif isinstance(content, Sequence) and not isinstance(content, str):
        for index, value in enumerate(content):
            _flatten(value, f"{name}[{index}]", found)
    elif isinstance(content, np.generic):
        found[name] = content.item()
    else:
        found[name] = content


def _shortened(wrong: list[str], what: str) -> list[str]:
    if len(wrong) <= _SHOWN:
        return wrong
    return [f"{len(wrong)} {what} differ, the first of them:", *wrong[:_SHOWN]]
