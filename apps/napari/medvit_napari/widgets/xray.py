"""Widget "Bones from two X-rays"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QLineEdit, QPushButton, QVBoxLayout

from medvit.bundles import bundle_folders, open_bundle
from medvit.errors import GeometryError
from medvit.reconstruction.views import ViewGeometry
from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.notifications import outcome
from medvit_napari.reading.layers import LayerTuple
from medvit_napari.running.radiographs import XrayRequest, parse_number, run_views
from medvit_napari.widgets.panel import JobPanel

__all__ = ["XrayWidget"]


class XrayWidget(JobPanel):
    """Widget to choose an AP and a lateral radiograph, state the pixel size if the files do not, and reconstruct bones."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.ap, self.lat, self.bundle = QLineEdit(), QLineEdit(), QComboBox()
        self.bundle.addItems([n for n in bundle_folders() if open_bundle(n).facts.task == "reconstruction"])
        self.pixel, self.larger, self.force = QLineEdit(), QLineEdit(), QCheckBox("Force")
        self.invert = QCheckBox("Invert (bone is dark)")
        form, layout = QFormLayout(), QVBoxLayout(self)
        for name, line in (("AP view", self.ap), ("Lateral view", self.lat)):
            button = QPushButton(f"{name}...")
            button.clicked.connect(lambda _=False, line=line: self._choose(line))
            form.addRow(button, line)
        rows = {"Bundle": self.bundle, "Pixel (mm)": self.pixel, "Magnification": self.larger}
        for name, part in rows.items():
            form.addRow(name, part)
        self.run_button = QPushButton("Reconstruct")
        set_icon(self.run_button, "xray", napari_viewer)
        self.run_button.clicked.connect(self.run)
        layout.addLayout(form)
        for part in (self.invert, self.force, self.run_button):
            layout.addWidget(part)
        layout.addLayout(self.job_row())
        layout.addStretch(1)

    def _choose(self, line: QLineEdit) -> None:
        name, _ = QFileDialog.getOpenFileName(self, "A radiograph: DICOM, PNG or JPEG")
        if name:
            line.setText(name)

    def run(self) -> None:
        """Start the reconstruction."""
        try:
            flags = ViewGeometry(
                pixel_spacing_mm=parse_number(self.pixel.text()),
                magnification=parse_number(self.larger.text()),
                invert=self.invert.isChecked(),
            )
        except GeometryError as error:
            self.show_error(error)
            return
        request = XrayRequest(
            ap=str(Path(self.ap.text())),
            lat=str(Path(self.lat.text())),
            bundle=self.bundle.currentText(),
            flags=flags,
            force=self.force.isChecked(),
        )
        self.start(lambda progress: run_views(request, progress), self._add, "Starting...")

    def _add(self, made: list[LayerTuple]) -> None:
        seconds = self.seconds
        lines = outcome(add_layers(self.viewer, made), seconds)
        self.status.setText("\n".join([*lines, "The views and the projections of the bones are hidden layers."]))
