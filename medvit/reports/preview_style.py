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

    Examples:
        >>> from medvit.reports import new_preview
        >>> new_preview(4, 3).get_size_inches()
        array([4., 3.])
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

    Examples:
        >>> from pathlib import Path
        >>> from medvit.reports import new_preview, save_preview
        >>> save_preview(new_preview(4, 3), Path("preview.png"))
        >>> Path("preview.png").is_file()
        True
    """
    figure.savefig(path, facecolor=BACKGROUND_COLOR, metadata={"Software": "medvit"}, format="png")


def write_preview_title(figure: Figure, bundle: Bundle, height: float) -> None:
    """Write the bundle's title at the left of a figure.

    Args:
        figure: the figure.
        bundle: the bundle.
        height: position of the text, as a share of the figure's height.

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> from medvit.reports import new_preview, write_preview_title
        >>> figure = new_preview(4, 3)
        >>> write_preview_title(figure, open_bundle("headneck_ct_swin_unetr"), 0.95)
        >>> len(figure.texts)
        1
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

    Examples:
        >>> from medvit.reports import new_preview, write_preview_footer
        >>> figure = new_preview(4, 3)
        >>> write_preview_footer(figure, "For research use, not for diagnosis", 0.02)
        >>> figure.texts[0].get_text()
        'For research use, not for diagnosis'
    """
    figure.text(0.01, height, words, color=NOTE_COLOR, fontsize=12)


def hide_ticks(axes: Any) -> None:
    """Remove the ticks from the axes of an image.

    Args:
        axes: matplotlib axes.

    Examples:
        >>> from medvit.reports import hide_ticks, new_preview
        >>> axes = new_preview(4, 3).add_subplot()
        >>> hide_ticks(axes)
        >>> list(axes.get_xticks())
        []
    """
    axes.set_xticks([])
    axes.set_yticks([])


def unit_color(label: Label) -> tuple[float, ...]:
    """Return a label's colour as RGB in the range 0 to 1.

    Args:
        label: the label.

    Returns:
        Red, green, blue.

    Examples:
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import unit_color
        >>> unit_color(make_label(1, "Liver", (255, 0, 51)))
        (1.0, 0.0, 0.2)
    """
    return tuple(part / 255 for part in label.color)
