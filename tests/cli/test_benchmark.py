"""``medvit benchmark`` runs both sides on the same weights and says what came of it; how fast is not tested."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from medvit.settings import DEFAULT_BUNDLE


def _rows(*arguments: object) -> list[dict]:
    outcome = CliRunner().invoke(app, ["benchmark", "--runs", "1", "--json", *map(str, arguments)])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


@pytest.fixture
def eager_alone(monkeypatch):
    """Graphs take half a minute to make; their answers have tests of their own."""
    monkeypatch.setattr("medvit.benchmarks.networks._BACKENDS", (("eager", "fp32"),))
    monkeypatch.setattr("medvit.benchmarks.networks._PEERS", ())


def test_random_weights_answer_as_monais(eager_alone):
    (row,) = _rows("--side", 64)
    assert row["work"] == "fs12, 64^3, full: eager fp32"
    assert row["agreement"] > 0.9999
    assert row["difference"] < 1e-4
    assert 0 < row["largest"] < 1e-3
    assert len(row["wall"]) == len(row["cpu"]) == 1
    assert min(row["theirs"], row["ours"], row["ratio"]) > 0


@pytest.mark.soak
def test_a_bundle_answers_as_its_twin_on_a_scan(eager_alone, examples):
    (row,) = _rows("--side", 64, "-b", DEFAULT_BUNDLE, "--case", examples / "headneck_ct_dicom.zip")
    assert row["work"].startswith(f"{DEFAULT_BUNDLE}, trained, ")
    assert row["agreement"] > 0.9999
    assert row["difference"] < 1e-4


def test_air_is_set_beside_a_scan(examples):
    from medvit.benchmarks.networks import bundle_workload

    scan = bundle_workload(DEFAULT_BUNDLE, examples / "headneck_ct_dicom.zip").image
    work = bundle_workload(DEFAULT_BUNDLE, examples / "headneck_ct_dicom.zip", air=True)
    length = scan.shape[2]
    assert work.image.shape[2] == length + length * 3 // 2 and "mostly air" in work.name
    assert work.image[:, :, :length].equal(scan)
    assert work.image[:, :, length:].unique().tolist() == [float(scan.min())]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-b", DEFAULT_BUNDLE], 2, "found one of --bundle and --case; give both or neither"),
        (["-b", "nuclei_barlow_swin", "--case", "examples/nuclei.png"], 1, "Found no configs/inference_monai.json in nuclei_barlow_swin; .* leave --bundle out"),
    ],
)  # fmt: skip
def test_mistakes_are_told(arguments, code, message):
    outcome = CliRunner().invoke(app, ["benchmark", *arguments])
    assert outcome.exit_code == code, outcome.output
    assert re.search(message, " ".join(outcome.output.replace("│", " ").split()))
