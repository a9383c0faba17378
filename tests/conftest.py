"""Fixtures that every test may use. Data outside the repository is read through ``shared`` alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

ROOT = Path(__file__).resolve().parents[1]


def _kept(name: str, *rooms: str) -> Path:
    """A folder that later runs find again, and all processes share, until a source file of these rooms changes."""
    digest = hashlib.sha256()
    for room in rooms:
        files = sorted((ROOT / "medvit" / room).rglob("*.py"))
        assert files, f"medvit/{room} has no source files; name the room that took its place"
        for file in files:
            digest.update(f"{file.relative_to(ROOT)}\n".encode() + file.read_bytes())
    folder = ROOT / ".pytest_cache" / "medvit" / name / digest.hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    with suppress(OSError):  # another process may be at the same
        for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[:-3]:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def pytest_configure() -> None:
    """Keep what numba compiles, and no memory of processes that a test lets crash.

    By itself numba does not see a change in a function that a kept one calls from another file.
    """
    os.environ["NUMBA_CACHE_DIR"] = str(_kept("numba", "kernels"))  # read when numba is first imported
    typer.testing._get_command = cache(typer.testing._get_command)  # else each call of a command builds all of them
    with suppress(ImportError):  # Windows
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.fixture(scope="session")
def kept_graphs() -> Path:
    """Converted networks of this run and earlier ones. Their key holds weights and the network's own source file alone."""
    return _kept("graphs", "inference", "kernels", "segmentation", "restoration", "reconstruction")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and reference tensors beside the project, or a skip that says it is absent."""
    place = Path(os.environ.get("MEDVIT_SHARED", ROOT.parent / "shared"))
    if not (place / "data").is_dir():
        pytest.skip(f"no shared data at {place}; set MEDVIT_SHARED to run this test")
    return place


@pytest.fixture(scope="session", autouse=True)
def no_store_of_the_developer(tmp_path_factory: pytest.TempPathFactory, kept_graphs: Path) -> Iterator[None]:
    """What whoever runs the tests has fetched, or where from, must not change what they say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVIT_HOME", str(tmp_path_factory.mktemp("store") / "none"))
        patch.delenv("MEDVIT_MIRROR", raising=False)
        patch.setenv("MEDVIT_CACHE", str(kept_graphs))
        yield


@pytest.fixture(scope="session")
def one_fork_server() -> Iterator[None]:
    """Fork the workers of batches from one server, whatever the environment of a test; give each one thread.

    By itself a batch spawns a worker whose variables are not those of its server; the worker then loads torch and MONAI anew.
    """
    from medvit_batch.execution import fork_server, session

    runs, transport = fork_server._runs, session.PipeTransport

    def started_once(threads: int) -> bool:
        return fork_server._started_with is not None or runs(threads)

    def of_one_thread(count: int, *, threads: int, **more: Any) -> Any:
        return transport(count, threads=1, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fork_server, "_runs", started_once)
        patch.setattr(session, "PipeTransport", of_one_thread)
        yield


@pytest.fixture(scope="session")
def warm_servers() -> Iterator[None]:
    """Make label servers and their trainings copies of a process that has loaded torch."""
    from medvit_label import self_test
    from medvit_label.training import jobs

    from tests import warm

    with pytest.MonkeyPatch.context() as patch:
        for module in (self_test, jobs):
            patch.setattr(module, "subprocess", warm.processes)
        yield


@pytest.fixture(scope="session")
def examples() -> Path:
    """The small real CT that ships with the repository."""
    return ROOT / "examples"


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def banded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete bundle whose network labels by brightness: what geometry tests run, since its answer is known."""
    from tests.bands import make_bundle

    return make_bundle(tmp_path_factory.mktemp("bundles") / "banded")


@pytest.fixture(scope="session")
def example_result(examples: Path):
    """The shipped head-and-neck CT, segmented once by the default bundle from its DICOM series."""
    import medvit

    return medvit.segment(examples / "headneck_ct_dicom.zip")


@pytest.fixture(scope="session")
def example_published(example_result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the example's result was saved to once, in every format for people who look at it. Do not write there."""
    folder = tmp_path_factory.mktemp("published") / "out"
    example_result.save(folder, ("nifti", "dicom-seg", "rtstruct", "sr", "sc"))
    return folder


@pytest.fixture(scope="session")
def cropped_series(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty of the example's DICOM slices: one layer of windows in place of two."""
    folder = tmp_path_factory.mktemp("series")
    with zipfile.ZipFile(examples / "headneck_ct_dicom.zip") as archive:
        archive.extractall(folder, sorted(archive.namelist())[45:85])
    return folder


@pytest.fixture(scope="session")
def cropped_example(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI of the fifth of the example in which every label lies."""
    import nibabel as nib

    path = tmp_path_factory.mktemp("cropped") / "ct.nii.gz"
    nib.save(nib.load(examples / "headneck_ct.nii.gz").slicer[25:105, 30:94, 30:106], path)
    return path
