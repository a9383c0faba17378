"""The family: one base, each keeping the built-in kind it is."""

from __future__ import annotations

import inspect

import pytest

import medvit.errors as errors
from medvit.errors import MedvitError

KINDS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls is not MedvitError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda c: c.__name__)
def test_each_is_ours_and_keeps_a_builtin_kind(kind):
    assert issubclass(kind, MedvitError)
    assert any(issubclass(kind, builtin) for builtin in (ValueError, RuntimeError, OSError, ArithmeticError))
    assert kind.__name__ in errors.__all__
