"""Odd names, numbers and files sent to the server: each is answered in words and harms nobody else."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.label.labels.test_label_info import write_segments
from tests.label.serving import Served, make_project, served, write_ids

pytest.importorskip("fastapi")
requests = pytest.importorskip("requests")

A, B = np.s_[4:8, 4:10, 4:8], np.s_[14:18, 10:16, 8:12]
SHAPE = (31, 27, 19)
MASK = np.zeros((40, 48), np.uint8)
MASK[5:9, 5:9] = 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        studies, state = make_project(tmp_path_factory.mktemp("breaking"), patch, 3)
        with served(studies, state) as made:
            yield made


def raw(server: Served, image: str, params: str, file: Path) -> Any:
    """A label submitted with ``params`` word for word."""
    with file.open("rb") as content:
        return requests.put(
            f"{server.url}/datastore/label?image={image}&tag=final",
            data={"params": params},
            files={"label": (file.name, content)},
            timeout=60,
        )


@pytest.mark.parametrize("name", ["下颌骨", "челюсть", "???", "Label 5", "2"])
def test_a_name_without_latin_letters_or_of_another_number_is_no_number(
    server: Served, tmp_path: Path, name: str
) -> None:
    """A mandible named in Chinese was stored as label 1, the brainstem, without a word."""
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    answer = server.save("case0", file, label_info=[{"name": name, "idx": 1}], model="bands")
    assert answer.status_code == 422 and f"Found {name}, which the table" in answer.json()["detail"], answer.text
    own = write_segments(tmp_path / "s.seg.nrrd", [boxes()], [(name, 1, 0)])
    assert server.save("case0", own, model="bands").status_code == 422


def boxes() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[A] = 1
    return array


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        (("Mandible", "x", 0), "not a whole number: Mandible"),
        (("Mandible", -1, 0), "not a whole number: Mandible"),
        (("Mandible", 1, "y"), "not a whole number: Mandible"),
        (("", 1, 0), "name is empty, by value: 1"),
    ],
)
def test_a_segment_that_its_file_does_not_tell_apart_is_no_number(
    server: Served, tmp_path: Path, segment: Any, words: str
) -> None:
    answer = server.save("case0", write_segments(tmp_path / "s.seg.nrrd", [boxes()], [segment]), model="bands")
    assert answer.status_code == 422 and words in answer.json()["detail"], answer.text


def test_the_command_line_keeps_a_name_without_latin_letters(server: Served, tmp_path: Path) -> None:
    from medvit.cli.main import app

    array = boxes()
    array[B] = 2
    file = write_segments(tmp_path / "s.seg.nrrd", [array], [("下颌骨", 1, 0), ("Larynx", 2, 0)])
    outcome = CliRunner().invoke(
        app, ["convert", str(file), "-o", str(tmp_path / "o"), "-ot", "nifti", "-b", "headneck_ct_swin_unetr"]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "Not in the table of labels, kept as they are: 下颌骨" in " ".join(outcome.output.split())
    kept = np.asarray(nib.load(tmp_path / "o" / "labels.nii.gz").dataobj)
    assert set(np.unique(kept[A])) == {8} and set(np.unique(kept[B])) == {6}


def test_a_name_of_characters_that_cannot_be_shown_is_none(server: Served, tmp_path: Path) -> None:
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    answer = server.save("case0", file, label_info=[{"name": "\x07", "idx": 1}], model="bands")
    assert answer.status_code == 400 and "without a name" in answer.json()["detail"], answer.text


@pytest.mark.parametrize("number", [-1, "²", 70000])
def test_a_number_that_cannot_be_is_refused_in_words(server: Served, tmp_path: Path, number: Any) -> None:
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    answer = server.save("case0", file, label_info=[{"name": "mandible", "idx": number}], model="bands")
    assert answer.status_code == 400 and "label_info" in answer.json()["detail"], answer.text


@pytest.mark.parametrize(
    "params",
    ['{"x": NaN}', '{"seconds": 1e999}', '{"x": "\\ud800"}', '{"clicks": ' + "[" * 100_000, '{"x": -Infinity}'],
)
def test_params_that_no_answer_could_hold_do_not_block_the_project(server: Served, tmp_path: Path, params: str) -> None:
    """One such submit made ``GET /datastore/?output=all`` fail for everybody and for good."""
    answer = raw(server, "case0", params, write_ids(tmp_path / "l.nii.gz", {1: A}))
    assert answer.status_code == 400 and "Found params that" in answer.json()["detail"], answer.text
    noted = server.ask("PUT", "/datastore/image/info?image=case0", data={"info": params})
    asked = server.ask("POST", "/infer/bands?image=case0&output=json", data={"params": params})
    assert (noted.status_code, asked.status_code) == (400, 400)
    assert server.ask("GET", "/datastore/?output=all").status_code == 200
    assert server.ask("GET", "/stats/").status_code == 200


def test_half_a_character_as_client_id_is_no_fault(server: Served) -> None:
    body, kind = '{"client_id": "\\ud800"}', {"content-type": "application/json"}
    answer = requests.post(f"{server.url}/activelearning/first", data=body, headers=kind, timeout=60)
    assert answer.status_code == 200, answer.text


def test_what_only_the_server_can_know_is_not_taken_from_clients(server: Served, tmp_path: Path) -> None:
    """A client that wrote ``model`` into a label took it out of the training; its own scores broke the page."""
    forged = {"agreement": "x", "volumes": 5, "seconds": "x", "archive": "held", "against": 7}
    saved = server.save("case1", write_ids(tmp_path / "l.nii.gz", {1: A}), model="bands", **forged)
    assert saved.status_code == 200, saved.text
    noted = server.ask(
        "PUT",
        "/datastore/label/info?label=case1&tag=final",
        data={"info": json.dumps(forged | {"model": "other", "annotator": "ben", "remark": "seen"})},
    )
    assert "left as they are: against, agreement, annotator, archive, model" in noted.json()["notes"][0]
    info = server.ask("GET", "/datastore/label/info?label=case1&tag=final").json()
    assert (info["model"], info["annotator"], info["remark"]) == ("bands", "", "seen")
    assert isinstance(info["volumes"], dict) and "archive" not in info
    assert server.ask("GET", "/stats/").status_code == 200


def test_notes_say_which_label_counts_now(server: Served, tmp_path: Path) -> None:
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    for name in ("anna", "ben"):
        server.save("case2", file, model="bands", client_id=name, replace="false")
    chosen = server.ask("POST", "/datastore/label/choose?image=case2&version=2").json()
    assert chosen["counts"] and "Version 2 by ben counts, so this one counts" in chosen["notes"][-1]
    info = server.ask("GET", "/datastore/label/info?label=case2&tag=final").json()
    assert "Version 2 by ben counts" in info["notes"][-1] and len([n for n in info["notes"] if "counts" in n]) == 1
    left = server.ask("DELETE", "/datastore/label?id=case2&tag=final&version=2").json()
    assert left == {"counts": 1, "notes": ["Version 1 by anna counts from now on."]}
    none = server.ask("DELETE", "/datastore/label?id=case2&tag=final").json()
    assert none["counts"] is None


def test_no_written_as_a_word_is_no(server: Served, tmp_path: Path) -> None:
    """``"restart": "false"`` dropped an annotator's corrections, ``"replace": "false"`` replaced another's label."""
    who = {"client_id": "anna"}
    server.infer("case0", clicks={"background": [[5, 5, 5]]}, **who)
    for params in ({"restart": "false"}, {"fresh": "False"}, {"resume": "no"}):
        assert server.infer("case0", **params, **who)["corrections"] == {"annotator": "anna", "kept": 1, "shown": False}
    answer = server.ask("POST", "/infer/bands?image=case0&output=json", {"restart": "perhaps"})
    assert answer.status_code == 400 and "true or false is needed" in answer.json()["detail"]
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    assert server.save("case1", file, model="bands", client_id="first").status_code == 200
    assert not server.save("case1", file, model="bands", client_id="zoe", replace="false").json()["counts"]


def test_a_restart_with_a_click_that_is_refused_drops_nothing(server: Served) -> None:
    who = {"client_id": "carl"}
    server.infer("case0", clicks={"background": [[5, 5, 5]]}, **who)
    asked = {"restart": True, "clicks": {"mandible": [[99, 0, 0]]}, **who}
    assert server.ask("POST", "/infer/bands?image=case0&output=json", asked).status_code == 400
    assert server.infer("case0", **who)["corrections"]["kept"] == 1
    anew = server.infer("case0", restart=True, clicks={"background": [[5, 6, 5]]}, **who)
    assert anew["corrections"]["kept"] == 1 and any("were dropped, as asked" in note for note in anew["notes"])


def test_points_under_a_name_that_the_bundle_has_not_are_refused(server: Served) -> None:
    """They were passed over: the answer was the model's own, and the annotator's clicks were in none."""
    answer = server.ask("POST", "/infer/bands?image=case0&output=json", {"Mandible": [[5, 5, 5]]})
    assert answer.status_code == 422 and "Found no label 'Mandible'" in answer.json()["detail"], answer.text


def test_words_keep_their_full_stops_where_the_studies_are_here(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--studies .`` turned every full stop of every message into an ellipsis."""
    monkeypatch.chdir(server.studies)
    with served(Path(), tmp_path / "state") as here:
        told = here.ask("GET", "/datastore/image/info?image=no.pe").json()["detail"]
        assert told.startswith("Found no image 'no.pe' in the project") and told.endswith(
            "See GET /datastore/?output=all."
        )
        broken = tmp_path / "l.png"
        broken.write_bytes(b"x" * 50)
        detail = here.save("case0", broken).json()["detail"]
        assert str(tmp_path) not in detail and str(server.studies) not in detail, detail


def test_a_note_says_why_a_replacement_was_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medvit.cli.main import app

    users = tmp_path / "users.json"
    for name in ("anna", "ben"):
        made = CliRunner().invoke(app, ["label", "users", "add", name, "--users", str(users)], input="long enough\n")
        assert made.exit_code == 0, made.output
    studies, state = make_project(tmp_path, monkeypatch, 1)
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    with served(studies, state, users=users) as made:
        both = [replace(made, token=made.log_in(n, "long enough").json()["access_token"]) for n in ("anna", "ben")]
        both[0].save("case0", file, model="bands")
        told = both[1].save("case0", file, model="bands", replace=True).json()
    assert not told["counts"] and "it is for reviewers and admins, and ben is annotator" in told["notes"][0]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    (folder / "studies").mkdir()
    Image.fromarray(30 + 150 * MASK).save(folder / "studies" / "pic.png")
    with served(folder / "studies", folder / "state", bundles=("nuclei_barlow_swin",)) as made:
        yield made


def png(array: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def nifti(array: np.ndarray) -> bytes:
    return nib.Nifti1Image(array, np.eye(4)).to_bytes()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("l.nrrd", b"x" * 50, "Found a label of a picture as .nrrd"),
        ("l.seg.nrrd", b"x" * 50, "Found a label of a picture as .seg.nrrd"),
        ("l.dcm", b"x" * 50, "Found a label of a picture as .dcm"),
        ("l.bin", MASK.tobytes(), "Found a label of a picture as .bin"),
        ("l.nii.gz", b"x" * 50, "Found a label that cannot be read as NIfTI"),
        ("l.nii", nifti(MASK)[:360], "Found a label that cannot be read as NIfTI"),
        ("l.nii", nifti(MASK * np.float32(0.5)), "numbers that are not ids"),
        ("l.nii", nifti(-MASK.astype(np.int16)), "numbers that are not ids"),
        ("l.png", png(MASK)[:50], "Found a label that cannot be read as a PNG"),
        ("l.png", png(MASK.astype(np.uint16) * 257), "numbers that are not ids"),
    ],
)
def test_a_pictures_label_that_cannot_be_read_is_refused_in_words(
    pictures: Served, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    answer = pictures.save("pic", file)
    assert answer.status_code in (400, 422) and words in answer.json()["detail"], answer.text


def test_a_mask_of_one_bit_is_a_label(pictures: Served, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "l.png").write_bytes(png(MASK > 0))
    answer = pictures.save("pic", tmp_path / "l.png")
    assert answer.status_code == 200, answer.text
    kept = pictures.ask("GET", "/datastore/label?label=pic&tag=final").content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))), MASK)
