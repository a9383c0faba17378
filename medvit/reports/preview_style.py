"""Style of previews: colours, and the set-up, title, footer and saving of a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from medvit.bundles import Bundle
    from medvit.labels import Label

__all__ = [
    "BACKGROUND_COLOR",
    "NOTE_COLOR",
    "TEXT_COLOR",
    "hide_ticks",
    "new_preview",
    "save_preview",
    "unit_color",
    "write_preview_footer",
    "write_preview_title",
]

BACKGROUND_COLOR, TEXT_COLOR, NOTE_COLOR = "#101418", "#e8ecf0", "#ffcc66"
"""Colours of background, text and notes, as hexadecimal RGB."""


def new_preview(width: float, height: float) -> Figure:
    """Create an empty matplotlib figure that needs no display.

    Args:
        width, height: in units of 100 pixels.

    Returns:
        The figure, in the style's background colour.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor=BACKGROUND_COLOR)
    FigureCanvasAgg(figure)
    return figure


def save_preview(figure: Figure, path: Path) -> None:
    """Save a figure as PNG, with the program's name as its only metadata.

    Args:
        figure: the figure.
        path: the file to write.
    """
    figure.savefig(path, facecolor=BACKGROUND_COLOR, metadata={"Software": "medvit"}, format="png")


def write_preview_title(figure: Figure, bundle: Bundle, height: float) -> None:
    """Write the bundle's title at the left of a figure.

    Args:
        figure: the figure.
        bundle: the bundle.
        height: position of the text, as a share of the figure's height.
    """
    figure.text(
        0.01, height, f"{bundle.metadata.get('name', bundle.name)}", color=TEXT_COLOR, fontsize=15, weight="bold"
    )


def write_preview_footer(figure: Figure, words: str, height: float) -> None:
    """Write the intended use, or another note, at the left of a figure.

    Args:
        figure: the figure.
        words: the text.
        height: position of the text, as a share of the figure's height.
    """
    figure.text(0.01, height, words, color=NOTE_COLOR, fontsize=12)


def hide_ticks(axes: Any) -> None:
    """Remove the ticks from the axes of an image.

    Args:
        axes: matplotlib axes.
    """
    axes.set_xticks([])
    axes.set_yticks([])


def unit_color(label: Label) -> tuple[float, ...]:
    """Return a label's colour as RGB in the range 0 to 1.

    Args:
        label: the label.
    """
    return tuple(part / 255 for part in label.color)
