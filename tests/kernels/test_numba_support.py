"""Machine code of the numba kernels: kept once per machine, by version and processor; threads that share the jobs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core import caching

from medvit.kernels.numba_support import job_kernel

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import json
import numpy as np
from medvit.kernels import numba_support
from medvit.kernels.resample_argmax.cpu import _choose

logits = np.arange(2 * 27, dtype=np.float32).reshape(2, 3, 3, 3) % 7
low, high, weight = np.arange(2, dtype=np.int32), np.arange(1, 3, dtype=np.int32), np.full(2, 0.25, np.float32)
out = np.zeros((2, 2, 2), np.int16)
_choose(4, logits, *[low, high, weight] * 3, out)
(run,) = _choose._compiled.values()
hits = sum(run.stats.cache_hits.values())
print(json.dumps({"hits": hits, "where": run.stats.cache_path or "", "sum": int(out.sum()), "file": numba_support.__file__}))
"""


def start(cache: Path, site: Path) -> subprocess.Popen[str]:
    """Start the program with a cache folder and no setting of numba's of the developer."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    told = {**kept, "MEDVIT_CACHE": str(cache), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(site)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", PROGRAM], env=told, cwd=site, **pipes)


def report(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    found: dict[str, object] = json.loads(out)
    return found


def test_code_is_compiled_once_a_machine_beside_a_package_that_stays_as_it_is(tmp_path):
    """The package is a copy, as a wheel installs it; nothing is written there, so its folder may be read-only. Two first
    runs start at once."""
    site = tmp_path / "site"
    shutil.copytree(ROOT / "medvit", site / "medvit", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(path.relative_to(site) for path in site.rglob("*"))
    together = [start(tmp_path / "cache", site) for _ in range(2)]
    found = [report(process) for process in together] + [report(start(tmp_path / "cache", site))]
    assert len({(one["sum"], one["where"], one["file"]) for one in found}) == 1
    assert found[2]["hits"] == 1
    assert str(found[0]["file"]).startswith(str(site))
    assert str(found[0]["where"]).startswith(str(tmp_path / "cache" / "numba"))
    assert sorted(path.relative_to(site) for path in site.rglob("*")) == before


def double(first, stop, values):
    for job in range(first, stop):
        values[job] *= 2


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def hits() -> int:
    """Compile or load a kernel as a new process does, and run it; return 1 if it was loaded."""
    kernel, values = job_kernel()(double), np.ones(3)
    kernel(3, values)
    assert values.tolist() == [2, 2, 2]
    (run,) = kernel._compiled.values()
    return sum(run.stats.cache_hits.values())


def test_a_processor_has_a_folder_of_its_own(cache, monkeypatch):
    assert (hits(), hits()) == (0, 1)
    monkeypatch.setenv("NUMBA_CPU_NAME", "generic")
    assert hits() == 0
    assert len([*cache.iterdir()]) == 2


def test_the_oldest_folders_go(cache):
    for n in range(12):
        (cache / f"0.0.{n}-old").mkdir(parents=True)
        os.utime(cache / f"0.0.{n}-old", (n, n))
    hits()
    left = sorted(path.name for path in cache.iterdir() if path.name.endswith("-old"))
    assert left == ["0.0.10-old", "0.0.11-old", *(f"0.0.{n}-old" for n in range(5, 10))]


@pytest.mark.parametrize("suffix", ["nbc", "nbi"])
def test_a_file_of_machine_code_that_is_cut_short_is_made_anew(suffix, cache):
    assert hits() == 0
    (file,) = cache.rglob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[:-40])
    assert [hits() for _ in range(3)] == [0, 0, 1]  # the first has no cache, the second writes it


def test_without_a_folder_that_can_be_written_each_process_compiles(cache, monkeypatch):
    cache.write_text("in the way")
    monkeypatch.setattr(
        caching.CacheImpl, "_locator_classes", caching.CacheImpl._locator_classes[:1]
    )  # numba's others are tried after ours
    assert [hits(), hits()] == [0, 0]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_job_runs_once_in_as_many_threads_as_torch_has(threads):
    @job_kernel()
    def count(first, stop, done):
        for job in range(first, stop):
            done[job] += 1

    given = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for jobs in (0, 1, 2, 7):
            done = np.zeros(8, np.int64)
            count(jobs, done)
            assert done.tolist() == [1] * jobs + [0] * (8 - jobs)
        started = [t for t in threading.enumerate() if t.name.startswith("medvit-kernel")]
        assert len(started) >= min(threads, os.cpu_count() or 1) - 1
    finally:
        torch.set_num_threads(given)


def test_several_threads_may_call_a_kernel_at_once():
    @job_kernel()
    def add(first, stop, values, total):
        for job in range(first, stop):
            total[job] = values[job].sum()

    values = np.random.default_rng(0).random((64, 1000))
    results = [np.zeros(64) for _ in range(4)]
    callers = [threading.Thread(target=add, args=(64, values, total)) for total in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(np.array_equal(total, results[0]) for total in results)
    assert np.allclose(results[0], values.sum(1))


def test_a_kernel_leaves_the_number_of_pytorchs_threads_as_it_was():
    """Numba's OpenMP layer would set OpenMP's own number, which PyTorch reads, if a kernel started it."""
    told = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "3", "NUMBA_THREADING_LAYER": "omp"}
    program = f"import torch\nbefore = torch.get_num_threads()\n{PROGRAM}\nprint(before, torch.get_num_threads())"
    outcome = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | told, capture_output=True, text=True, check=True
    )
    assert outcome.stdout.splitlines()[-1] == "1 1"
