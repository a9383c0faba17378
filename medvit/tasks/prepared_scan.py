"""A scan opened for a bundle and checked: its modality, its values and its UIDs."""

from __future__ import annotations

import os
from dataclasses import dataclass

from monai.data import MetaTensor

from medvit.bundles import Bundle
from medvit.errors import ImageError, ModalityError
from medvit.io import Scan, open_source
from medvit.io.dicom import repair_uids
from medvit.progress import Progress
from medvit.settings import RunSettings

__all__ = ["PreparedScan", "open_for"]


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A source opened and found fit for a bundle, and what had to be forced or repaired for it."""

    scan: Scan
    forced: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()


def check_fit(scan: Scan, bundle: Bundle) -> str | None:
    """Why an image is not what the bundle was made for, or None.

    DICOM states its modality. Other formats do not, so their values must reach where the bundle's images reach
    (a CT holds air below -500 HU).
    """
    facts = bundle.facts
    stated = facts.mismatch(bundle.name, scan.is_picture, scan.modality)
    if stated is None and scan.unit is not None and facts.values and facts.values.unit == "HU":
        return f"CT values in {scan.unit!r} (RescaleType), where {bundle.name} is made for Hounsfield units"
    if stated is not None or scan.modality is not None:
        return stated
    if facts.values and not scan.is_picture:
        low, high = float(scan.array.min()), float(scan.array.max())
        if low > facts.values.lowest_at_most or high < facts.values.highest_at_least:
            return (
                f"values from {low:g} to {high:g}, where {bundle.name} is made for {' or '.join(facts.modalities)} in "
                f"{facts.values.unit} (at most {facts.values.lowest_at_most:g} and at least {facts.values.highest_at_least:g} occur)"
            )
    return None


def _require_fit(scan: Scan, bundle: Bundle, force: bool) -> tuple[str, ...]:
    reason = check_fit(scan, bundle)
    if reason is None:
        return ()
    if scan.is_picture != (bundle.facts.dimensions == 2):
        raise ImageError(f"Found {reason}. Choose a bundle for it: medvit bundles list.")
    if not force:
        raise ModalityError(
            f"Found {reason}. Choose a bundle for it (medvit bundles list), or run all the same with --force."
        )
    return (f"Forced: {reason}.",)


def open_for(
    bundle: Bundle, source: str | os.PathLike[str] | MetaTensor | Scan, settings: RunSettings, progress: Progress
) -> PreparedScan:
    """Open a source and see that it is what a bundle was made for: the first step of every door, whatever its task.

    Raises:
        SourceError: it cannot be opened. ModalityError, ImageError: it is not what the bundle was made for.
    """
    with progress.stage("read"):
        scan = open_source(source, settings.series, progress, settings.on_irregular, settings.geometry)
    forced = _require_fit(scan, bundle, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    return PreparedScan(scan, forced, repaired)
