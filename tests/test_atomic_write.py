"""Files replaced atomically: whole or not at all, with the permissions asked for, and nothing left of killed runs."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading

import pytest

from medvit.atomic_write import HIDDEN, replace_file


def test_the_earlier_file_stays_where_writing_fails(tmp_path):
    path = tmp_path / "new" / "file.json"
    with replace_file(path) as aside:
        aside.write_text("first")
    with pytest.raises(RuntimeError, match="^half way$"), replace_file(path, durable=True) as aside:
        aside.write_text("sec")
        raise RuntimeError("half way")
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_private_file_gives_no_access_to_others(tmp_path):
    before = os.umask(0)
    try:
        with replace_file(tmp_path / "accounts.json", private=True, durable=True) as aside:
            assert stat.S_IMODE(aside.stat().st_mode) == 0o600
            aside.write_text("secret")
        with replace_file(tmp_path / "open.json") as aside:
            aside.write_text("known")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "accounts.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "open.json").stat().st_mode) == 0o666


@pytest.mark.skipif(os.name == "nt", reason="whether a process runs cannot be asked there")
def test_files_of_killed_runs_are_deleted_and_those_of_running_ones_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    home = tmp_path / "incoming"
    home.mkdir()
    left = home / f"{HIDDEN}{socket.gethostname()}-{ended.pid}-1-a [1].dcm"
    other = home / f"{HIDDEN}{socket.gethostname()}-{ended.pid}-1-b.dcm"
    running = home / f"{HIDDEN}{socket.gethostname()}-{os.getppid()}-1-a [1].dcm"
    for path in (left, other, running):
        path.touch()
    with replace_file(tmp_path / "a [1].dcm", staged_in=home) as aside:
        assert aside.parent == home
        aside.write_bytes(b"whole")
    assert (tmp_path / "a [1].dcm").read_bytes() == b"whole"
    assert not left.exists()
    assert other.exists() and running.exists()


def test_threads_that_write_one_file_do_not_meet(tmp_path):
    path, failures = tmp_path / "file", []

    def write(text: str) -> None:
        try:
            for _ in range(50):
                with replace_file(path) as aside:
                    aside.write_text(text)
                assert path.read_text() in ("a" * 5000, "b" * 5000)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter * 5000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
