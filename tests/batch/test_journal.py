"""The journal and publishing: every moment a kill can fall on, and what the next run makes of it."""

from __future__ import annotations

import hashlib
import json
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from medvit_batch.cases import CaseDescription, CaseLocation, Decision, State
from medvit_batch.errors import BatchError
from medvit_batch.execution.publish import exclusive_folder, prepare, publish_case, recover, staging_path
from medvit_batch.journal import Journal

from medvit.errors import OutputError

RUN = Decision(
    volume="1.2|",
    bundle="b",
    state=State.PENDING,
    reason="bundle b",
    facts=CaseDescription(series="1.2"),
    key=CaseLocation(0, "1.2", 1),
    file_signature="stamp",
    changed=0,
    folder="1.2/b",
)


@pytest.fixture
def out(tmp_path) -> Path:
    prepare(tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def journal(out):
    opened = Journal(out, new=True)
    opened.start({"archive": "/archive"})
    yield opened
    opened.close()


def _take(journal: Journal, out: Path, decision: Decision = RUN, asked: str = "asked") -> tuple[int, State, bool]:
    return journal.take(decision, asked, 1, out)


def _write(folder: Path, text: str) -> str:
    """A result as ``medvit.segmentation.save.save_result`` seals it; its seal."""
    folder.mkdir(parents=True)
    (folder / "labels").write_text(text)
    record = json.dumps({"files": {"labels": hashlib.sha256(text.encode()).hexdigest()}})
    (folder / "run.json").write_text(record)
    return hashlib.sha256(record.encode()).hexdigest()


def _checked(journal: Journal, out: Path, text: str) -> int:
    case, *_ = _take(journal, out)
    journal.move(case, State.RUNNING)
    journal.move(case, State.CHECKED, run_sha256=_write(staging_path(out, case), text), result_key="h")
    return case


def _published(journal: Journal, out: Path, text: str = "first") -> int:
    case = _checked(journal, out, text)
    publish_case(out, case, "cases/1.2/b")
    journal.move(case, State.PUBLISHED)
    return case


def test_what_is_done_is_left_and_what_changed_is_done_again(journal, out):
    case = _published(journal, out)
    assert _take(journal, out) == (case, State.PUBLISHED, False)
    assert _take(journal, out, replace(RUN, state=State.SKIPPED, reason="not selected")) == (
        case,
        State.PUBLISHED,
        False,
    )
    assert _take(journal, out, asked="a newer bundle") == (case, State.PENDING, True)
    journal.move(case, State.RUNNING)
    journal.move(case, State.FAILED, reason="x", stage="infer", code="X")
    assert _take(journal, out, asked="a newer bundle") == (case, State.FAILED, False)
    assert _take(journal, out, replace(RUN, file_signature="other files"), "a newer bundle") == (
        case,
        State.PENDING,
        True,
    )
    assert journal.case(case)["reason"] == ""


def test_a_result_that_somebody_took_away_is_made_again(journal, out):
    case = _published(journal, out)
    (out / "cases/1.2/b/run.json").unlink()
    assert _take(journal, out) == (case, State.PENDING, True)


def test_set_aside_by_the_plan_follows_the_plan_and_by_a_worker_stays(journal, out):
    case, state, _ = _take(journal, out, replace(RUN, state=State.SET_ASIDE, reason="modality"))
    assert state is State.SET_ASIDE
    assert _take(journal, out) == (case, State.PENDING, True)
    journal.move(case, State.RUNNING)
    journal.move(case, State.SET_ASIDE, stage="read", reason="damaged")
    assert _take(journal, out) == (case, State.SET_ASIDE, False)


def test_what_waits_and_is_gone_is_set_aside(journal, out):
    case, *_ = _take(journal, out)
    journal.gone({case}, "/archive")
    journal.gone(set(), "/another")
    assert journal.case(case)["state"] == State.PENDING
    journal.gone(set(), "/archive")
    assert journal.case(case)["state"] == State.SET_ASIDE
    assert "Found none of its files any more" in journal.case(case)["reason"]


def test_states_cannot_be_skipped(journal, out):
    case, *_ = _take(journal, out)
    with pytest.raises(AssertionError, match="cannot go from pending to published"):
        journal.move(case, State.PUBLISHED)


def _texts(out: Path) -> dict[str, str]:
    return {p.parent.name: p.read_text() for p in (out / "cases").rglob("labels")}


def test_killed_before_the_rename(journal, out):
    case = _checked(journal, out, "whole")
    recover(journal, out)
    assert (journal.case(case)["state"], _texts(out)) == (State.PUBLISHED, {"b": "whole"})
    assert not list((out / "staging").iterdir())


def test_killed_after_the_rename(journal, out):
    case = _checked(journal, out, "whole")
    publish_case(out, case, "cases/1.2/b")
    recover(journal, out)
    assert (journal.case(case)["state"], _texts(out)) == (State.PUBLISHED, {"b": "whole"})


def test_killed_between_taking_the_old_result_away_and_putting_the_new_one_there(journal, out):
    case = _published(journal, out)
    _take(journal, out, asked="newer")
    journal.move(case, State.RUNNING)
    journal.move(case, State.CHECKED, run_sha256=_write(staging_path(out, case), "second"))
    (out / "cases/1.2/b").rename(out / "staging" / f"old-{case}")
    recover(journal, out)
    assert (journal.case(case)["state"], _texts(out)) == (State.PUBLISHED, {"b": "second"})
    assert not list((out / "staging").iterdir())


def test_killed_at_work_leaves_the_earlier_result_and_tries_again(journal, out):
    case = _published(journal, out)
    _take(journal, out, asked="newer")
    journal.move(case, State.RUNNING)
    _write(staging_path(out, case), "half")
    assert recover(journal, out) == 1
    assert (journal.case(case)["state"], _texts(out)) == (State.PENDING, {"b": "first"})
    assert not list((out / "staging").iterdir())


def test_a_checked_result_that_is_not_whole_any_more_is_made_again(journal, out):
    case = _checked(journal, out, "whole")
    (staging_path(out, case) / "labels").write_text("spoilt")
    recover(journal, out)
    assert (journal.case(case)["state"], _texts(out)) == (State.PENDING, {})


def test_a_case_that_ends_the_run_again_and_again_is_given_up(journal, out):
    case, *_ = _take(journal, out)
    for _ in range(3):
        journal.move(case, State.RUNNING)
        recover(journal, out)
    row = journal.case(case)
    assert (row["state"], row["code"]) == (State.FAILED, "Interrupted")
    assert "3 runs ended while this case was at work" in row["reason"]
    assert "medvit batch retry" in row["remedy"]


def test_one_run_at_a_time(out):
    with (
        exclusive_folder(out),
        pytest.raises(BatchError, match="Found another run that writes to .*Wait for it"),
        exclusive_folder(out),
    ):
        pass
    with exclusive_folder(out):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="flock is a call of Unix")
def test_a_run_of_an_earlier_release_that_is_killed_leaves_no_lock(out):
    """Earlier releases called flock on the same file themselves, so either release respects the other's lock."""
    code = "import fcntl, sys, time; f = open(sys.argv[1], 'a+'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(out / ".lock")], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout.readline() == "held\n"
        with pytest.raises(BatchError, match="Found another run that writes to"), exclusive_folder(out):
            pass
        run.kill()
        run.wait()
        with exclusive_folder(out):
            pass


@pytest.mark.skipif(sys.platform == "win32", reason="the process is killed by a signal")
def test_a_killed_run_leaves_no_lock(out):
    code = (
        "import os, signal, sys, pathlib; from medvit_batch.execution.publish import exclusive_folder\n"
        "with exclusive_folder(pathlib.Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert run.returncode == -signal.SIGKILL
    assert (out / ".lock").is_file()
    with exclusive_folder(out):
        pass


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(OutputError, match="that no batch has written; a new folder is needed, or one to go on with"):
        prepare(tmp_path)
    with pytest.raises(OutputError, match="Found a file at .*where the output folder should be"):
        prepare(tmp_path / "thesis.docx")
    with pytest.raises(BatchError, match="Found no journal in .*a folder that medvit batch has written is needed"):
        Journal(tmp_path)


def test_only_its_owner_reads_the_journal_and_its_commits_are_on_the_disk(journal, out):
    assert stat.S_IMODE((out / "journal.sqlite").stat().st_mode) == 0o600
    assert journal.base.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert journal.base.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
