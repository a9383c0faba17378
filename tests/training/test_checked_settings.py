"""Settings of training configs: what is refused, in which words."""

from __future__ import annotations

import dataclasses

import pytest

from medvit.errors import BundleError
from medvit.training.checked_settings import Count, Interval, Rising, checked_settings


@checked_settings
class Window:
    """Settings with one field of each kind that has words of its own."""

    size: Count
    between: Interval = (0.0, 1.0)
    levels: Rising = ()


def test_allowed_values_are_kept_and_cannot_be_changed():
    window = Window(size=3, levels=[0.1, 0.5])
    assert (window.size, window.between, window.levels) == (3, (0.0, 1.0), (0.1, 0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        window.size = 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 0}, "Found Window.size = 0; it must be greater than or equal to 1. Correct the config of the bundle."),
        ({"size": 1, "sise": 2}, "Found the setting Window.sise; Window has no such setting."),
        ({}, "Found no Window.size; the setting has no default."),
        ({"size": 1, "between": (2.0, 2.0)}, r"Found Window.between = \(2.0, 2.0\); a lower and a higher number are needed"),
        ({"size": 1, "levels": (0.5, 0.5)}, r"Found Window.levels = \(0.5, 0.5\); rising numbers are needed"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_refused_in_one_sentence(values, message):
    with pytest.raises(BundleError, match=f"^{message}"):
        Window(**values)
