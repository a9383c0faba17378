"""Public names of medvit and of each room, which must stay the same after every submodule was imported."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from functools import cache
from typing import Any

OWN = ("medvit", "medvit_batch", "medvit_label", "medvit_napari")


@cache
def after_every_import() -> dict[str, Any]:
    """Import every submodule in a separate process; report public names by kind, and errors."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "OMP_NUM_THREADS": "1"}
    outcome = subprocess.run(
        [sys.executable, "-m", "tests.laws.faces"], capture_output=True, text=True, env=environment, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    report: dict[str, Any] = json.loads(outcome.stdout.splitlines()[-1])
    return report


def faces() -> dict[str, Any]:
    """List the exported names of medvit and of each room, with their kinds."""
    exported: dict[str, Any] = after_every_import()["faces"]
    return exported


def _kind(value: object) -> str:
    if inspect.ismodule(value):
        return "module"
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else "value"


def _import_all() -> tuple[list[str], dict[str, str]]:
    """Import each package before its submodules, as a program does; return the names and the failed imports."""
    names: list[str] = []
    failed: dict[str, str] = {}
    for top in OWN:
        package = importlib.import_module(top)
        names.append(top)
        for module in pkgutil.walk_packages(package.__path__, f"{top}.", failed.setdefault):
            if not module.name.endswith("__main__"):  # it would run
                names.append(module.name)
                try:
                    importlib.import_module(module.name)
                except Exception as error:  # whatever a module does while it is imported
                    failed[module.name] = repr(error)
    return names, failed


def main() -> None:
    """Print the report as one line of JSON."""
    names, failed = _import_all()
    exported: dict[str, dict[str, str]] = {}
    absent, shadowed = [], []
    for name in names:
        module = sys.modules.get(name)
        if module is None:
            continue
        public = getattr(module, "__all__", ())
        absent += [f"{name}.{word}" for word in public if not hasattr(module, word)]
        if hasattr(module, "__path__") and public:
            exported[name] = {word: _kind(getattr(module, word, None)) for word in public}
            shadowed += [f"{name}.{word}" for word in public if f"{name}.{word}" in sys.modules]
    print(json.dumps({"faces": exported, "absent": absent, "shared_names": shadowed, "failed": failed}))


if __name__ == "__main__":
    main()
