"""Folders and zips of trained nnU-Nets: ``DatasetNNN_X/TRAINER__PLANS__CONFIGURATION/fold_N/checkpoint_final.pth``."""

from __future__ import annotations

import json
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medvit.errors import BundleError, FetchError
from medvit.interop.nnunet.plans import v1_error

__all__ = ["ModelFolder", "choose_folds", "find_model", "find_models", "unpack_model"]

_FOLD = re.compile(r"fold_(\d+|all)")
_FILES = frozenset({"plans.json", "dataset.json", "dataset_fingerprint.json", "postprocessing.json"})
_CHECKPOINTS = frozenset({"checkpoint_final.pth", "checkpoint_best.pth"})
_V1 = ("plans.pkl", "model_final_checkpoint.model", "model_final_checkpoint.model.pkl")
_DEEP = 4
"""Largest number of folders between the given one and that of a trainer."""

_MOST_BYTES = 32 << 30
_DAMAGED = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """One trained configuration.

    Attributes:
        root: the folder, with plans.json, dataset.json and the folds.
        folds: names of the folds with a checkpoint: "0", "1", "all".

    Examples:
        >>> from pathlib import Path
        >>> from medvit.interop.nnunet.folder import ModelFolder
        >>> ModelFolder(root=Path("nnUNetTrainer__nnUNetPlans__3d_fullres"), folds=("0",)).configuration
        '3d_fullres'
    """

    root: Path
    folds: tuple[str, ...]

    @property
    def configuration(self) -> str:
        """Configuration that the folder's name states; the checkpoint has the last word."""
        return self.root.name.rpartition("__")[2]

    def read(self, name: str) -> dict[str, Any]:
        """Read ``plans.json`` or ``dataset.json``.

        Raises:
            BundleError: the file is missing or no JSON object.
        """
        path = self.root / name
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise BundleError(
                f"no readable {name} in {self.root.name}", "a trained nnU-Net has it", "Copy the whole folder."
            ) from error
        except ValueError as error:
            raise BundleError(
                f"{name} of {self.root.name}, which is not JSON ({error})", remedy="Copy it again."
            ) from error
        if not isinstance(content, Mapping):
            raise BundleError(f"{name} of {self.root.name}, which is no JSON object", remedy="Copy it again.")
        return dict(content)

    def checkpoint(self, fold: str, wanted: str | None) -> Path:
        """Return the checkpoint of a fold: the wanted one, else the final one, else the best one.

        Raises:
            BundleError: there is no such checkpoint.
        """
        names = (wanted,) if wanted else ("final", "best")
        for name in names:
            path = self.root / f"fold_{fold}" / f"checkpoint_{name}.pth"
            if path.is_file():
                return path
        there = ", ".join(sorted(path.name for path in (self.root / f"fold_{fold}").glob("checkpoint_*.pth")))
        raise BundleError(
            f"no checkpoint_{names[0]}.pth in fold_{fold}",
            f"the fold has {there or 'none'}",
            "Choose another with {checkpoint=...}.",
            option="checkpoint",
        )


def find_models(place: Path) -> list[ModelFolder]:
    """Find the trained configurations in a folder, at most four levels down.

    Raises:
        BundleError: the folder holds an nnU-Net of version 1.
    """
    found: list[ModelFolder] = []
    waiting = [(place, 0)]
    while waiting:
        folder, depth = waiting.pop(0)
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        folds = [
            match[1]
            for path in inside
            if (match := _FOLD.fullmatch(path.name)) and any((path / name).is_file() for name in _CHECKPOINTS)
        ]
        if folds:
            found.append(ModelFolder(root=folder, folds=tuple(sorted(folds, key=lambda fold: (len(fold), fold)))))
        elif any((folder / name).is_file() for name in _V1):
            raise v1_error(f"a model of nnU-Net v1 in {folder.name}")
        elif depth < _DEEP:
            waiting += [(path, depth + 1) for path in inside]
    return found


def find_model(place: Path, configuration: str | None = None) -> ModelFolder:
    """Find the one trained configuration that is meant.

    Args:
        place: the folder of a trainer, of a dataset, or one above.
        configuration: name of the configuration, where there are several.

    Raises:
        BundleError: there is none, or several.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.interop.nnunet.folder import find_model
        >>> find_model(Path("."))
        Traceback (most recent call last):
            ...
        medvit.errors.BundleError: Found no fold with a checkpoint in ...
    """
    if not place.is_dir():
        raise BundleError(
            f"no folder at {place}", "the folder or zip of a trained nnU-Net is needed", "Check the path."
        )
    models = find_models(place)
    if not models:
        plans = "" if any(place.rglob("plans.json")) else " and no plans.json"
        raise BundleError(
            f"no fold with a checkpoint{plans} in {place.name}",
            "a trained nnU-Net has plans.json, dataset.json and fold_0/checkpoint_final.pth or the like",
            "Give the folder DatasetNNN_X or the one of its trainer.",
        )
    fitting = [model for model in models if configuration in (None, model.configuration)]
    if not fitting and len(models) == 1:
        fitting = models  # a folder of another name; its plans may have the configuration
    if len(fitting) != 1:
        listing = ", ".join(f"{model.root.parent.name}/{model.root.name}" for model in models)
        raise BundleError(
            f"{len(fitting)} trained models{f' of configuration {configuration}' if configuration else ''} in {place.name}",
            f"one is imported at a time; there are {listing}",
            "Give the folder of one, or choose with {configuration=...}.",
            option="configuration",
        )
    return fitting[0]


def choose_folds(model: ModelFolder, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the folds to import: those asked for, by default every numbered one, else ``all``.

    Raises:
        BundleError: a fold is not there, or named twice.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.interop.nnunet.folder import ModelFolder, choose_folds
        >>> choose_folds(ModelFolder(root=Path("."), folds=("0", "1", "all")), ())
        ('0', '1')
    """
    numbered = tuple(fold for fold in model.folds if fold != "all")
    if not wanted:
        return numbered or model.folds
    missing = [fold for fold in wanted if fold not in model.folds]
    if missing or len(set(wanted)) != len(wanted):
        what = f"no fold {missing[0]!r}" if missing else f"the folds {', '.join(wanted)}, one of them twice,"
        raise BundleError(
            f"{what} in {model.root.name}",
            f"there are {', '.join(model.folds)}",
            "Correct {folds=...}.",
            option="folds",
        )
    return tuple(wanted)


def unpack_model(archive: Path, folder: Path) -> None:
    """Unpack plans, dataset and checkpoints from a zip to an existing folder; all entries are checked before the first.

    Args:
        archive: the zip.
        folder: the folder.

    Raises:
        FetchError: the zip is damaged, too large, or has an entry that is not a plain file within the folder.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = {entry: _checked(entry) for entry in content.infolist() if not entry.is_dir()}
            size = sum(entry.file_size for entry in entries)
            if size > _MOST_BYTES:
                raise _refuse(f"{size >> 30} GiB of content")
            for entry, path in entries.items():
                if path.name in _FILES | _CHECKPOINTS | set(_V1):
                    target = folder.joinpath(*path.parts)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with content.open(entry) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
    except (*_DAMAGED, FileExistsError) as error:
        raise FetchError(
            f"a damaged zip ({str(error) or type(error).__name__})",
            "a whole one is needed, and nothing was installed",
            "Download or copy it again.",
        ) from error


def _checked(entry: zipfile.ZipInfo) -> PurePosixPath:
    raw = entry.orig_filename  # zipfile shortens filename at a NUL byte
    path, kind = PurePosixPath(raw), stat.S_IFMT(entry.external_attr >> 16)
    shown = repr(raw[:80])
    if "\\" in raw or ":" in raw or raw.startswith("/") or ".." in path.parts or any(ord(c) < 32 for c in raw):
        raise _refuse(f"the path {shown}, which leaves the folder,")
    if kind and not (stat.S_ISREG(entry.external_attr >> 16) or stat.S_ISDIR(entry.external_attr >> 16)):
        raise _refuse(f"{shown}, which is a link or a device,")
    if entry.flag_bits & 0x1:
        raise _refuse(f"{shown}, which is encrypted,")
    return path


def _refuse(found: str) -> FetchError:
    return FetchError(
        f"{found} in the zip of a model",
        "only plain files within one folder are unpacked, and nothing was installed",
        "Get the zip from another place.",
    )
