"""MONAI Label's own client against the server: the steps of an annotator's day."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medvit
from tests.label.conftest import TOKEN, Project

client_module = pytest.importorskip("monailabel.client")


@pytest.fixture
def client(project: Project, tmp_path: Path):
    made = client_module.MONAILabelClient(project.url, tmpdir=str(tmp_path), client_id="tester")
    made.update_auth({"token_type": "bearer", "access_token": TOKEN})
    return made


def test_info_offers_the_bundle_with_its_labels_and_colours(client, project: Project) -> None:
    found = client.info()["models"]["bands"]
    facts = medvit.open_bundle(project.bundle).facts
    assert found["type"] == "segmentation" and found["dimension"] == 3
    assert found["labels"] == {label.name: label.id for label in facts.labels}
    assert found["label_colors"][facts.labels[0].name] == list(facts.labels[0].color)


def test_login_takes_the_token_as_password(client) -> None:
    assert client.auth_enabled()
    assert client.auth_token("anybody", TOKEN)["access_token"] == TOKEN
    assert client.auth_valid_token()
    with pytest.raises(client_module.client.MONAILabelClientException) as refused:
        client.auth_token("anybody", "wrong")
    assert refused.value.status_code == 401


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_inference_gives_the_voxels_of_the_command_line(client, project: Project, tmp_path: Path, kind: str) -> None:
    from typer.testing import CliRunner

    from medvit.cli.main import app

    image = "scan" if kind == "nifti" else project.series
    source = project.studies / ("scan.nii.gz" if kind == "nifti" else "Secret_Person")
    file, params = client.infer("bands", image, {})
    outcome = CliRunner().invoke(app, ["segment", str(source), "-b", str(project.bundle), "-o", str(tmp_path / "out")])
    assert outcome.exit_code in (0, 3), outcome.output
    theirs, ours = nib.load(file), nib.load(tmp_path / "out" / "labels.nii.gz")
    assert np.array_equal(np.asarray(theirs.dataobj), np.asarray(ours.dataobj))
    assert np.allclose(theirs.affine, ours.affine)
    assert np.asarray(ours.dataobj).any() and params["label_names"]["brainstem"] == 1
    assert params["latencies"]["total"] > 0


def test_labels_are_versioned_and_none_is_overwritten(client, project: Project) -> None:
    file, _ = client.infer("bands", "scan", {})
    before = (project.studies / "scan.nii.gz").read_bytes()
    first = client.save_label("scan", file, "final", {"seconds": 12})
    kept = {p: p.read_bytes() for p in (project.state / "labels").rglob("labels.nii.gz")}
    second = client.save_label("scan", file, "final", {})
    assert second["version"] == first["version"] + 1
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert (project.studies / "scan.nii.gz").read_bytes() == before
    loaded = np.asarray(nib.load(client.download_label("scan", "final")).dataobj)
    assert np.array_equal(loaded, np.asarray(nib.load(file).dataobj))
    assert client.datastore()["objects"]["scan"]["labels"]["final"]["info"]["version"] == second["version"]


def test_a_label_on_a_dicom_series_is_kept_as_seg_too(client, project: Project) -> None:
    file, _ = client.infer("bands", project.series, {})
    client.save_label(project.series, file, "final", {"model": "bands"})
    segs = list((project.state / "labels" / "final").glob(f"{project.series}-*/v*/seg.dcm"))
    seg = pydicom.dcmread(segs[-1])
    assert seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == project.series
    back = medvit.read_labels(segs[-1], project.studies / "Secret_Person").array
    assert np.array_equal(back > 0, np.asarray(nib.load(file).dataobj) > 0)


def test_a_label_of_another_grid_is_refused_with_the_reason(client, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((5, 5, 5), 99, np.uint8), np.eye(4)), tmp_path / "wrong.nii.gz")
    with pytest.raises(client_module.client.MONAILabelClientException) as refused:
        client.save_label("scan", str(tmp_path / "wrong.nii.gz"), "final", {"model": "bands"})
    assert "Found" in refused.value.msg and "Status: 4" in refused.value.msg


def test_a_click_changes_the_label_there_and_nothing_far_away(client) -> None:
    first, _ = client.infer("bands", "scan", {})
    before = np.asarray(nib.load(first).dataobj)
    place = [int(v) for v in np.argwhere(before == 1)[len(np.argwhere(before == 1)) // 2]]
    file, params = client.infer("bands", "scan", {"clicks": {"background": [place]}})
    after = np.asarray(nib.load(file).dataobj)
    assert after[tuple(place)] == 0 and params["changed_voxels"] == int((after != before).sum())
    far = np.abs(np.indices(before.shape).T - place).max(axis=-1).T > 20
    assert np.array_equal(after[far], before[far])


def test_a_box_is_run_on_again_through_the_client(client) -> None:
    first, _ = client.infer("bands", "scan", {})
    before = np.asarray(nib.load(first).dataobj)
    place = [int(v) for v in np.argwhere(before == 1)[len(np.argwhere(before == 1)) // 2]]
    client.infer("bands", "scan", {"clicks": {"background": [place]}})
    file, params = client.infer("bands", "scan", {"roi": [[0, 0, 0], [n - 1 for n in before.shape]]})
    assert np.array_equal(np.asarray(nib.load(file).dataobj), before)  # the clicks are undone there
    assert params["changed_voxels"] > 0
    with pytest.raises(client_module.client.MONAILabelClientException) as refused:
        client.infer("bands", "scan", {"roi": [[0, 0, 0], [999, 9, 9]]})
    assert "within" in refused.value.msg


def test_clicks_outside_or_on_unknown_labels_are_refused(client) -> None:
    for clicks, words in (({"background": [[999, 0, 0]]}, "within"), ({"liverr": [[1, 1, 1]]}, "no label")):
        with pytest.raises(client_module.client.MONAILabelClientException) as refused:
            client.infer("bands", "scan", {"clicks": clicks})
        assert words in refused.value.msg


def test_next_case_says_why_and_passes_over_what_is_done(client, project: Project) -> None:
    found = client.next_sample("first", {})
    done = {k for k, v in client.datastore()["objects"].items() if "final" in v["labels"]}
    assert found == {} if len(done) == 2 else found["reason"] and found["id"] not in done
    with pytest.raises(client_module.client.MONAILabelClientException) as refused:
        client.next_sample("cleverest", {})
    assert "there are: first, random, quality" in refused.value.msg


def test_sessions_hold_an_image_outside_of_the_project(client, project: Project) -> None:
    made = client.create_session(str(project.studies / "scan.nii.gz"))
    session = made["session_id"]
    file, _ = client.infer("bands", "", {}, session_id=session)
    ours, _ = client.infer("bands", "scan", {})
    assert np.array_equal(np.asarray(nib.load(file).dataobj), np.asarray(nib.load(ours).dataobj))
    assert client.get_session(session)["session_id"] == session
    client.remove_session(session)
    with pytest.raises(client_module.client.MONAILabelClientException):
        client.get_session(session)


def test_an_image_sent_along_is_inferred_and_not_kept(client, project: Project) -> None:
    file, _ = client.infer("bands", "", {}, file=str(project.studies / "scan.nii.gz"))
    assert np.asarray(nib.load(file).dataobj).any()
    assert not list((project.state / "scratch").glob("upload-*"))
