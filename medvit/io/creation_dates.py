"""Dates that medvit writes into new objects: the day of the run, unless the source was de-identified.

On a DICOM node the day of the run is the day of the study and would reveal it. A de-identified scan therefore carries a
rule for the dates of new objects: shifted into the past by the same number of days as the study's dates, or omitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["TODAY", "Creation"]

_REQUIRED = ("ContentDate", "ContentTime")
"""Attributes of Type 1 in segmentations and reports (PS3.3), which therefore need a value."""

_DATES = ("InstanceCreationDate", "ContentDate", "SeriesDate", "StructureSetDate", "DateOfSecondaryCapture")
_TIMES = ("InstanceCreationTime", "ContentTime", "SeriesTime", "StructureSetTime", "TimeOfSecondaryCapture")
_EMPTY = ("ContentDate", "ContentTime", "StructureSetDate", "StructureSetTime")
"""Attributes of Type 2 in some objects; where dates are withheld they are emptied, not removed."""

_NO_DATE, _NO_TIME = "19000101", "000000"


@dataclass(frozen=True)
class Creation:
    """The rule for dates and times of new objects and records.

    Attributes:
        days_earlier: days by which the day of the run is shifted into the past; the time of day stays.
        withheld: True to state no date or time; where the standard needs a value, it is 1900-01-01, 00:00:00.

    Examples:
        >>> from medvit.io import Creation
        >>> Creation(withheld=True).finished() is None
        True
    """

    days_earlier: int = 0
    withheld: bool = False

    def now(self) -> datetime:
        """Return the date and time to write."""
        return datetime.now() - timedelta(self.days_earlier)

    def finished(self) -> str | None:
        """Return the end of a run for its record, ISO 8601 in UTC; None where dates are withheld."""
        if self.withheld:
            return None
        return (datetime.now(UTC) - timedelta(self.days_earlier)).isoformat(timespec="seconds")

    def restate(self, dataset: Dataset, required: bool) -> None:
        """Replace the creation dates and times of a new object, which state the moment of the run, by this rule.

        Args:
            dataset: a new object with the date of the run; changed in place.
            required: True where ContentDate and ContentTime are Type 1 in this object.
        """
        if not self.withheld:
            day = self.now().strftime("%Y%m%d")
            for keyword in _DATES if self.days_earlier else ():
                if keyword in dataset:
                    setattr(dataset, keyword, day)
            return
        for keyword in (*_DATES, *_TIMES):
            if keyword not in dataset:
                continue
            if keyword in _REQUIRED and required:
                setattr(dataset, keyword, _NO_DATE if keyword in _DATES else _NO_TIME)
            elif keyword in _EMPTY:
                setattr(dataset, keyword, "")
            else:
                del dataset[keyword]


TODAY = Creation()
"""The rule for sources that were not de-identified: the day of the run."""
