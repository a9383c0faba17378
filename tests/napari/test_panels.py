"""The widgets where things go wrong: over a viewer's model, with Qt drawing nowhere, so that no display is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

pytest.importorskip("napari", reason="the extra medvit[napari] is not installed")
pytest.importorskip("qtpy", reason="no Qt binding is installed")

SCRIPT = Path(__file__).with_name("in_panels.py")


def test_bad_input_closing_and_servers_that_go_away(tmp_path):
    """In a process of its own, as Qt lives as long as one."""
    paths = os.pathsep.join([*map(str, SCRIPT.parents[2:3]), *sys.path])
    outcome = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": paths, "QT_QPA_PLATFORM": "offscreen"},
    )
    assert outcome.returncode == 0, outcome.stdout[-3000:] + outcome.stderr[-3000:]
    assert "all was as it should be" in outcome.stdout


def test_the_manifests_icons_are_there():
    """Each widget has one for dark themes and one for light ones, shipped as package data."""
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(SCRIPT.parents[2] / "apps/napari/medvit_napari/napari.yaml")
    icons = {c.id: c.icon for c in manifest.contributions.commands if c.icon is not None}
    assert set(icons) == {widget.command for widget in manifest.contributions.widgets}
    for icon in icons.values():
        for kind in ("dark", "light"):
            package, _, name = getattr(icon, kind).partition(":")
            assert f"_{kind}." in name and (resources.files(package) / name).read_text().startswith("<svg")
