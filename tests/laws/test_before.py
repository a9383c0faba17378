"""States left by an earlier commit (``before/README.md``): this code continues each, or refuses it with a sentence."""

from __future__ import annotations

import csv
import json
import os
import pickletools
import sqlite3
import sys
import tarfile
import zipfile
from pathlib import Path
from pydoc import locate
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import Result
from medvit_batch.cli import app as batch_app
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests import warm
from tests.batch.execution.test_session import results
from tests.label.learning import wait_for
from tests.label.serving import Served, array_of, served
from tests.laws.before.bundles import BANDS, DENOISE, make_bands, make_denoise
from tests.laws.before.make import LABEL_STEPS, RUN, TRAINING_STEPS, train_options

ROOT = Path(__file__).resolve().parents[2]


def unpack(name: str, place: Path) -> Path:
    """Unpack a state into another folder than the one in which it was made."""
    with tarfile.open(ROOT / "tests" / "laws" / "before" / f"{name}.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place / name


def can_be_built(bundle: Path) -> bool:
    """Return whether every class and function that a bundle's inference.json names still exists."""

    def names(content: Any) -> list[str]:
        if isinstance(content, dict):
            own = [content["_target_"]] if "_target_" in content else []
            return own + [name for value in content.values() for name in names(value)]
        return [name for value in content for name in names(value)] if isinstance(content, list) else []

    found = names(json.loads((bundle / "configs" / "inference.json").read_text()))
    assert any(name.startswith("medvit.") for name in found)
    return all(locate(name) is not None for name in found)


def updated(bundle: Path) -> Path:
    """Write a bundle's configs with other bytes, as an update of medvit would."""
    for path in (bundle / "configs").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    return bundle


def is_sentence(text: str) -> bool:
    """Return whether a text states a finding and ends as a sentence, without a traceback."""
    return text.startswith("Found ") and text.rstrip().endswith(".") and "Traceback" not in text


class Batch:
    """A batch folder whose archive and bundles moved with it."""

    def __init__(self, top: Path) -> None:
        self.top, self.out, self.archive = top, top / "out", top / "archive"
        self.bundle = top / "bundles" / BANDS
        self.before = results(self.out)
        self.states_before = self.states()

    def give(self, *arguments: object) -> Result:
        """Give a command to the batch, in this process; its workers are processes."""
        done = CliRunner().invoke(batch_app, [str(argument) for argument in arguments])
        assert "Traceback" not in done.output, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    def run(self, bundle: Path) -> Result:
        return self.give("run", self.archive, "-o", self.out, "-b", bundle, *RUN)

    def states(self) -> dict[str, str]:
        """Return cases by state from the journal, since cases.csv is not written when a run is killed."""
        base = sqlite3.connect(f"file:{self.out}/journal.sqlite?mode=ro", uri=True)
        found = dict(base.execute("SELECT folder, state FROM cases").fetchall())
        base.close()
        return found

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "cases.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def in_state(self, *states: str) -> set[str]:
        """Return the cases that were in one of these states before."""
        return {folder for folder, state in self.states_before.items() if state in states}


@pytest.fixture
def batch(tmp_path: Path, one_fork_server: None) -> Batch:
    made = Batch(unpack("batch", tmp_path))
    assert len(made.before) == len(made.in_state("published")) == 2
    assert made.in_state("running") and len(made.in_state("running", "pending")) == 3
    assert any((made.out / "staging").iterdir())
    return made


def test_a_batch_goes_on_and_what_was_done_is_not_done_again(batch: Batch) -> None:
    """The archive moved: its files are read again, and their images show that these cases are done."""
    done = batch.run(batch.bundle)
    after, states = results(batch.out), batch.states()
    assert {name: after[name] for name in batch.before} == batch.before, done.output
    assert {states[folder] for folder in batch.in_state("published")} == {"published"}
    rows = {row["folder"]: row for row in batch.rows()}
    # a series is known by its UID wherever it lies; an image file by its path, so that a moved one is a case of its own
    (new,) = rows.keys() - batch.states_before.keys()
    assert rows[new]["state"] == "skipped" and "the same images as image-" in rows[new]["reason"]
    interrupted = batch.in_state("running", "pending")
    if can_be_built(batch.bundle):
        assert {states[folder] for folder in interrupted} == {"published"}, done.output
        assert {states[folder] for folder in batch.in_state("set aside")} == {"set aside"}
        assert done.exit_code == 3 and len(after) == 5
        assert not list((batch.out / "staging").iterdir())
    else:
        assert {states[folder] for folder in interrupted} == {"failed"}, done.output
        assert all(is_sentence(rows[folder]["reason"]) for folder in interrupted)
        assert done.exit_code in (1, 3) and after == batch.before


def test_a_batch_goes_on_with_an_updated_bundle_and_runs_every_case_again(batch: Batch, tmp_path: Path) -> None:
    """Changed configs may change a result, so no result of the earlier configs is kept."""
    done = batch.run(updated(make_bands(tmp_path / "today" / BANDS)))
    after, states = results(batch.out), batch.states()
    series = {folder for folder in batch.in_state("published", "running", "pending") if "image-" not in folder}
    assert {states[folder] for folder in series} == {"published"}, done.output
    assert [name for name in batch.before if "image-" not in name and after[name] == batch.before[name]] == []
    assert {states[folder] for folder in batch.in_state("set aside")} == {"set aside"}


def test_a_batch_tries_again_what_was_set_aside(batch: Batch) -> None:
    """``retry`` reads the archive's path from the journal, so the path that moved is corrected there by hand."""
    refused = batch.give("retry", batch.out, "--set-aside")
    assert refused.exit_code == 1 and "Found no folder at" in refused.output
    base = sqlite3.connect(batch.out / "journal.sqlite")
    for number, text in base.execute("SELECT id, command FROM runs").fetchall():
        old = Path(json.loads(text)["archive"]).parent
        base.execute("UPDATE runs SET command=? WHERE id=?", (text.replace(str(old), str(batch.top)), number))
    base.commit()
    base.close()
    earlier = {row["folder"]: row["updated"] for row in batch.rows()}
    tried = batch.give("retry", batch.out, "--set-aside")
    after = results(batch.out)
    assert {name: after[name] for name in batch.before} == batch.before
    (row,) = [r for r in batch.rows() if r["state"] in ("set aside", "failed") and r["stage"] != "plan"]
    assert is_sentence(row["reason"]) and row["updated"] > earlier[row["folder"]], tried.output


class Project:
    """A label project that moved, with the requests that each test makes."""

    def __init__(self, top: Path, patch: pytest.MonkeyPatch) -> None:
        self.top, self.patch = top, patch
        self.truth = {path.name.removesuffix(".nii.gz"): path for path in (top / "truth").iterdir()}
        (self.training,) = [f.parent for f in (top / "state" / "training").glob("*/run")]

    def open(self, bundle: Path) -> Any:
        self.patch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
        return served(self.top / "studies", self.top / "state")

    def require_all_there(self, server: Served) -> None:
        """Check that every image, label, version and note is unchanged."""
        listed = server.ask("GET", "/datastore/?output=all").json()["objects"]
        assert set(listed) == set(self.truth) and len(listed) == 6
        labels = {name: entry["labels"]["final"]["info"] for name, entry in listed.items() if entry["labels"]}
        assert set(self.truth) - set(labels) == {"case4"}
        assert labels["case0"]["version"] == 2 and {info["version"] for info in labels.values()} == {1, 2}
        assert listed["case1"]["image"]["info"]["patient"] == "P1"
        for name in labels:
            assert np.array_equal(server.stored(name), np.asarray(nib.load(self.truth[name]).dataobj)), name
        assert np.array_equal(server.stored("case0", 1), server.stored("case0", 2))

    def training_ended(self, server: Served) -> dict[str, Any]:
        """Wait until the running training has ended; return it."""
        ended: dict[str, Any] = wait_for(
            lambda: (now := server.ask("GET", "/train/").json())["status"] != "RUNNING" and now
        )
        assert ended["id"] == self.training.name
        return ended


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'medvit[label]'")
    return Project(unpack("label", tmp_path), monkeypatch)


def test_a_label_project_opens_with_its_version_and_its_training_goes_on(project: Project) -> None:
    bundle = project.top / "bundles" / BANDS
    with project.open(bundle) as server:
        project.require_all_there(server)
        versions = server.ask("GET", f"/model/versions/{BANDS}").json()
        assert [(row["version"], row["serving"]) for row in versions] == [(0, False), (1, True)]
        assert versions[1]["after"] > versions[1]["before"] + 0.1
        answer = server.ask("POST", f"/infer/{BANDS}?image=case4&output=image", {})
        ended = project.training_ended(server)
        if can_be_built(bundle):
            wanted = np.asarray(nib.load(project.top / "answer.nii.gz").dataobj)
            assert answer.status_code == 200 and np.array_equal(array_of(answer.content), wanted)
            assert (ended["status"], ended["done"], ended["from"]) == ("DONE", LABEL_STEPS, 1), ended
            steps = [
                line.split()[1]
                for line in (project.training / "log.txt").read_text().splitlines()
                if line.startswith("step ")
            ]
            assert steps == sorted(set(steps), key=int)  # no step was made twice
        else:
            assert answer.status_code >= 400 and is_sentence(answer.json()["detail"]), answer.text
            assert ended["status"] == "ERROR" and is_sentence(ended["reason"]), ended


def test_a_label_project_with_an_updated_bundle_refuses_its_version_by_a_sentence(
    project: Project, tmp_path: Path
) -> None:
    """Configs may run code, so a version whose configs are not those of the installed bundle is not run; the labels stay."""
    with project.open(updated(make_bands(tmp_path / "today" / BANDS))) as server:
        project.require_all_there(server)
        answer = server.ask("POST", f"/infer/{BANDS}?image=case4&output=json", {})
        assert answer.status_code == 422
        for words in (answer.json()["detail"], project.training_ended(server)["reason"]):
            assert is_sentence(words) and "version 1 of bands" in words and "rollback bands --to 0" in words
        assert server.ask("POST", f"/model/rollback/{BANDS}?to=0").json()["serving"] == 0
        assert server.infer("case4")["bundle"] == f"{BANDS} 0.1.0"
        assert server.labels("case4").any()


def _train(top: Path, bundle: Path) -> str:
    program = "import sys; from medvit.cli.main import app; app(sys.argv[1:])"
    line = [sys.executable, "-c", program, *train_options(top, bundle), "-o", str(top / "runs")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    done = warm.run(line, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _scores(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_a_training_goes_on_from_its_checkpoint_to_the_same_weights(tmp_path: Path) -> None:
    """The bundle is today's, so its configs have today's names, with the earlier values."""
    top = unpack("training", tmp_path)
    run = top / "runs" / DENOISE
    began = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    assert [row["step"] for row in _scores(run / "scores.csv")] == [2, 4] and began == 4
    said = _train(top, make_denoise(tmp_path / "today" / DENOISE))
    assert not [line for line in said.splitlines() if line.startswith(("step 2 ", "step 4 "))]
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == TRAINING_STEPS
    rows = _scores(run / "scores.csv")
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    for row, other in zip(rows, _scores(top / "scores.csv"), strict=True):
        assert row == pytest.approx(other, rel=2e-3, abs=2e-3)
    wanted = load_file(top / "ended.safetensors")
    held = wanted.pop("held.0.multipliers")
    # an optimizer that forgets its moments ends 5e-3 apart; other processors may round otherwise
    assert _apart(state["average"], wanted) < 1e-4
    assert held.abs().max() > 0 and torch.allclose(state["objective"]["held.0.multipliers"], held, rtol=1e-3)


def _apart(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Return the difference of two sets of weights, relative to their size."""
    assert found.keys() == wanted.keys()
    pairs = [(found[name].double(), value.double()) for name, value in wanted.items()]
    return float(sum((a - b).abs().sum() for a, b in pairs) / sum(b.abs().sum() for _, b in pairs))


def test_no_checkpoint_names_a_class_of_medvit(tmp_path: Path) -> None:
    """A checkpoint with such a name would become unreadable when the module moves; it holds only tensors and numbers."""
    found = [unpack(name, tmp_path) for name in ("training", "label")]
    files = [path for top in found for path in top.rglob("*.pt")]
    assert len(files) == 3
    for path in files:
        with zipfile.ZipFile(path) as stored:
            (name,) = [entry for entry in stored.namelist() if entry.endswith("data.pkl")]
            named = {
                str(word) for code, word, _ in pickletools.genops(stored.read(name)) if code.name in ("GLOBAL", "INST")
            }
            assert not any(code.name == "STACK_GLOBAL" for code, _, _ in pickletools.genops(stored.read(name)))
        assert named and {word.partition(".")[0].partition(" ")[0] for word in named} <= {"torch", "collections"}
