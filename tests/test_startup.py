"""What commands leave out when they start must make no difference to what they do."""

from __future__ import annotations

import subprocess
import sys

import monai  # noqa: F401

from medvit.inference import import_monai_lightly


def test_monai_without_its_engine_still_infers_and_the_packages_are_there_for_others():
    code = """
import sys
from medvit.inference import import_monai_lightly
import_monai_lightly()
assert not [name for name in sys.modules if name.split(".")[0] == "ignite"], "ignite was imported"
assert "matplotlib.pyplot" not in sys.modules
from medvit.inference import load_model
load_model("headneck_ct_swin_unetr")
import ignite.engine, matplotlib.pyplot
import medvit.training.loop.training_loop
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_monai_is_there_already_nothing_is_hidden():
    before = dict(sys.modules)
    import_monai_lightly()
    assert sys.modules == before
