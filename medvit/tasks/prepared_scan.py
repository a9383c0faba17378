"""Opening of a scan for a bundle, with checks of its modality, values and UIDs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medvit.bundles import Bundle
from medvit.errors import ImageError, ModalityError
from medvit.io import GridImage, Scan, open_source
from medvit.io.dicom import repair_uids
from medvit.progress import Progress
from medvit.settings import RunSettings
from medvit.tasks.protocol import Input, Prepared

__all__ = ["PreparedScan", "open_scans", "prepare_scan"]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreparedScan(Prepared):
    """A scan that fits a bundle, with notes on what was forced or repaired.

    Attributes:
        scan: the scan.
        notes: notes on the image for readers of the result, in plain words.
        forced: reasons against the image that ``force`` overrode.
        repaired: repairs of its headers.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.tasks import PreparedScan
        >>> scan = Scan(array=np.zeros((1, 4, 4, 2), np.float32), affine=np.eye(4), kind="array")
        >>> PreparedScan(scan=scan).data["image"].shape
        torch.Size([1, 4, 4, 2])
    """

    scan: Scan

    @property
    def data(self) -> Mapping[str, GridImage]:
        """Input of the bundle's preprocessing: the scan with its affine, by name."""
        return {"image": self.scan.grid_image()}


def check_fit(scan: Scan, bundle: Bundle) -> str | None:
    """Return the reason why an image does not fit a bundle, or None.

    DICOM states its modality. Other formats do not, so their range of values must include that of the bundle's images
    (a CT contains air below -500 HU).
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
        raise ImageError(
            reason,
            remedy="Choose a bundle for it: {medvit.bundles.bundle_folders()}.",
            option="medvit.bundles.bundle_folders()",
        )
    if not force:
        raise ModalityError(
            reason,
            remedy="Choose a bundle for it ({medvit.bundles.bundle_folders()}), or run all the same with {force=True}.",
            option=("medvit.bundles.bundle_folders()", "force"),
        )
    return (f"Forced: {reason}.",)


def open_scans(inputs: Mapping[str, Input | Scan], settings: RunSettings, progress: Progress) -> dict[str, Scan]:
    """Open each input as a scan; check scans that are already open.

    Args:
        inputs: the inputs, by name.
        settings: settings of the run, for series and geometry.
        progress: shows the progress of reading; can cancel it.

    Returns:
        The scans, by name of the input.

    Raises:
        SourceError: an input cannot be opened.
        SelectionError: an input holds several series and none was chosen.
        GeometryError, ImageError: the grid or the pixels of an input are not usable.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import write_volume
        >>> from medvit.progress import Progress
        >>> from medvit.settings import RunSettings
        >>> from medvit.tasks import Input, open_scans
        >>> write_volume(Path("head.nii"), np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
        >>> open_scans({"image": Input(source="head.nii")}, RunSettings(), Progress())
        {'image': Scan(nifti, 4 x 4 x 4, 1 x 1 x 1 mm)}
    """

    def opened(one: Input | Scan) -> Scan:
        if isinstance(one, Scan):
            return one.check()
        series = one.series if one.series is not None else settings.series
        return open_source(one.source, series, progress, settings.on_irregular, settings.geometry)

    return {name: opened(one) for name, one in inputs.items()}


def prepare_scan(opened: Mapping[str, Scan], bundle: Bundle, settings: RunSettings) -> PreparedScan:
    """Check that a scan fits a bundle; repair its UIDs if requested.

    Args:
        opened: the scan, under the name "image".
        bundle: the bundle.
        settings: settings of the run.

    Returns:
        The scan, ready for the bundle.

    Raises:
        ModalityError: the bundle was made for other modalities.
        ImageError: the bundle was made for other dimensions.

    Examples:
        >>> import numpy as np
        >>> from medvit.bundles import open_bundle
        >>> from medvit.io import Scan
        >>> from medvit.settings import RunSettings
        >>> from medvit.tasks import prepare_scan
        >>> mr = Scan(array=np.zeros((1, 4, 4, 4), np.float32), affine=np.eye(4), kind="dicom", modality="MR")
        >>> prepare_scan({"image": mr}, open_bundle("headneck_ct_swin_unetr"), RunSettings(force=True)).forced
        ('Forced: modality MR, where headneck_ct_swin_unetr is made for CT.',)
    """
    scan = opened["image"]
    forced = _require_fit(scan, bundle, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    unknown = [] if bundle.facts.modalities else [f"The modality that {bundle.name} was made for is not known."]
    return PreparedScan(scan=scan, notes=(*scan.notes, *scan.excluded, *unknown), forced=forced, repaired=repaired)
