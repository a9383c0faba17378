"""A server in a thread of the tests' own process: quick to start, and to start again on the same project."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.bands import make_bundle, oblique_affine, phantom


@dataclass
class Served:
    """A project and the server that serves it now; ``token`` is shown where one was given out."""

    url: str
    studies: Path
    state: Path
    token: str = ""

    def ask(self, method: str, path: str, params: dict[str, Any] | None = None, **more: Any) -> Any:
        """Send a request as MONAI Label's clients do: ``params`` as JSON in a form."""
        import requests

        if params is not None:
            more["data"] = {"params": json.dumps(params)}
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return requests.request(method, self.url + path, headers=headers, timeout=60, **more)

    def infer(self, image: str, **params: Any) -> dict[str, Any]:
        """Return the JSON answer of ``POST /infer/bands``."""
        answer = self.ask("POST", f"/infer/bands?image={image}&output=json", params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def labels(self, image: str, **params: Any) -> np.ndarray:
        """The label map that ``POST /infer/bands`` sends."""
        answer = self.ask("POST", f"/infer/bands?image={image}&output=image", params)
        assert answer.status_code == 200, answer.text
        return array_of(answer.content)

    def save(self, image: str, file: Path, tag: str = "final", **params: Any) -> Any:
        """A label submitted with ``PUT /datastore/label``."""
        with file.open("rb") as content:
            return self.ask(
                "PUT", f"/datastore/label?image={image}&tag={tag}", params, files={"label": (file.name, content)}
            )

    def stored(self, image: str, version: int | None = None) -> np.ndarray:
        """The final label that the server keeps: the one that counts, or a version of it."""
        number = "" if version is None else f"&version={version}"
        answer = self.ask("GET", f"/datastore/label?label={image}&tag=final{number}")
        assert answer.status_code == 200, answer.text
        return array_of(answer.content)

    def log_in(self, name: str, password: str) -> Any:
        """A login as OAuth2's password flow has it; the answer."""
        import requests

        form = {"username": name, "password": password, "grant_type": "password"}
        return requests.post(f"{self.url}/auth/token", form, timeout=60)


def array_of(content: bytes) -> np.ndarray:
    """The voxels of a compressed NIfTI."""
    import gzip

    return np.asarray(nib.Nifti1Image.from_bytes(gzip.decompress(content)).dataobj)


@contextmanager
def served(studies: Path, state: Path, **settings: Any) -> Iterator[Served]:
    """Serve a project with the bundle ``bands`` until the block ends."""
    import uvicorn
    from medvit_label.self_test import free_port
    from medvit_label.server import create_app
    from medvit_label.settings import ServerSettings

    port = free_port()
    bundles = settings.pop("bundles", ("bands",))
    app = create_app(ServerSettings(studies=str(studies), state=state, bundles=bundles, port=port, **settings).check())
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < end, "the server did not start"
        time.sleep(0.02)
    try:
        yield Served(f"http://127.0.0.1:{port}", studies, state)
    finally:
        server.should_exit = True
        thread.join(60)


def make_project(top: Path, patch: pytest.MonkeyPatch, count: int = 2) -> tuple[Path, Path]:
    """A folder of phantoms ``case0.nii.gz`` ... and the folder of its state, with the band bundle to serve."""
    bundle = make_bundle(top / "bundles" / "bands")
    patch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    studies = top / "studies"
    studies.mkdir()
    values, _ = phantom((31, 27, 19))
    for number in range(count):
        nib.save(nib.Nifti1Image(values.astype(np.float32), oblique_affine()), studies / f"case{number}.nii.gz")
    return studies, top / "state"


def write_ids(path: Path, ids: dict[int, tuple[slice, ...]], shape: tuple[int, int, int] = (31, 27, 19)) -> Path:
    """A label map on the phantom's grid with a box for each id."""
    array = np.zeros(shape, np.uint8)
    for number, box in ids.items():
        array[box] = number
    nib.save(nib.Nifti1Image(array, oblique_affine()), path)
    return path
