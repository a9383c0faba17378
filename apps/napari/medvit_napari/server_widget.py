"""The widget that works with a MONAI Label server. What it says to the server is in ``monai_label``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from qtpy.QtWidgets import QComboBox, QFormLayout, QHBoxLayout, QLineEdit, QPushButton, QVBoxLayout

import medvit
from medvit.progress import Progress
from medvit_napari.dialogs import follow
from medvit_napari.errors import ServerError
from medvit_napari.icons import dress
from medvit_napari.layers import LayerTuple, label_layers
from medvit_napari.monai_label import Case, Client, ServerInfo
from medvit_napari.opening import open_layers
from medvit_napari.panel import JobPanel, add_layers
from medvit_napari.places import place_of
from medvit_napari.saving import named_labels, save_layer

__all__ = ["ServerWidget"]


class ServerWidget(JobPanel):
    """Connect, take the next case, infer, correct, submit, train. A server that goes away leaves every layer as it is."""

    def __init__(self, napari_viewer: Any) -> None:
        super().__init__(napari_viewer)
        self.address, self.tag = QLineEdit("http://127.0.0.1:8000"), QLineEdit("final")
        self.token = QLineEdit()
        self.token.setEchoMode(QLineEdit.Password)
        self.token.setPlaceholderText("only where the server asks for one")
        self.model, self.strategy, self.labels = QComboBox(), QComboBox(), self.combo(("Labels",))
        self.info: ServerInfo | None = None
        self.case: Case | None = None
        self.image: Any = None
        self._folder = tempfile.TemporaryDirectory(prefix="medvit-")
        form, layout, row, train = QFormLayout(), QVBoxLayout(self), QHBoxLayout(), QHBoxLayout()
        parts = {
            "Server": self.address,
            "Token": self.token,
            "Model": self.model,
            "Strategy": self.strategy,
            "Labels": self.labels,
            "Tag": self.tag,
        }
        for name, part in parts.items():
            form.addRow(name, part)
        layout.addLayout(form)
        doing = {
            "Connect": self.connect_server,
            "Next case": self.next_case,
            "Infer": self.infer,
            "Submit": self.submit,
        }
        self.buttons = {name: QPushButton(name) for name in (*doing, "Train", "Training?")}
        for name, act in (doing | {"Train": self.train, "Training?": self.training}).items():
            self.buttons[name].clicked.connect(act)
            (row if name in doing else train).addWidget(self.buttons[name])
        dress(self.buttons["Connect"], "server", napari_viewer)
        layout.addLayout(row)
        layout.addLayout(train)
        layout.addLayout(self.job_row())
        layout.addStretch(1)

    @property
    def client(self) -> Client:
        """For the address and the token in the fields."""
        return Client(self.address.text(), self.token.text().strip())

    def _do(self, work: Any, then: Any, words: str) -> None:
        try:
            client = self.client
        except ServerError as error:
            self.show_error(error)
            return
        self.start(lambda progress: work(client, progress), then, words)

    def connect_server(self) -> None:
        """Ask what the server offers."""
        self._do(lambda client, progress: client.info(), self._connected, "Asking...")

    def _connected(self, info: ServerInfo) -> None:
        self.info = info
        for box, names in ((self.model, info.models), (self.strategy, info.strategies)):
            box.clear()
            box.addItems(list(names))
        self.status.setText(f"{info.name}: {len(info.models)} model(s), {len(info.trainers)} can be trained.")

    def next_case(self) -> None:
        """Take the case that the strategy chooses."""
        strategy, folder = self.strategy.currentText(), Path(self._folder.name)

        def work(client: Client, progress: Progress) -> tuple[Case, list[LayerTuple]]:
            case = client.next_case(strategy, folder, progress)
            return case, open_layers(case.path)

        self._do(work, self._taken, "Taking the next case...")

    def _taken(self, made: tuple[Case, list[LayerTuple]]) -> None:
        self.case = made[0]
        self.image = add_layers(self.viewer, made[1])[0]
        follow([layer[0] for layer in made[1]], self.viewer)
        self.status.setText("The next case is there. Infer, correct, submit.")

    def infer(self) -> None:
        """Have the chosen model label the case."""
        if self.case is None or self.info is None:
            self.status.setText("Found no case; one is needed. Connect, and take the next case.")
            return
        case, model, folder, place = self.case, self.model.currentText(), Path(self._folder.name), place_of(self.image)
        table = self.info.labels(model)

        def work(client: Client, progress: Progress) -> list[LayerTuple]:
            path = client.infer(model, case.id, folder, progress)
            scan = place.scan() if place is not None else None
            return label_layers(medvit.read_labels(path, like=scan, table=table), scan)

        self._do(work, lambda made: self._inferred(made, model), f"{model} is at work...")

    def _inferred(self, made: list[LayerTuple], model: str) -> None:
        for layer in add_layers(self.viewer, made):
            layer.name = model
            self.labels.choose(layer)
        self.status.setText(f"Labels by {model} are there; correct them and submit.")

    def submit(self) -> None:
        """Send the chosen labels for the case, with the tag."""
        layer, case, tag = self.labels.layer(), self.case, self.tag.text().strip() or "final"
        if layer is None or case is None:
            self.status.setText("Found no labels of a case; both are needed. Take the next case, and infer or paint.")
            return
        out = Path(tempfile.mkdtemp(dir=self._folder.name))

        def work(client: Client, progress: Progress) -> None:
            save_layer(layer, out, ("nifti",), overwrite=True, progress=progress)
            client.save_label(case.id, out / "labels.nii.gz", tag, {n.title: n.id for n in named_labels(layer)})

        self._do(work, lambda _: self.status.setText(f"Submitted, tag {tag}."), "Submitting...")

    def train(self) -> None:
        """Start training the chosen model."""
        model = self.model.currentText()
        self._do(lambda client, progress: client.train(model), lambda _: self.training(), "Starting to train...")

    def training(self) -> None:
        """Say how far training is."""
        self._do(
            lambda client, _: client.training(), lambda said: self.status.setText(f"Training: {said}"), "Asking..."
        )
