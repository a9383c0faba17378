"""Widget "Look"; its functions are in ``looking``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from medvit.labels import LabelMeasures
from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import align
from medvit_napari.looking.display import (
    PLANES,
    DragWindow,
    about,
    go_to,
    label_table,
    outline,
    save_gif,
    set_window,
    show_plane,
    windows_of,
)
from medvit_napari.widgets.panel import JobPanel

__all__ = ["LookWidget"]


class LookWidget(JobPanel):
    """Widget for contrast windows, planes, label measurements and pictures."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.image, self.labels = self.combo(("Image",)), self.combo(("Labels",))
        self.window, self.outlines = QComboBox(), QCheckBox("Outlines")
        self.dragging = QCheckBox("Dragging sets the contrast window")
        self.dragging.setToolTip(
            "Drag right for a wider window, up for a brighter image. With a modifier key, or while painting, dragging works as usual."
        )
        self.drag = DragWindow(napari_viewer, self.image.layer)
        self.table = QTableWidget(0, 4)
        self.table.setHorizontalHeaderLabels(["Label", "mL", "Mean", "Std"])
        self.table.setEditTriggers(QTableWidget.NoEditTriggers)
        self.rows: list[LabelMeasures] = []
        self._shown: Any = None
        self.about, self.along_button = QLabel(""), QPushButton("Show along its axes")
        self.about.setWordWrap(True)
        self.about.setTextInteractionFlags(Qt.TextSelectableByMouse)
        self.along_button.setToolTip("Turn the view to this image's own axes; other images are interpolated along them")
        form, layout, planes, out = QFormLayout(), QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        for name, part in {"Image": self.image, "Window": self.window, "Labels": self.labels}.items():
            form.addRow(name, part)
        for name in PLANES:
            planes.addWidget(_button(name, lambda _=False, plane=name: self._guard(show_plane, self.viewer, plane)))
        planes.addWidget(_button("3-D", lambda _=False: setattr(self.viewer.dims, "ndisplay", 3)))
        for name, act in {"Measure": self.measure, "Picture...": self.picture, "GIF...": self.gif}.items():
            out.addWidget(_button(name, act))
        self.measure_button = out.itemAt(0).widget()
        set_icon(self.measure_button, "look", napari_viewer)
        layout.addLayout(form)
        layout.addWidget(self.about)
        layout.addWidget(self.along_button)
        layout.addLayout(planes)
        layout.addWidget(self.dragging)
        layout.addWidget(self.outlines)
        layout.addWidget(self.table)
        layout.addLayout(out)
        layout.addLayout(self.job_row())
        self.image.currentIndexChanged.connect(self._offer)
        self.along_button.clicked.connect(self.show_along)
        self.window.activated.connect(self._apply)
        self.outlines.toggled.connect(self._outline)
        self.dragging.toggled.connect(self.drag.turn)
        self.table.cellClicked.connect(self._go)
        self._offer()

    def _outline(self, on: bool) -> None:
        layer = self.labels.layer()
        if layer is not None:
            outline(layer, on)

    def release(self) -> None:
        """Restore the usual effect of dragging, and stop following the image."""
        self._watch(None)
        self.drag.turn(False)
        super().release()

    def _guard(self, act: Any, *given: Any) -> Any:
        try:
            return act(*given)
        except Exception as error:
            self.show_error(error)
            return None

    def _offer(self, *_: Any) -> None:
        self.window.clear()
        layer = self.image.layer()
        if layer is not self._shown:
            self._watch(layer)
        self._describe()
        if layer is not None and not getattr(layer, "rgb", False):
            for window in windows_of(layer):
                self.window.addItem(f"{window.name} ({window.center:.0f}, {window.width:.0f})", window.limits)

    def _watch(self, layer: Any) -> None:
        """Follow the remarks of the chosen image, some of which are known only when all of it has been read."""
        if self._shown is not None:
            self._shown.events.data.disconnect(self._describe)
        self._shown = layer
        if layer is not None:
            layer.events.data.connect(self._describe)

    def _describe(self, *_: Any) -> None:
        layer = self.image.layer()
        self.about.setText("" if layer is None else "\n".join(about(layer)))
        self.along_button.setEnabled(layer is not None and bool(layer.metadata.get("orientation")))

    def show_along(self) -> None:
        """Show all layers along the chosen image's own axes."""
        layer = self.image.layer()
        if layer is not None:
            align(self.viewer).show_along(layer)
            self._describe()

    def _apply(self, *_: Any) -> None:
        layer, limits = self.image.layer(), self.window.currentData()
        if layer is not None and limits is not None:
            set_window(layer, limits)

    def measure(self) -> None:
        """Measure the chosen labels and fill the table."""
        layer = self.labels.layer()
        if layer is None:
            self.status.setText("Found no label layer; one is needed. Run a bundle, or open a SEG.")
            return
        self.start(lambda progress: label_table(layer), self._fill, "Measuring...")

    def _fill(self, rows: list[LabelMeasures]) -> None:
        self.rows = [row for row in rows if row.voxels]
        self.table.setRowCount(len(self.rows))
        for at, row in enumerate(self.rows):
            cells = [row.title, *("-" if v is None else f"{v:.1f}" for v in (row.volume_ml, row.mean, row.std))]
            for column, text in enumerate(cells):
                self.table.setItem(at, column, QTableWidgetItem(text))
        self.status.setText(f"{len(self.rows)} label(s). Click one to go to it.")

    def _go(self, row: int, _: int) -> None:
        layer = self.labels.layer()
        if layer is not None:
            self._guard(go_to, self.viewer, layer, self.rows[row].id)

    def picture(self) -> None:
        """Save the picture on the screen."""
        name, _ = QFileDialog.getSaveFileName(self, "Save the picture", "", "PNG (*.png)")
        if name:
            self.viewer.screenshot(str(Path(name).with_suffix(".png")), canvas_only=True)

    def gif(self) -> None:
        """Save the slices as an animation."""
        name, _ = QFileDialog.getSaveFileName(self, "Save the animation", "", "GIF (*.gif)")
        if name:
            self._guard(
                save_gif, self.viewer, Path(name), lambda: self.viewer.screenshot(canvas_only=True, flash=False)
            )


def _button(name: str, act: Any) -> QPushButton:
    made = QPushButton(name)
    made.clicked.connect(act)
    return made
