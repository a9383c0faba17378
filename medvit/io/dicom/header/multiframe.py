"""Headers of multi-frame images: one record for each frame, from the functional groups (PS3.3 C.7.6.16)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydicom import Dataset

from medvit.io.dicom.header.parser import DamagedError
from medvit.io.dicom.header.values import finite

if TYPE_CHECKING:
    from medvit.io.dicom.header.plane import PlaneHeader

__all__ = ["frame_planes", "frame_scaling", "functional_group", "shared_groups"]


def shared_groups(header: Dataset) -> Dataset:
    """Return the functional groups that all frames share; an empty data set where there are none."""
    shared: Dataset = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    return shared


def functional_group(shared: Dataset, own: Dataset, name: str) -> Dataset | None:
    """Return a functional group of a frame by the keyword of its sequence: its own, or else the shared one, or else None."""
    for place in (own, shared):
        if place.get(name):
            group: Dataset = place[name].value[0]
            return group
    return None


def frame_planes(plane: PlaneHeader, header: Dataset) -> list[PlaneHeader]:
    """Return a record for each frame with the geometry of its functional groups, or one record without position if
    there are no groups.

    Args:
        plane: the values at the top level of the header.
        header: the whole header, without pixels.

    Raises:
        DamagedError: the number of groups differs from the number of frames, or a value is not numeric.
    """
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame:  # one record for all frames, since a damaged header can state any number of them
        return [replace(plane, position=None)]
    if len(per_frame) != plane.frames:
        raise DamagedError(f"functional groups of {len(per_frame)} frames, where it states {plane.frames}")
    shared = shared_groups(header)
    return [_frame(plane, n, shared, own) for n, own in enumerate(per_frame)]


def _group(shared: Dataset, own: Dataset, name: str) -> Dataset:
    return functional_group(shared, own, name) or Dataset()


def _numbers(group: Dataset, keyword: str) -> tuple[float, ...] | None:
    value = group.get(keyword)
    if value is None or not len(value):
        return None
    numbers = finite(tuple(map(str, value)))
    if numbers is None:
        raise DamagedError(f"a frame's {keyword} is not a finite number")
    return numbers


def _number(group: Dataset, keyword: str, needed: bool = False) -> float | None:
    """Return a number; None where it is absent or, if ``needed`` is false, not numeric."""
    value = group.get(keyword)
    if value in (None, ""):
        return None
    numbers = finite((str(value),))
    if numbers is None and needed:
        raise DamagedError(f"a frame's {keyword} is not a finite number")
    return numbers[0] if numbers else None


def _frame(plane: PlaneHeader, number: int, shared: Dataset, own: Dataset) -> PlaneHeader:
    measures = _group(shared, own, "PixelMeasuresSequence")
    content = _group(shared, own, "FrameContentSequence")
    index = content.get("DimensionIndexValues")
    order = [
        ("TemporalPositionIndex", content.get("TemporalPositionIndex")),
        ("StackID", content.get("StackID")),
        ("EffectiveEchoTime", _group(shared, own, "MREchoSequence").get("EffectiveEchoTime")),
        ("DiffusionBValue", _group(shared, own, "MRDiffusionSequence").get("DiffusionBValue")),
        ("FrameType", "\\".join(_frame_type(shared, own))),
        *((f"dimension {n}", v) for n, v in enumerate([] if index is None else _list(index), 1)),
    ]
    values = _group(shared, own, "PixelValueTransformationSequence")
    slope, intercept = (_number(values, keyword, needed=True) for keyword in ("RescaleSlope", "RescaleIntercept"))
    return replace(
        plane,
        frame=number,
        position=_numbers(_group(shared, own, "PlanePositionSequence"), "ImagePositionPatient") or plane.position,
        orientation=_numbers(_group(shared, own, "PlaneOrientationSequence"), "ImageOrientationPatient")
        or plane.orientation,
        spacing=_numbers(measures, "PixelSpacing") or plane.spacing,
        thickness=_number(measures, "SliceThickness") or plane.thickness,
        between=_number(measures, "SpacingBetweenSlices") or plane.between,
        rescale=plane.rescale if slope is None else (slope, intercept or 0.0),
        unit=str(values.get("RescaleType") or plane.unit),
        unscaled=tuple(
            k for k in plane.unscaled if values.get(k) in (None, "") or (k == "RescaleSlope" and slope == 0)
        ),
        instance=number + 1,
        order=tuple((k, str(v)) for k, v in order if v not in (None, "")),
    )


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]


def _frame_type(shared: Dataset, own: Dataset) -> tuple[str, ...]:
    for name in ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence"):
        found = _group(shared, own, name).get("FrameType")
        if found:
            return tuple(str(v) for v in _list(found))
    return ()


def frame_scaling(dataset: Dataset, frame: int | None, tag: int) -> float | None:
    """Return a private number from the top level of the header, or from the private groups of the frame; None where
    absent.
    """
    places = [dataset]
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if frame is not None and per_frame is not None and frame < len(per_frame):
        own = per_frame[frame]
        places += [item for element in own if element.VR == "SQ" and element.tag.is_private for item in element.value]
    for place in places:
        if tag in place:
            value = place[tag].value
            try:
                return float(value)
            except (TypeError, ValueError):
                return None
    return None
