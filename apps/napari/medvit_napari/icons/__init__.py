"""Icons of the plugin, each for dark and for light themes."""

from __future__ import annotations

import contextlib
from importlib import resources
from pathlib import Path
from typing import Any

__all__ = ["NAMES", "icon_file", "set_icon"]

NAMES = ("run", "save", "look", "server", "xray", "views", "segments")


def icon_file(name: str, kind: str) -> Path:
    """Return the path of an icon's SVG for a "dark" or a "light" theme."""
    return Path(str(resources.files(__name__) / f"{name}_{kind}.svg"))


def set_icon(button: Any, name: str, viewer: Any) -> None:
    """Put an icon on a button, and change it with the viewer's theme.

    Args:
        button: a Qt button.
        name: one of ``NAMES``.
        viewer: a viewer or its model.
    """
    import weakref

    from qtpy.QtGui import QIcon

    seen = weakref.ref(button)

    def draw(event: Any = None) -> None:
        alive = seen()
        if alive is None:
            with contextlib.suppress(ValueError, RuntimeError):
                viewer.events.theme.disconnect(draw)
            return
        with contextlib.suppress(RuntimeError):  # Qt may already have deleted the button
            alive.setIcon(QIcon(str(icon_file(name, _kind(viewer.theme)))))

    viewer.events.theme.connect(draw)
    draw()


def _kind(theme: str) -> str:
    from napari.utils.theme import get_theme

    return str(getattr(get_theme(theme), "type", "dark"))
