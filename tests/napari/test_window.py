"""The plugin in a real window: run, cancel, save, close. Needs a display with GL; `xvfb-run` gives one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")

SCRIPT = Path(__file__).with_name("in_window.py")


@pytest.mark.soak
def test_run_cancel_save_and_close_in_a_window(tmp_path):
    """In a process of its own, as Qt and its display live as long as one."""
    if shutil.which("xvfb-run") is None:
        pytest.skip("xvfb-run is not installed (apt-packages.txt); a window needs a display")
    command = [
        "xvfb-run",
        "-a",
        "-s",
        "-screen 0 1600x1000x24 +extension GLX",
        sys.executable,
        str(SCRIPT),
        str(tmp_path),
    ]
    paths = os.pathsep.join([*map(str, SCRIPT.parents[2:3]), *sys.path])
    outcome = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env={**os.environ, "PYTHONPATH": paths}
    )
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    assert "all was as it should be" in outcome.stdout


def test_the_manifest_is_sound():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(SCRIPT.parents[2] / "apps/napari/medvit_napari/napari.yaml")
    manifest.validate_imports()
    assert {w.command for w in manifest.contributions.widgets} == {
        f"medvit.{name}" for name in ("run", "save", "segments", "look", "server", "xray", "views")
    }
