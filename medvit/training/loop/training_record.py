"""Record of a published run in the bundle's docs: steps, duration, machine, versions and hashes of its data."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medvit.atomic_write import replace_file
from medvit.bundles import Bundle
from medvit.training.data import DataList, data_root
from medvit.training.loop.machine import Machine
from medvit.training.loop.settings import LoopSettings

__all__ = ["files_hash", "write_record"]

_CURVES = ("curve.csv", "scores.csv")


def write_record(
    bundle: Bundle,
    data: DataList,
    loop: LoopSettings,
    machine: Machine,
    run: Path,
    beside: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``docs/training.json`` and copy the run's curves to its folder; return the content.

    It contains no name of a host, a user or a folder.

    Args:
        bundle: bundle whose docs are written.
        data: training data.
        loop: settings of the run.
        machine: device and precision.
        run: folder of the run, with ``curve.csv``.
        beside: further entries.
    """
    path = data.data or bundle.root / "configs" / "datalist.json"
    files, digest = files_hash(path, data)
    record = {
        "steps": loop.steps,
        "cooldown_steps": loop.cooldown_steps,
        "batch_size": loop.batch_size,
        "learning_rate": loop.learning_rate,
        "seed": loop.seed,
        "hours_in_steps": round(_seconds(run / "curve.csv") / 3600, 2),
        "machine": machine_kind(machine.device),
        "precision": machine.precision,
        "versions": {name: version(name) for name in ("medvit", "torch", "monai", "numpy")},
        "commit": _commit(),
        "data": {
            "list_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "training_files": files,
            "training_files_sha256": digest,
        },
        **(beside or {}),
    }
    docs = bundle.root / "docs"
    with replace_file(docs / "training.json") as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n")
    for name in _CURVES:
        if (run / name).is_file():
            shutil.copyfile(run / name, docs / name)
    return record


def files_hash(path: Path, data: DataList) -> tuple[int, str]:
    """Return the number of files that a part of a list names, and one sha256 of them all.

    It is the hash of the lines ``<sha256>  <path in the list>``, sorted by path, as ``sha256sum`` prints them.
    """
    entries = json.loads(path.read_text())[data.split]
    named = sorted({value for entry in entries for value in entry.values() if isinstance(value, str)})
    base = data_root(data.root, path)
    lines = [f"{hashlib.sha256((base / name).read_bytes()).hexdigest()}  {name}\n" for name in named]
    return len(named), hashlib.sha256("".join(lines).encode()).hexdigest()


def machine_kind(device: torch.device) -> str:
    """Describe the kind of machine in words, without its name."""
    if device.type == "cuda":
        return f"GPU {torch.cuda.get_device_name(device)}"
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in _lines(info) if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{device.type}, {torch.get_num_threads()} thread(s) of {os.cpu_count()} cores, {name}"


def _lines(path: Path) -> Sequence[str]:
    return path.read_text().splitlines() if path.is_file() else ()


def _seconds(curve: Path) -> float:
    """Compute the time in steps: the seconds per step of each row times the steps since the row before."""
    total, before = 0.0, 0
    if curve.is_file():
        with curve.open(newline="") as file:
            for row in csv.DictReader(file):
                total += float(row["seconds_per_step"]) * (int(row["step"]) - before)
                before = int(row["step"])
    return total


def _commit() -> str:
    """Return the commit of the running code, with "+ changes" if files differ from it."""
    root = Path(__file__).resolve().parents[3]
    git = ["git", "-C", str(root)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "medvit"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return head + (" + changes" if changed else "")
