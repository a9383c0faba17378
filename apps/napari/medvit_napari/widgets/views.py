"""Widget with a coronal and a sagittal view, and a comparison of two images side by side or by a swipe line."""

from __future__ import annotations

import contextlib
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFormLayout, QHBoxLayout, QLabel, QPushButton, QSlider, QVBoxLayout

from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.orthogonal_views import LinkedViews
from medvit_napari.looking.swipe_compare import Swipe, swipe_layer
from medvit_napari.widgets.panel import JobPanel

__all__ = ["ViewsWidget"]


class ViewsWidget(JobPanel):
    """Widget with linked views: a click in a view (with Shift in the main window) moves all views to that point."""

    def __init__(self, napari_viewer: Any) -> None:
        from napari.qt import QtViewer

        super().__init__(napari_viewer)
        self.views = LinkedViews(napari_viewer)
        self.canvases = {name: QtViewer(model) for name, model in self.views.others.items()}
        self.first, self.second = self.combo(("Image",)), self.combo(("Image",))
        self.swipe_button, self.grid = QPushButton("Swipe"), QCheckBox("Side by side")
        self.line = QSlider(Qt.Horizontal)
        self.line.setRange(0, 100)
        self.line.setValue(50)
        self.line.setEnabled(False)
        self.swipe: Any = None
        layout, form, row = QVBoxLayout(self), QFormLayout(), QHBoxLayout()
        for name, canvas in self.canvases.items():
            layout.addWidget(QLabel(name))
            layout.addWidget(canvas, 1)
            canvas.setMinimumSize(220, 180)
        form.addRow("Left", self.first)
        form.addRow("Right", self.second)
        for part in (self.swipe_button, self.line, self.grid):
            row.addWidget(part)
        layout.addLayout(form)
        layout.addLayout(row)
        layout.addLayout(self.job_row())
        set_icon(self.swipe_button, "views", napari_viewer)
        self.swipe_button.clicked.connect(self.compare)
        self.line.valueChanged.connect(self.part)
        self.grid.toggled.connect(lambda on: setattr(self.viewer.grid, "enabled", on))

    def compare(self) -> None:
        """Add a layer that shows the left image on one side of a line and the right image on the other."""
        first, second = self.first.layer(), self.second.layer()
        if first is None or second is None:
            self.status.setText("Found no two images; an image and its restored one are needed. Run a bundle first.")
            return
        try:
            (self.swipe,) = add_layers(self.viewer, [swipe_layer(first, second)])
        except Exception as error:
            self.show_error(error)
            return
        self.line.setEnabled(True)
        self.part(self.line.value())

    def part(self, percent: int) -> None:
        """Move the swipe line to a percentage of the width."""
        if self.swipe is not None and isinstance(self.swipe.data, Swipe):
            self.swipe.data.share = percent / 100
            self.swipe.refresh(extent=False)

    def showEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Fit the views when their size is known."""
        super().showEvent(event)
        for model in self.views.others.values():
            model.reset_view()

    def release(self) -> None:
        """Stop following the viewer.

        The canvases move to the window, since destroying them before it would end the process with a fault.
        """
        self.views.release()
        super().release()
        home = getattr(
            self.viewer.window, "_qt_window", None
        )  # None if the window closed first, and its canvases with it
        canvases, self.canvases = (self.canvases if home is not None else {}), {}
        for canvas in canvases.values():
            with contextlib.suppress(RuntimeError):  # Qt may already have deleted the canvas
                canvas.dims.stop()
                canvas.hide()
                canvas.setParent(home)
