"""The save skeleton: all files with their hashes under their final names, or nothing."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import pytest

from medvit.errors import OutputError, RoundTripError
from medvit.progress import Cancelled, Progress
from medvit.tasks import SavedResult, SavePlan, publish_files


def _write(name, text, folder):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)


def _noted(folder):
    _write("b.txt", "b", folder)
    return ["b was rounded."]


def _record(files, notes):
    return {"notes": list(notes), "files": files}


def _plan(*writers, **more):
    return SavePlan(writers=writers, output_files=("a.txt", "maps/*.txt", "run.json"), **more)


def test_files_are_hashed_and_recorded(tmp_path):
    progress = Progress()
    plan = _plan(partial(_write, "maps/a.txt", "a"), _noted, notes=("b comes with a.",))
    saved = publish_files(tmp_path / "out", plan, _record, progress)
    assert saved.files == ("b.txt", "maps/a.txt", "run.json")
    assert saved.notes == ("b comes with a.", "b was rounded.")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record == {
        "notes": ["b comes with a.", "b was rounded."],
        "files": {name: hashlib.sha256(name[-5:-4].encode()).hexdigest() for name in ("b.txt", "maps/a.txt")},
    }
    assert set(progress.seconds) == {"write"}


def test_an_earlier_result_goes_and_strangers_stay(tmp_path):
    publish_files(
        tmp_path, _plan(partial(_write, "maps/a.txt", "a"), partial(_write, "a.txt", "a")), _record, Progress()
    )
    (tmp_path / "mine.txt").write_text("keep")
    again = _plan(partial(_write, "a.txt", "new"))
    with pytest.raises(OutputError, match="never written over silently"):
        publish_files(tmp_path, again, _record, Progress())
    assert (tmp_path / "maps" / "a.txt").exists()
    publish_files(tmp_path, _plan(*again.writers, overwrite=True), _record, Progress())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "mine.txt", "run.json"]
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("failure", [RoundTripError("read back differently"), OSError(28, "No space left on device")])
def test_a_writer_that_fails_publishes_nothing(tmp_path, failure):
    def fail(folder):
        raise failure

    expected = OutputError if isinstance(failure, OSError) else RoundTripError
    with pytest.raises(expected):
        publish_files(tmp_path / "out", _plan(partial(_write, "a.txt", "a"), fail), _record, Progress())
    assert not any(tmp_path.iterdir())


def test_a_cancelled_save_starts_no_further_writer(tmp_path):
    progress, started = Progress(), []

    def cancel(folder):
        progress.cancel()

    with pytest.raises(Cancelled):
        publish_files(tmp_path / "out", _plan(cancel, started.append), _record, progress)
    assert not started
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rating", "not_written", "flagged"),
    [("good", (), False), ("check", (), False), ("poor", (), True), ("good", ("sr not written.",), True)],
)
def test_a_saved_result_is_flagged(tmp_path, rating, not_written, flagged):
    quality = {"rating": rating, "reasons": []}
    saved = SavedResult(folder=tmp_path, files=(), quality=quality, not_written=not_written)
    assert (saved.rating, saved.flagged) == (rating, flagged)
