"""Widget "Correct and save labels"; painting and undo are napari's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QCheckBox, QFileDialog, QFormLayout, QHBoxLayout, QPushButton, QVBoxLayout

from medvit import Converted
from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import add_layers
from medvit_napari.reading.painted_labels import is_corrected
from medvit_napari.saving.empty_labels import new_labels
from medvit_napari.saving.save_labels import labels_of, save_layer
from medvit_napari.widgets.panel import JobPanel

__all__ = ["SaveWidget"]


class SaveWidget(JobPanel):
    """Widget to save a label layer as NIfTI, DICOM SEG or RTSTRUCT; each file is read back and compared before it is
    published.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.image, self.labels = self.combo(("Image",)), self.combo(("Labels",))
        self.types = {
            "nifti": QCheckBox("NIfTI"),
            "dicom-seg": QCheckBox("DICOM SEG"),
            "rtstruct": QCheckBox("RTSTRUCT"),
        }
        self.types["dicom-seg"].setChecked(True)
        self.overwrite, self.repair = QCheckBox("Overwrite"), QCheckBox("Repair tags")
        self.new_button, self.save_button = QPushButton("New labels on this image"), QPushButton("Save in a folder...")
        form = QFormLayout()
        form.addRow("Image", self.image)
        form.addRow(self.new_button)
        form.addRow("Labels", self.labels)
        layout, kinds, ways = QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        for box in self.types.values():
            kinds.addWidget(box)
        for box in (self.overwrite, self.repair):
            ways.addWidget(box)
        layout.addLayout(form)
        layout.addLayout(kinds)
        layout.addLayout(ways)
        layout.addWidget(self.save_button)
        layout.addLayout(self.job_row())
        layout.addStretch(1)
        self.new_button.clicked.connect(self.new)
        set_icon(self.save_button, "save", napari_viewer)
        self.save_button.clicked.connect(self.ask_and_save)

    def new(self) -> None:
        """Add an empty label layer on the chosen image."""
        try:
            add_layers(self.viewer, [new_labels(self.image.layer())])
        except Exception as error:
            self.show_error(error)

    def ask_and_save(self) -> None:
        """Ask for a folder and save in it."""
        folder = QFileDialog.getExistingDirectory(self, "Save the labels in")
        if folder:
            self.save(Path(folder))

    def save(self, folder: Path) -> None:
        """Save the chosen label layer in a folder."""
        layer = self.labels.layer()
        if layer is None:
            self.status.setText("Found no label layer; one is needed. Run a bundle, or make new labels on an image.")
            return
        types = tuple(name for name, box in self.types.items() if box.isChecked())
        how = {"overwrite": self.overwrite.isChecked(), "repair_tags": self.repair.isChecked()}
        try:
            labels_of(layer)  # raises errors before the job starts
        except Exception as error:
            self.show_error(error)
            return
        corrected = is_corrected(layer)
        self.start(
            lambda progress: save_layer(layer, folder, types, progress=progress, **how),
            lambda saved: self._saved(saved, corrected),
            "Writing the files and reading them back...",
        )

    def _saved(self, saved: Converted, corrected: bool) -> None:
        words = "corrected labels" if corrected else "labels"
        lines = [f"Saved the {words}, read back and compared: {', '.join(saved.files)}.", *saved.flags, *saved.notes]
        self.status.setText("\n".join(lines))
