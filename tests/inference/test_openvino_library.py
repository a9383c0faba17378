"""OpenVINO's usage telemetry is off: no process of medvit opens a connection for it or writes its files. A first run says
that it prepares the network."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest

from tests.bands import oblique_affine, phantom

ROOT = Path(__file__).resolve().parents[2]

WATCH = """
import os, sys

def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (
        event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple)  # not a socket of this machine
    ):
        with open(os.environ["NOTED"], "a") as file:
            file.write(f"{event} {arguments[1:]} by {sys.argv}\\n")
    elif event == "import" and arguments[0] == "openvino":
        with open(os.environ["SEEN"], "a") as file:
            file.write(f"{os.getpid()}\\n")

sys.addaudithook(note)
"""


def test_no_process_of_a_run_or_of_a_batch_reports_a_conversion(tmp_path, banded):
    """The workers of a batch are processes of their own; Python runs sitecustomize in each before anything else."""
    pytest.importorskip("openvino", reason="there is no OpenVINO for this platform")
    for name in ("site", "home", "in"):
        (tmp_path / name).mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    nib.save(nib.Nifti1Image(phantom()[0], oblique_affine()), tmp_path / "in" / "scan.nii.gz")
    named = {"HOME": tmp_path / "home", "NOTED": tmp_path / "noted", "SEEN": tmp_path / "seen"}
    path = os.pathsep.join([str(tmp_path / "site"), *(folder for folder in sys.path if folder)])
    # OpenVINO sends nothing where CI is set
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    told = {**kept, **{name: str(value) for name, value in named.items()}, "PYTHONPATH": path}
    for line in (["segment", tmp_path / "in" / "scan.nii.gz"], ["batch", "run", tmp_path / "in"]):
        command = [sys.executable, "-m", "medvit", *map(str, line), "-b", str(banded), "--backend", "openvino"]
        out = tmp_path / line[0]
        outcome = subprocess.run(
            [*command, "-o", str(out)], env={**told, "MEDVIT_CACHE": str(out) + "_cache"}, capture_output=True, text=True,
            cwd=ROOT, check=False,
        )  # fmt: skip
        assert outcome.returncode in (0, 3), outcome.stdout + outcome.stderr
        assert [*Path(str(out) + "_cache").glob("openvino/*/graph.xml")]
        said = outcome.stderr if line[0] == "segment" else outcome.stdout + (out / "log.jsonl").read_text()
        assert len(re.findall(r"Preparing the network for this machine \(once, about \d+ s\)", said)) == (
            1 if line[0] == "segment" else 2
        )
    assert len(set(named["SEEN"].read_text().split())) == 2  # the run, and the worker of the batch
    assert not named["NOTED"].exists(), named["NOTED"].read_text()
    assert not [*named["HOME"].rglob("*openvino*"), *named["HOME"].rglob("stats")]


def test_one_module_imports_openvino():
    found = []
    for folder in ("medvit", "apps", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                if any(name.partition(".")[0] == "openvino" for name in names):
                    found.append(file.relative_to(ROOT).as_posix())
    assert found == ["medvit/inference/backends/openvino_library.py"]
