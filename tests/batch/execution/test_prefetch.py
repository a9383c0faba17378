"""Work beside inference: the next case is read and the one before written, and what either does to its worker costs itself alone."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from medvit_batch.cases import CaseJob, CaseLocation, RunOptions
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.execution import prefetch as ahead
from medvit_batch.execution.messages import PrefetchMessage, ReadingEnded, ReadingStarted
from medvit_batch.execution.prefetch import Ahead, room, size_of

from medvit.progress import Progress
from medvit.settings import RunSettings
from tests.batch.archives import SMALL, write_small

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
