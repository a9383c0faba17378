"""Checks of ``test_panels`` on the segment table: painted labels get exactly its names and codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication

from tests.bands import phantom, write_series
from tests.napari.driving import close_boxes, done, opened, said, until, widget

SHOWN, COLOUR, ID, NAME, CODE = range(5)


def names(panel) -> list[str]:
    return [panel.table.item(row, NAME).text() for row in range(panel.table.rowCount())]


def type_code(panel, row: int, text: str) -> None:
    box = panel.table.cellWidget(row, CODE)
    box.lineEdit().setText(text)
    box.lineEdit().editingFinished.emit()
    QApplication.processEvents()


def saved(save, folder: Path) -> dict[str, tuple[str, str, str]]:
    """Segments of the SEG that the widget writes: label, and scheme, value and meaning of its type."""
    save.save(folder)
    done(save)
    table = json.loads((folder / "labels.json").read_text())["labels"]
    seg = pydicom.dcmread(folder / "seg.dcm")
    found = {}
    for item in seg.SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        found[item.SegmentLabel] = (kind.CodingSchemeDesignator, kind.CodeValue, kind.CodeMeaning)
    codes = {row["title"]: tuple(row["code"][key] for key in ("scheme", "value", "meaning")) for row in table.values()}
    assert codes.items() >= found.items(), (codes, found)
    return found


def painted_segments(place: Path) -> None:
    """New labels on a PET: without a name until a person gives one, and as the table has them from then on."""
    write_series(place / "pet", phantom()[0], np.diag([2.0, 2, 3, 1]), Modality="PT")
    viewer = ViewerModel()
    save, table = widget(viewer, "medvit.save"), widget(viewer, "medvit.segments")
    assert "Found no labels" in table.status.text() and not table.add_button.isEnabled()
    opened(viewer, place / "pet")
    said()
    save.types["nifti"].setChecked(True)
    save.new_button.click()
    (labels,) = (layer for layer in viewer.layers if type(layer).__name__ == "Labels")
    assert names(table) == ["Segment 1"] and labels.selected_label == 1
    labels.data[3:6, 3:6, 3:6] = 1
    assert saved(save, place / "plain") == {"Segment 1": ("SCT", "85756007", "Tissue")}
    assert "Without a name, saved with a generic code: Segment 1" in save.status.text(), save.status.text()

    table.table.item(0, NAME).setText("Hot spot")
    type_code(table, 0, "SCT/108369006/Neoplasm")
    table.add_button.click()
    assert names(table) == ["Hot spot", "Segment 2"] and labels.selected_label == 2  # what is painted now
    known = next(label for label in table.known if label.title == "Brainstem")
    box = table.table.cellWidget(1, CODE)
    box.activated.emit(table.known.index(known))
    assert names(table) == ["Hot spot", "Brainstem"]  # chosen by a person
    labels.data[8:10, 3:6, 3:6] = 2
    table.table.selectRow(0)
    assert labels.selected_label == 1
    labels.brush_size = 2
    labels.selected_label = 9
    labels.paint((12, 12, 12), 9)  # an id that the table has not
    assert names(table) == ["Hot spot", "Brainstem", "Segment 9"]
    found = saved(save, place / "named")
    assert found["Hot spot"] == ("SCT", "108369006", "Neoplasm") and found["Segment 9"][2] == "Tissue"
    assert found["Brainstem"] == (known.type.scheme, known.type.value, known.type.meaning)
    hides_and_refuses(table, save, labels, place)
    table.close()
    save.close()


def hides_and_refuses(table, save, labels, place: Path) -> None:
    """A hidden segment keeps its voxels; bad codes, used rows and two of one name are refused in words."""
    row = table.row_of(2)
    table.table.item(row, SHOWN).setCheckState(Qt.Unchecked)
    assert labels.get_color(2)[3] == 0 and labels.get_color(1)[3] == 1 and (labels.data == 2).any()
    table.table.item(row, SHOWN).setCheckState(Qt.Checked)
    table.set_color(2, (10, 20, 30))
    np.testing.assert_allclose(labels.get_color(2)[:3] * 255, (10, 20, 30), atol=1)
    type_code(table, 0, "neoplasm")
    assert "scheme/value/meaning is needed" in " ".join(close_boxes())
    type_code(table, 0, "SCT/1\x1b2/Neoplasm")
    assert "scheme/value/meaning is needed" in " ".join(close_boxes())
    assert "108369006" in table.table.cellWidget(0, CODE).currentText()
    table.table.item(0, NAME).setText("Hot " * 17)  # the SEG would hold 64 characters of it
    assert "DICOM takes at most 64" in " ".join(close_boxes()) and names(table)[0] == "Hot spot"
    table.table.item(0, NAME).setText("Hot\x1bspot")  # which DICOM reads as another script
    assert names(table)[0] == "Hot spot"
    table.table.item(0, NAME).setText("   ")
    assert "a name is needed" in " ".join(close_boxes()) and names(table)[0] == "Hot spot"
    table.table.selectRow(0)
    table.remove_button.click()
    assert "a row with voxels cannot be removed" in " ".join(close_boxes())
    table.table.item(row, NAME).setText("hot  Spot")
    assert "Found 2 segments named" in table.status.text()
    save.save(place / "twins")
    until(lambda: save.job is None)
    (text,) = close_boxes()
    assert "Found 2 segments named" in text and "ids 1, 2" in text and not (place / "twins").exists()
    table.table.item(row, NAME).setText("Cold spot")
    assert set(saved(save, place / "again")) == {"Hot spot", "Cold spot", "Segment 9"}
