"""The widget for two X-rays: bones in three dimensions, and what they would look like in each picture."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QComboBox, QFileDialog, QFormLayout, QLineEdit, QPushButton, QVBoxLayout

from medvit.bundles import bundle_folders, open_bundle
from medvit.errors import GeometryError
from medvit.progress import Progress
from medvit.reconstruction.views import ViewGeometry
from medvit_napari.icons import set_icon
from medvit_napari.looking.notifications import outcome
from medvit_napari.reading.layers import LayerTuple, reconstructed_layers
from medvit_napari.running.job import load_triton
from medvit_napari.widgets.panel import JobPanel, add_layers

__all__ = ["XrayRequest", "XrayWidget", "run_views"]


@dataclass(frozen=True)
class XrayRequest:
    """Two radiographs and what a person states about them."""

    ap: str
    lat: str
    bundle: str
    flags: ViewGeometry = field(default_factory=ViewGeometry)
    force: bool = False


def run_views(request: XrayRequest, progress: Progress) -> list[LayerTuple]:
    """Labels and surfaces of the bones, each picture, and over it the millimetres of bone along its rays.

    Raises:
        MedvitError: as ``medvit.reconstruct``.
    """
    load_triton()
    import medvit

    how = {"ap_flags": request.flags, "lat_flags": request.flags, "force": request.force, "progress": progress}
    result = medvit.reconstruct(request.ap, request.lat, request.bundle, **how)  # type: ignore[arg-type]
    layers = reconstructed_layers(result)
    sides, shape = np.linalg.norm(result.affine[:3, :3], axis=0), result.array.shape
    for view, picture, shadow, across in zip(result.views, result.pictures, result.reprojections, (0, 1), strict=True):
        pixel = [sides[axis] * shape[axis] / count for axis, count in zip((2, across), picture.shape, strict=True)]
        look = {"visible": False, "units": ("mm", "mm"), "scale": pixel}
        layers.append((picture, {"name": f"{view.slot} view", **look}, "image"))
        over = {"colormap": "magenta", "blending": "additive", "opacity": 0.6, **look}
        layers.append((shadow, {"name": f"{view.slot} view, projected again (mm of bone)", **over}, "image"))
    return layers


class XrayWidget(JobPanel):
    """Choose an AP and a lateral view, say how large a pixel is where the files do not, and reconstruct."""

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
        """Begin."""
        try:
            flags = ViewGeometry(
                _number(self.pixel.text()), _number(self.larger.text()), invert=self.invert.isChecked()
            )
        except GeometryError as error:
            self.show_error(error)
            return
        views = str(Path(self.ap.text())), str(Path(self.lat.text()))
        request = XrayRequest(*views, self.bundle.currentText(), flags, self.force.isChecked())
        self.start(lambda progress: run_views(request, progress), self._add, "Starting...")

    def _add(self, made: list[LayerTuple]) -> None:
        seconds = self.seconds
        lines = outcome(add_layers(self.viewer, made), seconds)
        self.status.setText("\n".join([*lines, "The views and what was projected again are hidden layers."]))


def _number(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise GeometryError(f"Found {text!r}; a number is needed, such as 0.15. Correct it.") from None
