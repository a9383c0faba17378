"""Downloads: resumed, never longer or other than published, and every refusal says what to do."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from medvit.bundles.remote.http import RetryPolicy
from medvit.bundles.remote.resumable_download import Remote, digest, download
from medvit.errors import ChecksumError, FetchError
from medvit.progress import Cancelled, Progress
from tests.bundles.remote.server import CONTENT, OTHER, SHA256

QUICK = RetryPolicy(tries=3, wait_s=0.0, timeout_s=30.0)


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


def test_redirects_within_http_are_followed(remote, part, server):
    server.faults = [("redirect", f"{server.base}/file")]
    server.files["/moved"] = b""
    assert download(Remote(f"{server.base}/moved", SHA256), part, Progress(), QUICK).read_bytes() == CONTENT


def test_stopping_keeps_what_has_arrived(remote, part, server):
    progress = Progress(lambda _, done, __: progress.cancel() if done > 200 else None)
    with pytest.raises(Cancelled):
        download(remote, part, progress, QUICK)
    assert 200 << 10 <= part.stat().st_size < len(CONTENT)
    server.asked = []
    download(remote, part, Progress(), QUICK)
    assert server.ranges[0] is not None
    assert part.read_bytes() == CONTENT


def test_digests(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest(tmp_path / "x", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    assert digest(tmp_path / "x", "sha256") == "sha256:" + hashlib.sha256(b"abc").hexdigest()
