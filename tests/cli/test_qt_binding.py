"""medvit warns about a Qt binding that would end the interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

from medvit.cli.qt_binding import installed_binding, known_fault


@pytest.mark.parametrize("name", ["PySide6_Essentials", "PySide6"])
def test_the_version_that_loses_none_is_named_with_the_way_out(name):
    fault = known_fault((name, "6.12.0"), (3, 11))
    assert fault is not None
    assert f"Found {name} 6.12.0 on Python 3.11" in fault and f'pip install "{name}<6.12"' in fault


@pytest.mark.parametrize(
    ("found", "python"),
    [
        (("PySide6_Essentials", "6.11.3"), (3, 11)),
        (("PySide6_Essentials", "6.12.0"), (3, 12)),
        (("PyQt6", "6.12.0"), (3, 11)),
        (None, (3, 11)),
    ],
)
def test_others_are_not(found, python):
    assert known_fault(found, python) is None


def test_the_installed_binding_keeps_its_references_to_none():
    """What the fault is about, counted: a call that returns nothing must not give away a reference to None."""
    pytest.importorskip("PySide6.QtCore", reason="no PySide6 here", exc_type=ImportError)
    program = (
        "import sys; from PySide6.QtCore import QCoreApplication, QTimer; app = QCoreApplication([]); timer = QTimer(); "
        "before = sys.getrefcount(None); [timer.setInterval(5) for _ in range(1000)]; print(before - sys.getrefcount(None))"
    )
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lost = int(made.stdout) > 500
    assert lost == (known_fault(installed_binding()) is not None and sys.version_info < (3, 12))
