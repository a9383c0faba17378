"""Widget "Run a bundle"; its functions are in ``running``."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout

from medvit.bundles import Bundle
from medvit.settings import DEFAULT_BUNDLE, RunSettings
from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.notifications import outcome
from medvit_napari.reading.layers import LayerTuple
from medvit_napari.running.job import Request, card, cards, fetch_weights, preload, region_corners, run_request
from medvit_napari.widgets.dialogs import confirm
from medvit_napari.widgets.panel import JobPanel

__all__ = ["RunWidget"]


class RunWidget(JobPanel):
    """Widget to run a bundle on an image and add the result as layers. Existing layers are never changed."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.image = self.combo(("Image",))
        self.bundles: list[Bundle] = cards()
        self.bundle, self.device = QComboBox(), QComboBox()
        self.bundle.addItems([b.name for b in self.bundles])
        self.device.addItems(["auto", "cpu", "gpu", "mps"])
        self.card, self.fetch_button = QLabel(), QPushButton("Fetch weights...")
        self.card.setWordWrap(True)
        self.card.setTextFormat(Qt.RichText)
        self.region = self.combo(("Shapes",), "whole image")
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("only for layers medvit did not open, e.g. IPL")
        self.fast, self.quality = QCheckBox("Fast"), QCheckBox("Quality map (twice the time)")
        self.surfaces, self.force = QCheckBox("Surfaces"), QCheckBox("Force a modality")
        self.low_memory = QCheckBox("Low memory")
        self.run_button = QPushButton("Run")
        self._lay_out()
        self.bundle.currentIndexChanged.connect(self._show_card)
        set_icon(self.run_button, "run", napari_viewer)
        self.run_button.clicked.connect(self.run)
        self.fetch_button.clicked.connect(self.fetch)
        names = [b.name for b in self.bundles]
        self.bundle.setCurrentIndex(names.index(DEFAULT_BUNDLE) if DEFAULT_BUNDLE in names else 0)
        self._show_card()
        preload()

    def _lay_out(self) -> None:
        form = QFormLayout()
        rows = {"Image": self.image, "Bundle": self.bundle, "Device": self.device}
        for name, part in (rows | {"Region": self.region, "Axes": self.axes}).items():
            form.addRow(name, part)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self.card)
        layout.addWidget(self.fetch_button)
        for pair in ((self.fast, self.surfaces), (self.quality, self.force), (self.low_memory,)):
            row = QHBoxLayout()
            for box in pair:
                row.addWidget(box)
            layout.addLayout(row)
        layout.addWidget(self.run_button)
        layout.addLayout(self.job_row())
        layout.addStretch(1)

    def request(self) -> Request:
        """Return the request that the fields describe."""
        settings = RunSettings(
            device=self.device.currentText(),
            fast=self.fast.isChecked(),
            force=self.force.isChecked(),
            quality_map=self.quality.isChecked(),
            low_memory=self.low_memory.isChecked(),
        )
        shapes = self.region.layer()
        corners = region_corners(shapes) if shapes is not None else None
        axes, surfaces = self.axes.text(), self.surfaces.isChecked()
        return Request(
            layer=self.image.layer(),
            bundle=self.bundle.currentText(),
            settings=settings,
            axes=axes,
            surfaces=surfaces,
            region=corners,
        )

    def run(self) -> None:
        """Start a run with the values of the fields."""
        request = self.request()
        if request.layer is None:
            self.status.setText(
                "Found no image layer; one is needed. Drop a DICOM folder or a NIfTI file on the window."
            )
            return
        self.start(
            lambda progress: run_request(request, progress), lambda made: self._add(made, request), "Starting..."
        )

    def _add(self, made: list[LayerTuple], request: Request) -> None:
        seconds = self.seconds
        lines = outcome(add_layers(self.viewer, made), seconds)
        if request.layer not in self.viewer.layers:
            lines.insert(1, "Its image was closed meanwhile; the result is at the position of the image.")
        use = next(b.intended_use for b in self.bundles if b.name == request.bundle)
        self.status.setText("\n".join([*lines, f"{use}."]))

    def fetch(self) -> None:
        """Show the source and licence of a bundle's weights, and fetch them if the user agrees."""
        name = self.bundle.currentText()
        bundle = self.bundles[self.bundle.currentIndex()]
        origin = bundle.facts.weights.origin
        if origin is None:
            self.status.setText(
                f"Found no address for the weights of {name}; it cannot be fetched. Choose another bundle."
            )
            return
        text = f"From: {origin.address}\nLicence: {origin.licence}\nIntended use: {bundle.intended_use}\n\nFetch them?"
        if confirm(f"Weights of {name}", text, self):
            self.start(lambda progress: fetch_weights(name, progress), self._fetched, "Fetching...")

    def _fetched(self, state: str) -> None:
        self.status.setText(f"The weights are {state}.")
        self._show_card()

    def _show_card(self, *_: Any) -> None:
        if self.bundles:
            bundle = self.bundles[self.bundle.currentIndex()]
            self.card.setText(card(bundle))
            self.fetch_button.setVisible(bundle.state == "not fetched")
