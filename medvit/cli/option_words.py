"""Words of the command line for the options that an error names."""

from __future__ import annotations

import re

__all__ = ["command_line_words"]

_OPTIONS = {
    "burned_in": "--allow-burned-in",
    "file": "--login-file",
    "folder": "-o",
    "given": "--from FILE",
    "kind": "--format",
    "output_types": "-ot",
    "path": "-o",
    "pixel_spacing_mm": "--pixel-spacing MM",
    "privacy": "--deidentify",
    "source_to_detector_mm": "--source-to-detector",
    "source_to_patient_mm": "--source-to-patient",
    "start": "--from",
    "table": "--labels",
}
"""Options of the command line whose names are not those of the Python arguments."""

_COMMANDS = {
    "medvit.bundles.bundle_folders()": "medvit bundles list",
    "medvit.bundles.remote.fetch()": "medvit bundles fetch {}",
    "medvit.convert()": "medvit convert",
    "medvit.deidentification.add_images()": "--with-images",
    "medvit.io.limit_memory()": "--memory-limit {}",
    "medvit.reconstruction.radiographs()": "medvit drr",
    "medvit.segmentation.precision_check.run_precision_check()": "medvit bundles precision-check {} --case {}",
    "medvit.training.train_bundle()": "medvit train",
}
"""Commands and options that do what a function does; each ``{}`` takes a quoted text of the arguments."""

_QUOTED = re.compile(r"'([^']*)'")


def command_line_words(name: str, value: str | None) -> str:
    """Word an option as the command line has it: ``--on-irregular split``, ``--force``, ``medvit bundles list``.

    Args:
        name: as Python callers write it; see ``medvit.errors.python_words``.
        value: the value as text; None or "..." where only the name is meant.
    """
    if name in _COMMANDS:
        places, quoted = _COMMANDS[name].split(" {}"), [f" {text}" for text in _QUOTED.findall(value or "")]
        return "".join(part + text for part, text in zip(places, [*quoted, *[""] * len(places)], strict=False))
    option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if value in (None, "...", "True"):
        return option
    return f"{option} {' '.join(_QUOTED.findall(value) or [value])}"
