"""Downloads: resumed, never longer or other than published, and every refusal says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from medvit.bundles.remote import resumable_download as module
from medvit.bundles.remote.http import RetryPolicy, read_small
from medvit.bundles.remote.resumable_download import Remote, digest, download
from medvit.errors import ChecksumError, FetchError, StoreError
from medvit.progress import Cancelled, Progress
from tests.bundles.remote.server import serving

CONTENT = random.Random(5).randbytes(700_001)
OTHER = random.Random(6).randbytes(700_001)
SHA256 = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
QUICK = RetryPolicy(tries=3, wait_s=0.0, timeout_s=30.0)


@pytest.fixture
def remote(server) -> Remote:
    server.files["/file"] = CONTENT
    return Remote(f"{server.base}/file", SHA256)


@pytest.fixture
def part(store) -> Path:
    return store / "cache" / "file.part"


def _stopped_at(remote: Remote, part: Path, server, arrived: int) -> None:
    """A download that broke off for good after so many bytes."""
    server.faults = [("break", arrived)] + [("reset",)] * QUICK.tries
    with pytest.raises(FetchError):
        download(remote, part, Progress(), QUICK)
    assert part.stat().st_size == arrived
    server.faults, server.asked, server.sent = [], [], 0


def test_one_request_when_all_is_well(remote, part, server):
    seen = []
    assert download(remote, part, Progress(lambda *a: seen.append(a)), QUICK) == part
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None]
    assert seen[0] == ("fetch", 0, len(CONTENT) >> 10)


def test_a_connection_that_breaks_off_is_resumed_where_it_stopped(remote, part, server):
    server.faults = [("break", 100_000), ("break", 50_000), ("break", 1)]
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150001-"]
    assert server.sent == len(CONTENT)


def test_a_later_start_goes_on_where_the_last_one_stopped(remote, part, server):
    server.faults = [("break", 300_000)] + [("reset",)] * 3
    message = re.escape("300000 bytes have arrived and are kept. Start the same command again to go on from there")
    with pytest.raises(FetchError, match=message):
        download(remote, part, Progress(), QUICK)
    server.asked, server.faults = [], []
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT
    assert server.ranges == ["bytes=300000-"]
    assert server.asked[0][1]["If-Range"].startswith('"')


def test_a_file_changed_meanwhile_starts_anew(remote, part, server):
    server.files["/file"] = OTHER
    _stopped_at(remote, part, server, 200_000)
    server.files["/file"] = CONTENT
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT
    assert server.ranges == ["bytes=200000-"]  # answered with the whole new file


def test_without_validators_a_mixed_file_is_noticed_and_fetched_anew(remote, part, server):
    server.files["/file"] = OTHER
    _stopped_at(remote, part, server, 200_000)
    note = part.with_name(part.name + ".json")
    note.write_text(f'{{"address": "{remote.address}", "validator": ""}}')
    server.files["/file"] = CONTENT
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT
    assert server.ranges == ["bytes=200000-", None]


def test_a_server_without_ranges_starts_anew(remote, part, server):
    server.faults = [("no ranges", 400_000), ("no ranges",)]
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT


def test_a_part_of_another_address_or_without_its_note_is_not_used(remote, part, server):
    _stopped_at(remote, part, server, 100_000)
    part.with_name(part.name + ".json").write_text("{")
    download(remote, part, Progress(), QUICK)
    assert server.ranges == [None]
    part.write_bytes(b"x" * 1000)
    server.files["/elsewhere"] = CONTENT
    download(Remote(f"{server.base}/elsewhere", SHA256), part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT


def test_a_whole_part_is_taken_without_asking(remote, part, server):
    download(remote, part, Progress(), QUICK)
    server.asked = []
    download(remote, part, Progress(), QUICK)
    assert server.asked == []


def test_a_part_longer_than_the_file_starts_anew(remote, part, server):
    _stopped_at(remote, part, server, 100_000)
    part.write_bytes(CONTENT + b"more")
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT


def test_a_wrong_range_is_not_appended(remote, part, server):
    server.faults = [("break", 100_000), ("wrong range",)]
    download(remote, part, Progress(), QUICK)
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("said", [+5000, -5000], ids=["too long", "too short"])
@pytest.mark.parametrize("stated", [None, len(CONTENT)], ids=["no size published", "size published"])
def test_a_server_that_lies_about_size(said, stated, remote, part, server):
    server.faults = [("said", said)]
    told = Remote(remote.address, SHA256, stated)
    if stated is None and said < 0:
        with pytest.raises(ChecksumError, match="is published; they must be equal"):
            download(told, part, Progress(), QUICK)
        assert not part.exists()
    elif stated is not None and said > 0:
        with pytest.raises(FetchError, match=f"a file of {len(CONTENT) + said} bytes at 127.0.0.1, but {len(CONTENT)}"):
            download(told, part, Progress(), QUICK)
    else:
        assert download(told, part, Progress(), QUICK).read_bytes() == CONTENT


def test_a_size_that_is_not_said_is_no_obstacle(remote, part, server):
    server.faults = [("unsaid",)]
    assert download(remote, part, Progress(), QUICK).read_bytes() == CONTENT


def test_the_wrong_file_is_refused_and_not_kept(remote, part, server):
    server.files["/file"] = OTHER
    with pytest.raises(
        ChecksumError, match=r"Found a file with sha256:.* but sha256:.* is published; they must be equal"
    ):
        download(remote, part, Progress(), QUICK)
    assert not part.exists()
    assert len(server.asked) == 1


def test_the_wrong_file_from_a_server_that_also_breaks_off_ends(remote, part, server):
    server.files["/file"] = OTHER
    server.faults = [("break", 300_000), ("none",)] * 10
    with pytest.raises((ChecksumError, FetchError)):
        download(remote, part, Progress(), QUICK)
    assert len(server.asked) < 10


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


@pytest.mark.parametrize("fault", [("status", 503), ("status", 429), ("reset",), ("break", 0)])
def test_what_may_pass_is_tried_again_and_then_said(fault, remote, part, server):
    server.faults = [fault]
    assert download(remote, part, Progress(), QUICK).read_bytes() == CONTENT
    part.unlink()
    server.asked, server.faults, server.always = [], [], fault
    with pytest.raises(
        FetchError, match="Found that 127.0.0.1 (answered|broke off|could not be reached).*Start the same command"
    ):
        download(remote, part, Progress(), QUICK)
    assert len(server.asked) == QUICK.tries


def test_a_login_page_does_not_cost_what_has_arrived(remote, part, server):
    _stopped_at(remote, part, server, 100_000)
    server.faults = [("page",)]
    with pytest.raises(FetchError, match="a web page"):
        download(remote, part, Progress(), QUICK)
    assert part.stat().st_size == 100_000


def test_a_silent_server_is_given_up(remote, part, server):
    server.always = ("silent",)
    with pytest.raises(FetchError, match="no answer in time"):
        download(remote, part, Progress(), RetryPolicy(tries=2, wait_s=0, timeout_s=0.1))


def test_nobody_there(store, part):
    with serving() as gone:
        address = f"{gone.base}/file"
    with pytest.raises(FetchError, match=r"127.0.0.1 could not be reached \(.*refused\); 0 bytes"):
        download(Remote(address, SHA256), part, Progress(), QUICK)
    with pytest.raises(FetchError, match="could not be reached .* a connection is needed"):
        read_small(address, QUICK)


def test_redirects_within_http_are_followed(remote, part, server):
    server.faults = [("redirect", f"{server.base}/file")]
    server.files["/moved"] = b""
    assert download(Remote(f"{server.base}/moved", SHA256), part, Progress(), QUICK).read_bytes() == CONTENT


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


def test_stopping_keeps_what_has_arrived(remote, part, server):
    progress = Progress(lambda _, done, __: progress.cancel() if done > 200 else None)
    with pytest.raises(Cancelled):
        download(remote, part, progress, QUICK)
    assert 200 << 10 <= part.stat().st_size < len(CONTENT)
    server.asked = []
    download(remote, part, Progress(), QUICK)
    assert server.ranges[0] is not None
    assert part.read_bytes() == CONTENT


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


def test_digests(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest(tmp_path / "x", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    assert digest(tmp_path / "x", "sha256") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
