"""Peers of DICOM's network that are faulty, secured or refuse objects, with dcmtk's programs at the other end."""

from __future__ import annotations

import json
import shutil
from contextlib import closing

import pydicom
import pytest

pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")

from medvit_batch.errors import NetworkError, PeerError
from medvit_batch.journal import Journal
from medvit_batch.network.peers import Local, Tls, parse_peer, quiet_networking
from medvit_batch.network.send_queue import Queue, send_files
from medvit_batch.network.storage_commitment import Commitments, Reported
from medvit_batch.network.store_scp import Node, receiving

from tests.batch.archives import write_small
from tests.judges.test_dicom_network import _run, _sends
from tests.nodes import free_port, storescp
from tests.tools import program

pytestmark = pytest.mark.usefixtures("one_fork_server")


def test_results_that_a_peer_does_not_vouch_for_are_sent_again(tmp_path):
    out = tmp_path / "out"
    (path, *_) = write_small(tmp_path / "sent", 1)
    home = out / "cases" / "1.2.3" / "banded"
    home.mkdir(parents=True)
    shutil.copy(path, home / "seg.dcm")
    (home / "run.json").write_text(json.dumps({"files": {"seg.dcm": ""}}))
    with closing(Journal(out, new=True)) as journal, storescp(tmp_path / "there") as port:
        journal.base.execute(
            "INSERT INTO cases (volume, bundle, folder, state, run_sha256) VALUES ('v','banded','cases/1.2.3/banded','published','s')"
        )
        queue = Queue(journal, out, parse_peer(f"PACS@127.0.0.1:{port}"), pause=0, commit=True)
        assert queue.step(Local(timeout=30))
        assert queue.counts() == {"sent": 1} and queue.uncommitted() == 1
        assert queue.step(Local(timeout=30))  # asked: storescp has no such service
        assert queue.uncommitted() == 0
        assert not queue.step(Local(timeout=30))
        assert "supports none of the requested services" in _sends(out)[0]["reason"]
        commitments = Commitments(journal.base)
        journal.base.execute("UPDATE commitments SET id='1.2.3', state='asked'")
        commitments.hear(Reported("9.9.9", 0))  # of somebody else
        assert queue.counts() == {"sent": 1}
        commitments.hear(Reported("1.2.3", 1))
        assert queue.counts() == {"waiting": 1}
        assert _sends(out)[0]["reason"] == "the peer does not vouch for 1 object(s); they are sent again"
        assert queue.step(Local(timeout=30)) and queue.counts() == {"sent": 1}
        commitments.hear(Reported("1.2.3", 0))
        assert queue.counts() == {"committed": 1}


@pytest.mark.parametrize(
    ("options", "timeout", "message"),
    [
        (("--refuse",), 30, "refused the association"),
        (("--abort-during",), 30, "broke the connection"),
        (("--abort-after",), 30, "broke the connection"),
        (("--sleep-during", "20"), 1, "was silent for 1 s"),
    ],
)
def test_a_faulty_peer_is_named_and_tried_again(options, timeout, message, tmp_path):
    program("storescp")
    quiet_networking()
    paths = write_small(tmp_path / "sent", 1)
    with storescp(tmp_path / "there", *options) as port, pytest.raises(PeerError, match=message):
        send_files(paths, parse_peer(f"PACS@127.0.0.1:{port}"), Local(timeout=timeout))


def test_refused_objects_are_left_with_their_reason(tmp_path):
    """A peer that takes the association but not the objects: offered five times, then left."""
    program("storescp")
    quiet_networking()
    (path, *_) = write_small(tmp_path / "sent", 1)
    out = tmp_path / "out"
    home = out / "cases" / "1.2.3" / "banded"
    home.mkdir(parents=True)
    shutil.copy(path, home / "seg.dcm")
    dataset = pydicom.dcmread(home / "seg.dcm")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.save_as(home / "seg.dcm")
    (home / "run.json").write_text(json.dumps({"files": {"seg.dcm": ""}}))
    journal = Journal(out, new=True)
    journal.base.execute(
        "INSERT INTO cases (volume, bundle, folder, state, run_sha256) VALUES ('v','banded','cases/1.2.3/banded','published','s')"
    )
    profile = tmp_path / "profile.cfg"
    profile.write_text(
        "[[TransferSyntaxes]]\n[Plain]\nTransferSyntax1 = LittleEndianImplicit\nTransferSyntax2 = LittleEndianExplicit\n"
        "[[PresentationContexts]]\n[Few]\nPresentationContext1 = CTImageStorage\\Plain\n[[Profiles]]\n[Few]\nPresentationContexts = Few\n"
    )
    with storescp(tmp_path / "there", "-xf", str(profile), "Few") as port:
        queue = Queue(journal, out, parse_peer(f"PACS@127.0.0.1:{port}"), pause=0)
        for _ in range(5):
            assert queue.counts().get("refused", 0) == 0
            assert queue.step(Local(timeout=30))
        assert queue.counts() == {"refused": 1}
        assert not queue.step(Local(timeout=30))
    (row,) = journal.base.execute("SELECT reason FROM sends").fetchall()
    assert "supports none of the requested services" in row["reason"]
    journal.close()


def test_objects_without_sound_uids_are_refused_and_space_is_kept(tmp_path):
    quiet_networking()
    (path, *_) = write_small(tmp_path / "sent", 1)
    dataset = pydicom.dcmread(path)
    dataset.SeriesInstanceUID = "../../up"
    dataset.save_as(tmp_path / "bad.dcm")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    port = free_port()
    with receiving(inbox, Node(local=Local(), port=port, min_free_gb=0)):
        line = (program("storescu"), "-aec", "MEDVIT", "127.0.0.1", port)
        assert _run(*line, tmp_path / "bad.dcm").returncode != 0
        assert _run(*line, path).returncode == 0
        assert _run(*line, path).returncode == 0  # once more: kept once
    assert len(list(inbox.rglob("*.dcm"))) == 1
    with receiving(inbox, Node(local=Local(), port=port, min_free_gb=1e9)):
        assert _run(*line, tmp_path / "sent").returncode != 0
    assert not (tmp_path / "up").exists()


def test_secured_associations(tmp_path):
    quiet_networking()
    made = _run(
        program("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 2, "-subj", "/CN=localhost", "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    tls = Tls(tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "cert.pem")
    inbox, port = tmp_path / "inbox", free_port()
    inbox.mkdir()
    paths = write_small(tmp_path / "sent", 1)
    with receiving(inbox, Node(local=Local(tls=tls), port=port, min_free_gb=0)):
        assert send_files(paths, parse_peer(f"MEDVIT@127.0.0.1:{port}"), Local(tls=tls)) == ""
        with pytest.raises(PeerError, match="could not be reached"):
            send_files(paths, parse_peer(f"MEDVIT@127.0.0.1:{port}"), Local(timeout=3))
    assert len(list(inbox.rglob("*.dcm"))) == len(paths)
    with pytest.raises(NetworkError, match="Found --tls-trust without --tls-cert"):
        Tls(trusted=tmp_path / "cert.pem").context(server=True)
    with pytest.raises(NetworkError, match="certificates that cannot be used"):
        Tls(tmp_path / "absent.pem").context(server=True)
