"""Griffe extension of ``make docs``: a docstring's ``a, b: text`` is shown as two parameters, each with its own type."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_JOINT = re.compile(r"^(\s+)(\*{0,2}\w+(?:, \*{0,2}\w+)+): ")


class JointParameters(Extension):
    """Splits parameters that share one description."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object that was just loaded."""
        if obj.docstring is not None:
            obj.docstring.value = split_joint(obj.docstring.value)


def split_joint(docstring: str) -> str:
    """Give each name of a joint entry an entry of its own, with the same text."""
    lines: list[str] = []
    left = docstring.splitlines()
    while left:
        line = left.pop(0)
        found = _JOINT.match(line)
        if found is None:
            lines.append(line)
            continue
        more: list[str] = []
        while left and left[0].startswith(found[1] + " "):
            more.append(left.pop(0))
        for name in found[2].split(", "):
            lines += [f"{found[1]}{name}: {line[found.end() :]}", *more]
    return "\n".join(lines)
