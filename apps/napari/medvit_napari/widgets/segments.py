"""Widget "Segments"; its functions are in ``looking.segment_table``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor
from qtpy.QtWidgets import (
    QAbstractItemView,
    QColorDialog,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QPushButton,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
)

from medvit.labels import Label
from medvit_napari.errors import readable
from medvit_napari.icons import set_icon
from medvit_napari.looking.segment_table import (
    add_segment,
    add_segments,
    change_segment,
    check_names,
    code_text,
    hidden_ids,
    known_labels,
    parse_code,
    remove_segment,
    set_visible,
    table_of,
)
from medvit_napari.reading.layer_info import place_of
from medvit_napari.running.job import cards
from medvit_napari.widgets.panel import JobPanel

__all__ = ["SegmentsWidget"]

COLUMNS = ("Shown", "Colour", "Id", "Name", "Code")
SHOWN, COLOUR, ID, NAME, CODE = range(5)


class SegmentsWidget(JobPanel):
    """Widget with a layer's segment table: names, codes, colours and visibility. The selected row is the segment that
    is painted.

    The values in the table are those written to SEG, RTSTRUCT and NIfTI.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.labels, self.names = self.combo(("Labels",)), QComboBox()
        self.names.addItems([b.name for b in cards() if b.facts.labels])
        self.table = QTableWidget(0, len(COLUMNS))
        self.table.setHorizontalHeaderLabels(list(COLUMNS))
        self.table.verticalHeader().setVisible(False)
        self.table.setSelectionBehavior(QAbstractItemView.SelectRows)
        self.table.setSelectionMode(QAbstractItemView.SingleSelection)
        for column in (SHOWN, COLOUR, ID):
            self.table.horizontalHeader().setSectionResizeMode(column, QHeaderView.ResizeToContents)
        self.table.horizontalHeader().setSectionResizeMode(CODE, QHeaderView.Stretch)
        self.table.setMinimumHeight(160)
        self.add_button, self.remove_button = QPushButton("Add segment"), QPushButton("Remove segment")
        self.names_button = QPushButton("Add its segments")
        self.known: list[Label] = known_labels()
        self._rows: tuple[Label, ...] = ()
        self._layer: Any = None
        self._filling = False
        self._lay_out()
        set_icon(self.add_button, "segments", napari_viewer)
        self.labels.currentIndexChanged.connect(self._follow)
        self.table.itemChanged.connect(self._edited)
        self.table.itemSelectionChanged.connect(self._selected)
        self.table.cellClicked.connect(self._clicked)
        self.add_button.clicked.connect(lambda: self._change(lambda layer: add_segment(layer)))
        self.remove_button.clicked.connect(self._remove)
        self.names_button.clicked.connect(self._add_names)
        self._follow()

    def _lay_out(self) -> None:
        form, layout, row, names = QFormLayout(), QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        form.addRow("Labels", self.labels)
        names.addWidget(self.names, 1)
        names.addWidget(self.names_button)
        form.addRow("Names of a bundle", names)
        row.addWidget(self.add_button)
        row.addWidget(self.remove_button)
        layout.addLayout(form)
        layout.addWidget(self.table)
        layout.addLayout(row)
        layout.addLayout(self.job_row())

    def row_of(self, number: int) -> int:
        """Return the row of a segment's id; -1 if there is none."""
        return next((at for at, label in enumerate(self._rows) if label.id == number), -1)

    def refresh(self, *_: Any) -> None:
        """Show the layer's present table."""
        layer = self._layer
        self._filling = True
        try:
            ours = layer is not None and place_of(layer) is not None
            self._rows = table_of(layer) if ours else ()
            self.table.setRowCount(len(self._rows))
            hidden = hidden_ids(layer) if ours else set()
            for at, label in enumerate(self._rows):
                self._fill(at, label, label.id not in hidden)
            self.table.resizeColumnToContents(NAME)
        finally:
            self._filling = False
        for button in (self.add_button, self.remove_button, self.names_button):
            button.setEnabled(ours)
        self._say(ours)
        self._select_painted()

    def _say(self, ours: bool) -> None:
        if not ours:
            self.status.setText(
                "Found no labels that medvit made; one layer is needed. Run a bundle, open a SEG, or press 'New labels on this image'."
            )
            return
        try:
            check_names(self._rows)
        except Exception as error:
            self.status.setText(readable(error))
        else:
            self.status.setText(f"{len(self._rows)} segment(s). The chosen row is painted.")

    def _fill(self, at: int, label: Label, shown: bool) -> None:
        for column in (SHOWN, COLOUR, ID, NAME):
            if self.table.item(at, column) is None:  # items are reused, since Qt may be in the middle of changing one
                self.table.setItem(at, column, QTableWidgetItem())
                if column != NAME:
                    self.table.item(at, column).setFlags(Qt.ItemIsEnabled | Qt.ItemIsSelectable)
        tick = self.table.item(at, SHOWN)
        tick.setFlags(tick.flags() | Qt.ItemIsUserCheckable)
        tick.setCheckState(Qt.Checked if shown else Qt.Unchecked)
        self.table.item(at, COLOUR).setBackground(QColor(*label.color))
        self.table.item(at, ID).setText(str(label.id))
        self.table.item(at, NAME).setText(label.title)
        box = self.table.cellWidget(at, CODE) or self._codes(at)
        box.setCurrentIndex(-1)
        box.setEditText(code_text(label))
        box.lineEdit().setCursorPosition(0)

    def _codes(self, at: int) -> QComboBox:
        """Make a combo box of known codes for a row; a code can also be typed as scheme/value/meaning."""
        box = QComboBox()
        box.setEditable(True)
        box.setInsertPolicy(QComboBox.NoInsert)
        box.setSizeAdjustPolicy(QComboBox.AdjustToMinimumContentsLengthWithIcon)
        for known in self.known:
            box.addItem(f"{known.title}: {code_text(known)}", known)
        box.setToolTip("Choose one, or type scheme/value/meaning, for example SCT/10200004/Liver")
        box.activated.connect(lambda chosen, at=at, box=box: self._chosen(at, box.itemData(chosen)))
        box.lineEdit().editingFinished.connect(lambda at=at, box=box: self._typed(at, box))
        self.table.setCellWidget(at, CODE, box)
        return box

    def _chosen(self, at: int, code: Label) -> None:
        if at < len(self._rows) and not self._filling:
            self.set_code(self._rows[at].id, code)

    def _typed(self, at: int, box: QComboBox) -> None:
        text, listed = box.currentText().strip(), box.findText(box.currentText().strip())
        if at >= len(self._rows) or self._filling or text == code_text(self._rows[at]):
            return
        self.set_code(self._rows[at].id, box.itemData(listed) if listed >= 0 else text)

    def set_code(self, number: int, code: Label | str) -> None:
        """Set the code of a segment: that of a known label, or one typed as scheme/value/meaning."""
        self._change(
            lambda layer: change_segment(layer, number, code=parse_code(code) if isinstance(code, str) else code)
        )

    def set_color(self, number: int, color: tuple[int, int, int]) -> None:
        """Set the colour of a segment, RGB 0..255."""
        self._change(lambda layer: change_segment(layer, number, color=color))

    def _change(self, act: Callable[[Any], Any]) -> None:
        """Apply a change to the layer's table and show the table; show the error if the change is refused."""
        if self._layer is None or self._filling:
            return
        fault: Exception | None = None
        self._filling = True  # one refresh at the end, not one for each part of the change
        try:
            act(self._layer)
        except Exception as error:
            fault = error
        finally:
            self._filling = False
        self.refresh()
        if fault is not None:
            self.show_error(fault)

    def _edited(self, item: QTableWidgetItem) -> None:
        if self._filling:
            return
        number = self._rows[item.row()].id
        if item.column() == NAME:
            self._change(lambda layer: change_segment(layer, number, title=item.text()))
        elif item.column() == SHOWN:
            visible = item.checkState() == Qt.Checked
            self._change(lambda layer: set_visible(layer, number, visible))

    def _clicked(self, row: int, column: int) -> None:
        if column == COLOUR:
            chosen = QColorDialog.getColor(QColor(*self._rows[row].color), self, "Colour of the segment")
            if chosen.isValid():
                self.set_color(self._rows[row].id, (chosen.red(), chosen.green(), chosen.blue()))

    def _selected(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        if rows and self._layer is not None and not self._filling:
            self._layer.selected_label = self._rows[rows[0].row()].id

    def _select_painted(self, *_: Any) -> None:
        """Select the row of the segment that is painted."""
        if self._layer is None:
            return
        self._filling = True
        try:
            row = self.row_of(int(self._layer.selected_label))
            self.table.selectRow(row) if row >= 0 else self.table.clearSelection()
        finally:
            self._filling = False

    def _painted(self, *_: Any) -> None:
        """Add a row for a painted id without one."""
        number = int(self._layer.selected_label)
        if number and self.row_of(number) < 0:
            self.refresh()

    def _remove(self) -> None:
        rows = self.table.selectionModel().selectedRows()
        if not rows:
            self.status.setText("Found no chosen row; one is needed. Choose the segment to remove.")
            return
        number = self._rows[rows[0].row()].id
        self._change(lambda layer: remove_segment(layer, number))

    def _add_names(self) -> None:
        bundle = next((b for b in cards() if b.name == self.names.currentText()), None)
        if bundle is not None:
            self._change(lambda layer: add_segments(layer, bundle.facts.labels))

    def _watched(self) -> list[tuple[Any, Any]]:
        events = self._layer.events
        return [
            (events.selected_label, self._select_painted),
            (events.paint, self._painted),
            (events.labels_update, self._painted),
            (events.metadata, self._renewed),
            (events.data, self.refresh),
        ]

    def _renewed(self, *_: Any) -> None:
        """Show a table that was changed elsewhere."""
        if not self._filling and self._layer is not None and place_of(self._layer) is not None:
            self.refresh()

    def _follow(self, *_: Any) -> None:
        """Follow the chosen layer."""
        layer = self.labels.layer()
        if layer is self._layer and layer is not None:
            return
        self._forget()
        self._layer = layer
        if layer is not None:
            for event, call in self._watched():
                event.connect(call)
        self.refresh()

    def _forget(self) -> None:
        if self._layer is not None:
            for event, call in self._watched():
                event.disconnect(call)
        self._layer = None

    def release(self) -> None:
        """Stop following the layer and the viewer."""
        self._forget()
        super().release()
