"""Two annotation servers in processes of their own: a small project of NIfTI and DICOM, and one whose model can learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from medvit_label.self_test import running

from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.label.learning import make_cases, make_learning_bundle

VIEWER = "http://localhost:3000"
"""Where OHIF's own server shows it."""

TOKEN = "a-token-only-for-tests-0123456789"


@dataclass(frozen=True, kw_only=True)
class Project:
    """A server and what it serves."""

    url: str
    studies: Path
    state: Path
    log: Path
    bundle: Path
    series: str


@pytest.fixture(scope="session", autouse=True)
def _servers(warm_servers: None) -> None:
    """No test here is about the start of a server."""


@contextmanager
def started(server: AbstractContextManager[tuple[str, Any]], **environment: str) -> Iterator[str]:
    """A server whose environment is its own: what a session's fixture sets here would reach every later test's processes."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            url, _ = stack.enter_context(server)
        yield url


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with one NIfTI (``scan``) and one DICOM series of a named patient, the band bundle as its model."""
    pytest.importorskip("fastapi")
    pytest.importorskip("dicomweb_client")
    top = tmp_path_factory.mktemp("label")
    bundle = make_bundle(top / "bundles" / "bands")
    studies = top / "studies"
    studies.mkdir()
    volume, _ = phantom((31, 27, 19))
    nib.save(nib.Nifti1Image(volume.astype(np.float32), oblique_affine()), studies / "scan.nii.gz")
    write_series(studies / "Secret_Person", volume, oblique_affine())
    import pydicom

    series = str(pydicom.dcmread(next((studies / "Secret_Person").iterdir())).SeriesInstanceUID)
    options = (
        "--bundle", "bands", "--state", str(top / "state"), "--upload-limit", "2", "--waiting", "4", "--allow-origin", VIEWER,
    )  # fmt: skip
    served = running(str(studies), *options, log=top / "log.txt", token=TOKEN)
    with started(served, MEDVIT_BUNDLES=str(bundle.parent)) as url:
        yield Project(url=url, studies=studies, state=top / "state", log=top / "log.txt", bundle=bundle, series=series)


@dataclass
class Lab:
    """A project and the server that serves it now."""

    top: Path
    bundle: Path
    names: list[str]
    url: str = ""

    @property
    def client(self) -> Any:
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(self.top))

    def submit(self, name: str) -> None:
        self.client.save_label(name, str(self.top / "truth" / f"{name}.nii.gz"), "final", {})

    def dice(self, name: str) -> tuple[float, str]:
        """Overlap of the model's answer with the truth, and who answered."""
        file, params = self.client.infer("bands", name, {})
        found = np.asarray(nib.load(file).dataobj)
        truth = np.asarray(nib.load(self.top / "truth" / f"{name}.nii.gz").dataobj)
        return float(((found == truth) & (truth > 0)).sum() / (truth > 0).sum()), params["bundle"]

    def ask(self, method: str, path: str) -> Any:
        import requests

        return requests.request(method, self.url + path, timeout=60)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    pytest.importorskip("fastapi")
    pytest.importorskip("monailabel.client")
    top = tmp_path_factory.mktemp("lab")
    bundle = make_learning_bundle(top / "bundles" / "bands")
    made = Lab(top, bundle, make_cases(top / "studies", top / "truth", 6))
    served = running(str(top / "studies"), "--bundle", "bands", "--state", str(top / "state"), log=top / "log.txt")
    with started(served, MEDVIT_BUNDLES=str(bundle.parent), OMP_NUM_THREADS="1") as made.url:
        yield made
