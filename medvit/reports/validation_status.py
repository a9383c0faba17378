"""Validation of a bundle's weights and anatomy, which decides if a result is "uncalibrated"; no other module decides
this.

The rating "good" means that no fault was found. It is reliable only if results of the same weights were compared with
reference labels of real patients and were acceptable, and only for images of the same anatomy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medvit.bundles import BundleFacts, Validation
from medvit.io import axis_codes
from medvit.io.dicom.header import body_regions, examined_regions

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.io import Scan

__all__ = [
    "FIELD_TOLERANCE",
    "MIN_REAL_CASES",
    "ImagedAnatomy",
    "Standing",
    "field_words",
    "imaged_anatomy",
    "standing_of",
    "with_standing",
]

MIN_REAL_CASES = 8
"""Smallest number of real patients in a calibration for the rating "good"."""

FIELD_TOLERANCE = 0.25
"""Share by which an image may be smaller than the smallest, or larger than the largest validated field of view, along
each axis.
"""

_AXES = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class ImagedAnatomy:
    """The part of the body that an image shows, as far as known.

    Attributes:
        regions: body regions that the header names, see ``medvit.io.dicom.header.body_part.examined_regions``.
        extent_mm: extent from right to left, front to back and head to foot, along the nearest axes; None for a
            picture.

    Examples:
        >>> from medvit.reports import ImagedAnatomy
        >>> ImagedAnatomy(frozenset({"HEAD"}), (200.0, 220.0, 250.0)).extent_mm
        (200.0, 220.0, 250.0)
    """

    regions: frozenset[str] | None
    extent_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Validation of a bundle's weights: cases, score, anatomy, and reasons against the rating "good".

    Attributes:
        real_cases, synthetic_cases: numbers of cases in the calibration.
        mean_dice: mean Dice on the real cases; None for restorations and without real cases.
        acceptable: smallest acceptable mean Dice.
        body_parts: validated values of BodyPartExamined.
        field_of_view_mm: smallest and largest validated extent; None where not stated.
        missing: reasons why no result can be rated "good", each a part of a sentence; empty where a result can.
    """

    real_cases: int
    synthetic_cases: int
    mean_dice: float | None
    acceptable: float
    body_parts: tuple[str, ...]
    field_of_view_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None
    missing: tuple[str, ...]

    @property
    def best_rating(self) -> str:
        """Best possible rating of a result."""
        return "uncalibrated" if self.missing else "good"


def standing_of(bundle: Bundle) -> Standing:
    """Return the validation of a bundle's own weights.

    Args:
        bundle: the bundle.

    Returns:
        Cases, score and anatomy, and the reasons against the rating "good".

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> from medvit.reports import standing_of
        >>> standing_of(open_bundle("headneck_ct_swin_unetr")).best_rating
        'good'
    """
    facts = bundle.facts
    entry = bundle.fetched
    own = facts.weights.sha256 if entry is None else entry.sha256
    known = facts.validation
    known = known if known is not None and known.weights_sha256 == own else None
    return Standing(
        real_cases=known.real_cases if known else 0,
        synthetic_cases=known.synthetic_cases if known else 0,
        mean_dice=known.mean_dice if known else None,
        acceptable=facts.acceptable,
        body_parts=known.body_parts if known else (),
        field_of_view_mm=known.field_of_view_mm if known else None,
        missing=tuple(_missing(facts, known)),
    )


def _missing(facts: BundleFacts, known: Validation | None) -> list[str]:
    """Return the reasons why no result of these weights can be rated "good"."""
    if known is None:
        return [f"these weights were not calibrated on real patients; at least {MIN_REAL_CASES} cases are needed"]
    if known.real_cases < MIN_REAL_CASES:
        made = f" ({known.synthetic_cases} are synthetic)" if known.synthetic_cases else ""
        return [
            f"the calibration rests on {known.real_cases} cases of real patients{made}; at least {MIN_REAL_CASES} are needed"
        ]
    if facts.task == "restoration":
        return []
    if known.mean_dice is None:
        return ["the calibration states no mean Dice on real patients"]
    if known.mean_dice < facts.acceptable:
        return [
            f"the mean Dice on the {known.real_cases} cases of the calibration is {known.mean_dice:.2f}; at least "
            f"{facts.acceptable:.2f} is needed"
        ]
    return []


def with_standing(
    rated: dict[str, Any], bundle: Bundle, known: Validation | None, images: Sequence[ImagedAnatomy]
) -> dict[str, Any]:
    """Add the validation of weights and anatomy to a rating.

    Args:
        rated: ``{"rating", "reasons"}`` from the result alone.
        bundle: the bundle that made the result.
        known: validation of the weights that ran; None where there is none.
        images: anatomy of the images that the result was made of.

    Returns:
        The rating with the reasons against "good"; where there is a reason, "good" becomes "uncalibrated".

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> from medvit.reports import with_standing
        >>> rated = {"rating": "good", "reasons": []}
        >>> with_standing(rated, open_bundle("headneck_ct_swin_unetr"), None, [])["rating"]
        'uncalibrated'
    """
    reasons = _missing(bundle.facts, known)
    if known is not None:
        reasons += [reason for image in images for reason in _outside(image, known)]
    rating = "uncalibrated" if reasons and rated["rating"] == "good" else rated["rating"]
    return {"rating": rating, "reasons": [*rated["reasons"], *dict.fromkeys(reasons)]}


def _outside(image: ImagedAnatomy, known: Validation) -> list[str]:
    """Describe the differences between an image and the validated anatomy: regions in its header, and field of view."""
    reasons = []
    validated: frozenset[str] = frozenset().union(*map(body_regions, known.body_parts))
    regions, extent = image.regions, image.extent_mm
    if regions is not None and validated and not (regions and regions <= validated):
        what = " and ".join(sorted(regions)) if regions else "a region that is not known"
        reasons.append(f"BodyPartExamined names {what}; validated is {', '.join(known.body_parts)}")
    if extent is None:
        return reasons
    if known.field_of_view_mm is None:
        return reasons if validated else [*reasons, "the bundle does not state which anatomy it was validated on"]
    smallest, largest = known.field_of_view_mm
    if any(
        not (1 - FIELD_TOLERANCE) * low <= mm <= (1 + FIELD_TOLERANCE) * high
        for mm, low, high in zip(extent, smallest, largest, strict=True)
    ):
        ranges = field_words(known.field_of_view_mm)
        found = " x ".join(f"{mm:.0f}" for mm in extent)
        reasons.append(
            f"the image covers {found} mm (right-left, front-back, head-foot); validated are {ranges} mm, "
            f"{100 * FIELD_TOLERANCE:.0f} % less or more allowed"
        )
    return reasons


def field_words(field_mm: tuple[tuple[float, float, float], tuple[float, float, float]]) -> str:
    """Format the smallest and largest extent of a validated field of view, in mm without the unit.

    Args:
        field_mm: smallest and largest extent in mm: right-left, front-back, head-foot.

    Returns:
        Three extents, or ranges of them.

    Examples:
        >>> from medvit.reports import field_words
        >>> field_words(((180.0, 200.0, 120.0), (240.0, 260.0, 120.0)))
        '180 to 240 x 200 to 260 x 120'
    """
    return " x ".join(f"{a:.0f}" if a == b else f"{a:.0f} to {b:.0f}" for a, b in zip(*field_mm, strict=True))


def imaged_anatomy(scan: Scan) -> ImagedAnatomy:
    """Determine the part of the body that a scan shows.

    Args:
        scan: the image.

    Returns:
        The regions that its headers name, and its extent.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.reports import imaged_anatomy
        >>> scan = Scan(array=np.zeros((1, 10, 20, 5), np.float32), affine=np.diag([2.0, 2.0, 5.0, 1.0]), kind="array")
        >>> imaged_anatomy(scan).extent_mm
        (20.0, 40.0, 25.0)
    """
    if scan.is_picture:
        return ImagedAnatomy(examined_regions(scan.slices))
    found = [0.0, 0.0, 0.0]
    for code, count, side in zip(axis_codes(scan.affine), scan.array.shape[1:], scan.spacing_mm, strict=True):
        found[_AXES[code]] = count * side
    return ImagedAnatomy(examined_regions(scan.slices), (found[0], found[1], found[2]))
