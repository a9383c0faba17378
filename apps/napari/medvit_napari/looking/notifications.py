"""Notifications in napari's window, and the rating of a run as a sentence. They need no Qt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medvit_napari.reading.layer_info import place_of

__all__ = ["outcome", "rating_line", "tell", "tell_of", "warn"]

_MOST = 6
"""Upper limit of remarks in one notification; the layer's metadata and the widget Look list all."""


def warn(text: str) -> None:
    """Show a warning in napari's window."""
    from napari.utils.notifications import show_warning

    show_warning(text)


def tell(text: str) -> None:
    """Show a note in napari's window."""
    from napari.utils.notifications import show_info

    show_info(text)


def tell_of(layer: Any, known: Iterable[str] = ()) -> None:
    """Show warnings and notes about an opened layer, as one notification each.

    Args:
        layer: layer in the viewer.
        known: remarks that have already been shown.
    """
    place = place_of(layer)
    if place is None:
        return
    shown = set(known)
    for show, remarks in ((warn, place.warnings), (tell, place.reading_notes)):
        fresh = [remark for remark in remarks if remark not in shown]
        if fresh:
            show("\n".join([f"{layer.name}:", *_shortened(fresh)]))


def _shortened(remarks: list[str]) -> list[str]:
    more = len(remarks) - _MOST
    return remarks if more <= 0 else [*remarks[:_MOST], f"and {more} more; the widget Look lists all."]


def rating_line(quality: Mapping[str, Any]) -> str:
    """Return a run's rating and its reasons as one line; "" if there is no rating.

    Args:
        quality: see ``Result.quality``.
    """
    rating = quality.get("rating") or ""
    if not rating:
        return ""
    reasons = [str(reason).rstrip(".") for reason in quality.get("reasons", ())]
    return f"Rating: {rating}" + (f" ({'; '.join(reasons)})." if reasons else ".")


def outcome(layers: list[Any], seconds: float) -> list[str]:
    """Return lines on the result of a run: rating, time, layers, flags and notes; show a warning unless the rating is
    good.

    Args:
        layers: layers added to the viewer.
        seconds: time from the start of the run to the layers.
    """
    place = next((found for layer in layers if (found := place_of(layer)) is not None), None)
    rating = rating_line(place.quality) if place is not None else ""
    names = ", ".join(layer.name for layer in layers)
    lines = [" ".join(filter(None, ["Done.", rating, f"{seconds:.1f} s.", f"Layers: {names}."]))]
    if place is not None:
        if rating and not rating.startswith("Rating: good"):
            warn(f"{place.made_by}: {rating}")
        lines += [*place.warnings, *place.remarks]
    return lines
