"""``medvit label check``: a test with a server, a client and an inference on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from medvit.errors import BackendError

__all__ = ["answering", "free_port", "run_check", "running"]

_READY_S = 300
"""Seconds after which a server that does not answer counts as failed."""


def free_port() -> int:
    """Return an unused port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(studies: str, *options: str, log: Path | None = None, token: str = "") -> Iterator[tuple[str, float]]:
    """Run ``medvit label start`` in a separate process; yield its URL and the seconds until it answered.

    Raises:
        BackendError: the server ended, or did not answer in time.
    """
    port = free_port()
    command = [sys.executable, "-m", "medvit_label", "start", "--studies", studies, "--port", str(port), *options]
    words = {"MEDVIT_LABEL_TOKEN": token} if token else {}
    with answering(command, f"http://127.0.0.1:{port}", "/auth/", os.environ | words, log) as seconds:
        yield f"http://127.0.0.1:{port}", seconds


@contextmanager
def answering(
    command: list[str],
    url: str,
    path: str,
    environment: Mapping[str, str],
    log: Path | None = None,
    by_hand: str = "medvit label start",
) -> Iterator[float]:
    """Run a server's process until the block ends; yield the seconds until it answered.

    Args:
        command: command that starts the server.
        url: address at which it will listen.
        path: path to request until the server answers.
        environment: environment variables of the process.
        log: file for its output; by default the output is discarded.
        by_hand: command to start it by hand, for the error message.

    Raises:
        BackendError: the server ended, or did not answer in time.
    """
    started = time.perf_counter()
    with open(log or os.devnull, "wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment)
        try:
            while not _answers(url, path):
                if server.poll() is not None or time.perf_counter() - started > _READY_S:
                    raise BackendError(
                        f"that the server did not start (exit code {server.poll()})",
                        f"run it by hand to see why: {by_hand}",
                    )
                time.sleep(0.1)
            yield time.perf_counter() - started
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _answers(url: str, path: str = "/auth/") -> bool:
    try:
        with urllib.request.urlopen(f"{url}{path}", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def run_check(studies: str | None, login_file: Path | None = None) -> dict[str, Any]:
    """Check versions, bundles, the datastore and an inference; the key ``passed`` of the result is True if all of it
    works.

    Args:
        studies: folder or DICOMweb service to list as well; None for none.
        login_file: file with the login for that service; by default the environment variables.

    Raises:
        MedvitError: the server does not start.
    """
    names = (
        "medvit",
        "monailabel",
        "monai",
        "torch",
        "numpy",
        "pydicom",
        "highdicom",
        "fastapi",
        "uvicorn",
        "dicomweb-client",
    )
    found: dict[str, Any] = {"versions": {name: version(name) for name in names}}
    lines = ["Versions: " + ", ".join(f"{k} {v}" for k, v in found["versions"].items())]
    with tempfile.TemporaryDirectory(prefix="medvit-check-") as place:
        folder = Path(place)
        (folder / "studies").mkdir()
        model, image = _self_test_image(folder / "studies")
        with running(str(folder / "studies"), "--state", str(folder / "state"), "--quiet") as (url, ready):
            found |= _through_client(url, model, image, folder) | {"ready_s": round(ready, 2)}
    lines.append(f"Server ready after {found['ready_s']} s; it offers: {', '.join(found['models'])}.")
    lines.append(
        f"Inference through MONAILabelClient with {model}: {found['seconds'][0]} s, again {found['seconds'][1]} s; voxels as by the pipeline: {found['same']}."
    )
    if studies is not None:
        found["images"] = _images_of(studies, login_file)
        lines.append(f"{found['images']} images at the studies given.")
    found["passed"] = bool(found["same"])
    return found | {
        "lines": [
            *lines,
            "All works." if found["passed"] else "The server's answer differs from the pipeline's: report this.",
        ]
    }


def _self_test_image(folder: Path) -> tuple[str, str]:
    """Make a small image that a trained bundle accepts; return the bundle's name and the image's."""
    from medvit.bundles import bundle_folders, open_bundle
    from medvit.io import write_volume

    able = [b for b in map(open_bundle, bundle_folders()) if b.state in ("trained", "fetched")]
    able = [b for b in able if b.facts.task == "segmentation" and b.facts.dimensions == 3]
    if not able:
        raise BackendError(
            "no trained bundle for segmentation", "one is needed for the self-test", "See: medvit bundles list."
        )
    bundle = min(able, key=lambda b: b.weights.stat().st_size)
    values = bundle.facts.values
    low, high = (values.lowest_at_most, values.highest_at_least) if values else (0.0, 1000.0)
    noise = np.random.default_rng(0).uniform(low, high, (40, 44, 36)).astype(np.float32)
    noise.flat[0], noise.flat[1] = low, high
    write_volume(folder / "selftest.nii.gz", noise, np.diag([1.0, 1.0, 1.2, 1.0]))
    return bundle.name, "selftest"


def _through_client(url: str, model: str, image: str, folder: Path) -> dict[str, Any]:
    import nibabel as nib
    from monailabel.client import MONAILabelClient

    import medvit

    client, seconds, file = MONAILabelClient(url, tmpdir=str(folder)), [], ""
    models = sorted(client.info()["models"])
    for _ in range(2):
        started = time.perf_counter()
        file, _ = client.infer(model, image, {})
        seconds.append(round(time.perf_counter() - started, 2))
    ours = medvit.segment(folder / "studies" / f"{image}.nii.gz", model).array
    theirs = np.asarray(nib.load(file).dataobj)
    return {"models": models, "seconds": seconds, "same": bool(np.array_equal(ours, theirs))}


def _images_of(studies: str, login_file: Path | None) -> int:
    from monailabel.client import MONAILabelClient

    login = () if login_file is None else ("--login-file", str(login_file))
    with (
        tempfile.TemporaryDirectory(prefix="medvit-check-") as place,
        running(studies, "--state", place, "--quiet", *login) as (url, _),
    ):
        return int(MONAILabelClient(url).info()["datastore"]["total"])
