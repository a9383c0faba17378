"""Real nodes for the network's tests: Orthanc and dcmtk's programs, on free ports of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from medvit_label.self_test import free_port

from tests.tools import program

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def wait_for_port(port: int, server: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until somebody listens on a port, or until the server that is to do so has ended."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if server is not None and server.poll() is not None:
            return
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


@dataclass(frozen=True, kw_only=True)
class Orthanc:
    """A running PACS."""

    folder: Path
    dicom: int
    http: int
    caller: int
    login: str = ""

    @property
    def node(self) -> str:
        return f"ORTHANC@127.0.0.1:{self.dicom}"

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self.http}/dicom-web"

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Authorization": f"Basic {b64encode(self.login.encode()).decode()}"} if self.login else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", body, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def ask_json(self, path: str, body: bytes | None = None) -> Any:
        return json.loads(self.ask(path, body))

    def files(self, modality: str) -> list[bytes]:
        """Every object of a modality, as it is kept."""
        query = json.dumps({"Level": "Instance", "Query": {"Modality": modality}}).encode()
        return [self.ask(f"/instances/{found}/file") for found in self.ask_json("/tools/find", query)]


@contextmanager
def orthanc(folder: Path, dicom: int, caller: int, login: str = "") -> Iterator[Orthanc]:
    """Start one; its node knows MEDVIT on port ``caller``, its web server asks for ``login`` ("user:password") if given."""
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb is not installed (Debian packages orthanc, orthanc-dicomweb)")
    http = free_port()
    folder.mkdir(exist_ok=True)
    settings = {
        "StorageDirectory": str(folder), "IndexDirectory": str(folder), "DicomPort": dicom, "HttpPort": http, "DicomAet": "ORTHANC",
        "RemoteAccessAllowed": False, "AuthenticationEnabled": bool(login), "SslEnabled": False,
        "Plugins": [str(PLUGIN)], "DicomModalities": {"medvit": ["MEDVIT", "127.0.0.1", caller]},
        "DicomAlwaysAllowGet": True, "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True,
    }  # fmt: skip
    if login:
        settings["RegisteredUsers"] = dict([login.split(":")])
    config = folder / "orthanc.json"
    config.write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program("Orthanc"), str(config)], stdout=log, stderr=log)
    try:
        wait_for_port(http)
        wait_for_port(dicom)
        yield Orthanc(folder=folder, dicom=dicom, http=http, caller=caller, login=login)
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[int]:
    """dcmtk's receiver, with its faults; yields its port. It ends at once where another process has taken a free port meanwhile."""
    folder.mkdir(exist_ok=True)
    for left in (2, 1, 0):
        port = free_port()
        line = [program("storescp"), "-od", str(folder), *options, str(port)]
        server = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port, server)
            with suppress(subprocess.TimeoutExpired):
                server.wait(0.1)
            if server.poll() is not None and left:
                continue
            yield port
            return
        finally:
            server.kill()
            server.wait()
