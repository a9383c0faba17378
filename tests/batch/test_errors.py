"""What a person reads when a peer refuses, a bundle cannot be used, or a worker meets its end: found, needed, one step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from medvit_batch.cases import State
from medvit_batch.cli import app
from medvit_batch.errors import BatchError, PeerError, RefusedError, RulesError
from medvit_batch.execution.case_runner import run_case
from medvit_batch.execution.publish import prepare, recover
from medvit_batch.execution.worker import CaseChannel
from medvit_batch.journal import Journal
from medvit_batch.selection.rules import read_rules
from typer.testing import CliRunner

from tests.batch.archives import write_small
from tests.batch.runs import job
from tests.nodes import free_port

pynetdicom = pytest.importorskip("pynetdicom", reason="the extra 'network' is not installed")

from medvit_batch.network.peers import Local, parse_peer, quiet_networking  # noqa: E402
from medvit_batch.network.query_retrieve import Found, fetch, find  # noqa: E402
from medvit_batch.network.send_queue import send_files  # noqa: E402
from medvit_batch.network.store_scp import Node  # noqa: E402

_FAILED = b'{"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}'


@contextmanager
def _web(status: int, content: bytes = b"") -> Iterator[str]:
    """A server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(status)
            self.send_header("Content-Type", "application/dicom+json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815  as the library calls it

        def log_message(self, *words: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"wants a login \(HTTP 401\); set MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or MEDVIT_DICOMWEB_TOKEN\.$"),
        (404, r"answered HTTP 404; a DICOMweb server is needed\. Check its address\.$"),
        (503, r"answered HTTP 503; a DICOMweb server is needed\. Check its address\.$"),
    ],
)  # fmt: skip
def test_servers_that_refuse_a_query(status, message):
    quiet_networking()
    with _web(status) as address, pytest.raises(PeerError, match=message):
        find(parse_peer(address), {}, Local(timeout=5))


def test_servers_that_refuse_results(tmp_path):
    quiet_networking()
    paths = write_small(tmp_path, 1)[:1]
    local = Local(timeout=5)
    with _web(409) as address:
        assert "refused the results with HTTP 409; see its log and the login" in send_files(
            paths, parse_peer(address), local
        )
    with (
        _web(400) as address,
        pytest.raises(PeerError, match=r"answered HTTP 400; it is tried again\. Check the server"),
    ):
        send_files(paths, parse_peer(address), local)
    with _web(202, _FAILED) as address:
        assert "refused 1 object(s); see its log, then try again." in send_files(paths, parse_peer(address), local)
    gone = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(PeerError, match=r"cannot be reached \(ConnectionError\); it is tried again"):
        send_files(paths, parse_peer(gone), local)


@contextmanager
def _node(store: int = 0x0000, find_: int = 0xA700, get: int = 0xA801) -> Iterator[str]:
    """A node that answers requests with these statuses."""
    from pynetdicom import AE, AllStoragePresentationContexts, evt
    from pynetdicom.sop_class import (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    )

    def got(event: object) -> Iterator[object]:
        yield 1 if get else 0
        yield get, None

    def moved(event: object) -> Iterator[object]:
        yield None, None  # a destination that it does not know

    ae = AE(ae_title="PACS")
    for context in AllStoragePresentationContexts[:60]:
        ae.add_supported_context(context.abstract_syntax)
    for model in (
        StudyRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelGet,
        StudyRootQueryRetrieveInformationModelMove,
    ):
        ae.add_supported_context(model)
    handlers = [
        (evt.EVT_C_STORE, lambda event: store),
        (evt.EVT_C_FIND, lambda event: iter([(find_, None)])),
        (evt.EVT_C_GET, got),
        (evt.EVT_C_MOVE, moved),
    ]
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    try:
        yield f"PACS@127.0.0.1:{port}"
    finally:
        server.shutdown()


def test_nodes_that_refuse(tmp_path):
    quiet_networking()
    local, series = Local(timeout=5), Found("1.2.3", "1.2.3.4", "CT", 3)
    paths = write_small(tmp_path / "sent", 1)[:1]
    node = Node(local=local, port=free_port(), min_free_gb=0)
    with _node(store=0xA700) as name:
        peer = parse_peer(name)
        assert f"refused {paths[0].name} with status A700; see its log" in send_files(paths, peer, local)
        with pytest.raises(PeerError, match="answered status A700 when it was asked for series; see its log"):
            find(peer, {}, local)
        with pytest.raises(
            PeerError, match="ended the retrieval with status A801; see its log, and check that it knows our AE title"
        ):
            list(fetch(peer, [series], tmp_path, node, move=False))
        with pytest.raises(PeerError, match="ended the retrieval with status A801"):
            list(fetch(peer, [series], tmp_path, node, move=True))
    with (
        _node(get=0x0000) as name,
        pytest.raises(
            PeerError, match=r"Found 0 of 3 objects of series 1\.2\.3\.4 after the transfer .* or try --move"
        ),
    ):
        list(fetch(parse_peer(name), [series], tmp_path, node, move=False))
    assert issubclass(RefusedError, PeerError)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), "MemoryError", "Found too little memory for this case."),
        (type("OutOfMemoryError", (RuntimeError,), {})("Secret"), "OutOfMemoryError", "Found too little memory on the GPU for this case."),
        (KeyError("Secret"), "KeyError", "Found something unforeseen (KeyError in test_errors.py:"),
    ],
)  # fmt: skip
def test_a_worker_says_how_a_case_ended(error, code, message, monkeypatch):
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr("medvit_batch.execution.case_runner._made", fails)
    outcome = run_case(job(1, "one"), CaseChannel(case=1))
    assert (outcome.state, outcome.code, outcome.fatal) == (State.FAILED, code, True)
    assert outcome.reason.startswith(message)
    assert outcome.remedy.startswith(("Retry it with fewer workers", "Run medvit segment on the series with --debug"))
    assert "Secret" not in outcome.reason


def test_a_case_that_ends_every_run_is_held_to_be_the_reason(tmp_path):
    prepare(tmp_path)
    with closing(Journal(tmp_path, new=True)) as journal:
        journal.base.execute("INSERT INTO cases (volume, bundle, folder, state) VALUES ('v','b','cases/1/b','pending')")
        for _ in range(3):
            journal.move(1, State.RUNNING)
            assert recover(journal, tmp_path) == 1
        row = journal.case(1)
    assert (row["state"], row["code"]) == (State.FAILED, "Interrupted")
    assert row["reason"] == "Found that 3 runs ended while this case was at work."
    assert "medvit batch retry tries it again here" in row["remedy"]


def test_there_is_nothing_to_try_again(tmp_path):
    with closing(Journal(tmp_path, new=True)):
        pass
    outcome = CliRunner().invoke(app, ["retry", str(tmp_path)])
    assert outcome.exit_code == 1
    assert "Found no run in the journal of" in outcome.output
    assert "Start with medvit batch run." in " ".join(outcome.output.split())
    with pytest.raises(BatchError, match="Found no journal in"):
        Journal(tmp_path / "elsewhere")


def test_rules_of_another_kind_and_bundles_of_one_name_are_refused(banded, tmp_path):
    import shutil

    (tmp_path / "rules.txt").write_text("x")
    with pytest.raises(RulesError, match=r"rules are a \.toml or \.yaml file\. Rename or rewrite it\."):
        read_rules(tmp_path / "rules.txt", None)
    for name in ("one", "two"):
        shutil.copytree(banded, tmp_path / name / "banded")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        f"[[rules]]\nwhen = 'Slices < 100'\nbundles = ['{tmp_path}/one/banded', '{tmp_path}/two/banded']\n"
    )
    write_small(tmp_path / "archive", 1)
    line = ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "--rules", str(rules)]
    outcome = CliRunner().invoke(app, line)
    assert outcome.exit_code == 2
    assert (
        "Found two bundles named banded; results are kept by name, so each needs its own. Rename one folder."
        in " ".join(outcome.output.split())
    )


def test_a_folder_of_results_that_is_a_file(banded, tmp_path):
    (tmp_path / "out").touch()
    write_small(tmp_path / "archive", 1)
    outcome = CliRunner().invoke(
        app, ["run", str(tmp_path / "archive"), "-o", str(tmp_path / "out"), "-b", str(banded)]
    )
    assert outcome.exit_code == 1
    assert "where the output folder should be. Choose another with -o." in " ".join(outcome.output.split())
    assert Path(tmp_path / "out").is_file()
