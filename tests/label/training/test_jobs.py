"""Training from submitted labels: through MONAI Label's client, in a server of its own, with weights that really change."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from medvit.atomic_write import hashes_within
from tests.label.conftest import Lab
from tests.label.learning import wait_for

requests = pytest.importorskip("requests")
client_module = pytest.importorskip("monailabel.client")
pytest.importorskip("fastapi")


def ended(lab: Lab) -> dict[str, Any]:
    return wait_for(lambda: (run := lab.client.train_status())["status"] != "RUNNING" and run)


def test_too_few_labels_are_refused(lab: Lab) -> None:
    for name in lab.names[:3]:
        lab.submit(name)
    answer = requests.post(f"{lab.url}/train/bands", json={}, timeout=60)
    assert answer.status_code == 400
    assert "Found 3 images with a final label for bands; at least 4 are needed" in answer.json()["detail"]
    assert requests.get(f"{lab.url}/train/", timeout=60).status_code == 404
    assert not lab.client.train_status(check_if_running=True)
    assert not list((lab.top / "state" / "training").glob("*"))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"steps": 0}, "Found params.steps: Input should be greater than or equal to 1. Correct it or leave it out"),
        ({"learning_rate": "fast"}, "Found params.learning_rate"),
        ({"validation_share": 0.9}, "Found params.validation_share"),
    ],
)
def test_params_that_mean_nothing(lab: Lab, params: dict[str, Any], words: str) -> None:
    answer = requests.post(f"{lab.url}/train/bands", json=params, timeout=60)
    assert answer.status_code == 400 and words in answer.json()["detail"]


def test_all_models_at_once_are_not_trained(lab: Lab) -> None:
    answer = requests.post(f"{lab.url}/train/", json={"model": 5}, timeout=60)
    assert answer.status_code == 400
    assert (
        "Found no model to train in the request; one is trained at a time. Name one of: bands"
        in answer.json()["detail"]
    )


@dataclass(frozen=True)
class Trained:
    """A lab after its first training, and what was before."""

    lab: Lab
    run: dict[str, Any]
    before: tuple[float, str]
    shipped: dict[str, str]


@pytest.fixture(scope="module")
def trained(lab: Lab) -> Trained:
    shipped = hashes_within(lab.bundle)
    for name in lab.names[:5]:
        lab.submit(name)
    before = lab.dice("case5")
    started = lab.client.train_start("bands", {"steps": 60, "learning_rate": 0.003})
    assert started["status"] == "RUNNING" and started["split"] == {"by": "image", "training": 4, "validation": 1}
    busy = requests.post(f"{lab.url}/train/bands", json={}, timeout=60)
    assert busy.status_code == 429 and "only one may run at a time. Wait for it, or stop it" in busy.json()["detail"]
    return Trained(lab, ended(lab), before, shipped)


def test_training_makes_a_better_version_that_answers_and_can_be_taken_back(trained: Trained) -> None:
    lab, run, before = trained.lab, trained.run, trained.before
    assert lab.client.info()["trainers"]["bands"]["config"]["steps"] == 200
    assert run["status"] == "DONE", run
    assert run["published"] == 1 and run["after"] > run["before"] + 0.1 and run["metric"] == "mean_dice"
    assert run["details"][-1].startswith("step 60 ") and run["done"] == 60
    after, now = lab.dice("case5")
    assert after > before[0] + 0.1
    assert (before[1], now) == ("bands 0.1.0", "bands 0.1.0+project.1")
    assert lab.ask("GET", "/model/info/bands").json()["version"] == "0.1.0+project.1"
    assert hashes_within(lab.bundle) == trained.shipped
    assert not (lab.top / "state" / "training" / run["id"] / "data").exists()

    assert lab.ask("POST", "/model/rollback/bands").json() == {"model": "bands", "serving": 0, "version": "0.1.0"}
    assert lab.dice("case5") == before
    refused = lab.ask("POST", "/model/rollback/bands")
    assert refused.status_code == 404 and "there is no earlier version" in refused.json()["detail"]
    assert "there are: 0, 1 (0 is as installed)" in lab.ask("POST", "/model/rollback/bands?to=7").json()["detail"]
    assert lab.ask("POST", "/model/rollback/bands?to=1").json()["serving"] == 1


def test_the_command_line_shows_and_chooses_versions_of_a_running_project(trained: Trained) -> None:
    lab = trained.lab
    from medvit_label.cli import app

    where = ["--studies", str(lab.top / "studies"), "--state", str(lab.top / "state")]
    shown = CliRunner().invoke(app, ["versions", "bands", *where])
    assert shown.exit_code == 0 and "1  mean_dice" in shown.output, shown.output
    chosen = CliRunner().invoke(app, ["rollback", "bands", *where, "--to", "1"])
    assert chosen.exit_code == 0 and "version 1 of bands answers" in chosen.output, chosen.output
    assert lab.dice("case5")[1] == "bands 0.1.0+project.1"
    refused = CliRunner().invoke(app, ["rollback", "bands", *where, "--to", "9"])
    assert refused.exit_code == 1 and "Found no version 9 of bands" in refused.output
    nowhere = CliRunner().invoke(
        app, ["versions", "bands", "--studies", str(lab.top), "--state", str(lab.top / "none")]
    )
    assert nowhere.exit_code == 1 and "Found no project" in nowhere.output


def test_what_is_no_better_is_not_published(trained: Trained) -> None:
    lab = trained.lab
    lab.client.train_start("bands", {"steps": 1, "learning_rate": 1e-12})
    run = ended(lab)
    assert run["status"] == "DONE" and run["published"] is None and run["from"] == 1
    assert run["after"] == pytest.approx(run["before"], abs=1e-3)
    assert [row["serving"] for row in lab.ask("GET", "/model/versions/bands").json()] == [False, True]


def test_a_run_can_be_stopped(trained: Trained) -> None:
    lab = trained.lab
    assert lab.client.train_stop() is None
    lab.client.train_start("bands", {"steps": 100_000})
    assert lab.client.train_status(check_if_running=True)
    stopped = lab.client.train_stop()
    assert stopped["status"] == "STOPPED" and stopped["published"] is None
    assert not lab.client.train_status(check_if_running=True)


def test_configs_put_into_a_version_are_never_run(trained: Trained) -> None:
    lab = trained.lab
    config = lab.top / "state" / "models" / "bands" / "v0001" / "bands" / "configs" / "inference.json"
    kept = config.read_text()
    config.write_text(kept.replace('"imports": [', "\"imports\": [\"$open('/tmp/medvit-label-ran', 'w')\", "))
    try:
        answer = lab.ask("POST", "/infer/bands?image=case5")
        assert answer.status_code == 422 and "only weights may differ" in answer.json()["detail"]
        assert not Path("/tmp/medvit-label-ran").exists()
    finally:
        config.write_text(kept)
    lost = config.parent.parent.with_name("away")
    config.parent.parent.rename(lost)
    try:
        assert "Found no files of version 1 of bands" in lab.ask("POST", "/infer/bands?image=case5").json()["detail"]
    finally:
        lost.rename(config.parent.parent)
    assert lab.dice("case5")[1] == "bands 0.1.0+project.1"


def test_a_batch_judges_what_has_no_label_and_the_next_case_says_so(lab: Lab) -> None:
    absent = requests.get(f"{lab.url}/batch/infer", params={"check_if_running": True}, timeout=60)
    assert absent.status_code == 404 and "Found no batch that runs; start one" in absent.json()["detail"]
    started = requests.post(f"{lab.url}/batch/infer/bands", json={"client_id": "x"}, timeout=60).json()
    assert started["status"] in ("RUNNING", "DONE")  # so few small cases may be done before the answer is written
    shown = wait_for(lambda: (now := lab.ask("GET", "/batch/infer").json())["status"] != "RUNNING" and now)
    assert shown["status"] == "DONE" and shown["failed"] == 0
    waiting = {row["image"]: row for row in lab.ask("GET", "/stats/").json()["next"]}
    found = lab.client.next_sample("quality", {})
    assert (found["id"] in waiting and found["reason"] in (waiting[found["id"]]["reason"], "")) or "plausible" in found[
        "reason"
    ]
    assert lab.ask("DELETE", "/batch/infer").json() is None
