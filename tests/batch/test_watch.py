"""A folder that fills: series are taken when they are complete, and not before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from medvit_batch.cli import app
from typer.testing import CliRunner

from tests import warm
from tests.batch.archives import command, series_of, write_small
from tests.batch.execution.test_session import counts, results, until
from tests.nodes import free_port


def test_series_are_taken_when_they_are_quiet(banded, tmp_path):
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    port = free_port()
    line, env = command(
        "watch", inbox, "-o", out, "-b", banded, "-ot", "nifti", "--no-preview", "--quiet-for", 3, "--every", 0.3,
        "--log-format", "json", "--metrics-port", port,
    )  # fmt: skip
    watch = warm.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: (out / "journal.sqlite").exists(), watch)
        paths = write_small(tmp_path / "sent", 1)
        for path in paths:
            os.utime(path, ns=(1, 1))  # as a copy that keeps the time of writing
        half = len(paths) // 2
        for path in paths[:half]:
            shutil.copy2(path, inbox)
        until(lambda: len(_seen(out)) == half, watch)
        assert counts(out) == {}
        for path in paths[half:]:
            time.sleep(0.2)
            shutil.copy2(path, inbox)
            assert counts(out) == {}
        until(lambda: counts(out) == {"published": 1}, watch)
        first = results(out)
        write_small(inbox / "second", 2)
        until(lambda: counts(out) == {"published": 2}, watch)
        until(lambda: "2 series" in (out / "report.html").read_text(), watch)
        assert 'medvit_batch_cases{state="published"} 2.0\n' in _get(f"http://127.0.0.1:{port}/metrics")
        assert _get(f"http://127.0.0.1:{port}/journal.sqlite").startswith("# HELP medvit_batch_cases ")  # no file, ever
        assert set(results(out)) == {series_of(tmp_path / "sent"), series_of(inbox / "second")}
        assert first.items() <= results(out).items()
    finally:
        watch.send_signal(signal.SIGTERM)
        said, _ = watch.communicate(timeout=60)
    assert watch.returncode in (0, 3), said
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[0]["text"].startswith("Watching; a series is taken when it is quiet for 3 s")
    assert [line["state"] for line in lines if line["event"] == "case"] == ["published"] * 2
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line for line in lines if line["event"] != "said"] == logged


def _get(address: str) -> str:
    with urllib.request.urlopen(address, timeout=10) as answer:
        content: str = answer.read().decode()
    return content


def _seen(out: Path) -> list[str]:
    """Files that the catalogue knows."""
    import sqlite3

    try:
        base = sqlite3.connect(f"file:{out}/catalogue.sqlite?mode=ro", uri=True)
        found = [row[0] for row in base.execute("SELECT name FROM files WHERE kind='planes'")]
        base.close()
    except sqlite3.Error:
        return []
    return found


def test_a_port_that_is_taken_is_told_in_a_line_of_json(banded, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = ["watch", str(tmp_path), "-o", str(tmp_path / "out"), "-b", str(banded), "--log-format", "json"]
        outcome = CliRunner().invoke(app, [*line, "--metrics-port", str(taken.getsockname()[1])])
    assert outcome.exit_code == 1
    said = json.loads(outcome.output)
    assert (said["event"], said["kind"]) == ("error", "NetworkError")
    assert "Found that metrics cannot be served on 127.0.0.1:" in said["text"]
    assert "Choose another --metrics-port." in said["text"]


def test_odd_times_are_refused(banded, tmp_path):
    outcome = CliRunner().invoke(
        app, ["watch", str(tmp_path), "-o", str(tmp_path / "out"), "-b", str(banded), "--every", "-1"]
    )
    assert outcome.exit_code == 2
    assert "Found --every -1; at least 0 is needed" in outcome.output
