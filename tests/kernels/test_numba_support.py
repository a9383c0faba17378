"""Threads of numba's code beside those of PyTorch."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from medvit.kernels.numba_support import numba_threads
before = torch.get_num_threads()
with numba_threads():
    import numba
    print(before, torch.get_num_threads(), numba.get_num_threads(), numba.threading_layer())
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_the_start_of_numbas_threads_leaves_the_number_of_pytorchs_as_it_was(layer):
    """A new process, since numba's threads start once in each."""
    told = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "3", "NUMBA_THREADING_LAYER": layer}
    program = [sys.executable, "-c", PROGRAM]
    outcome = subprocess.run(program, env=os.environ | told, capture_output=True, text=True, check=True)
    assert outcome.stdout.split() == ["1", "1", "1", layer]
