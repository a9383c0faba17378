"""Widget "MONAI Label server"; its functions are in ``server``."""

from __future__ import annotations

import contextlib
import getpass
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QVBoxLayout

from medvit_napari.errors import ServerError
from medvit_napari.icons import set_icon
from medvit_napari.looking.alignment import add_layers
from medvit_napari.looking.notifications import rating_line, warn
from medvit_napari.reading.display_frame import own_data
from medvit_napari.reading.layer_info import array_sha256, place_of
from medvit_napari.reading.layers import LayerTuple
from medvit_napari.server.client import Access, Answer, Case, Client, ServerInfo
from medvit_napari.server.open_cases import (
    OpenCase,
    case_of,
    infer_labels,
    labels_for,
    layers_of,
    remove_layers,
    send,
    show_only,
    take_case,
)
from medvit_napari.widgets.dialogs import follow
from medvit_napari.widgets.panel import JobPanel

__all__ = ["ServerWidget"]

_FINAL = "final"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # an account without a name, for example in a container
        return "medvit"


class ServerWidget(JobPanel):
    """Widget to connect, take cases, infer, correct, submit and train. If the server is lost, all layers stay as they
    are.

    Labels are always submitted for the case on whose image they were made, even if another case was taken later.
    """

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.address, self.tag = QLineEdit("http://127.0.0.1:8000"), QLineEdit(_FINAL)
        self.annotator, self.user = QLineEdit(_user()), QLineEdit()
        self.password, self.token = QLineEdit(), QLineEdit()
        for secret in (self.password, self.token):
            secret.setEchoMode(QLineEdit.Password)
        for optional in (self.user, self.password, self.token):
            optional.setPlaceholderText("only where the server asks for one")
        self.model, self.strategy = QComboBox(), QComboBox()
        self.case_choice, self.labels = QComboBox(), self.combo(("Labels",), "none chosen")
        self.nothing = QCheckBox("Nothing to label: the image shows none of the structures")
        self.info: ServerInfo | None = None
        self.cases: list[OpenCase] = []
        self.image: Any = None
        self._taken_count = 0
        self._client: Client | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="medvit-")
        self._lay_out()
        self.case_choice.activated.connect(self._case_chosen)
        self.labels.activated.connect(self._labels_chosen)
        self.viewer.layers.events.inserted.connect(self._layer_came)

    def _lay_out(self) -> None:
        form, layout, row, train = QFormLayout(), QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        parts = {
            "Server": self.address,
            "Annotator": self.annotator,
            "User": self.user,
            "Password": self.password,
            "Token": self.token,
            "Model": self.model,
            "Strategy": self.strategy,
            "Case": self.case_choice,
            "Labels": self.labels,
            "Tag": self.tag,
        }
        for name, part in parts.items():
            form.addRow(name, part)
        layout.addLayout(form)
        layout.addWidget(self.nothing)
        doing = {
            "Connect": self.connect_server,
            "Next case": self.next_case,
            "Infer": self.infer,
            "Submit": self.submit,
        }
        training = {"Train": self.train, "Training?": self.training, "Stop training": self.stop_training}
        self.buttons = {name: QPushButton(name) for name in doing | training}
        for name, act in (doing | training).items():
            self.buttons[name].clicked.connect(act)
            (row if name in doing else train).addWidget(self.buttons[name])
        set_icon(self.buttons["Connect"], "server", self.viewer)
        layout.addLayout(row)
        layout.addLayout(train)
        layout.addLayout(self.job_row())
        layout.addStretch(1)

    @property
    def client(self) -> Client:
        """Client for the present values of the fields; kept, with its login token, until these change."""
        access = Access(
            token=self.token.text().strip(),
            user=self.user.text().strip(),
            password=self.password.text(),
            client_id=self.annotator.text().strip() or "medvit",
        )
        made = Client(self.address.text(), access=access)
        kept = self._client
        if kept is None or (kept.address, kept.access) != (made.address, made.access):
            self._client = kept = made
        return kept

    @property
    def open_case(self) -> OpenCase | None:
        """Selected case; None without one."""
        at = self.case_choice.currentIndex()
        return self.cases[at] if 0 <= at < len(self.cases) else None

    @property
    def case(self) -> Case | None:
        """Selected case in the client's form; None without one."""
        return self.open_case.case if self.open_case is not None else None

    def _do(self, work: Any, then: Any, words: str) -> None:
        try:
            client = self.client
        except ServerError as error:
            self.show_error(error)
            return
        self.start(lambda progress: work(client, progress), then, words)

    def connect_server(self) -> None:
        """Connect to the server and list its models and strategies."""
        self._do(lambda client, progress: client.info(), self._connected, "Connecting...")

    def _connected(self, info: ServerInfo) -> None:
        self.info = info
        for box, names in ((self.model, info.models), (self.strategy, info.strategies)):
            box.clear()
            box.addItems(list(names))
        self.status.setText(f"{info.name}: {len(info.models)} model(s), {len(info.trainers)} can be trained.")

    def next_case(self) -> None:
        """Take the case that the strategy chooses."""
        strategy, folder, number = self.strategy.currentText(), Path(self._folder.name), self._taken_count + 1
        self._do(
            lambda client, progress: take_case(client, strategy, number, folder, progress),
            self._taken,
            "Taking the next case...",
        )

    def _taken(self, made: tuple[OpenCase, list[LayerTuple]]) -> None:
        taken, layers = made
        case, place, self._taken_count = taken.case, taken.place, taken.number
        again = next((c.number for c in self.cases if c.case.id == case.id), None)
        self.cases.append(taken)
        self.case_choice.addItem(taken.title)
        self.labels.setCurrentIndex(0)  # labels of an earlier case must not stay selected
        added = add_layers(self.viewer, layers)
        self.image = added[0]
        follow([layer[0] for layer in layers], self.viewer)
        self._work_on(taken)
        words = f"Case {taken.title} is open. Infer, correct and submit."
        if again is not None:
            words += f" It is already open as number {again}; labels painted there are not in this one."
        told = [case.reason] if case.reason else []
        self.status.setText("\n".join([words, *told, *place.warnings, *place.reading_notes]))

    def _work_on(self, case: OpenCase) -> None:
        self.case_choice.setCurrentIndex(self.cases.index(case))
        show_only(self.viewer, case, self.cases)
        self.image = next(
            (layer for layer in layers_of(self.viewer, case) if type(layer).__name__ == "Image"), self.image
        )

    def _case_chosen(self, *_: Any) -> None:
        case = self.open_case
        if case is not None:
            self._work_on(case)
            own = [layer for layer in layers_of(self.viewer, case) if type(layer).__name__ == "Labels"]
            self.labels.choose(own[-1]) if own else self.labels.setCurrentIndex(0)
            self.status.setText(f"Case {case.title} is selected.")

    def _labels_chosen(self, *_: Any) -> None:
        home = case_of(self.labels.layer(), self.cases)
        if home is not None and home is not self.open_case:
            self._work_on(home)
            self.status.setText(f"These labels belong to case {home.title}, which is now selected.")

    def _layer_came(self, event: Any) -> None:
        """Select new labels that were made on the image of the selected case."""
        if type(event.value).__name__ == "Labels" and case_of(event.value, self.cases) is self.open_case is not None:
            self.labels.choose(event.value)

    def infer(self) -> None:
        """Run the chosen model on the selected case."""
        case = self.open_case
        if case is None or self.info is None:
            self.status.setText("Found no case; one is needed. Connect, and take the next case.")
            return
        model, folder = self.model.currentText(), Path(self._folder.name)
        table = self.info.labels(model)
        self._do(
            lambda client, progress: infer_labels(client, case, (model, table), folder, progress),
            lambda made: self._inferred(made[0], made[1], model, case),
            f"Running {model} on case {case.title}...",
        )

    def _inferred(self, answer: Answer, made: list[LayerTuple], model: str, case: OpenCase) -> None:
        words = f"Labels of case {case.title} by {model} are open; correct them and submit."
        if not any(type(layer).__name__ == "Image" for layer in layers_of(self.viewer, case)):
            words += " Its image was closed meanwhile; the labels are at the position of the image."
        for layer in add_layers(self.viewer, made):
            if case is self.open_case:
                self.labels.choose(layer)
            else:
                layer.visible = False
        rating = rating_line(answer.quality)
        if rating and answer.quality.get("rating") != "good":
            warn(f"{model} on case {case.title}: {rating}")
        self.status.setText("\n".join(filter(None, [words, rating, *answer.notes])))

    def submit(self) -> None:
        """Submit the chosen labels, with the tag, for the case to which they belong."""
        layer, tag = self.labels.layer(), self.tag.text().strip() or _FINAL
        if self.job is not None:
            self.status.setText("Something is running already; nothing was submitted. Wait for it, or cancel it.")
            return
        if layer is None or not self.cases:
            self.status.setText("Found no labels of a case; both are needed. Take the next case, and infer or paint.")
            return
        try:
            case, found = labels_for(layer, self.cases, self.open_case, self.nothing.isChecked())
        except Exception as error:
            self.show_error(error)
            return
        sent, out = array_sha256(np.asarray(own_data(layer))), Path(tempfile.mkdtemp(dir=self._folder.name))
        place = place_of(layer)
        maker = place.made_by if place is not None else ""
        model = maker if self.info is not None and maker in self.info.models else ""
        self._do(
            lambda client, progress: send(client, case, (found, tag, model), out, progress),
            lambda notes: self._submitted(case, layer, sent, tag, notes),
            f"Submitting for case {case.title}...",
        )

    def _submitted(self, case: OpenCase, layer: Any, sent: str, tag: str, notes: tuple[str, ...]) -> None:
        lines = [f"Submitted for case {case.title}, tag {tag}."]
        self.nothing.setChecked(False)
        if layer in self.viewer.layers and array_sha256(np.asarray(own_data(layer))) != sent:
            lines.append(
                "Its labels were changed while they were submitted; the change is not submitted yet, so the layers stay."
            )
        elif tag == _FINAL:
            lines.append(self._put_away(case))
        else:
            lines.append("Its layers stay until it is submitted as final.")
        self.status.setText("\n".join([*lines, *notes]))

    def _put_away(self, case: OpenCase) -> str:
        """Remove the layers of a submitted case from the viewer, and show the selected case; return a sentence on it."""
        count = remove_layers(self.viewer, case)
        at = self.cases.index(case)
        self.cases.pop(at)
        self.case_choice.removeItem(at)
        if self.open_case is not None:
            self._work_on(self.open_case)
        now = f" Case {self.open_case.title} is selected." if self.open_case is not None else ""
        return f"Its {count} layer(s) were removed from the window.{now}"

    def release(self) -> None:
        """Stop following the viewer."""
        with contextlib.suppress(ValueError, RuntimeError):
            self.viewer.layers.events.inserted.disconnect(self._layer_came)
        super().release()

    def train(self) -> None:
        """Start training the chosen model."""
        model = self.model.currentText()
        self._do(lambda client, progress: client.train(model), lambda _: self.training(), "Starting to train...")

    def stop_training(self) -> None:
        """Stop the running training; the server publishes nothing of it."""
        self._do(lambda client, progress: client.stop_training(), self._stopped, "Stopping the training...")

    def _stopped(self, was_running: bool) -> None:
        if was_running:
            self.training()
        else:
            self.status.setText("No training was running.")

    def training(self) -> None:
        """Show the state of the training."""
        self._do(
            lambda client, _: client.training(),
            lambda said: self.status.setText(f"Training: {said}"),
            "Asking the server...",
        )
