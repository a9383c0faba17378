"""Runs whose workers read the next case and write the one before: what either does to a worker costs itself alone."""

from __future__ import annotations

import csv
import json
import sqlite3
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medvit_batch.cases import sequential_seconds
from medvit_batch.cli import app
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.pipe_transport import PipeTransport
from typer.testing import CliRunner

import medvit
from tests.batch.archives import series_of, write_small
from tests.batch.runs import sham


def _run(
    tmp_path: Path, banded: Path, monkeypatch: pytest.MonkeyPatch, *names: str, workers: int = 1, limit: float = 60
):
    """A run of series in folders of these names, by workers without a model; (what was said, rows, records of results)."""
    for n, name in enumerate(names):
        write_small(
            tmp_path / "archive" / f"{n} {name}", n, SeriesInstanceUID=f"1.2.840.99999.{n + 1}"
        )  # in this order
    monkeypatch.setattr(
        "medvit_batch.execution.session._dispatcher",
        lambda limits, say: Dispatcher(PipeTransport(limits.workers, threads=1, run=sham), limits.time_limit),
    )
    out = tmp_path / "out"
    line = ["run", str(tmp_path / "archive"), "-o", str(out), "-b", str(banded), "--no-preview", "-ot", "nifti"]
    said = CliRunner().invoke(app, [*line, "--workers", str(workers), "--time-limit", str(limit)])
    assert said.exit_code in (0, 1, 3), said.output
    names_of = {series_of(path): path.name for path in (tmp_path / "archive").iterdir()}
    with (out / "cases.csv").open(newline="") as file:
        rows = {names_of[row["series_uid"]].partition(" ")[2]: row for row in csv.DictReader(file)}
    records = {
        name: json.loads((out / row["folder"] / "run.json").read_text())
        for name, row in rows.items()
        if row["state"] == "published"
    }
    assert not list((out / "staging").iterdir())
    return " ".join(said.output.split()), rows, records


def test_cases_are_read_and_written_beside_others(banded, tmp_path, monkeypatch):
    _, rows, records = _run(tmp_path, banded, monkeypatch, "a", "b", "c", "d")
    assert {row["state"] for row in rows.values()} == {"published"}
    assert sorted(record["ahead"] for record in records.values()) == [False, True, True, True]
    assert all(record["behind"] for record in records.values())


def test_a_case_that_crashes_its_reader_costs_itself_alone(banded, tmp_path, monkeypatch):
    said, rows, records = _run(tmp_path, banded, monkeypatch, "a", "b", "crashes", "d", workers=2)
    assert rows["crashes"]["state"] == "failed"
    assert rows["crashes"]["code"] == "WorkerDied"
    assert "it was ended by SIGSEGV" in rows["crashes"]["reason"]
    assert set(records) == {"a", "b", "d"}
    assert said.count("another case in the same worker may be the reason; it is tried again by itself") >= 1


def test_a_case_that_crashes_while_it_is_written_costs_itself_alone(banded, tmp_path, monkeypatch):
    said, rows, records = _run(tmp_path, banded, monkeypatch, "a", "writes badly", "c")
    assert rows["writes badly"]["state"] == "failed"
    assert rows["writes badly"]["code"] == "WorkerDied"
    assert set(records) == {"a", "c"}
    assert "it is tried again by itself" in said


def test_a_case_that_hangs_while_it_is_read_costs_itself_alone(banded, tmp_path, monkeypatch):
    monkeypatch.setattr("medvit_batch.execution.dispatcher._LOADING", 8.0)
    said, rows, records = _run(tmp_path, banded, monkeypatch, "a", "hangs", "c", limit=5)
    assert (rows["hangs"]["state"], rows["hangs"]["code"]) == ("failed", "TimeLimit")
    assert set(records) == {"a", "c"}
    assert records["a"]["alone"]
    assert "it is tried again by itself" in said


def test_failures_of_a_case_read_ahead_are_its_own(banded, tmp_path, monkeypatch):
    said, rows, records = _run(tmp_path, banded, monkeypatch, "a", "damaged", "eats memory", "d")
    assert (rows["damaged"]["state"], rows["damaged"]["stage"], rows["damaged"]["code"]) == (
        "set aside",
        "open",
        "SourceError",
    )
    assert rows["damaged"]["reason"] == "Found nothing to read. Check the export."
    assert (rows["eats memory"]["state"], rows["eats memory"]["code"]) == ("failed", "MemoryError")
    assert set(records) == {"a", "d"}
    assert said.count("tried again") <= 2


def test_a_case_short_of_memory_is_tried_again_with_nothing_beside_it(banded, tmp_path, monkeypatch):
    said, rows, records = _run(tmp_path, banded, monkeypatch, "greedy", "b", "c")
    assert {row["state"] for row in rows.values()} == {"published"}, said
    assert records["greedy"] == {"files": {}, "ahead": False, "behind": False, "alone": True}
    assert said.count("it is tried again by itself") == 1


def test_results_of_cases_read_ahead_are_those_of_segment(banded, tmp_path):
    """The whole of it with a model: voxels equal, and the journal says what was waited for and what went beside."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(3):
        write_small(archive / str(n), n)
    said = CliRunner().invoke(
        app, ["run", str(archive), "-o", str(out), "-b", str(banded), "-ot", "dicom-seg", "-ot", "nifti"]
    )
    assert said.exit_code in (0, 3), said.output
    base = sqlite3.connect(out / "journal.sqlite")
    found = base.execute("SELECT folder, seconds FROM cases WHERE state='published' ORDER BY id").fetchall()
    base.close()
    seconds = [json.loads(row[1]) for row in found]
    assert ["ahead" in case for case in seconds] == [False, True, True]
    assert all(case["behind"] > 0 and "write" not in case for case in seconds)
    for case in seconds[1:]:
        assert case["ahead"] > 0
        assert {"open", "read", "wait", "load"} <= set(sequential_seconds(case))
        assert not {"ahead", "behind", "preflight"} & set(sequential_seconds(case))
    folder = found[-1][0]  # the others are like it, and each takes a while
    (source,) = (path for path in archive.iterdir() if series_of(path) == folder.split("/")[1])
    ours = np.asarray(nib.load(out / folder / "labels.nii.gz").dataobj)
    assert np.array_equal(ours, medvit.segment(source, bundle=banded).array)
