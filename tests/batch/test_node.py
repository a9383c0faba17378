"""A node that stays: callers who are silent, slow or hostile, objects that lack what they need, a disk that fills."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
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
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import CTImageStorage, Verification

from tests import warm
from tests.batch.archives import write_small
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
    with said.open("wb") as file, warm.Popen(line, stdout=file, stderr=file) as node:
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
