"""Words that reach the window: napari's notifications, and the rating of a run as a sentence. No Qt in here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medvit_napari.errors import in_window
from medvit_napari.reading.layer_info import place_of

__all__ = ["outcome", "rating_line", "tell", "tell_of", "warn"]

_MOST = 6
"""Remarks shown in one notification; all stand in the layer's metadata and in the widget Look."""


def warn(text: str) -> None:
    """Show a warning in napari's window."""
    from napari.utils.notifications import show_warning

    show_warning(in_window(text))


def tell(text: str) -> None:
    """Show a note in napari's window."""
    from napari.utils.notifications import show_info

    show_info(in_window(text))


def tell_of(layer: Any, known: Iterable[str] = ()) -> None:
    """Show what a person must know of a layer that was opened: one warning and one note, where there is something.

    Args:
        layer: in the viewer.
        known: remarks that were shown before.
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
    return remarks if more <= 0 else [*remarks[:_MOST], f"and {more} more; see Look, About this image."]


def rating_line(quality: Mapping[str, Any]) -> str:
    """Put a run's rating and its reasons into one line; empty where there is no rating.

    Args:
        quality: as ``Result.quality`` gives it.
    """
    rating = quality.get("rating") or ""
    if not rating:
        return ""
    reasons = [str(reason).rstrip(".") for reason in quality.get("reasons", ())]
    return f"Rating: {rating}" + (f" ({'; '.join(reasons)})." if reasons else ".")


def outcome(layers: list[Any], seconds: float) -> list[str]:
    """Say what a run gave: its rating with reasons, its time and all layers made, then flags and notes; warn where it is not good.

    Args:
        layers: added to the viewer.
        seconds: from the start to the layers.
    """
    place = next((found for layer in layers if (found := place_of(layer)) is not None), None)
    rating = rating_line(place.quality) if place is not None else ""
    names = ", ".join(layer.name for layer in layers)
    lines = [" ".join(filter(None, ["Done.", rating, f"{seconds:.1f} s.", f"Layers: {names}."]))]
    if place is not None:
        if rating and not rating.startswith("Rating: good"):
            warn(f"{place.made_by}: {rating}")
        lines += [*place.warnings, *place.remarks]
    return [in_window(line) for line in lines]
