"""The suite in two processes side by side, each with half of the folders: ``python tests/halves.py [PYTEST OPTIONS]``.

Most tests keep one core busy, so two processes take little more than half the time. Each process keeps its own number of
threads (tests compare voxels with those of other processes), which wait without spinning. The first half is shown as it runs,
the second when it has ended; a fault in either is the outcome of both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
APART = ("batch", "bundles", "io", "label", "notebooks", "restoration")
"""The folders of the second half; whatever else there is, a new folder too, belongs to the first."""
NO_TESTS = 5
"""What pytest ends with where the options leave a half without tests."""


def main(options: list[str]) -> int:
    """Run both halves; 0 when both are green, else the first exit status that is not."""
    second = [str(TESTS / name) for name in APART]
    first = [str(TESTS), *(f"--ignore={folder}" for folder in second)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-m", "pytest", *options]
    with tempfile.TemporaryFile() as shown_later:
        other = subprocess.Popen(
            [*command, "-o", "cache_dir=.pytest_cache/second", *second],
            env=environment, stdout=shown_later, stderr=subprocess.STDOUT, cwd=TESTS.parent,
        )  # fmt: skip
        try:
            mine = subprocess.run([*command, *first], env=environment, cwd=TESTS.parent).returncode
            other.wait()
        finally:
            other.kill()
        shown_later.seek(0)
        sys.stdout.flush()
        sys.stdout.buffer.write(shown_later.read())
        sys.stdout.flush()
    return next((code for code in (mine, other.returncode) if code not in (0, NO_TESTS)), 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
