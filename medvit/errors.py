"""The family of errors. Each keeps the built-in kind it is, so ``except ValueError`` still works.

Every error has as data what was found, what is needed and one step to take; ``MedvitError.sentence`` is the one place that
makes a sentence of them. Doors (command line, napari, label server) give it their own words for options.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Self, TypeAlias

__all__ = [
    "BackendError",
    "BundleError",
    "CheckpointError",
    "ChecksumError",
    "DeidentificationError",
    "DivergedError",
    "ExportError",
    "FetchError",
    "GeometryError",
    "ImageError",
    "MedvitError",
    "MemoryShortError",
    "ModalityError",
    "OutputError",
    "RoundTripError",
    "SelectionError",
    "ShapeError",
    "SourceError",
    "StoppedError",
    "StoreError",
    "TooLargeError",
    "Words",
    "out_of_space",
    "python_words",
    "system_words",
]

Words: TypeAlias = Callable[[str, str | None], str]
"""A function that words an option for a door, from its Python name and its value."""

_LITERAL = re.compile(r"-?[0-9.]+(e-?[0-9]+)?|True|False|None|[\[(\"'].*|\.\.\.")
"""Values of options that Python writes without quotation marks."""


def python_words(name: str, value: str | None) -> str:
    """Word an option as Python writes it: ``on_irregular="split"``, ``low_memory=True``, ``medvit.io.limit_memory('4GB')``.

    Args:
        name: the name of an argument, or of a function with ``()`` behind it.
        value: the value as text, of a function its arguments as Python writes them; None where only the name is meant.
    """
    if value is None:
        return name
    if name.endswith("()"):
        return f"{name[:-1]}{value})"
    return f"{name}={value}" if _LITERAL.fullmatch(value) else f'{name}="{value}"'


class MedvitError(Exception):
    """Anything medvit refuses to do, with its reason.

    The parts stay as attributes, so that no code has to take the sentence apart. Pickling keeps them: it calls the class with
    the sentence alone and puts the attributes back, so a class with further arguments needs defaults for them.

    An option is named by a token in the text: ``{on_irregular}`` or ``{on_irregular=split}`` (in f-strings with doubled
    braces), and its name is listed in ``option``. ``str(error)`` words it for Python; ``sentence`` takes a door's words. Other
    braces, such as those of file names, stay as they are.

    Examples:
        >>> from medvit import MedvitError
        >>> str(MedvitError("3 channels", "1 is needed", "Pass a grey image."))
        'Found 3 channels; 1 is needed. Pass a grey image.'

    Args:
        found: what was found, without "Found" and without a full stop. Where it is the only argument, it is a finished
            sentence, such as another program's.
        needed: what is needed instead, without a full stop; empty where that is obvious.
        remedy: one step to take, as a full sentence or several; "" where there is none.
        option: names of the options that tokens of the text stand for: arguments as Python callers write them, or functions
            with ``()`` behind their names.
        listing: lines with the choices that there are, shown below the sentence.
    """

    def __init__(
        self,
        found: str,
        needed: str = "",
        remedy: str | None = None,
        *,
        option: str | tuple[str, ...] = (),
        listing: str = "",
    ) -> None:
        self.finished = not needed and remedy is None
        self.found = found
        self.needed = needed
        self.remedy = remedy or ""
        self.option = (option,) if isinstance(option, str) else option
        self.listing = listing
        self.before = self.after = ""
        super().__init__(self.sentence())

    def sentence(self, words: Words = python_words) -> str:
        """Compose the message from the parts: "Found {found}; {needed}. {remedy}", without those that are empty.

        Args:
            words: gives a door's words for an option's name and value (None where only the name is meant).
        """
        head = self.headline(words)
        return f"{head.removesuffix('.')}:\n{self.listing}" if self.listing else head

    def headline(self, words: Words = python_words) -> str:
        """Compose the message without the lines of ``listing``.

        Args:
            words: as in ``sentence``.
        """
        needed = f"; {self.needed}" if self.needed else ""
        text = self.found if self.finished else f"Found {self.found}{needed}."
        return self._worded(" ".join(filter(None, (self.before, text, self.remedy, self.after))), words)

    def step(self, words: Words = python_words) -> str:
        """Return the remedy alone.

        Args:
            words: as in ``sentence``.
        """
        return self._worded(self.remedy, words)

    def _worded(self, text: str, words: Words) -> str:
        if not self.option:
            return text
        token = re.compile(rf"\{{({'|'.join(map(re.escape, self.option))})(?:=([^{{}}]*))?\}}")
        return token.sub(lambda match: words(match[1], match[2]), text)

    def framed(self, before: str = "", after: str = "") -> Self:
        """Return a copy of the error with finished sentences around its own, which keeps its parts.

        Args:
            before: what the error means to a caller: "The series beside labels.nii.gz cannot be its grid."
            after: what else is to be known.
        """
        made = type(self)(self.found)  # not copy.copy, by which tblib, if it is loaded, shares the attributes
        made.__dict__.update(self.__dict__)
        made.before = " ".join(filter(None, (before, self.before)))
        made.after = " ".join(filter(None, (self.after, after)))
        made.args = (made.sentence(),)
        return made

    def __str__(self) -> str:
        return self.sentence()


class DeidentificationError(MedvitError, ValueError):
    """The secret for pseudonyms cannot be read or is too short."""


class SourceError(MedvitError, ValueError):
    """The source cannot be read as one image."""


class SelectionError(SourceError):
    """The source holds several images and none was chosen."""


class GeometryError(SourceError):
    """Spacing, orientation or slice positions do not make a regular volume."""


class ImageError(SourceError):
    """The pixels cannot be used: wrong number of axes, NaN, constant."""


class TooLargeError(SourceError):
    """The source would take more memory than the limit allows; nothing was unpacked."""


class ModalityError(MedvitError, ValueError):
    """The image is of another modality than the bundle was made for."""


class ShapeError(MedvitError, ValueError):
    """Array sizes do not match each other."""


class BackendError(MedvitError, RuntimeError):
    """A device or an operator's path cannot be used."""


class MemoryShortError(MedvitError, MemoryError):
    """There is too little memory; the message names the setting to lower."""

    def __new__(cls, *args: object, **kwargs: object) -> MemoryShortError:
        """Make an error; ``MemoryError.__new__``, which Python would look up, refuses a class with two bases."""
        return Exception.__new__(cls, *args)


class BundleError(MedvitError, ValueError):
    """A bundle is unknown, incomplete or not trained."""


class ChecksumError(BundleError):
    """A file differs from its recorded hash."""


class CheckpointError(MedvitError, ValueError):
    """A file of weights cannot be read, or has other tensors than the network."""


class ExportError(MedvitError, RuntimeError):
    """A network cannot be written in an exchange format, or the written one computes other values."""


class DivergedError(MedvitError, FloatingPointError):
    """The loss of a training run is NaN or infinite."""


class StoppedError(MedvitError, RuntimeError):
    """A training run was interrupted; it can be resumed."""


class StoreError(MedvitError, OSError):
    """The store of fetched bundles cannot be read or written."""


class FetchError(MedvitError, OSError):
    """A download failed, differs from the published file, or its licence was not accepted."""


class OutputError(MedvitError, OSError):
    """Results cannot be written."""


class RoundTripError(MedvitError, RuntimeError):
    """A written file, read back, differs from its input; nothing was published."""


def out_of_space(error: BaseException | None) -> bool:
    """Return True if the system's refusal, possibly wrapped in another error, means that the disk is full."""
    return isinstance(error, OSError) and _first_refusal(error).errno in (errno.ENOSPC, errno.EDQUOT)


def system_words(error: OSError) -> tuple[str, str]:
    """Describe the system's reason for not writing a file, and the first step to try."""
    first = _first_refusal(error)
    what = "no space left" if out_of_space(first) else f"{first.strerror or first}"
    return what, "Free some space" if out_of_space(first) else "Check its permissions"


def _first_refusal(error: OSError) -> OSError:
    """Return the original error of the system: pydicom raises it again with its text but without its number."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error
