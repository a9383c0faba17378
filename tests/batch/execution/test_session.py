"""A run that is killed or stopped goes on where it was: nothing finished is lost, nothing half done is published."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import warm
from tests.bands import oblique_affine, phantom, write_series
from tests.batch.archives import command, write_small

_PATIENCE = 180.0


def start(archive: Path, out: Path, bundle: Path, *more: object) -> subprocess.Popen[str]:
    """A run of its own."""
    line, env = command("run", archive, "-o", out, "-b", bundle, "-ot", "nifti", "--no-preview", *more)
    return warm.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def counts(out: Path) -> dict[str, int]:
    """Cases by state, read beside the run; none while the journal is being made."""
    try:
        base = sqlite3.connect(f"file:{out}/journal.sqlite?mode=ro", uri=True)
        found = dict(base.execute("SELECT state, COUNT(*) FROM cases GROUP BY state").fetchall())
        base.close()
    except sqlite3.Error:
        return {}
    return found


def seconds(out: Path) -> list[dict[str, float]]:
    """By stage, of every published case."""
    base = sqlite3.connect(f"file:{out}/journal.sqlite?mode=ro", uri=True)
    found = [
        json.loads(row[0]) for row in base.execute("SELECT seconds FROM cases WHERE state='published' ORDER BY id")
    ]
    base.close()
    return found


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for a moment within a run."""
    limit = time.monotonic() + _PATIENCE
    while not true() and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.005)


def results(out: Path) -> dict[str, tuple[int, int]]:
    """Every published result, seen to be whole: which file its record is, and when it was written."""
    found = {}
    for record in (out / "cases").glob("*/*"):
        files = json.loads((record / "run.json").read_text())["files"]
        assert {p.relative_to(record).as_posix() for p in record.rglob("*") if p.is_file()} == {*files, "run.json"}
        for name, digest in files.items():
            assert hashlib.sha256((record / name).read_bytes()).hexdigest() == digest
        stated = (record / "run.json").stat()
        found[record.parent.name] = (stated.st_ino, stated.st_mtime_ns)
    return found


def kept(before: dict[str, tuple[int, int]], out: Path) -> dict[str, tuple[int, int]]:
    """The results now, seen to hold all that were there before, untouched."""
    after = results(out)
    assert {name: after.get(name) for name in before} == before
    return after


def test_killed_then_stopped_then_finished(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(5):
        write_small(archive / str(n), n)
    run = start(archive, out, banded)
    until(lambda: any((out / "staging").glob("**/.medvit-*")), run)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    first = results(out)

    run = start(archive, out, banded)
    until(lambda: counts(out).get("published", 0) > len(first), run)
    run.send_signal(signal.SIGTERM)
    said, _ = run.communicate(timeout=_PATIENCE)
    assert run.returncode == 3, said
    assert "Stopping: running cases may finish" in said
    assert "Give the same command again to go on" in said
    second = kept(first, out)
    states = counts(out)
    assert set(states) == {"published", "pending"}
    assert states["published"] == len(second)

    run = start(archive, out, banded)
    said, _ = run.communicate(timeout=_PATIENCE)
    assert run.returncode in (0, 3), said
    assert f"{5 - len(second)} case(s) to run" in said
    assert len(kept(second, out)) == 5
    assert counts(out) == {"published": 5}
    assert not list((out / "staging").iterdir())
    assert any("ahead" in case for case in seconds(out))
    assert any("behind" in case for case in seconds(out))


def test_a_second_run_waits_for_nobody(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    write_small(archive, 1)
    run = start(archive, out, banded)
    until(lambda: bool(counts(out)), run)
    other = start(archive, out, banded)
    said, _ = other.communicate(timeout=_PATIENCE)
    run.communicate(timeout=_PATIENCE)
    assert other.returncode == 1
    assert "Found another run that writes to" in said
    assert counts(out) == {"published": 1}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a worker is found by Linux's /proc")
def test_a_worker_that_is_killed_costs_nothing(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    # so large that its results take longer to write and verify than this test takes to see that it has begun
    write_series(archive / "a", np.tile(phantom()[0], (2, 2, 3)), oblique_affine())
    run = start(archive, out, banded)
    until(lambda: bool(_workers(run.pid)), run)
    (worker,) = _workers(run.pid)
    worker_gone = Path(f"/proc/{worker}/stat")
    until(lambda: any((out / "staging").glob("**/.medvit-*")), run)
    os.kill(worker, signal.SIGKILL)
    said, _ = run.communicate(timeout=_PATIENCE)
    assert not worker_gone.exists()
    assert counts(out) == {"published": 1}, said
    assert "its worker was lost (it was ended by SIGKILL); it is tried again" in said


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a worker is found by Linux's /proc")
def test_a_worker_that_is_killed_with_several_cases_in_hand_costs_nothing(banded, tmp_path):
    """One is written, one runs and one has been read when the worker goes; all are run again, each by itself, and published once."""
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(4):
        write_small(archive / str(n), n)
    run = start(archive, out, banded)
    until(lambda: counts(out).get("running", 0) > 1, run)  # one of them is being written
    (worker,) = _workers(run.pid)
    subprocess.run(["kill", "-9", str(worker)], check=True)
    said, _ = run.communicate(timeout=_PATIENCE)
    assert run.returncode in (0, 3), said
    assert counts(out) == {"published": 4}, said
    assert len(results(out)) == 4
    assert "tried again" in said
    assert not list((out / "staging").iterdir())


def processes() -> Iterator[tuple[int, int, bytes, bytes]]:
    """Number, parent, command line and environment of every process."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            yield int(place.name), int(fields[1]), (place / "cmdline").read_bytes(), (place / "environ").read_bytes()


def _workers(run: int) -> list[int]:
    """Workers of a run: children of the fork server that is its child."""
    known = [(pid, parent) for pid, parent, _, _ in processes()]
    servers = {pid for pid, parent in known if parent == run}
    return [pid for pid, parent in known if parent in servers]
