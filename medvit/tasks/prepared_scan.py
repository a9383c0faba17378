"""A scan opened for a bundle and checked: its modality, its values and its UIDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.bundles import Bundle
from medvit.errors import ImageError, ModalityError
from medvit.io import Scan, open_source
from medvit.io.dicom import repair_uids
from medvit.progress import Progress
from medvit.settings import RunSettings
from medvit.tasks.protocol import Input, Prepared

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["PreparedScan", "open_scans", "prepare_scan"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedScan(Prepared):
    """A scan found fit for a bundle, with what had to be forced or repaired for it."""

    scan: Scan

    @property
    def data(self) -> Mapping[str, MetaTensor]:
        """The scan as the bundle's preprocessing takes it."""
        return {"image": self.scan.meta_tensor()}


def check_fit(scan: Scan, bundle: Bundle) -> str | None:
    """Return why an image is not what the bundle was made for, or None.

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
        raise ImageError(reason, remedy="Choose a bundle for it: medvit bundles list.")
    if not force:
        raise ModalityError(
            reason, remedy="Choose a bundle for it (medvit bundles list), or run all the same with --force."
        )
    return (f"Forced: {reason}.",)


def open_scans(inputs: Mapping[str, Input | Scan], settings: RunSettings, progress: Progress) -> dict[str, Scan]:
    """Open each input as a scan; check one that is open already.

    Raises:
        SourceError: it cannot be opened, or no bundle can use it.
    """

    def opened(one: Input | Scan) -> Scan:
        if isinstance(one, Scan):
            return one.check()
        series = one.series if one.series is not None else settings.series
        return open_source(one.source, series, progress, settings.on_irregular, settings.geometry)

    return {name: opened(one) for name, one in inputs.items()}


def prepare_scan(opened: Mapping[str, Scan], bundle: Bundle, settings: RunSettings) -> PreparedScan:
    """Check that a scan is what a bundle was made for; repair its UIDs where that is asked for.

    Raises:
        ModalityError, ImageError: it is not what the bundle was made for.
    """
    scan = opened["image"]
    forced = _require_fit(scan, bundle, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    return PreparedScan(scan=scan, notes=(*scan.notes, *scan.excluded), forced=forced, repaired=repaired)
