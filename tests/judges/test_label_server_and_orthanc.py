"""A project on a real DICOMweb service: Orthanc with its plugin, both from Debian."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from medvit_label.self_test import running

from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.nodes import free_port, orthanc

pytestmark = pytest.mark.usefixtures("warm_servers")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Orthanc with one series; its URL and the series' folder."""
    folder = tmp_path_factory.mktemp("orthanc")
    volume, _ = phantom((31, 27, 19))
    with orthanc(folder / "db", free_port(), free_port()) as pacs:
        for path in write_series(folder / "series", volume, oblique_affine()):
            pacs.ask("/instances", path.read_bytes())
        yield pacs.web, folder / "series"


def test_a_case_of_an_archive_is_inferred_and_its_label_goes_back_as_seg(
    archive: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client_module = pytest.importorskip("monailabel.client")
    url, folder = archive
    series = str(pydicom.dcmread(next(folder.iterdir())).SeriesInstanceUID)
    bundle = make_bundle(tmp_path / "bundles" / "bands")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    with running(url, "--bundle", "bands", "--state", str(tmp_path / "state")) as (server, _):
        client = client_module.MONAILabelClient(server, tmpdir=str(tmp_path))
        assert list(client.datastore()["objects"]) == [series]
        file, _ = client.infer("bands", series, {})
        import medvit

        ours = medvit.segment(folder, bundle).array
        assert np.array_equal(np.asarray(nib.load(file).dataobj), ours)
        client.save_label(series, file, "final", {"model": "bands"})
        assert _segs(url) == 1
        # a second annotator's SEG goes there when it counts, not before
        second = client_module.MONAILabelClient(server, tmpdir=str(tmp_path), client_id="ben")
        assert second.save_label(series, file, "final", {"model": "bands"})["counts"] is False
        assert _segs(url) == 1
        chosen = f"{server}/datastore/label/choose?image={series}&version=2"
        answer = urllib.request.urlopen(urllib.request.Request(chosen, method="POST"), timeout=60)
        assert json.loads(answer.read())["counts"] is True
    assert _segs(url) == 2


def _segs(url: str) -> int:
    return len(json.loads(urllib.request.urlopen(f"{url}/series?Modality=SEG", timeout=10).read() or "[]"))
