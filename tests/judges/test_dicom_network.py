"""The batch as a node: with a real PACS and dcmtk's programs at the other end, faults included."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")

from medvit_batch.catalogue.folder_walk import walk
from medvit_batch.cli import app as batch_app
from medvit_batch.dicom_cli import app
from medvit_batch.errors import PeerError
from medvit_batch.journal import Journal
from medvit_batch.network.peers import Local, parse_peer, quiet_networking
from medvit_batch.network.query_retrieve import Fetched, fetch, find, parse_keys
from medvit_batch.network.store_scp import Node
from typer.testing import CliRunner

from tests import warm
from tests.batch.archives import IDENTIFYING, command, series_of, without_numbers, write_small
from tests.batch.execution.test_session import counts, until
from tests.nodes import free_port, orthanc, wait_for_port
from tests.tools import complaints, program

pytestmark = pytest.mark.usefixtures("one_fork_server")

_QUICK = ("-ot", "dicom-seg", "--no-preview")


def _run(*line: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in line], capture_output=True, text=True, timeout=60)


def _same_objects(sent: bytes, kept: Path) -> None:
    """What a PACS gives back is what was written: header of the image and every voxel."""
    ours, theirs = pydicom.dcmread(kept), pydicom.dcmread(io.BytesIO(sent))
    assert ours.SOPInstanceUID == theirs.SOPInstanceUID
    assert np.array_equal(ours.pixel_array, theirs.pixel_array)
    assert ours == theirs


def test_series_come_in_and_results_go_on_when_the_pacs_is_back(banded, tmp_path):
    paths, out, port, pacs_port = write_small(tmp_path / "sent", 1), tmp_path / "out", free_port(), free_port()
    line, env = command(
        "listen", "-o", out, "-b", banded, *_QUICK, "--port", port, "--quiet-for", 600, "--complete-at", len(paths),
        "--every", 0.2, "--allow", "CT1", "--allow", "ORTHANC", "--send-to", f"ORTHANC@127.0.0.1:{pacs_port}", "--timeout", 5,
        "--commit",
    )  # fmt: skip
    line[2] = line[2].replace("medvit_batch.cli", "medvit_batch.dicom_cli")
    node = warm.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_port(port)
        assert _run(program("echoscu"), "-aet", "CT1", "-aec", "MEDVIT", "127.0.0.1", port).returncode == 0
        assert _run("echoscu", "-aet", "CT1", "-aec", "OTHER", "127.0.0.1", port).returncode != 0
        assert _run("echoscu", "-aet", "STRANGER", "-aec", "MEDVIT", "127.0.0.1", port).returncode != 0
        sent = _run(program("storescu"), "-aet", "CT1", "-aec", "MEDVIT", "127.0.0.1", port, *paths)
        assert sent.returncode == 0, sent.stderr
        until(lambda: counts(out) == {"published": 1}, node)
        until(lambda: _sends(out)[0]["reason"] != "", node)
        assert "could not be reached" in _sends(out)[0]["reason"]
        with orthanc(tmp_path / "pacs", pacs_port, port) as pacs:
            until(lambda: _sends(out)[0]["state"] == "committed", node)
            (kept,) = (out / "cases").glob("*/*/seg.dcm")
            (received,) = pacs.files("SEG")
            _same_objects(received, kept)
            assert complaints_of(received, tmp_path) == []
    finally:
        node.send_signal(signal.SIGTERM)
        said, _ = node.communicate(timeout=60)
    assert node.returncode in (0, 3), said
    assert "1 committed" in said
    for value in IDENTIFYING:
        assert value not in said
        assert value.encode() not in without_numbers((out / "journal.sqlite").read_bytes())
    names = [p.name for p in (out / "received").rglob("*.dcm")]
    assert sorted(names) == sorted(f"{pydicom.dcmread(p).SOPInstanceUID}.dcm" for p in paths)


def complaints_of(content: bytes, folder: Path) -> list[str]:
    """What dciodvfy says of an object as the PACS gives it back."""
    (folder / "back.dcm").write_bytes(content)
    return complaints(folder / "back.dcm")


def _sends(out: Path) -> list[dict[str, str]]:
    journal = Journal(out)
    try:
        rows = [dict(row) for row in journal.base.execute("SELECT * FROM sends").fetchall()]
    finally:
        journal.close()
    return rows or [{"reason": "", "state": ""}]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """A PACS with two series in it."""
    top = tmp_path_factory.mktemp("pacs")
    with orthanc(top / "db", free_port(), free_port()) as running:
        for number in (1, 2):
            for path in write_small(top / str(number), number):
                running.ask("/instances", path.read_bytes())
        yield running, top


@pytest.mark.parametrize("way", ["get", "move", "web"])
def test_series_are_fetched_voxel_for_voxel(way, pacs, tmp_path):
    running, top = pacs
    quiet_networking()
    peer, series = parse_peer(running.web if way == "web" else running.node), series_of(top / "1")
    (found,) = find(peer, parse_keys([f"SeriesInstanceUID={series}"]), Local())
    originals = [pydicom.dcmread(path) for path in (top / "1").iterdir()]
    assert (found.series, found.modality, found.objects) == (series, "CT", len(originals))
    node = Node(local=Local(timeout=10), port=running.caller, min_free_gb=0)
    assert list(fetch(peer, [found], tmp_path, node, move=way == "move")) == [Fetched(found, len(originals))]
    fetched = {str(pydicom.dcmread(p).SOPInstanceUID): pydicom.dcmread(p) for p in tmp_path.rglob("*.dcm")}
    assert len(fetched) == len(originals)
    for original in originals:
        assert np.array_equal(fetched[original.SOPInstanceUID].pixel_array, original.pixel_array)


@pytest.mark.parametrize("way", ["get", "web"])
def test_a_series_that_cannot_be_fetched_does_not_end_a_query(way, pacs, tmp_path):
    running, top = pacs
    quiet_networking()
    peer, series = parse_peer(running.web if way == "web" else running.node), series_of(top / "1")
    (found,) = find(peer, parse_keys([f"SeriesInstanceUID={series}"]), Local())
    more = replace(found, objects=found.objects + 1)  # as if one slice were lost on the way
    node = Node(local=Local(timeout=10), port=running.caller, min_free_gb=0)
    lacking, whole = fetch(peer, [more, found], tmp_path, node, move=False)
    assert lacking.objects == 0
    assert f"{found.objects} of {more.objects} objects of series" in str(lacking.error)
    assert whole == Fetched(found, found.objects)
    hidden = tmp_path / found.study / f".medvit-incomplete-{series}"
    assert len(list(hidden.iterdir())) == found.objects
    walked = [Path(os.fsdecode(folder.path)).name for folder in walk(tmp_path / found.study, tmp_path / "out")]
    assert walked == [found.study, series]
    absent = replace(found, series="1.2.3.4")
    with pytest.raises(PeerError):
        list(fetch(peer, [absent] * 3, tmp_path, node, move=False))


def test_a_query_lists_fetches_runs_and_sends_back(pacs, banded, tmp_path):
    running, top = pacs
    series, out = series_of(top / "1"), tmp_path / "out"
    asked = [running.web, "-k", f"SeriesInstanceUID={series}", "--timeout", "10"]
    listed = CliRunner().invoke(app, ["query", *asked, "--json"])
    assert listed.exit_code == 0, listed.output
    assert [row["series"] for row in json.loads(listed.stdout)["series"]] == [series]
    line = ["query", *asked, "-o", str(out), "-b", str(banded), *_QUICK, "--send-to", running.web]
    done = CliRunner().invoke(app, line)
    assert done.exit_code in (0, 3), done.output
    assert counts(out) == {"published": 1}, done.output
    (kept,) = (out / "cases").glob("*/*/seg.dcm")
    (received,) = running.files("SEG")
    _same_objects(received, kept)
    assert "1 sent" in done.output
    status = CliRunner().invoke(batch_app, ["status", str(out)])
    assert "Results sent on: 1 sent." in status.output


def test_a_study_key_finds_every_series(pacs):
    running, _ = pacs
    quiet_networking()
    for text in (running.node, running.web):
        found = find(parse_peer(text), parse_keys(["PatientID=ID-4711"]), Local())
        assert {item.modality for item in found} >= {"CT"}, text
        assert find(parse_peer(text), parse_keys(["PatientID=NOBODY"]), Local()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", "nonsense"), "Found 'nonsense' for a peer; AET@host:port"),
        (("query", "http://me:secret@pacs/dicom-web"), "Found a password in the address"),
        (("query", "PACS@127.0.0.1:1", "-k", "Modalty=CT"), "Found key 'Modalty'; Keyword=value"),
        (("query", "PACS@127.0.0.1:1"), "could not be reached"),
        (("query", "http://127.0.0.1:1/dicom-web"), "cannot be reached"),
        (("listen", "--port", "1", "-b", "BANDED", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:1"),
        (("listen", "-b", "BANDED", "--max-associations", "0"), "Found --max-associations 0"),
        (("listen", "-b", "absent"), "absent"),
        (
            ("listen", "-b", "BANDED", "--commit"),
            "Found --commit without --send-to; storage commitment is for objects that are sent",
        ),
        (("listen", "-b", "BANDED", "--commit", "--send-to", "http://pacs"), "Found --commit with a DICOMweb server"),
    ],
)
def test_mistakes_are_told(arguments, message, banded, tmp_path):
    line = [str(banded) if a == "BANDED" else a for a in arguments]
    if arguments[0] == "listen":
        line += ["-o", str(tmp_path / "out")]
    outcome = CliRunner().invoke(app, line)
    assert outcome.exit_code == (2 if message == "absent" else 1), outcome.output
    assert message in " ".join(outcome.output.split())
    assert "secret" not in outcome.output
