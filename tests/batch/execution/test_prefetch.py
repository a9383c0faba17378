"""Work beside inference: the next case is read and the one before written, and what either does to its worker costs itself alone."""

from __future__ import annotations

import csv
import gc
import json
import sqlite3
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medvit_batch.cases import CaseJob, CaseLocation, RunOptions, sequential_seconds
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.cli import app
from medvit_batch.execution import prefetch as ahead
from medvit_batch.execution.case_queue import Turns, was_interrupted
from medvit_batch.execution.dispatcher import Dispatcher
from medvit_batch.execution.messages import PrefetchMessage, ReadingEnded, ReadingStarted
from medvit_batch.execution.pipe_transport import PipeTransport
from medvit_batch.execution.prefetch import Ahead, room, size_of
from typer.testing import CliRunner

import medvit
from medvit.progress import Progress
from medvit.settings import RunSettings
from tests.batch.archives import SMALL, series_of, write_small
from tests.batch.runs import sham

_SIZE = 4 * SMALL[0] * SMALL[1] * SMALL[2]


def _jobs(folder: Path, count: int, **changes: object) -> list[CaseJob]:
    """A job for each of so many series."""
    for n in range(count):
        write_small(folder / "archive" / f"{n}", n, **changes)
    catalogue = Catalogue(folder / "catalogue.sqlite")
    catalogue.look(folder / "archive", folder / "out", Progress())
    groups = list(catalogue.groups())
    catalogue.close()
    return [
        CaseJob(
            case=n,
            name=str(n),
            bundle="bundle",
            work=RunOptions(),
            staging=folder / "staging" / str(n),
            group=group,
            key=CaseLocation(group.inside, group.series, 1),
        )
        for n, group in enumerate(groups, 1)
    ]


class _Said:
    """What was said, and a moment to wait for."""

    def __init__(self) -> None:
        self.lines: list[PrefetchMessage] = []
        self.changed = threading.Condition()

    def __call__(self, message: PrefetchMessage) -> None:
        with self.changed:
            self.lines.append(message)
            self.changed.notify_all()

    def wait_until_read(self, case: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: ReadingEnded(case=case) in self.lines, 30)


@pytest.fixture
def said() -> _Said:
    return _Said()


def test_a_case_is_read_while_another_is_at_work_and_not_before(tmp_path, said):
    first, second = _jobs(tmp_path, 2)
    reader = Ahead(said, 1)
    reader.tell(first)
    assert reader.take(second) is None  # nothing had begun
    reader.tell(first)
    time.sleep(0.05)
    assert said.lines == []  # the case at work has not got its own images yet
    reader.go()
    said.wait_until_read(1)
    assert said.lines == [ReadingStarted(case=1), ReadingEnded(case=1)]
    reading = reader.take(first)
    assert reading is not None
    opened, scan = reading.opened(), reading.scan()
    assert opened is not None
    assert scan is not None
    assert scan.array.shape[1:] == SMALL
    assert reading.seconds > 0
    assert reader.take(first) is None  # handed over, and not kept


def test_one_case_is_held_at_most(tmp_path, said):
    first, second = _jobs(tmp_path, 2)
    reader = Ahead(said, 1)
    reader.go()
    reader.tell(first)
    said.wait_until_read(1)
    assert reader._reading is not None
    scan = weakref.ref(reader._reading._scan.result())
    reader.tell(second)
    said.wait_until_read(2)
    gc.collect()
    assert scan() is None
    assert reader.take(first) is None
    reader.tell(None)
    reader.settle()


def test_only_the_same_files_read_in_the_same_way_are_used(tmp_path, said):
    first, _ = _jobs(tmp_path, 2)
    assert first.group is not None
    for other in (
        replace(first, group=replace(first.group, file_signature="touched")),
        replace(first, work=RunOptions(run=RunSettings(on_irregular="split"))),
        replace(first, key=replace(first.key, number=2)),
        replace(first, bundle="other"),
    ):
        reader = Ahead(said, 1)
        reader.go()
        reader.tell(first)
        assert reader.take(other) is None
        reader.settle()
    moved = replace(first, case=7, staging=tmp_path / "elsewhere")
    reader.go()
    reader.tell(first)
    assert reader.take(moved) is not None
    reader.settle()


def test_what_fails_ahead_is_read_again_in_its_turn(tmp_path, said, monkeypatch):
    (job,) = _jobs(tmp_path, 1)
    for error in (MemoryError(), ValueError("Secret")):

        def fails(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(ahead, "read_case", fails)
        reader = Ahead(said, 1)
        reader.go()
        reader.tell(job)
        reading = reader.take(job)
        assert reading is not None
        assert reading.opened() is not None  # hashed, which need not be done again
        assert reading.scan() is None
        monkeypatch.setattr(ahead, "open_case", fails)
        reader.go()
        reader.tell(job)
        reading = reader.take(job)
        assert reading is not None
        assert reading.opened() is None
        assert reading.scan() is None
        monkeypatch.undo()


def test_what_does_not_fit_is_not_read_ahead(tmp_path, said, monkeypatch):
    (job,) = _jobs(tmp_path, 1)
    files = max(plane.file.size for plane in job.group.planes)  # type: ignore[union-attr]
    assert size_of(job) == _SIZE + 2 * files
    assert size_of(replace(job, work=RunOptions(run=RunSettings(on_irregular="resample")))) == 3 * _SIZE + 2 * files
    assert size_of(replace(job, group=None, key=CaseLocation(image=tmp_path / "a.nii"))) is None
    assert job.group is not None
    huge = tuple(replace(plane, rows=65535, columns=65535) for plane in job.group.planes)
    for other in (replace(job, group=replace(job.group, planes=huge)), replace(job, group=None)):
        reader = Ahead(said, 1)
        reader.go()
        reader.tell(other)
        assert reader.take(other) is None
    monkeypatch.setattr(ahead, "_free", lambda: 4 * 3 * _SIZE)  # for three workers, less than one scan and a file each
    reader = Ahead(said, 3)
    reader.go()
    reader.tell(job)
    assert reader.take(job) is None
    assert said.lines == []
    monkeypatch.setattr(ahead, "_free", lambda: 1 << 50)
    assert room(1) == 1 << 30
    monkeypatch.undo()
    assert 0 <= room(8) <= room(1) <= 1 << 30


def test_turns_follow_what_was_read():
    turns = Turns([1, 2, 3, 4])
    assert list(turns.coming({})) == [1, 2, 3, 4]
    assert turns.pick({}) == 1
    assert list(turns.coming({2: False})) == [3, 4]
    assert turns.pick({2: False}) == 3  # somebody else has read 2 and is at work
    assert turns.pick({4: True, 2: False}) == 4  # its reader is free
    assert turns.pick({2: False}) == 2  # rather than nothing
    assert not turns
    turns.again(3)
    assert turns.suspect(3, frozenset({5}))
    assert turns.alone == {3, 5}
    assert not turns.suspect(3, frozenset({5}))
    assert not turns.suspect(9, frozenset())
    assert list(turns.coming({})) == []
    assert was_interrupted({"tries": 1, "interrupted": 0})
    assert was_interrupted({"tries": 0, "interrupted": 1})
    assert not was_interrupted({"tries": 0, "interrupted": 0})


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
