"""Pins of the public interface: pinned files, their check, and the command that renews them.

``python -m tests.laws.pins`` compares every pin with what is found now and prints the differences;
``python -m tests.laws.pins --write [NAME...]`` writes what is found as well.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PINNED = Path(__file__).with_name("pinned")


@dataclass(frozen=True)
class Pin:
    """One pinned file.

    Attributes:
        collect: the module of ``tests.laws`` and its function that finds the content now.
        agree: a function of that module, called with the pinned and the found content, that returns the found content with
            differences that do not count taken out; empty for none.
    """

    collect: str
    agree: str = ""

    def found(self) -> Any:
        """Collect the present content, in the form that JSON returns it."""
        return json.loads(_text(_function(self.collect)()))


PINS = {
    "modules": Pin("loaded_modules:modules", "loaded_modules:agree"),
    "exit_codes": Pin("exit_codes:exit_codes"),
    "commands": Pin("command_tree:commands"),
    "faces": Pin("faces:faces"),
    "configs": Pin("configs:configs"),
    "allow_list": Pin("allow_list:allow_list", "allow_list:agree"),
    "results": Pin("results:results"),
    "stages": Pin("results:stages"),
    "batch": Pin("batch_pins:batch"),
    "statements": Pin("batch_pins:statements"),
    "label_server": Pin("label_pins:label_server"),
}


def difference(name: str) -> str:
    """Compare a pin with the present content; return a unified diff, empty if both agree."""
    return _difference(name, PINS[name].found())


def require(name: str) -> None:
    """Fail with a readable diff unless a pin agrees with the present content."""
    changed = difference(name)
    assert not changed, (
        f"Found other content than tests/laws/pinned/{name}.json holds:\n{changed}\n"
        f"If this change is meant, renew the file: python -m tests.laws.pins --write {name}"
    )


def _difference(name: str, found: Any) -> str:
    path = PINNED / f"{name}.json"
    pinned = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if PINS[name].agree:
        found = _function(PINS[name].agree)(pinned, found)
    before, after = _text(pinned).splitlines(), _text(found).splitlines()
    return "\n".join(difflib.unified_diff(before, after, "pinned", "found now", n=2, lineterm=""))


def _text(content: Any) -> str:
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _function(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"tests.laws.{module}"), name)
    return function


def main() -> int:
    """Print how pins and present content differ; with --write, renew the pins."""
    parser = argparse.ArgumentParser(prog="python -m tests.laws.pins", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"pins; all, if left out: {', '.join(PINS)}")
    parser.add_argument("--write", action="store_true", help="write what is found now")
    options = parser.parse_args()
    unknown = set(options.names) - PINS.keys()
    if unknown:
        parser.error(f"no pin is named {', '.join(sorted(unknown))}; there are {', '.join(PINS)}")
    outcomes = [_renew(name, options.write) for name in options.names or PINS]
    return int(not all(outcomes))


def _renew(name: str, write: bool) -> bool:
    """Print how a pin differs, and rewrite it if asked; return whether it now agrees."""
    try:
        found = PINS[name].found()
    except Exception as error:  # the other pins are compared all the same
        print(f"{name}: cannot be collected", "".join(traceback.format_exception(error)), sep="\n", flush=True)
        return False
    changed = _difference(name, found)
    print(f"{name}: {'changed' if changed else 'as pinned'}", changed, sep="\n" if changed else "", flush=True)
    if write and changed:
        (PINNED / f"{name}.json").write_text(_text(found), encoding="utf-8")
    return write or not changed


if __name__ == "__main__":
    sys.exit(main())
