"""A node that stays: callers who are silent, slow or hostile, objects that lack what they need, a disk that fills."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
import pytest
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")

from medvit_batch.dicom_cli import app
from medvit_batch.network.peers import quiet_networking
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, Verification

from tests.batch.archives import write_small
from tests.batch.execution.test_session import counts
from tests.nodes import free_port, wait_for_port
from tests.tools import program

LARGEST = b"\xff\xff\xff\xff"
QUICK = ("--no-preview", "--every", "0.2", "--timeout", "1")


@dataclass
class Ran:
    """Outcome of a node's run: result, time of the signal, seconds until the end, errors."""

    outcome: Result | None = None
    asked: float = 0.0
    seconds: float = 0.0
    errors: list[BaseException] = field(default_factory=list)

    def end(self) -> None:
        """Send the signal, once."""
        if not self.asked:
            self.asked = time.monotonic()
            os.kill(os.getpid(), signal.SIGTERM)


def listen(
    talk: Callable[[int, Callable[[], None]], None], out: Path, bundle: Path, *options: object, types: str = "nifti"
) -> Ran:
    """Run a node in this process while ``talk`` speaks to its port in a thread, then end it by SIGTERM."""
    ran, port = Ran(), free_port()

    def speak() -> None:
        try:
            wait_for_port(port)
            talk(port, ran.end)
        except BaseException as error:
            ran.errors.append(error)
        ran.end()

    thread = threading.Thread(target=speak)
    thread.start()
    line = ["listen", "-o", str(out), "-b", str(bundle), *QUICK, "-ot", types, "--port", str(port), *map(str, options)]
    ran.outcome = CliRunner().invoke(app, line)
    ran.seconds = time.monotonic() - ran.asked
    thread.join()
    if ran.errors:
        raise ran.errors[0]
    return ran


def connect(port: int, content: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=8)
    if content:
        made.sendall(content)
    return made


def answer(port: int, content: bytes) -> bytes:
    with connect(port, content) as made:
        return made.recv(100)


@contextmanager
def association(port: int, **more: object) -> Iterator[Association]:
    ae = AE("CT1")
    ae.add_requested_context(CTImageStorage, pydicom.uid.ExplicitVRLittleEndian)
    ae.add_requested_context(Verification)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 8
    made = ae.associate("127.0.0.1", port, ae_title="MEDVIT", **more)  # type: ignore[arg-type]
    try:
        assert made.is_established
        yield made
    finally:
        if made.is_established:
            made.release()
        else:
            made.abort()


def echoes(port: int, **more: object) -> bool:
    with association(port, **more) as made:
        return made.send_c_echo().Status == 0


def received(out: Path) -> list[Path]:
    return [p for p in (out / "received").rglob("*") if p.is_file()]


def request(called: str, length: int | None = None) -> bytes:
    """The head of an A-ASSOCIATE-RQ."""
    body = struct.pack(">HH", 1, 0) + called.ljust(16).encode() + b"CT1".ljust(16) + bytes(32)
    return struct.pack(">BBL", 1, 0, len(body) if length is None else length) + body


def test_silent_and_hostile_callers_cost_themselves_alone(banded, tmp_path):
    quiet_networking()
    out = tmp_path / "out"

    def talk(port: int, end: Callable[[], None]) -> None:
        with ExitStack() as open_:
            silent = [open_.enter_context(connect(port)) for _ in range(200)]
            assert echoes(port)
            assert (
                answer(port, b"\x01\x00" + LARGEST + b"x" * 50) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x06"
            )  # invalid
            assert (
                answer(port, b"\x09\x00\x00\x00\x00\x04abcd") == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x01"
            )  # unrecognized
            assert (
                answer(port, b"\x04\x00\x00\x00\x00\x04abcd") == b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x02"
            )  # unexpected
            assert (
                answer(port, request("OTHER")) == b"\x03\x00\x00\x00\x00\x04\x00\x01\x01\x07"
            )  # called title not recognized
            half = open_.enter_context(connect(port, request("MEDVIT", 4000)))
            begun = time.monotonic()
            assert half.recv(1) == b"" and time.monotonic() - begun < 5
            for sock in silent[:5] + silent[-5:]:
                assert sock.recv(1) == b""
            with association(port) as made:  # a PDU of 4 GB once the association is there
                raw = made.dul.socket.socket
                raw.sendall(b"\x04\x00" + LARGEST + b"x" * 100)
                until = time.monotonic() + 5
                while made.is_established and time.monotonic() < until:
                    time.sleep(0.02)
                assert not made.is_established
            assert echoes(port)
            for _ in range(50):
                open_.enter_context(connect(port))  # silent still, when the node is to end
            open_.enter_context(association(port))
            end()
            time.sleep(1.5)

    ran = listen(talk, out, banded)
    assert ran.outcome.exit_code == 0, ran.outcome.output
    assert ran.seconds < 3
    assert "Traceback" not in ran.outcome.output


def test_a_silent_connection_does_not_keep_a_secured_node_from_others(banded, tmp_path):
    import ssl

    quiet_networking()
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    line = (program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
    subprocess.run([*line, "-keyout", key, "-out", cert], check=True, capture_output=True)
    context = ssl.create_default_context(cafile=str(cert))
    context.check_hostname = False

    def talk(port: int, end: Callable[[], None]) -> None:
        with (
            connect(port),
            connect(port, b"\x16\x03\x01\x02\x00\x01") as hello,
            connect(port, b"GET / HTTP/1.1\r\n\r\n"),
        ):
            begun = time.monotonic()
            assert echoes(port, tls_args=(context, "localhost"))
            assert time.monotonic() - begun < 2
            assert hello.recv(100) == b"" and time.monotonic() - begun < 6
            with connect(port) as last:
                end()
                assert last.recv(1) == b""

    ran = listen(talk, tmp_path / "out", banded, "--tls-cert", cert, "--tls-key", key)
    assert ran.outcome.exit_code == 0, ran.outcome.output
    assert ran.seconds < 3


def test_objects_that_are_cut_or_lack_their_class_cost_no_others(banded, tmp_path, monkeypatch):
    quiet_networking()
    out, paths = tmp_path / "out", write_small(tmp_path / "sent", 1)

    def statuses(port: int) -> list[int]:
        found = []
        with association(port) as made:
            for number, path in enumerate(paths):
                sent = pydicom.dcmread(path)
                if number == 0:
                    found.append(_ask(made, _store_request(sent, "SOPClassUID"), sent))
                    continue
                if number == 1:
                    sent.SeriesInstanceUID = "../../up"
                elif number == 2:
                    sent.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"  # of an MR, where the association is about CT
                    found.append(_ask(made, _store_request(sent), sent))
                    continue
                found.append(int(made.send_c_store(sent).Status))
        return found

    def talk(port: int, end: Callable[[], None]) -> None:
        assert statuses(port) == [0xC000, 0xC000, 0xA900] + [0] * (len(paths) - 3)
        kept = received(out)
        assert len(kept) == len(paths) - 3
        with association(port) as made:
            raw = made.dul.socket.socket
            raw.sendall(_store_request(pydicom.dcmread(paths[0])) + _pdata(1, 0x00, bytes(1000)))  # some of its data
            raw.shutdown(socket.SHUT_RDWR)
        time.sleep(0.3)
        assert received(out) == kept

    ran = listen(talk, out, banded, "--quiet-for", 600)
    assert "Traceback" not in ran.outcome.output


def test_a_node_prints_no_values_of_what_it_is_sent(tmp_path):
    """A name where a UID belongs: the libraries' warnings quote it."""
    quiet_networking()
    port, said = free_port(), tmp_path / "said"
    line = [
        sys.executable,
        "-c",
        "from medvit_batch.dicom_cli import app; app()",
        "listen",
        "-o",
        str(tmp_path / "out"),
    ]
    line += ["-b", "ct_denoise_restore_rwkv", "--port", str(port), *QUICK]
    with said.open("wb") as file, subprocess.Popen(line, stdout=file, stderr=file) as node:
        try:
            wait_for_port(port)
            sent = pydicom.dcmread(write_small(tmp_path / "sent", 1)[0])
            sent.SOPInstanceUID = sent.SeriesInstanceUID = "Secret^Person"
            with association(port) as made:
                assert int(made.send_c_store(sent).Status) == 0xC000
        finally:
            node.terminate()
    assert node.returncode == 0
    assert b"Secret" not in said.read_bytes()


def _pdata(context: int, control: int, content: bytes) -> bytes:
    value = struct.pack(">LBB", len(content) + 2, context, control) + content
    return struct.pack(">BBL", 4, 0, len(value)) + value


def _store_request(sent: pydicom.Dataset, lacking: str = "") -> bytes:
    """A C-STORE-RQ as it goes over the wire, without one of its UIDs."""
    asked = pydicom.Dataset()
    asked.CommandField, asked.MessageID, asked.Priority, asked.CommandDataSetType = 1, 7, 2, 1
    for name in {"SOPClassUID", "SOPInstanceUID"} - {lacking}:
        setattr(asked, f"Affected{name}", sent[name].value)
    content = encode(asked, True, True)
    assert content is not None
    return _pdata(1, 0x03, struct.pack("<HHLL", 0, 0, 4, len(content)) + content)


def _ask(made: Association, asked: bytes, sent: pydicom.Dataset) -> int:
    """Send a request and its data past the library, and hear the status."""
    made._reactor_checkpoint.clear()
    content = encode(sent, False, True)
    assert content is not None
    made.dul.socket.socket.sendall(asked + _pdata(1, 0x02, content))
    _, heard = made.dimse.get_msg(block=True)
    made._reactor_checkpoint.set()
    assert heard is not None
    return int(heard.Status)


@dataclass
class Stayed:
    """A node through a full disk and failures in a row, and how it did."""

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
