"""``medvit bundles fetch`` as a user meets it: the licence first, a question where one can be asked, the pinned exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from tests import warm
from tests.bundles.remote.conftest import NAME, checkpoint, published, server, state, store

__all__ = ["checkpoint", "published", "server", "state", "store"]


def _run(*args: object):
    return CliRunner().invoke(app, ["bundles", *[str(a) for a in args]])


def test_states_in_list_show_verify_and_doctor(published, monkeypatch):
    def listed() -> dict[str, object]:
        return next(row for row in json.loads(_run("list", "--json").stdout) if row["name"] == NAME)

    assert (listed()["state"], listed()["size_mb"]) == ("not fetched", 0.0)
    assert "State: not fetched" in _run("show", NAME).output
    assert "Weights: from http://127.0.0.1" in _run("show", NAME).output
    refused = _run("verify", NAME)
    assert refused.exit_code == 1
    assert f"Fetch them once: medvit bundles fetch {NAME}" in refused.output
    doctor = CliRunner().invoke(app, ["doctor"])
    assert doctor.exit_code == 0
    assert f"{NAME} 0.1.0 (not fetched)" in doctor.output
    assert _run("fetch", NAME, "--yes").exit_code == 0
    assert listed()["state"] == "fetched"
    assert listed()["size_mb"] > 16
    assert "is intact" in _run("verify", NAME).output
    assert f"{NAME} 0.1.0 (fetched)" in CliRunner().invoke(app, ["doctor"]).output


def test_everything_is_shown_and_yes_agrees(published, server):
    outcome = _run("fetch", NAME, "--yes")
    assert outcome.exit_code == 0, outcome.output
    for line in (
        f"Fetch: {NAME} 0.1.0 (weights)",
        f"From: {server.base}/zoo/model_v1.pt",
        "Size: not stated by the publisher",
        "Licence: Apache-2.0, as MONAI's model zoo states",
        "Intended use: For research use, not for diagnosis",
        f"{NAME} 0.1.0 is ready (weights sha256 ",
    ):
        assert line in outcome.output
    again = _run("fetch", NAME)
    assert again.exit_code == 0
    assert "is installed and intact; nothing was fetched" in again.output


def test_without_a_terminal_and_yes_nothing_is_contacted(published, server, store):
    outcome = _run("fetch", NAME)
    assert outcome.exit_code == 1
    assert "Licence: Apache-2.0" in outcome.output
    assert (
        "Found no terminal to ask at; the licence above must be agreed to, and nothing was fetched. Run again with --yes"
        in outcome.output
    )
    assert server.asked == []
    assert not store.exists()


def test_json(published, store):
    outcome = _run("fetch", NAME, "--yes", "--json")
    row = json.loads(outcome.stdout)
    assert (row["name"], row["state"], row["fetched"]) == (NAME, "fetched", True)
    assert "Licence: Apache-2.0" in outcome.stderr
    assert not json.loads(_run("fetch", NAME, "--yes", "--json").stdout)["fetched"]
    assert json.loads(_run("remove", NAME, "--json").stdout) == {"name": NAME, "removed": True}


def test_from_a_file_overwrite_and_remove(published, tmp_path, server):
    (tmp_path / "given.pt").write_bytes(published.content)
    assert _run("fetch", NAME, "--from", tmp_path / "given.pt", "-y").exit_code == 0
    assert _run("fetch", NAME, "--from", tmp_path / "given.pt", "-y", "--overwrite").exit_code == 0
    assert server.asked == []
    removed = _run("remove", NAME)
    assert f"{NAME} was removed from the store." in removed.output
    again = _run("remove", NAME)
    assert again.exit_code == 1
    assert "only fetched bundles can be removed" in again.output


def test_mistakes_are_one_clear_line(published, server, tmp_path):
    for args, code, message in (
        (("fetch",), 2, "Missing argument"),
        (("fetch", NAME, "--frm", "x"), 2, "No such option"),
        (("fetch", "../x", "-y"), 1, "where a bundle's name is needed"),
        (("fetch", "abdomen_ct", "-y"), 1, f"Did you mean {NAME}"),
        (("fetch", NAME, "-y", "--from", tmp_path / "absent"), 1, "--from FILE needs one"),
    ):
        outcome = _run(*args)
        assert outcome.exit_code == code
        assert message in re.sub(r"\x1b\[[0-9;]*m", "", outcome.output)
        assert "Traceback" not in outcome.output
    server.files.clear()
    outcome = _run("fetch", NAME, "-y")
    assert outcome.exit_code == 1
    assert "Error: Found that 127.0.0.1 has no such file (HTTP 404)" in outcome.output


def test_segment_never_fetches(published, server, store, examples, tmp_path):
    outcome = CliRunner().invoke(
        app, ["segment", str(examples / "headneck_ct.nii.gz"), "-o", str(tmp_path / "out"), "-b", NAME]
    )
    assert outcome.exit_code == 1
    assert f"Fetch them once: medvit bundles fetch {NAME}" in outcome.output
    assert server.asked == []
    assert not store.exists()


def _until(terminal: int, text: str) -> str:
    seen = ""
    while text not in seen:
        if not select.select([terminal], [], [], 60)[0]:
            break
        try:
            seen += os.read(terminal, 4096).decode()
        except OSError:  # the other end has closed
            break
    return seen


@pytest.mark.parametrize("answer", ["n", "y"])
def test_at_a_terminal_the_question_is_asked(answer, published, server, store):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "medvit", "bundles", "fetch", NAME]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"}
    )
    os.close(theirs)
    shown = _until(ours, "[y/N]")
    assert "Licence: Apache-2.0" in shown
    assert "Agree to the licence and go on? [y/N]" in shown
    assert server.asked == []
    os.write(ours, f"{answer}\n".encode())
    rest = _until(ours, "is ready" if answer == "y" else "Run again to agree.")
    assert process.wait(timeout=60) == (0 if answer == "y" else 1)
    os.close(ours)
    assert "Traceback" not in rest
    assert (store / "manifest.json").exists() == (answer == "y")
    assert bool(server.asked) == (answer == "y")
    if answer == "n":
        assert "no agreement to the licence" in rest


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_download_is_resumed(stop, published, server, store):
    server.faults = [("stall", 4_000_000)]
    command = [sys.executable, "-m", "medvit", "bundles", "fetch", NAME, "--yes"]
    process = warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while sum(p.stat().st_size for p in store.glob("cache/*.part")) < 3_000_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    server.release.set()
    if stop != signal.SIGKILL:
        assert process.returncode == 1
        assert "Found that the download was stopped; what has arrived is kept." in errors
        assert "Traceback" not in errors
    (part,) = store.glob("cache/*.part")
    kept = part.stat().st_size
    assert 3_000_000 <= kept <= 4_000_000
    server.asked = []
    assert _run("fetch", NAME, "--yes").exit_code == 0
    assert server.ranges == [f"bytes={kept}-"]
