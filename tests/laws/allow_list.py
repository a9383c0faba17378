"""Names that the allow-list for fetched configs admits, tested with every public class and listed."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.laws.configs import config_files, targets
from tests.laws.scratch import scratch

CHECK = "check_configs"
"""Name of the function that refuses configs; it is searched for in all modules of medvit."""

LIBRARIES = {
    "monai": ("apps", "bundle", "data", "engines", "handlers", "inferers", "losses", "metrics", "networks", "networks.blocks",
              "networks.layers", "networks.nets", "optimizers", "transforms", "utils", "visualize"),
    "torch": ("nn", "nn.functional", "nn.modules", "nn.utils", "optim", "optim.lr_scheduler", "serialization", "hub", "jit", "utils.data"),
}  # fmt: skip
"""Packages of other libraries whose classes are tested."""

SAMPLE = 2
"""Names of each package that are tested first; if any is admitted, all of its names are tested."""

HARMFUL = (
    "builtins.eval", "builtins.exec", "builtins.open", "importlib.import_module", "monai.bundle.run", "monai.transforms.os.system",
    "os.system", "pickle.load", "pickle.loads", "runpy.run_path", "shutil.rmtree", "subprocess.Popen", "subprocess.run",
    "torch.hub.load", "torch.load", "torch.nn.modules.module.torch.load", "torch.optim.lr_scheduler.os.system",
)  # fmt: skip
"""Names that must be refused."""


@cache
def allow_list() -> dict[str, Any]:
    """List the admitted names: those of medvit in full, those of libraries by package, and the versions of the
    libraries.
    """
    rooms = _names_by_room()
    few = _admitted([*HARMFUL, *_in_configs(), *(name for names in rooms.values() for name in names[:SAMPLE])])
    open_rooms = {name.rpartition(".")[0] for name in few}
    many = _admitted([name for room in open_rooms & rooms.keys() for name in rooms[room]])
    admitted: dict[str, list[str]] = {}
    for name in {*few, *many}:
        room, _, last = name.rpartition(".")
        admitted.setdefault(room, []).append(last)
    versions = {library: version(library).partition("+")[0] for library in LIBRARIES}
    return {"admitted": {room: sorted(names) for room, names in admitted.items()}, "versions": versions}


def agree(pinned: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Remove the classes of a library that is installed in another version, which may have more or fewer of them."""
    other = [
        name for name, number in found["versions"].items() if pinned.get("versions", {}).get(name, number) != number
    ]
    admitted = {
        room: pinned["admitted"].get(room, names) if room.partition(".")[0] in other else names
        for room, names in found["admitted"].items()
    }
    return {"admitted": admitted, "versions": pinned.get("versions") or found["versions"]}


def _admitted(names: Iterable[str]) -> list[str]:
    """Test names with the allow-list, each time without the name that it refused last."""
    left = sorted(set(names))
    with scratch() as folder:
        config = folder / "configs" / "inference.json"
        config.parent.mkdir()
        while left:
            config.write_text(json.dumps({str(number): {"_target_": name} for number, name in enumerate(left)}))
            refused = _refused(config.parents[1])
            if refused is None:
                break
            left.remove(refused)
    return left


def _refused(folder: Path) -> str | None:
    """Return the first name that the allow-list refuses in a bundle's configs; None if it refuses none."""
    from medvit import MedvitError

    try:
        _check()(folder)
    except MedvitError as error:
        return str(error).partition("Found '")[2].partition("'")[0]
    return None


@cache
def _check() -> Callable[[Path], None]:
    found = {getattr(module, CHECK) for module in _modules() if hasattr(module, CHECK)}
    assert len(found) == 1, f"one function {CHECK} is needed, found {found}"
    check: Callable[[Path], None] = found.pop()
    return check


@cache
def _modules() -> tuple[ModuleType, ...]:
    import medvit

    names = [module.name for module in pkgutil.walk_packages(medvit.__path__, "medvit.")]
    return tuple(importlib.import_module(name) for name in names if not name.endswith("__main__"))


def _names_by_room() -> dict[str, list[str]]:
    """Collect the capitalised names of medvit's and other libraries' modules; of medvit's deep modules, one in eight."""
    deep = [module for module in _modules() if module.__name__.count(".") > 1 and not hasattr(module, "__path__")]
    own = [module for module in _modules() if module not in deep]
    rooms = [importlib.import_module(f"{library}.{room}") for library, rooms in LIBRARIES.items() for room in rooms]
    found = {}
    for module in [*own, *deep[::8], *rooms]:
        names = sorted({*getattr(module, "__all__", ()), *dir(module)})
        capitals = [name for name in names if name[0].isupper() and callable(getattr(module, name, None))]
        found[module.__name__] = [f"{module.__name__}.{name}" for name in capitals]
    return found


def _in_configs() -> set[str]:
    return {name for path in config_files() for name in targets(path)}
