"""A node that stays: a disk that fills, failures in a row, series that are sent again."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")

from medvit_batch.network.peers import quiet_networking
from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage

from tests.batch.archives import write_small
from tests.batch.execution.test_session import counts
from tests.batch.test_node import Ran, association, echoes, listen
from tests.nodes import free_port


@dataclass
class Stayed:
    """A node after a full disk and failures in a row, and what it did."""

    out: Path
    ran: Ran
    statuses: list[set[int]]
    seen: list[dict[str, int]]


@pytest.fixture(scope="module")
def stayed(banded, tmp_path_factory) -> Stayed:
    quiet_networking()
    top = tmp_path_factory.mktemp("stayed")
    out, series = top / "out", [write_small(top / str(number), number) for number in range(4)]
    usage, free = namedtuple("usage", "total used free"), {"gb": 0.5}
    made = Stayed(out, Ran(), [], [])

    def store(port: int, number: int) -> None:
        with association(port) as sent:
            made.statuses.append({int(sent.send_c_store(path).Status) for path in series[number]})

    def talk(port: int, end: Callable[[], None]) -> None:
        store(port, 0)  # refused
        free["gb"] = 5
        staging = out / "staging"
        staging.rmdir()
        staging.touch()  # so nothing can be written
        for number in range(3):
            store(port, number)
        _until(lambda: counts(out).get("failed", 0) == 2)
        _until(lambda: counts(out) == {"failed": 3})
        made.seen.append(counts(out))
        assert echoes(port)
        staging.unlink()
        staging.mkdir()
        store(port, 3)
        free["gb"] = 0.5
        _until(lambda: counts(out) == {"failed": 3, "pending": 1})
        time.sleep(0.5)
        made.seen.append(counts(out))
        free["gb"] = 5
        _until(lambda: counts(out) == {"failed": 3, "published": 1})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, int(free["gb"] * 1e9)))
        made.ran = listen(talk, out, banded, "--quiet-for", 0.7, "--stop-after", 2, types="dicom-seg")
    return made


def test_a_node_refuses_what_a_full_disk_cannot_hold_and_goes_on_when_there_is_space(stayed):
    assert stayed.statuses == [{0xA700}, {0}, {0}, {0}, {0}]
    assert stayed.seen[1] == {"failed": 3, "pending": 1}
    said = stayed.ran.outcome.output
    assert said.count("GB are to stay free (--min-free-gb). Free some space: it goes on by itself.") == 1
    assert "GB free again; cases are run." in said
    assert stayed.ran.outcome.exit_code == 3, said


def test_a_node_stays_after_failures_in_a_row(stayed):
    assert stayed.seen[0] == {"failed": 3}
    assert "Resting: 2 cases in a row failed (--stop-after)" in stayed.ran.outcome.output
    assert "Stopping: 2 cases" not in stayed.ran.outcome.output


def test_an_object_without_its_class_keeps_no_other_from_being_sent(stayed, banded):
    out = stayed.out
    (home,) = (out / "cases").glob("*/*")
    bad = pydicom.dcmread(home / "seg.dcm")
    sop_class = bad.SOPClassUID
    del bad.SOPClassUID
    bad.save_as(home / "first.dcm")  # it comes before the other
    record = home / "run.json"
    record.write_text(record.read_text().replace('"seg.dcm":', '"first.dcm": "", "seg.dcm":'))
    got: list[str] = []

    def take(event: evt.Event) -> int:
        got.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    peer, port = AE("PACS"), free_port()
    peer.add_supported_context(sop_class)
    server = peer.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    try:
        ran = listen(
            lambda *_: _until(lambda: bool(got)), out, banded, "--send-to", f"PACS@127.0.0.1:{port}", types="dicom-seg"
        )
    finally:
        server.shutdown()
    assert set(got) == {str(pydicom.dcmread(home / "seg.dcm").SOPInstanceUID)}
    assert ran.outcome.exit_code == 3
    assert "1 waiting" in ran.outcome.output


def test_a_series_that_is_sent_again_with_another_patient_is_a_question(stayed, banded):
    out, again = stayed.out, []
    (case,) = [p.parent for p in (out / "cases").glob("*/*/run.json")]
    for path in sorted((out.parent / "3").iterdir()):
        sent = pydicom.dcmread(path)
        sent.PatientName, sent.PatientID = "Right^Person", "RIGHT-1"
        again.append(sent)

    def talk(port: int, end: Callable[[], None]) -> None:
        with association(port) as made:
            assert {int(made.send_c_store(sent).Status) for sent in again} == {0}
        _until(lambda: counts(out) == {"failed": 3, "set aside": 1})
        _until(lambda: ",published," not in (out / "cases.csv").read_text(), 5)  # the tables too, while the node runs

    ran = listen(talk, out, banded, "--quiet-for", 0.5, types="dicom-seg")
    assert ran.outcome.exit_code == 1  # nothing is published any more
    assert "in question which patient these images are of; the earlier result was moved to withdrawn/" in " ".join(
        ran.outcome.output.split()
    )
    assert "Right" not in ran.outcome.output
    assert not case.exists()
    (withdrawn,) = (out / "withdrawn").glob("*/*")
    assert withdrawn.name == f"{case.name}-1"


def _until(done: Callable[[], bool], seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come to pass")


def test_a_small_object_that_unpacks_to_more_than_the_limit_is_refused_and_others_are_not(banded, tmp_path):
    """Three megabytes may unpack to three gigabytes; the object is counted, not kept, and answered "out of resources"."""
    honest, bomb = (pydicom.dcmread(write_small(tmp_path / str(seed), seed)[0]) for seed in (1, 2))
    bomb.add_new(0x7FE10010, "LO", "x")
    bomb.add_new(0x7FE11001, "OB", bytes(2**24))
    statuses = {}

    def talk(port, _):
        ae = AE("CT1")
        ae.add_requested_context(CTImageStorage, pydicom.uid.DeflatedExplicitVRLittleEndian)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 8
        made = ae.associate("127.0.0.1", port, ae_title="MEDVIT")
        for name, dataset in (("bomb", bomb), ("honest", honest)):
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
            statuses[name] = made.send_c_store(dataset).Status
        made.release()

    out = tmp_path / "out"
    listen(talk, out, banded, "--memory-limit", "20MB", "--timeout", "8")
    assert statuses == {"bomb": 0xA700, "honest": 0x0000}
    assert [path.stem for path in out.rglob("*.dcm")] == [str(honest.SOPInstanceUID)]
