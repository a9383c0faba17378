"""Downloads that a server, a disk or a certificate refuses: each is said with what to do."""

from __future__ import annotations

import errno
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.bundles.remote import resumable_download as module
from medvit.bundles.remote.http import read_small
from medvit.bundles.remote.resumable_download import Remote, download
from medvit.errors import ChecksumError, FetchError, StoreError
from medvit.progress import Progress
from tests.bundles.remote.server import CONTENT, SHA256, serving
from tests.bundles.remote.test_resumable_download import QUICK


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("status", 404), r"127.0.0.1 has no such file \(HTTP 404\).* Set MEDVIT_MIRROR"),
        (("status", 401), "127.0.0.1 asks for a login"),
        (("status", 403), "127.0.0.1 refuses access"),
        (("page",), "Found a web page at 127.0.0.1 where a file is published; it is likely a login"),
        (("redirect", "file:///etc/hostname"), r"a redirect of 127.0.0.1 that cannot be followed \(HTTP 302\)"),
        (("redirect", "ftp://127.0.0.1/file"), "a redirect of 127.0.0.1 from http to ftp"),
    ],
)
def test_what_another_try_cannot_change_is_said_at_once(fault, message, remote, part, server):
    server.always = fault
    with pytest.raises(FetchError, match=message):
        download(remote, part, Progress(), QUICK)
    assert len(server.asked) == 1


def test_nobody_there(store, part):
    with serving() as gone:
        address = f"{gone.base}/file"
    with pytest.raises(FetchError, match=r"127.0.0.1 could not be reached \(.*refused\); 0 bytes"):
        download(Remote(address, SHA256), part, Progress(), QUICK)
    with pytest.raises(FetchError, match="could not be reached .* a connection is needed"):
        read_small(address, QUICK)


def test_an_endless_answer_ends(remote, part, server, monkeypatch):
    server.always = ("endless",)
    with pytest.raises(ChecksumError):
        download(Remote(remote.address, SHA256, 500_000), part, Progress(), QUICK)
    monkeypatch.setattr(module, "_MOST", 2 << 20)
    with pytest.raises(FetchError, match="and no end; no bundle is as large"):
        download(remote, part, Progress(), QUICK)
    assert not part.exists()


def test_a_small_file_must_be_small(remote, server):
    with pytest.raises(FetchError, match="more than 65536 bytes at .*, where a checksum is needed"):
        read_small(remote.address, QUICK)
    server.files["/small"] = b"abc"
    server.faults = [("status", 502), ("reset",)]
    assert read_small(f"{server.base}/small", QUICK) == b"abc"
    with pytest.raises(FetchError, match="has no such file"):
        read_small(f"{server.base}/absent", QUICK)


def test_a_full_disk_is_said_and_what_arrived_is_kept(remote, part, server, store):
    """A real limit on the size of files, in a process of its own."""
    program = (
        "import resource, signal, sys; from pathlib import Path; from medvit.bundles.remote.resumable_download import *; "
        "from medvit.progress import Progress; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000)); "
        "download(Remote(*sys.argv[1:3]), Path(sys.argv[3]), Progress())"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program, remote.address, SHA256, str(part)],
        capture_output=True,
        text=True,
        env={**os.environ, "MEDVIT_HOME": str(store)},
    )
    assert outcome.returncode == 1
    assert "StoreError: Found File too large in the bundle store" in outcome.stderr
    assert part.stat().st_size == 300_000
    download(remote, part, Progress(), QUICK)
    assert server.ranges[-1] == "bytes=300000-"


def test_too_little_space_is_said_before(remote, part, server):
    with pytest.raises(
        StoreError, match=r"MiB free for the bundle store .* are needed. Free some space, or set MEDVIT_HOME"
    ):
        server.faults = [("said", 1 << 50)]
        download(remote, part, Progress(), QUICK)


def test_the_systems_refusals_are_explained(store):
    from medvit.bundles.store import os_errors_as_store_errors

    with (
        pytest.raises(StoreError, match="Found no space left in the bundle store .*Free some space"),
        os_errors_as_store_errors(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    store.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="must be writable. Check its permissions, or set MEDVIT_HOME"):
        download(Remote("http://127.0.0.1:1/x", SHA256), store / "cache" / "x.part", Progress(), QUICK)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("certificate")
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([openssl, *command.split(), *files], check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_https_never_turns_into_http(certificate, server, part, monkeypatch):
    server.files["/file"] = CONTENT
    with serving(certificate) as safe:
        safe.files["/file"] = CONTENT
        with pytest.raises(FetchError, match="a certificate of localhost that cannot be trusted .* SSL_CERT_FILE"):
            download(Remote(f"{safe.base}/file", SHA256), part, Progress(), QUICK)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        assert ssl.create_default_context().cert_store_stats()["x509"]
        safe.faults = [("redirect", f"{server.base}/file")]
        with pytest.raises(
            FetchError, match="a redirect of localhost from https to http; only http and https are followed"
        ):
            download(Remote(f"{safe.base}/file", SHA256), part, Progress(), QUICK)
        assert server.asked == []
        assert download(Remote(f"{safe.base}/file", SHA256), part, Progress(), QUICK).read_bytes() == CONTENT
