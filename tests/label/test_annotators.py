"""Several annotators in one project: each has own corrections, which last, and one final label counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.bands import oblique_affine, phantom
from tests.label.learning import make_cases, make_learning_bundle
from tests.label.serving import Served, make_project, served, write_ids

pytest.importorskip("fastapi")
requests = pytest.importorskip("requests")

A, B = np.s_[2:6, 3:9, 4:8], np.s_[10:15, 3:9, 4:8]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    return make_project(tmp_path, monkeypatch, 6)


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        studies, state = make_project(tmp_path_factory.mktemp("several"), patch, 4)
        with served(studies, state) as made:
            yield made


def a_click(server: Served, image: str) -> list[int]:
    """A voxel of the brainstem, far from its edge."""
    inside = np.argwhere(server.labels(image, client_id="looks") == 1)
    return [int(v) for v in inside[len(inside) // 2]]


def test_a_click_is_of_who_made_it_and_a_run_leaves_it(shared_server: Served) -> None:
    server, place = shared_server, a_click(shared_server, "case0")
    plain = server.labels("case0", client_id="ben")
    clicked = server.labels("case0", client_id="anna", clicks={"background": [place]})
    assert clicked[tuple(place)] == 0 and not np.array_equal(clicked, plain)
    assert np.array_equal(server.labels("case0", client_id="ben"), plain)
    other = [0, 0, 0]
    theirs = server.labels("case0", client_id="ben", clicks={"background": [other]})
    assert theirs[tuple(place)] == 1

    run = server.infer("case0", client_id="anna")
    assert run["corrections"] == {"annotator": "anna", "kept": 1, "shown": False}
    assert any("1 correction (the last of" in note and "not shown in it" in note for note in run["notes"])
    assert np.array_equal(server.labels("case0", client_id="anna"), plain)
    assert np.array_equal(server.labels("case0", client_id="anna", resume=True), clicked)
    more = server.labels("case0", client_id="anna", clicks={"background": [other]})
    assert more[tuple(place)] == 0

    anew = server.infer("case0", client_id="anna", restart=True)
    assert any("2 corrections" in note and "were dropped, as asked" in note for note in anew["notes"])
    assert server.infer("case0", client_id="anna")["corrections"]["kept"] == 0
    assert server.infer("case0", client_id="ben")["corrections"]["kept"] == 1
    assert np.array_equal(server.labels("case0", client_id="anna", resume=True), plain)


def test_corrections_outlive_other_images_and_a_restart(project: tuple[Path, Path]) -> None:
    with served(*project) as server:
        place = a_click(server, "case0")
        clicked = server.labels("case0", client_id="anna", clicks={"background": [place]})
        for number in range(1, 6):
            server.infer(f"case{number}", client_id="anna")
        assert np.array_equal(server.labels("case0", client_id="anna", resume=True), clicked)
    with served(*project) as server:
        assert np.array_equal(server.labels("case0", client_id="anna", resume=True), clicked)
        made = server.infer("case0", client_id="anna", clicks={"background": [[0, 0, 0]]})
        assert made["corrections"] == {"annotator": "anna", "kept": 2, "shown": True}
        assert any("The answer continues from 1 correction" in note for note in made["notes"])
        # an image that is another by now keeps nothing, and says so
        values, _ = phantom((31, 27, 19))
        nib.save(nib.Nifti1Image(values[:, :, :12].astype(np.float32), oblique_affine()), project[0] / "case0.nii.gz")
        changed = server.infer("case0", client_id="anna", resume=True)
        assert any("The image has changed since 2 corrections" in note for note in changed["notes"])
        # nor does a damaged file
        server.infer("case1", client_id="anna", clicks={"background": [place]})
        for file in (project[1] / "corrections").glob("*.npz"):
            file.write_bytes(b"cut")
        damaged = server.infer("case1", client_id="anna", resume=True)
        assert any("cannot be read; they start anew" in note for note in damaged["notes"])


def test_what_is_dropped_for_want_of_room_is_said(project: tuple[Path, Path]) -> None:
    from medvit_label.settings import Limits

    with served(*project, limits=Limits(corrections=2)) as server:
        for number in range(3):
            made = server.infer(f"case{number}", client_id="anna", clicks={"background": [[5, 5, 5]]})
        assert any("Only the newest 2 corrected images are kept; those of case0 were" in n for n in made["notes"])
        back = server.infer("case0", client_id="anna")
        assert any("1 correction" in n and "were dropped to make room" in n for n in back["notes"])


def test_a_session_takes_its_corrections_along(shared_server: Served, tmp_path: Path) -> None:
    server = shared_server
    with (server.studies / "case0.nii.gz").open("rb") as image:
        session = server.ask("PUT", "/session/", files={"files": ("s.nii.gz", image)}).json()["session_id"]
    asked = f"/infer/bands?session_id={session}&output=json"
    assert server.ask("POST", asked, {"client_id": "anna", "clicks": {"background": [[5, 5, 5]]}}).status_code == 200
    assert server.ask("POST", asked, {"client_id": "anna"}).json()["corrections"]["kept"] == 1
    before = len(list((server.state / "corrections").iterdir()))
    server.ask("DELETE", f"/session/{session}")
    assert len(list((server.state / "corrections").iterdir())) == before - 1
    gone = server.ask("POST", asked, {"client_id": "anna", "clicks": {"background": [[5, 5, 5]]}})
    assert gone.status_code == 404 and "it may have expired. Create it again" in gone.json()["detail"]


def test_two_on_one_image_are_told(shared_server: Served) -> None:
    server = shared_server
    assert server.infer("case1", client_id="anna")["others"] == []
    told = server.infer("case1", client_id="ben")
    assert len(told["others"]) == 1 and told["others"][0].startswith("anna works on this image too (run, ")
    assert told["others"][0] in told["notes"]
    again = server.infer("case1", client_id="anna", clicks={"background": [[5, 5, 5]]})
    assert again["others"][0].startswith("ben works on this image too (run, ")
    unnamed = server.infer("case1")
    assert {words.split()[0] for words in unnamed["others"]} == {"anna", "ben"}
    given = server.ask("POST", "/activelearning/first", json={"client_id": "carl"}).json()
    assert given["others"] and all(words in given["reason"] for words in given["others"])


def test_a_second_final_label_does_not_replace_the_first(shared_server: Served, tmp_path: Path) -> None:
    server = shared_server
    first = server.save("case2", write_ids(tmp_path / "a.nii.gz", {1: A}), client_id="anna").json()
    second = server.save("case2", write_ids(tmp_path / "b.nii.gz", {2: B}), client_id="ben").json()
    assert (first["counts"], second["counts"], second["version"]) == (True, False, 2)
    (words,) = (note for note in second["notes"] if "Labels of 2 annotators" in note)
    assert "anna (version 1), ben (version 2). Version 1 by anna counts" in words and "does not count" in words
    assert server.stored("case2")[A].all() and server.stored("case2", version=2)[B].all()
    listed = server.ask("GET", "/datastore/?output=all").json()["objects"]["case2"]["labels"]["final"]["info"]
    assert (listed["annotator"], listed["version"]) == ("anna", 1)
    rows = server.ask("GET", "/stats/").json()
    assert [row["annotator"] for row in rows["labels"] if row["image"] == "case2"] == ["anna"]
    assert {"image": "case2", "annotators": ["anna", "ben"], "version": 1, "counts": "anna"} in rows["several"]

    newer = server.save("case2", write_ids(tmp_path / "a.nii.gz", {3: A}), client_id="anna").json()
    assert newer["counts"] and (server.stored("case2")[A] == 3).all()
    chosen = server.ask("POST", "/datastore/label/choose?image=case2&version=2").json()
    assert chosen["counts"] and server.stored("case2")[B].all()
    assert not server.save("case2", tmp_path / "a.nii.gz", client_id="anna").json()["counts"]
    versions = server.ask("GET", "/datastore/label/versions?label=case2").json()
    assert [(row["annotator"], row["counts"]) for row in versions] == [
        ("anna", False), ("ben", True), ("anna", False), ("anna", False),
    ]  # fmt: skip
    assert server.save("case2", tmp_path / "a.nii.gz", client_id="anna", replace=True).json()["counts"]
    server.ask("DELETE", "/datastore/label?id=case2&tag=final&version=5")
    assert server.ask("GET", "/datastore/label/info?label=case2&tag=final").json()["version"] == 4
    absent = server.ask("POST", "/datastore/label/choose?image=case2&version=9")
    assert absent.status_code == 404 and "Found no 'final' label of 'case2', version 9" in absent.json()["detail"]


def test_nobody_writes_under_anothers_name(shared_server: Served, tmp_path: Path) -> None:
    server = shared_server
    server.save("case3", write_ids(tmp_path / "a.nii.gz", {1: A}), client_id="anna", annotator="ben", sha256="0")
    server.ask("PUT", "/datastore/label/info?label=case3&tag=final", data={"info": '{"annotator": "ben", "seen": 1}'})
    found = server.ask("GET", "/datastore/label/info?label=case3&tag=final").json()
    assert (found["annotator"], found["seen"]) == ("anna", 1) and len(found["sha256"]) == 64


def test_one_bad_label_is_set_aside_and_the_rest_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_learning_bundle(tmp_path / "bundles" / "bands")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names = make_cases(tmp_path / "studies", tmp_path / "truth", 7)
    with served(tmp_path / "studies", tmp_path / "state") as server:
        for name in names:
            assert server.save(name, tmp_path / "truth" / f"{name}.nii.gz", model="bands").status_code == 200
        kept = {
            name: next((tmp_path / "state" / "labels" / "final").glob(f"{name}-*/v0001/*.nii.gz")) for name in names
        }
        kept["case0"].write_bytes(b"")
        strange = nib.load(kept["case1"])
        ids = np.asarray(strange.dataobj).copy()
        ids[0, 0, 0] = 99  # as labels were stored before names decided
        nib.save(nib.Nifti1Image(ids, strange.affine), kept["case1"])
        cut = nib.load(tmp_path / "studies" / "case2.nii.gz")
        nib.save(cut.slicer[:, :, :20], tmp_path / "studies" / "case2.nii.gz")
        started = server.ask("POST", "/train/bands", json={"steps": 1}).json()
        assert started["split"]["training"] + started["split"]["validation"] == 4, started
        told = {row["image"]: row["reason"] for row in started["split"]["set_aside"]}
        assert "cannot be read" in told["case0"] and "does not know (99)" in told["case1"]
        assert "it was changed" in told["case2"] and len(told) == 3
        assert started["status"] == "RUNNING" and server.ask("DELETE", "/train/").status_code == 200
        kept["case3"].unlink()
        refused = server.ask("POST", "/train/bands", json={"steps": 1})
        assert refused.status_code == 400
        assert "Found 4 images" not in refused.json()["detail"] and "at least 4 are needed" in refused.json()["detail"]
        assert "case3: its file was removed" in refused.json()["detail"]
