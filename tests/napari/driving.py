"""Helpers that drive the plugin's widgets over a viewer's model."""

from __future__ import annotations

import time
from importlib import import_module, resources
from typing import Any

import yaml
from qtpy.QtWidgets import QApplication, QMessageBox


def until(what, seconds: float = 300) -> None:
    """Let Qt work until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        QApplication.processEvents()
        time.sleep(0.005)


def docked(viewer: Any, widget: Any) -> Any:
    """Dock a widget in the window of a viewer; return it."""
    viewer.window.add_dock_widget(widget, name=type(widget).__name__, tabify=True)
    return widget


def boxes() -> list[QMessageBox]:
    """List the messages that are shown."""
    return [w for w in QApplication.topLevelWidgets() if isinstance(w, QMessageBox) and w.isVisible()]


def close_boxes() -> list[str]:
    """Close the messages that are shown; return their texts."""
    texts = [box.text() for box in boxes()]
    for box in boxes():
        box.close()
    return texts


def command(identity: str) -> Any:
    """Return what the plugin's manifest names, wherever its module lies."""
    manifest = yaml.safe_load((resources.files("medvit_napari") / "napari.yaml").read_text())
    (name,) = (c["python_name"] for c in manifest["contributions"]["commands"] if c["id"] == identity)
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def widget(viewer: Any, identity: str) -> Any:
    """Make one of the plugin's widgets on a viewer."""
    return command(identity)(viewer)


def opened(viewer: Any, path: Any) -> list[Any]:
    """Open a path as napari does with the plugin's reader; wait until all of it is read."""
    from napari.layers import Layer

    read = command("medvit.read")(str(path))
    assert read is not None, "the plugin leaves this path to others"
    layers = [viewer.add_layer(Layer.create(data, dict(options), kind)) for data, options, kind in read(str(path))]
    for layer in layers:
        source = getattr(layer.data, "source", layer.data)
        until(lambda source=source: getattr(source, "is_done", True))
    return layers


def said() -> list[tuple[str, str]]:
    """Return napari's notifications since the last call: kind and words."""
    from napari.utils.notifications import notification_manager

    found = [(str(n.severity), n.message) for n in notification_manager.records]
    notification_manager.records.clear()
    return found


def done(panel: Any) -> None:
    """Wait for a panel's job, which must end well."""
    until(lambda: panel.job is None)
    assert panel.last_error is None, panel.status.text()
