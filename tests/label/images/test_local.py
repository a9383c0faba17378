"""A project started with --geometry: answers and labels lie where the choice puts the image; ids are rounded, units read."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from tests.bands import make_bundle, phantom

AFFINE = np.array([[0.0, -2.0, 0, 30], [-2.0, 0, 0, 40], [0, 0, -3.0, 50], [0, 0, 0, 1]])
MIRRORED = np.diag([-1.0, 1, 1, 1]) @ AFFINE


def _save(path: Path, values: np.ndarray, scale: float, dtype: type, unit: str) -> Path:
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    image = nib.Nifti1Image(values, None, header)
    grow = np.diag([scale, scale, scale, 1.0])
    image.set_sform(grow @ AFFINE, 1)
    image.set_qform(grow @ MIRRORED, 1)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@contextmanager
def _serving(settings: Any) -> Iterator[str]:
    """The server in a thread: the model is loaded by this process already."""
    import uvicorn
    from medvit_label.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


def test_a_project_takes_the_geometry_that_it_was_started_with(tmp_path, monkeypatch):
    requests = pytest.importorskip("requests")
    pytest.importorskip("fastapi")
    from medvit_label.settings import ServerSettings

    bundle = make_bundle(tmp_path / "bundles" / "bands")
    values, ids = phantom((32, 28, 20))
    (tmp_path / "studies").mkdir()
    _save(tmp_path / "studies" / "scan.nii.gz", values, 1e3, np.int16, "micron")
    drawn = _save(tmp_path / "drawn.nii.gz", ids.astype(np.float64), 1e-3, np.uint8, "meter")
    assert not np.array_equal(nib.load(drawn).get_fdata(), ids)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    settings = ServerSettings(
        studies=str(tmp_path / "studies"), state=tmp_path / "state", bundles=("bands",), geometry="qform"
    ).check()
    with _serving(settings) as url:
        answer = requests.post(f"{url}/infer/bands?image=scan&output=json", timeout=60)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        assert any("as requested" in note for note in said["notes"]), said
        assert any("lengths in microns" in note for note in said["notes"]) and not said["set_aside"]
        with drawn.open("rb") as file:
            kept = requests.put(
                f"{url}/datastore/label?image=scan&tag=final", files={"label": ("l.nii.gz", file)}, timeout=60
            )
        assert kept.status_code == 200, kept.text
        assert "they were rounded" in json.dumps(kept.json()) and "lengths in metres" in json.dumps(kept.json())
        got = requests.get(f"{url}/datastore/label?label=scan&tag=final", timeout=60)
    (tmp_path / "got.nii.gz").write_bytes(got.content)
    stored = nib.load(tmp_path / "got.nii.gz")
    assert np.array_equal(np.asarray(stored.dataobj), ids)
    assert np.allclose(stored.get_sform(), MIRRORED, atol=1e-3) and np.allclose(stored.get_qform(), MIRRORED, atol=1e-3)
    assert stored.header.get_xyzt_units()[0] == "mm"


def test_a_geometry_that_there_is_not_is_refused_before_serving(tmp_path):
    outcome = CliRunner().invoke(app, ["label", "start", "--studies", str(tmp_path), "--geometry", "left"])
    assert outcome.exit_code == 1 and "it must be sform or qform" in outcome.output
