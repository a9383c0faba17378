"""What a project is after its server was stopped and started again, without the network between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from medvit_label.errors import UnknownError

from tests.bands import oblique_affine, phantom, write_series
from tests.label.learning import make_cases, make_learning_bundle, wait_for

pytest.importorskip("fastapi")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from medvit_label.settings import ServerSettings

    bundle = make_learning_bundle(tmp_path / "bundles" / "bands")
    make_cases(tmp_path / "studies", tmp_path / "truth", 6)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    return ServerSettings(studies=str(tmp_path / "studies"), state=tmp_path / "state", bundles=("bands",)).check()


def submit(project, top: Path, name: str) -> None:
    image = project.images.find(name)
    table = project.models.find("bands").facts.labels
    project.labels.save(image, top / "truth" / f"{name}.nii.gz", "final", table, {"model": "bands"})


def test_labels_sessions_ranking_and_training_go_on(settings, tmp_path: Path) -> None:
    from medvit_label.inference.run import Params
    from medvit_label.labels.next_case import choose
    from medvit_label.project import Project

    first = Project(settings)
    try:
        values, _ = phantom()
        write_series(tmp_path / "studies" / "Secret_Person", values, oblique_affine(degrees=0.0))
        series = next(name for name, image in first.images.listed().items() if image.series)
        shutil.copyfile(tmp_path / "truth" / "case0.nii.gz", tmp_path / "truth" / f"{series}.nii.gz")
        done = {series, *(f"case{number}" for number in range(4))}
        for name in done:
            submit(first, tmp_path, name)
        upload = tmp_path / "sent.nii.gz"
        upload.write_bytes((tmp_path / "studies" / "case0.nii.gz").read_bytes())
        session = first.images.sessions.add(upload, 0)["session_id"]
        made = first.runs.inferences.submit("bands", first.images.find("case4"), Params()).future.result(60)
        first.activity.assign("case5", "first", "somebody")
        run = first.runs.fine_tuning.start("bands", {"steps": 120, "learning_rate": 0.003})
        folder = settings.state / "training" / run["id"]
        wait_for((folder / "run" / "bands" / "checkpoint.pt").is_file)
    finally:
        first.close()
    assert first.runs.trainings._process is not None and first.runs.trainings._process.poll() is not None

    second = Project(settings)
    try:
        assert second.labels.labelled() == done
        assert second.images.sessions.image(session).path.is_file()
        assert [image.id for image in second.labels.unlabelled()] == ["case4", "case5"]
        assert (
            choose("first", {}, second.labels.unlabelled(), second.activity, second.predictions).image.id == "case4"
        )  # case5 is with somebody
        assert second.predictions.qualities()[0].content["quality"]
        kept, version = second.predictions.get("bands", "case4")
        assert np.array_equal(kept, made.result.array) and version == "0.1.0"
        assert second.runs.trainings.running()
        run = wait_for(lambda: (shown := second.runs.trainings.summary())["status"] != "RUNNING" and shown)
        assert run["status"] == "DONE" and run["published"] == 1, run
        assert run["split"] == {"by": "image", "training": 4, "validation": 1}
        log = (folder / "log.txt").read_text()
        assert log.count("Going on from") == 1 and log.count("Starting from") == 1
        assert second.models.find("bands").version == "0.1.0+project.1"
    finally:
        second.close()
    told = [path.read_text() for path in (settings.state / "training").rglob("*") if path.is_file()]
    assert told and not [text for text in told if "Secret" in text or "ID-4711" in text or series in text]


def test_what_a_killed_server_left_of_a_training_that_ended_is_cleared(settings) -> None:
    from medvit_label.project import Project

    first = Project(settings)
    runs = first.runs.trainings._runs
    runs.add("bands", {"params": {"steps": 1}}, "ended")
    runs.write("ended", "DONE", {"params": {"steps": 1}})
    first.close()
    folder = settings.state / "training" / "ended"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "image.nii.gz").write_bytes(b"an image")
    (folder / "log.txt").write_text("step 1")
    second = Project(settings)
    second.close()
    assert [path.name for path in folder.iterdir()] == ["log.txt"]


def test_a_batch_ranks_what_has_no_label_and_goes_on_after_a_restart(settings, tmp_path: Path) -> None:
    import threading

    import nibabel as nib
    from medvit_label.errors import BusyError
    from medvit_label.inference.run import Params
    from medvit_label.project import Project

    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.float32), np.eye(4)), tmp_path / "studies" / "flat.nii.gz")
    held = threading.Event()
    first = Project(settings)
    submit(first, tmp_path, "case0")
    first.runs.inferences.queue.submit(lambda _: held.wait(30), "bands", "somebody's")
    first.runs.batches.start("bands", Params(), True)
    with pytest.raises(BusyError, match="Found a batch that runs; .* Wait for it, or stop it"):
        first.runs.batches.start("bands", Params(), True)
    assert first.runs.batches.summary()["left"] == 6
    held.set()
    wait_for(lambda: len(first.runs.batches.left("bands")) < 6)
    first.close()

    second = Project(settings)
    try:
        shown = wait_for(lambda: (now := second.runs.batches.summary())["status"] != "RUNNING" and now)
        assert (shown["status"], shown["made"], shown["failed"]) == ("DONE", 5, 1)
        assert [image.id for image in second.runs.batches.left("bands")] == ["flat"]
        assert {label.image for label in second.labels.all() if label.tag == "original"} == {
            f"case{n}" for n in range(1, 6)
        }
        assert second.runs.batches.stop() is None and not list(second.scratch.iterdir())
    finally:
        second.close()


def test_a_run_whose_bundle_is_gone_does_not_keep_the_project_from_being_served(settings, tmp_path: Path) -> None:
    from medvit_label.project import Project

    first = Project(settings)
    info = {"base": 7, "split": {}, "params": {"steps": 1}}
    first.runs.trainings._runs.add("bands", info, "a")
    (settings.state / "training" / "a").mkdir(parents=True)
    first.close()
    second = Project(settings)
    shown = second.runs.trainings.summary()
    second.close()
    assert shown["status"] == "ERROR" and "Found no files of version 7 of bands in the project" in shown["reason"]


def test_runs_that_end_badly_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medvit_label.journal import Journal
    from medvit_label.training.jobs import Trainings

    def full(_: object) -> int | None:
        raise OSError("no space left")

    runs = Trainings(tmp_path, Journal(tmp_path), full, lambda _row, _folder: {})
    with pytest.raises(UnknownError, match="Found no training yet; start one: POST /train/MODEL"):
        runs.summary()
    info = {"base": 0, "split": {}, "params": {"steps": 1}}

    def prepare(folder: Path) -> dict[str, object]:
        folder.mkdir(parents=True)
        return info

    monkeypatch.setattr("sys.executable", shutil.which("false"))  # a process that ends before it began
    runs.start("bands", prepare)
    shown = wait_for(lambda: (now := runs.summary())["status"] != "RUNNING" and now)
    assert (
        shown["status"] == "ERROR"
        and "Found that the training ended with code 1 before its last step; see" in shown["reason"]
    )

    def prepare_ended(folder: Path) -> dict[str, object]:
        folder.mkdir(parents=True)
        (folder / "outcome.json").write_text(json.dumps({"before": 0.1, "after": 0.2, "metric": "mean_dice"}))
        return info

    runs.start("bands", prepare_ended)
    shown = wait_for(lambda: (now := runs.summary())["status"] != "RUNNING" and now)
    assert shown["status"] == "ERROR" and shown["after"] == 0.2
    assert (
        "Found that the new weights could not be published (OSError); see that the project's folder" in shown["reason"]
    )
    runs.close()


@pytest.mark.soak
def test_a_run_that_is_refused_says_why(settings, tmp_path: Path) -> None:
    import nibabel as nib
    from medvit_label.project import Project

    project = Project(settings)
    try:
        for number in range(4):
            empty = nib.load(tmp_path / "truth" / f"case{number}.nii.gz")
            nib.save(
                nib.Nifti1Image(np.zeros(empty.shape, np.uint8), empty.affine),
                tmp_path / "truth" / f"case{number}.nii.gz",
            )
            submit(project, tmp_path, f"case{number}")
        project.runs.fine_tuning.start("bands", {"steps": 2})
        run = wait_for(lambda: (shown := project.runs.trainings.summary())["status"] != "RUNNING" and shown)
        assert run["status"] == "ERROR" and "Found background alone in the labels of all 3 cases" in run["reason"]
        assert project.models.find("bands").version == "0.1.0"
    finally:
        project.close()


def test_a_restoration_is_what_the_library_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nibabel as nib
    from medvit_label.inference.run import Params
    from medvit_label.project import Project
    from medvit_label.routes.project_state import project_info
    from medvit_label.settings import ServerSettings

    import medvit
    from medvit.errors import BundleError
    from tests.bands import make_restoring_bundle

    bundle = make_restoring_bundle(tmp_path / "bundles" / "stencil")
    make_cases(tmp_path / "studies", tmp_path / "truth", 1)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    project = Project(ServerSettings(studies=str(tmp_path / "studies"), state=tmp_path / "state", bundles=("stencil",)))
    try:
        info = project_info(project)
        assert info["models"]["stencil"]["type"] == "others" and info["trainers"] == {}
        made = project.runs.inferences.submit(
            "stencil", project.images.find("case0"), Params(force=True)
        ).future.result(60)
        ours = medvit.restore(tmp_path / "studies" / "case0.nii.gz", bundle=bundle, force=True)
        theirs = np.asarray(nib.load(made.file).dataobj)
        assert np.allclose(theirs, np.asarray(ours.image)[0], atol=1e-3) and made.params["bundle"] == "stencil 0.1.0"
        with pytest.raises(
            BundleError, match=r"Found a bundle for restoration in the request to train stencil; .* Name one of: none"
        ):
            project.runs.fine_tuning.start("stencil", {})
    finally:
        project.close()
