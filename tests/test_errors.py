"""The family: one base, each keeping the built-in kind it is."""

from __future__ import annotations

import errno
import inspect
from pathlib import Path

import pytest
from pydicom.tag import Tag, tag_in_exception

import medvit.errors as errors
from medvit.atomic_write import os_errors_as_output_errors
from medvit.errors import MedvitError, OutputError, out_of_space

KINDS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls is not MedvitError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.__name__)
def test_each_is_ours_and_keeps_a_builtin_kind(kind):
    assert issubclass(kind, MedvitError)
    assert any(
        issubclass(kind, builtin) for builtin in (ValueError, RuntimeError, OSError, ArithmeticError, MemoryError)
    )
    assert kind.__name__ in errors.__all__


def test_a_full_disk_is_told_from_what_pydicom_makes_of_it():
    """pydicom raises the system's error anew while it writes an element, without its number and with a traceback."""
    with (
        pytest.raises(OutputError, match=r"^Found no space left when writing to out; .*Free some space, or") as caught,
        os_errors_as_output_errors(Path("out")),
        tag_in_exception(Tag("PixelData")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert out_of_space(caught.value.__cause__)
    assert not out_of_space(PermissionError(errno.EACCES, "no"))
    assert not out_of_space(ValueError())
