"""Check that permits a bundle to run in a lower precision: its labels are compared with those of fp32 on a reference
case.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from medvit.atomic_write import os_errors_as_output_errors, replace_file
from medvit.bundles.metadata import MIN_DICE, PrecisionCheck
from medvit.errors import BackendError

if TYPE_CHECKING:
    from medvit.bundles.bundle import Bundle

__all__ = ["record_precision_check", "require_precision_check"]


def require_precision_check(bundle: Bundle, precision: str) -> PrecisionCheck:
    """Return the bundle's check of a precision; refuse if it did not pass with the current weights.

    Args:
        bundle: the bundle.
        precision: "bf16" or "int8".

    Returns:
        The latest check of this precision with the current weights.

    Raises:
        BackendError: the check did not pass, or was never run.

    Examples:
        >>> from medvit.bundles import open_bundle, require_precision_check
        >>> require_precision_check(open_bundle("nuclei_barlow_swin"), "bf16")
        Traceback (most recent call last):
            ...
        medvit.errors.BackendError: Found precision 'bf16' for nuclei_barlow_swin and no precision check for it; ...
    """
    check_function = "medvit.segmentation.precision_check.run_precision_check()"
    command = f"{{{check_function}='{bundle.name}', 'SCAN'}}"
    mine = [check for check in bundle.facts.precision_checks if check.precision == precision]
    ranges = bundle.int8_ranges_sha256 if precision == "int8" else ""
    current = [
        check for check in mine if (check.weights_sha256, check.ranges_sha256) == (bundle.weights_sha256, ranges)
    ]
    if not current:
        why = "of other weights or ranges only" if mine else "for it"
        raise BackendError(
            f"precision {precision!r} for {bundle.name} and no precision check {why}",
            f"its labels must first be shown to agree with fp32 (lowest Dice of a label at least {MIN_DICE})",
            f"Run: {command}, or leave the precision out.",
            option=check_function,
        )
    check = current[-1]
    if not check.passed:
        worst = min(check.dice, key=check.dice.__getitem__)
        raise BackendError(
            (
                f"precision {precision!r} for {bundle.name}, whose precision check did not pass: Dice {check.lowest:.4f} "
                f"of {worst} against fp32, at least {MIN_DICE} is needed"
            ),
            remedy=f"Leave the precision out, or run the precision check on other weights: {command}.",
            option=check_function,
        )
    return check


def record_precision_check(bundle: Bundle, check: PrecisionCheck) -> None:
    """Write a precision check to the bundle's metadata; replace an earlier one of the same precision.

    Args:
        bundle: the bundle; its ``configs/metadata.json`` is changed.
        check: the check.

    Raises:
        OutputError: the metadata cannot be written.

    Examples:
        >>> import shutil
        >>> from pathlib import Path
        >>> from medvit.bundles import Bundle, PrecisionCheck, open_bundle, record_precision_check
        >>> copy = shutil.copytree(open_bundle("nuclei_barlow_swin").root / "configs", Path("copy/configs")).parent
        >>> weights = Bundle(copy).facts.weights.sha256
        >>> check = PrecisionCheck(
        ...     precision="bf16", backend="cuda", case="0" * 64, dice={"nucleus": 0.9995}, weights_sha256=weights, versions={}
        ... )
        >>> record_precision_check(Bundle(copy), check)
        >>> Bundle(copy).facts.precision_checks[-1].passed
        True
    """
    path = bundle.root / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    section = content["medvit"]
    earlier = [
        *section.pop("gates", []),
        *section.get("precision_checks", []),
    ]  # `gates` is the key of earlier versions
    others = [entry for entry in earlier if entry["precision"] != check.precision]
    section["precision_checks"] = [*others, check.model_dump(exclude_defaults=True)]
    with os_errors_as_output_errors(path.parent), replace_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
