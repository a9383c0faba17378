"""Dialogs of the plugin: choice of images, errors, confirmation."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import (
    QApplication,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QLabel,
    QListWidget,
    QListWidgetItem,
    QMessageBox,
    QVBoxLayout,
    QWidget,
)

from medvit_napari.errors import readable
from medvit_napari.looking.display import draw_read
from medvit_napari.reading.lazy_volume import Filling
from medvit_napari.reading.open import Answer, Offer

__all__ = ["SeriesDialog", "ask_which", "confirm", "error_box", "follow", "show_error"]


_SHOWN: list[QMessageBox] = []
"""Message boxes that are still open."""


class SeriesDialog(QDialog):  # type: ignore[misc]  # Qt is not typed here
    """Dialog with a list of a source's images, remarks on each, and the treatment of irregular ones."""

    def __init__(self, offers: tuple[Offer, ...], parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Open with medvit")
        self.resize(640, 420)
        self.offers = offers
        self.list = QListWidget()
        for offer in offers:
            self.list.addItem(_item(offer))
        self.findings = QLabel("")
        self.findings.setWordWrap(True)
        self.way = QComboBox()
        self.way.addItem("Resample to a straight, even grid", "resample")
        self.way.addItem("Take the longest regular part", "split")
        self.buttons = QDialogButtonBox(QDialogButtonBox.Open | QDialogButtonBox.Cancel)
        self.buttons.accepted.connect(self.accept)
        self.buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        for part in (QLabel("Which images?"), self.list, self.findings, self.way, self.buttons):
            layout.addWidget(part)
        self.list.itemChanged.connect(self._changed)
        self.list.currentRowChanged.connect(self._tell)
        self.list.setCurrentRow(next((n for n, offer in enumerate(offers) if offer.likely), 0))
        self._changed()

    def answer(self) -> Answer:
        """Return the user's choice."""
        numbers = [o.number for n, o in enumerate(self.offers) if self.list.item(n).checkState() == Qt.Checked]
        return Answer(tuple(numbers), str(self.way.currentData()))

    def _changed(self, *_: Any) -> None:
        taken = set(self.answer().numbers)
        self.way.setVisible(any(o.irregular for o in self.offers if o.number in taken))
        self.buttons.button(QDialogButtonBox.Open).setEnabled(bool(taken))

    def _tell(self, row: int) -> None:
        if row >= 0:
            offer = self.offers[row]
            self.findings.setText("\n".join([f"Outcome: {offer.outcome}.", *offer.findings]))


def _item(offer: Offer) -> QListWidgetItem:
    item = QListWidgetItem(f"{offer.number}: {offer.title}  ({offer.outcome})")
    ticks = Qt.ItemIsUserCheckable
    item.setFlags(item.flags() & ~(Qt.ItemIsEnabled | ticks) if offer.refused else item.flags() | ticks)
    item.setCheckState(Qt.Checked if offer.likely and not offer.refused else Qt.Unchecked)
    return item


def ask_which(offers: tuple[Offer, ...]) -> Answer | None:
    """Ask the user which images to open; return the choice, or None if cancelled."""
    dialog = SeriesDialog(offers, QApplication.activeWindow())
    try:
        return dialog.answer() if dialog.exec_() else None
    finally:
        dialog.deleteLater()


class _Told(QObject):  # type: ignore[misc]
    """Relay from the reading thread to the window's thread, in which the image is redrawn."""

    done = Signal()

    def __init__(self, filling: Filling, viewer: Any) -> None:
        super().__init__()
        self._filling, self._viewer = filling, viewer
        self.done.connect(self._draw)

    def tell(self) -> None:
        """Emit the signal; safe in any thread. The filling holds this method, since a Qt signal does not keep its
        object alive.
        """
        self.done.emit()

    def _draw(self) -> None:
        fault = draw_read(self._filling, self._viewer)
        if fault is not None:
            show_error(fault)


def follow(data: Iterable[Any], viewer: Any) -> None:
    """Redraw images once they have been read; show the error if reading fails."""
    for filling in data:
        if isinstance(filling, Filling):
            told = _Told(filling, viewer)
            filling.on_done.append(told.tell)
            if filling.is_done:
                told.tell()


def error_box(error: BaseException, parent: QWidget | None = None) -> QMessageBox:
    """Make the message box of an error, with the traceback behind a button, to copy into a report."""
    box = QMessageBox(parent)
    box.setWindowTitle("medvit")
    box.setIcon(QMessageBox.Warning)
    box.setText(readable(error))
    box.setDetailedText("".join(traceback.format_exception(error)))
    box.setTextInteractionFlags(Qt.TextSelectableByMouse)
    return box


def show_error(error: BaseException, parent: QWidget | None = None) -> None:
    """Show an error without blocking the window."""
    box = error_box(error, parent or QApplication.activeWindow())
    _SHOWN.append(box)  # without a parent (another program is in front), no other object would keep the box alive
    box.finished.connect(lambda _: _SHOWN.remove(box) if box in _SHOWN else None)
    box.open()


def confirm(title: str, text: str, parent: QWidget | None = None) -> bool:
    """Ask the user a yes/no question; return True for yes."""
    asked = QMessageBox.question(parent, title, text, QMessageBox.Yes | QMessageBox.No, QMessageBox.No)
    return bool(asked == QMessageBox.Yes)
