"""Base of the plugin's widgets: layer choices that follow the viewer, a background job with progress bar, error
messages.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QEvent, QObject, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from medvit.progress import Progress
from medvit_napari.looking.alignment import align
from medvit_napari.running.job import Job, State, was_cancelled
from medvit_napari.widgets.dialogs import show_error

__all__ = ["JobPanel", "LayerCombo"]


class LayerCombo(QComboBox):  # type: ignore[misc]  # Qt is not typed here
    """Combo box of the viewer's layers of some kinds; it keeps its choice while layers are added and removed."""

    def __init__(self, viewer: Any, kinds: Sequence[str], nothing: str = "") -> None:
        super().__init__()
        self._viewer, self._kinds, self._nothing = viewer, tuple(kinds), nothing
        self._layers: list[Any] = []
        events = viewer.layers.events
        self._watched = (events.inserted, events.removed, events.reordered)
        for event in self._watched:
            event.connect(self._renew)
        self._renew()

    def release(self) -> None:
        """Stop following the viewer."""
        for event in self._watched:
            with contextlib.suppress(ValueError, RuntimeError):
                event.disconnect(self._renew)

    def layer(self) -> Any:
        """Return the chosen layer, or None."""
        at = self.currentIndex() - bool(self._nothing)
        return self._layers[at] if 0 <= at < len(self._layers) else None

    def choose(self, layer: Any) -> None:
        """Choose a layer, if the combo box lists it."""
        if layer in self._layers:
            self.setCurrentIndex(self._layers.index(layer) + bool(self._nothing))

    def _renew(self, event: Any = None) -> None:
        kept = self.layer()
        self._layers = [layer for layer in self._viewer.layers if type(layer).__name__ in self._kinds]
        self.clear()
        self.addItems(([self._nothing] if self._nothing else []) + [layer.name for layer in self._layers])
        self.choose(kept) if kept in self._layers else self.setCurrentIndex(0 if self.count() else -1)


class _Relay(QObject):  # type: ignore[misc]
    """Relay of signals from a job's thread to the window's thread."""

    done = Signal(object)
    failed = Signal(object)
    told = Signal(object)


class JobPanel(QWidget):  # type: ignore[misc]
    """Widget that runs one background job at a time, with progress bar, time left and a cancel button.

    Closing the widget or the window cancels the job. After that, or after an error, no layer is added.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__()
        self.viewer = napari_viewer
        align(napari_viewer)
        self.job: Job | None = None
        self._began = 0.0
        self.last_error: BaseException | None = None
        self._combos: list[LayerCombo] = []
        self._then: Callable[[Any], None] = lambda made: None
        self._relay = _Relay(self)
        self._relay.done.connect(self._finished)
        self._relay.failed.connect(self._failed)
        self._relay.told.connect(self._told)
        self.bar, self.status = QProgressBar(), QLabel("")
        self.bar.setVisible(False)
        self.status.setWordWrap(True)
        self.cancel_button = QPushButton("Cancel")
        self.cancel_button.setVisible(False)
        self.cancel_button.clicked.connect(self.cancel)
        self.destroyed.connect(_stopper(self))  # a closing window sends no other event to the widgets in its docks

    def combo(self, kinds: Sequence[str], nothing: str = "") -> LayerCombo:
        """Make a combo box of layers that is released with this widget."""
        made = LayerCombo(self.viewer, kinds, nothing)
        self._combos.append(made)
        return made

    def job_row(self) -> QVBoxLayout:
        """Make the row with progress bar, cancel button and status."""
        rows, row = QVBoxLayout(), QHBoxLayout()
        row.addWidget(self.bar)
        row.addWidget(self.cancel_button)
        rows.addLayout(row)
        rows.addWidget(self.status)
        return rows

    def start(self, work: Callable[[Progress], Any], then: Callable[[Any], None], words: str) -> None:
        """Start a job, unless one is running."""
        if self.job is not None:
            self.status.setText("Something is running already; wait for it, or cancel it.")
            return
        self._then, self.last_error, self._began = then, None, time.monotonic()
        self.bar.setRange(0, 0)
        self._busy(True)
        self.status.setText(words)
        relay = self._relay
        self.job = Job(work, _safely(relay.done), _safely(relay.failed), _safely(relay.told)).start()

    @property
    def seconds(self) -> float:
        """Seconds since the start of the last job."""
        return time.monotonic() - self._began

    def cancel(self) -> None:
        """Cancel the job."""
        if self.job is not None:
            self.job.cancel()
            self.status.setText("Stopping after this step...")

    def release(self) -> None:
        """Cancel the job and stop following the viewer."""
        if self.job is not None:
            self.job.cancel()
        for combo in self._combos:
            combo.release()

    def _end(self) -> None:
        """Release the widget, and have Qt delete it if it has no parent.

        Otherwise Python's garbage collector could delete it in any thread, such as that of a job, and Qt would end the
        process.
        """
        self.release()
        if self.parent() is None:
            self.deleteLater()

    def closeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Release the widget when it is closed."""
        super().closeEvent(event)
        self._end()

    def changeEvent(self, event: Any) -> None:  # noqa: N802 - Qt's name
        """Release the widget when it is taken out of its dock, which is how napari closes it."""
        super().changeEvent(event)
        if event.type() == QEvent.ParentChange and self.parent() is None:
            self._end()

    def show_error(self, error: BaseException) -> None:
        """Show an error in the panel, and in a message box with details."""
        self.last_error = error
        from medvit_napari.errors import readable

        self.status.setText(readable(error))
        show_error(error, self)

    def _busy(self, busy: bool) -> None:
        self.bar.setVisible(busy)
        self.cancel_button.setVisible(busy)

    def _ended(self) -> None:
        self.job = None
        self._busy(False)

    def _finished(self, made: Any) -> None:
        stopped = self.job is None or self.job.is_cancelled
        self._ended()
        if stopped:
            self.status.setText("Cancelled; nothing was added.")
            return
        try:
            self._then(made)
        except Exception as error:
            self.show_error(error)

    def _failed(self, error: BaseException) -> None:
        self._ended()
        if was_cancelled(error):
            self.last_error = error
            self.status.setText("Cancelled; nothing was added.")
        else:
            self.show_error(error)

    def _told(self, state: State) -> None:
        if self.job is None or self.job.is_cancelled:
            return
        self.bar.setRange(0, 0 if state.in_one else 100)
        self.bar.setValue(round(100 * state.share))
        self.status.setText(state.line)


def _safely(signal: Any) -> Callable[[Any], None]:
    """Return a function that emits a signal and ignores a deleted receiver, since a job can end after its window has
    closed.
    """

    def emit(value: Any) -> None:
        with contextlib.suppress(RuntimeError):
            signal.emit(value)

    return emit


def _stopper(panel: JobPanel) -> Callable[..., None]:
    """Return a function that releases a panel without keeping it alive."""
    import weakref

    seen = weakref.ref(panel)

    def stop(*_: Any) -> None:
        alive = seen()
        if alive is not None:
            alive.release()

    return stop
