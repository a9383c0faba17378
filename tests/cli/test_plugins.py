"""An app that cannot be loaded costs itself alone."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from medvit.cli.plugins import add_apps

_BROKEN = {
    "missing": (None, "ModuleNotFoundError: No module named 'broken_missing'"),
    "syntax": ("app = (\n", "SyntaxError: '(' was never closed"),
    "absent": ("other = 1\n", "AttributeError: module 'broken_absent' has no attribute 'app'"),
    "wrong": ("app = 1\n", "TypeError: broken_wrong:app is a int and no typer.Typer"),
    "needs": ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
}


@pytest.fixture
def app(tmp_path, monkeypatch) -> typer.Typer:
    """A command of our own, a good app and broken ones."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "good_app.py").write_text(
        "import typer\napp = typer.Typer()\n@app.command()\ndef hello():\n    print('well')\n@app.command()\ndef other(): ...\n"
    )
    entries = [EntryPoint("good", "good_app:app", "medvit.commands")]
    for name, (content, _) in _BROKEN.items():
        if content is not None:
            (tmp_path / f"broken_{name}.py").write_text(content)
        entries.append(EntryPoint(name, f"broken_{name}:app", "medvit.commands"))
    made = typer.Typer()
    made.command("own")(lambda: print("ours"))
    add_apps(made, entries)
    return made


@pytest.mark.parametrize("name", list(_BROKEN))
def test_a_broken_app_says_why_and_what_to_do(name, app):
    for arguments in ([name], [name, "run", "x", "-o", "out", "--help"]):
        outcome = CliRunner().invoke(app, arguments)
        assert outcome.exit_code == 1
        assert outcome.output.startswith(f"Error: Found that medvit {name} cannot be loaded ({_BROKEN[name][1]}")
        assert outcome.output.endswith(f"Run pip install --force-reinstall broken_{name}; the other commands work.\n")
        assert len(outcome.output.splitlines()) == 1
    assert isinstance(CliRunner().invoke(app, [name, "--debug"]).exception, Exception)


def test_the_other_commands_and_the_help_work(app):
    assert CliRunner().invoke(app, ["own"]).output == "ours\n"
    assert CliRunner().invoke(app, ["good", "hello"]).output == "well\n"
    outcome = CliRunner().invoke(app, ["--help"])
    assert outcome.exit_code == 0
    assert outcome.output.count("Cannot be loaded") == len(_BROKEN)


def test_medvit_itself_survives_an_app_that_is_broken(tmp_path):
    """As installed: the batch's own module broken, in a process of its own."""
    (tmp_path / "medvit_batch").mkdir()
    (tmp_path / "medvit_batch" / "__init__.py").write_text("raise RuntimeError('half an update')\n")
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(root), *(p for p in sys.path if p)])}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "medvit", *words]
        return subprocess.run(line, capture_output=True, text=True, env=env, timeout=120)

    batch = run("batch", "run", "archive")
    if "No such command" in batch.stderr:
        pytest.skip("medvit is not installed, so it has no apps")
    assert batch.returncode == 1
    assert "Found that medvit batch cannot be loaded (RuntimeError: half an update)" in batch.stderr
    assert "Traceback" not in batch.stderr
    shown = run("--help")
    assert shown.returncode == 0, shown.stderr
    assert "segment" in shown.stdout
    assert run("bundles", "list").returncode == 0
