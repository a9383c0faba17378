"""A real archive, Orthanc, takes every object by C-STORE and gives the same back; dcmtk reads the report."""

from __future__ import annotations

import io
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

import medvit
from tests.bands import make_restoring_bundle, oblique_affine, phantom, write_series
from tests.cli.test_restore import noisy
from tests.nodes import free_port
from tests.tools import program


class _Archive:
    """Orthanc on this machine."""

    def __init__(self, folder: Path) -> None:
        self.web, self.dicom = free_port(), free_port()
        settings = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.web,
            "DicomPort": self.dicom,
            "RemoteAccessAllowed": False,
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        call = [program("Orthanc"), str(folder / "orthanc.json")]
        self.process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        for _ in range(150):
            try:
                self.ask("/system")
            except OSError:
                if self.process.poll() is not None:
                    pytest.skip("Orthanc does not start in this sandbox")
                time.sleep(0.2)
            else:
                return
        pytest.skip("Orthanc does not answer in this sandbox")

    def ask(self, path: str, content: bytes | None = None) -> bytes:
        # straight to this machine, whatever proxies the environment names
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.web}{path}", content, timeout=30) as answer:
            return bytes(answer.read())

    def store(self, files: list[Path]) -> None:
        call = [program("storescu"), "-R", "-xr", "127.0.0.1", str(self.dicom), *map(str, files)]
        subprocess.run(call, check=True, capture_output=True)

    def fetch(self, uid: str) -> pydicom.Dataset:
        found = json.loads(self.ask("/tools/lookup", uid.encode()))
        (one,) = [item["ID"] for item in found if item["Type"] == "Instance"]
        return pydicom.dcmread(io.BytesIO(self.ask(f"/instances/{one}/file")))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Archive]:
    program("storescu")
    running = _Archive(tmp_path_factory.mktemp("archive"))
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(20)


@pytest.fixture(scope="module")
def published(banded, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("objects")
    # a name in another script, pixels that are not square and a stack that is not straight: what archives stumble over
    changes = {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"}
    write_series(place / "series", phantom()[0], oblique_affine((1.1, 1.9, 2.5)), **changes)
    medvit.segment(place / "series", bundle=banded).save(place / "out", ("dicom-seg", "rtstruct", "sr", "sc"))
    return place


def test_it_takes_every_object_and_gives_the_same_back(archive, published):
    objects, slices = sorted((published / "out").rglob("*.dcm")), sorted((published / "series").iterdir())
    assert len(objects) == 3 + 29
    archive.store([*slices, *objects])
    for path in objects:
        sent = pydicom.dcmread(path)
        assert archive.fetch(sent.SOPInstanceUID) == sent, path.name
    (study,) = json.loads(archive.ask("/studies"))
    series = json.loads(archive.ask(f"/studies/{study}/series"))
    kinds = {one["MainDicomTags"]["Modality"]: len(one["Instances"]) for one in series}
    assert kinds == {"CT": 29, "SEG": 1, "RTSTRUCT": 1, "SR": 1, "OT": 29}


def _stack(archive: _Archive, uid: str) -> tuple[dict[str, str], str, list[list[float]]]:
    """Of a series: its tags, what Orthanc takes it for, and where its slices lie in the order in which it stacks them."""
    (series,) = [
        item["ID"] for item in json.loads(archive.ask("/tools/lookup", uid.encode())) if item["Type"] == "Series"
    ]
    tags, ordered = (
        json.loads(archive.ask(f"/series/{series}{path}")) for path in ("/shared-tags?simplify", "/ordered-slices")
    )
    paths = [f"/instances/{one}/content/0020-0032" for one, *_ in ordered["SlicesShort"]]
    return (
        tags,
        ordered["Type"],
        [[float(v) for v in archive.ask(path).decode().strip("\0 ").split("\\")] for path in paths],
    )


def test_a_restored_series_stacks_beside_its_original(archive, tmp_path):
    """The archive holds one study with two series of one frame of reference; it orders the slices of both alike."""
    bundle = make_restoring_bundle(tmp_path / "smoothing")
    slices = write_series(tmp_path / "series", noisy(), oblique_affine((1.0, 1.0, 3.0)))
    medvit.restore(tmp_path / "series", bundle=bundle).save(tmp_path / "out", ("dicom",))
    made = sorted((tmp_path / "out" / "derived").iterdir())
    archive.store([*slices, *made])
    for path in made:
        sent = pydicom.dcmread(path)
        assert archive.fetch(sent.SOPInstanceUID) == sent
    (old, kind, places), (new, new_kind, new_places) = (
        _stack(archive, pydicom.dcmread(files[0]).SeriesInstanceUID) for files in (slices, made)
    )
    assert kind == new_kind == "Volume" and len(places) == len(made)
    assert places == new_places
    assert old["SeriesInstanceUID"] != new["SeriesInstanceUID"]
    for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing"):
        assert old[name] == new[name], name


def test_dcmtk_reads_the_report_without_a_complaint(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine((1.1, 1.9, 2.5)))
    medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("sr",))
    report = tmp_path / "out" / "sr.dcm"
    said = subprocess.run([program("dsrdump"), str(report)], check=True, capture_output=True, text=True)
    complaints = [line for line in said.stderr.splitlines() if line.startswith(("E:", "F:"))]
    assert not complaints
    assert "For research use, not for diagnosis" in said.stdout
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text())["labels"]
    assert len(rows) == 7
    for row in rows:
        assert f'(,,"Volume")="{row["volume_ml"]}" (ml,UCUM,' in said.stdout
        assert f'"{row["longest_diameter_mm"]}" (mm,UCUM,"millimeter")' in said.stdout
    page = tmp_path / "report.html"
    subprocess.run([program("dsr2html"), str(report), str(page)], check=True, capture_output=True)
    assert all(
        row["title"] in page.read_text(errors="replace") or row["name"] in page.read_text(errors="replace")
        for row in rows
    )
