"""The names sent with a label decide what its numbers mean: ``label_info`` of 3D Slicer and OHIF, and ``.seg.nrrd``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medvit
from tests.bands import oblique_affine, phantom, write_series
from tests.label.serving import Served, array_of, make_project, served, write_ids

pytest.importorskip("fastapi")
pytest.importorskip("requests")

A, B, C = (np.s_[2:6, 3:9, 4:8], np.s_[10:15, 3:9, 4:8], np.s_[20:24, 3:9, 4:8])
LARYNX, MANDIBLE = 6, 7


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    top = tmp_path_factory.mktemp("names")
    with pytest.MonkeyPatch.context() as patch:
        studies, state = make_project(top, patch, 1)
        write_series(studies / "series", phantom((31, 27, 19))[0], oblique_affine())
        with served(studies, state) as made:
            yield made


def series(server: Served) -> str:
    return str(pydicom.dcmread(next((server.studies / "series").iterdir())).SeriesInstanceUID)


def write_segments(path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]]) -> Path:
    """A ``.seg.nrrd`` as 3D Slicer writes it, of (name, value, layer); overlapping segments lie in several layers."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ oblique_affine()[:3]
    directions = " ".join("(" + ",".join(f"{v:.12g}" for v in lps[:, axis]) + ")" for axis in range(3))
    origin = ",".join(f"{v:.12g}" for v in lps[:, 3])
    many = len(layers) > 1
    head = [
        "NRRD0004", "type: unsigned char", f"dimension: {4 if many else 3}", "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' if many else ''}{' '.join(map(str, layers[0].shape))}",
        f"space directions: {'none ' if many else ''}{directions}",
        f"kinds: {'list ' if many else ''}domain domain domain", "encoding: raw", f"space origin: ({origin})",
    ]  # fmt: skip
    for number, (name, value, layer) in enumerate(segments):
        head += [
            f"Segment{number}_{key}:={text}" for key, text in (("Name", name), ("LabelValue", value), ("Layer", layer))
        ]
    voxels = np.stack(layers) if many else layers[0]
    path.write_bytes(("\n".join(head) + "\n\n").encode() + voxels.astype(np.uint8).tobytes(order="F"))
    return path


def boxes(**values: int) -> np.ndarray:
    """A map with boxes ``a``, ``b`` and ``c`` of these values."""
    array = np.zeros((31, 27, 19), np.uint8)
    for name, value in values.items():
        array[{"a": A, "b": B, "c": C}[name]] = value
    return array


def slicer_info(*names: str) -> list[dict[str, Any]]:
    """``label_info`` as 3D Slicer's module makes it: segments numbered by their position."""
    return [{"name": name, "idx": number} for number, name in enumerate(names, 1)]


def test_segments_numbered_by_position_are_stored_by_their_names(server: Served, tmp_path: Path) -> None:
    """Five of seven segments were deleted in 3D Slicer; the mandible is its second and must not become label 2."""
    file = write_ids(tmp_path / "l.nii.gz", {1: A, 2: B})
    answer = server.save("case0", file, label_info=slicer_info("brainstem", "Mandible"), model="bands")
    assert answer.status_code == 200, answer.text
    kept = server.stored("case0")
    assert set(np.unique(kept[A])) == {1} and set(np.unique(kept[B])) == {MANDIBLE}
    assert any("Mandible from 2 to 7" in note for note in answer.json()["notes"])


def test_a_final_seg_names_what_the_annotator_named(server: Served, tmp_path: Path) -> None:
    file = write_ids(tmp_path / "l.nii.gz", {1: A, 6: B})
    info = [*slicer_info("brainstem"), {"name": "mandible", "idx": 6}]
    assert server.save(series(server), file, label_info=info, model="bands").status_code == 200
    seg = sorted((server.state / "labels" / "final").glob(f"{series(server)}-*/v*/seg.dcm"))[-1]
    titles = [str(item.SegmentLabel) for item in pydicom.dcmread(seg).SegmentSequence]
    assert titles == ["Brainstem", "Mandible"]
    mandible = medvit.read_labels(seg, server.studies / "series").mask("mandible")
    assert np.array_equal(mandible, boxes(b=1) > 0)


def test_bare_bytes_of_ohif_go_by_their_names(server: Served, tmp_path: Path) -> None:
    file = tmp_path / "label.bin"
    file.write_bytes(boxes(a=1).tobytes(order="F"))
    info = [{"id": "0+1", "labelmapIndex": 0, "segmentIndex": 1, "name": "larynx"}]
    assert server.save(series(server), file, label_info=info, model="bands").status_code == 200
    assert set(np.unique(server.stored(series(server))[A])) == {LARYNX}


@pytest.mark.parametrize(
    ("layers", "segments"),
    [
        ([boxes(a=1, b=2)], [("Mandible", 2, 0), ("Brainstem", 1, 0)]),
        ([boxes(a=1), boxes(b=1)], [("brainstem", 1, 0), ("mandible", 1, 1)]),
    ],
)
def test_a_segmentation_file_of_slicer_names_its_own(
    server: Served, tmp_path: Path, layers: list[np.ndarray], segments: list[tuple[str, int, int]]
) -> None:
    """Also where the module's ``label_info``, which is by position, says otherwise."""
    file = write_segments(tmp_path / "s.seg.nrrd", layers, segments)
    answer = server.save("case0", file, label_info=slicer_info(*(name for name, _, _ in segments)), model="bands")
    assert answer.status_code == 200, answer.text
    kept = server.stored("case0")
    assert set(np.unique(kept[A])) == {1} and set(np.unique(kept[B])) == {MANDIBLE}


@pytest.mark.parametrize("names", [["Mandible", "mandible"], ["Segment_1", "unheard of"]])
def test_a_segmentation_file_whose_names_do_not_fit_is_refused(
    server: Served, tmp_path: Path, names: list[str]
) -> None:
    rows = [(name, number, 0) for number, name in enumerate(names, 1)]
    answer = server.save("case0", write_segments(tmp_path / "s.seg.nrrd", [boxes(a=1, b=2)], rows), model="bands")
    words = (
        "two segments named 'mandible'"
        if names[0] == "Mandible"
        else "Found Segment_1, unheard of, which the table of labels"
    )
    assert answer.status_code == 422 and "'case0' was not kept" in answer.json()["detail"], answer.text
    assert words.lower() in answer.json()["detail"].lower()


@pytest.mark.parametrize(
    ("ids", "info", "words"),
    [
        ({9: A}, None, "Found the value 9, which the table of labels does not have; it has brainstem, spinal_cord"),
        ({1: A}, slicer_info("Tumour"), "Found Tumour, which the table of labels does not have"),
        ({1: A, 3: B}, slicer_info("brainstem"), "Found the value(s) 3 in the label map, which have no name among"),
        ({1: A}, slicer_info("brainstem", "Brainstem"), "Found two segments named 'Brainstem' in label_info"),
        ({1: A}, [{"name": "larynx", "idx": 1}, {"name": "mandible", "idx": 1}], "with the number 1 in label_info"),
        ({1: A}, [{"name": "larynx"}], "Found an entry of label_info without a number"),
        ({1: A}, [{"idx": 1}], "Found an entry of label_info without a name"),
        ({1: A}, "larynx", "Found label_info that is not a list"),
    ],
)  # fmt: skip
def test_what_no_name_or_number_tells_is_refused_at_saving(
    server: Served, tmp_path: Path, ids: dict[int, Any], info: Any, words: str
) -> None:
    before = server.ask("GET", "/datastore/?output=all").json()["objects"]["case0"]["labels"]
    answer = server.save("case0", write_ids(tmp_path / "l.nii.gz", ids), model="bands", label_info=info)
    assert answer.status_code in (400, 422) and words in answer.json()["detail"], answer.text
    assert "label_info" in words or "'case0'" in answer.json()["detail"]
    assert server.ask("GET", "/datastore/?output=all").json()["objects"]["case0"]["labels"] == before


def test_numbers_speak_where_nothing_is_named_and_tools_are_no_structures(server: Served, tmp_path: Path) -> None:
    assert server.save("case0", write_ids(tmp_path / "l.nii.gz", {6: A}), model="bands").status_code == 200
    assert set(np.unique(server.stored("case0")[A])) == {LARYNX}
    info = [*slicer_info("mandible"), {"name": "background", "idx": 2}, {"name": "larynx", "idx": 3}]
    assert server.save("case0", write_ids(tmp_path / "l.nii.gz", {1: A}), label_info=info).status_code == 200
    assert set(np.unique(server.stored("case0")[A])) == {MANDIBLE}


def test_scribbles_go_by_their_names_too(server: Served, tmp_path: Path) -> None:
    file = write_ids(tmp_path / "s.nii.gz", {2: np.s_[15:17, 12:14, 9:11]})
    asked = "/infer/bands?image=case0&output=image"

    def drawn(info: Any) -> Any:
        with file.open("rb") as content:
            params = {"label_info": info, "client_id": str(info), "roi": []}
            return server.ask("POST", asked, params, files={"label": (file.name, content)})

    answer = drawn([{"name": "mandible", "id": 2}])
    assert answer.status_code == 200, answer.text
    assert (array_of(answer.content)[15:17, 12:14, 9:11] == MANDIBLE).all()
    left = drawn([{"name": "mandible", "id": 1}])
    assert left.status_code == 422 and "which have no name among those sent" in left.json()["detail"]


def test_names_choose_the_model_where_several_fit(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.bands import make_bundle

    for name in ("bands", "belts"):
        folder = make_bundle(tmp_path / "bundles" / name)
        metadata = folder / "configs" / "metadata.json"
        # the mandible of one is the hyoid bone of the other
        text = metadata.read_text() if name == "bands" else metadata.read_text().replace("mandible", "hyoid")
        metadata.write_text(text.replace("Mandible", "Hyoid") if name == "belts" else text)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(tmp_path / "bundles"))
    file = write_ids(tmp_path / "l.nii.gz", {1: A})
    with served(server.studies, tmp_path / "state", bundles=("bands", "belts")) as several:
        told = several.save("case0", file, label_info=slicer_info("hyoid")).json()
        assert not any("names no model" in note for note in told["notes"])
        found = several.ask("GET", "/datastore/label/info?label=case0&tag=final").json()
        assert found["model"] == "belts" and (several.stored("case0")[A] == MANDIBLE).all()
        either = several.save("case0", file, label_info=slicer_info("larynx")).json()
        assert any("The request names no model" in note for note in either["notes"])


@pytest.mark.parametrize("name", ["l.nii.gz", "l.seg.nrrd", "l.bin"])
def test_a_file_of_no_bytes_is_refused(server: Served, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    answer = server.save("case0", tmp_path / name)
    assert answer.status_code == 400 and "Found an upload of 0 bytes" in answer.json()["detail"]


def test_overlapping_segments_are_refused_by_name(server: Served, tmp_path: Path) -> None:
    both = [boxes(a=1), boxes(a=1)]
    file = write_segments(tmp_path / "s.seg.nrrd", both, [("brainstem", 1, 0), ("mandible", 1, 1)])
    answer = server.save("case0", file, model="bands")
    assert answer.status_code == 422 and "sharing 96 voxels; one label a voxel" in answer.json()["detail"], answer.text


def test_a_case_that_was_taken_away_meanwhile_is_told(server: Served, tmp_path: Path) -> None:
    answer = server.save("case7", write_ids(tmp_path / "l.nii.gz", {1: A}))
    assert answer.status_code == 404 and "Found no image 'case7' in the project" in answer.json()["detail"]


def test_the_command_line_goes_by_the_names_of_slicers_file_too(server: Served, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from medvit.cli.main import app

    file = write_segments(tmp_path / "s.seg.nrrd", [boxes(a=1, b=2)], [("Brainstem", 1, 0), ("Mandible", 2, 0)])
    outcome = CliRunner().invoke(
        app, ["convert", str(file), "-o", str(tmp_path / "o"), "-ot", "nifti", "-b", "headneck_ct_swin_unetr"]
    )
    assert outcome.exit_code == 0, outcome.output
    kept = np.asarray(nib.load(tmp_path / "o" / "labels.nii.gz").dataobj)
    assert set(np.unique(kept[B])) == {MANDIBLE} and "Mandible from 2 to 7" in " ".join(outcome.output.split())
