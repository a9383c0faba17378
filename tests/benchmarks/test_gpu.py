"""The script for machines with a GPU, on one without: it loads, explains itself and refuses."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medvit.kernels.bi_wkv import bi_wkv

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def _run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_help_names_the_peer():
    told = _run("--help")
    assert told.returncode == 0
    assert "--peer" in told.stdout
    assert "published Restore-RWKV" in " ".join(told.stdout.split())  # whatever the width of the terminal


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run benchmarks/gpu.py")
def test_without_a_gpu_it_says_so_and_measures_nothing():
    told = _run("--only", "bi_wkv")
    assert told.returncode == 1
    assert "Found no CUDA device" in told.stderr
    assert "Run it on a machine with one" in told.stderr
    assert not told.stdout


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fill(b, t, c, w, u, k, v, y):
    assert (b, t, c) == tuple(y.shape)
    y.copy_(bi_wkv(w, u, k, v))


@pytest.mark.parametrize("built", [SimpleNamespace(bi_wkv_forward=bi_wkv), SimpleNamespace(forward=_fill)])
def test_either_published_binding_passes_if_it_computes_the_formula(script, built):
    peer = script.checked_peer(script.called_as_published(built), "cpu")
    w, u, k, v = torch.randn(3), torch.randn(3), torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    assert torch.allclose(peer(w, u, k, v), bi_wkv(w, u, k, v))


@pytest.mark.parametrize(
    "built",
    [
        SimpleNamespace(forward=lambda *_: None),  # never writes its buffer
        SimpleNamespace(forward=lambda *given: given[-1][:, ::2].zero_()),  # writes half of it
        SimpleNamespace(bi_wkv_forward=lambda w, u, k, v: v),  # computes something else
        SimpleNamespace(bi_wkv_forward=lambda w, u, k, v: None),
    ],
)
def test_a_peer_that_computes_something_else_is_refused_and_not_timed(script, built):
    with pytest.raises(SystemExit, match=r"against the formula.*nothing was measured"):
        script.checked_peer(script.called_as_published(built), "cpu")


def test_a_build_without_either_binding_is_refused(script):
    with pytest.raises(SystemExit, match="Found neither bi_wkv_forward nor forward"):
        script.called_as_published(SimpleNamespace())
