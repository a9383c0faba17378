"""Eight annotators at once for five minutes: no error, and the server's memory stays flat. A server that is killed while it trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.label.learning import make_cases, make_learning_bundle, wait_for

pytestmark = pytest.mark.soak
client_module = pytest.importorskip("monailabel.client")
pytest.importorskip("fastapi")

_CLIENTS, _SECONDS = 8, 300


def _server(port: str) -> Path:
    """The server's folder under /proc, by its port."""
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                words = (place / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"medvit_label" in words and port.encode() in words:
                return place
    raise AssertionError("no server")


def _resident_mb(process: Path) -> float:
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _annotate(client: Any, top: Path, names: list[str], until: float, done: Counter[str]) -> None:
    """What a client does all day, from next case to submitting, with sessions and clicks between."""
    turn = 0
    while time.monotonic() < until:
        name = names[turn % len(names)]
        turn += 1
        client.next_sample("random", {})
        client.infer("bands", name, {})
        if turn % 3 == 0:
            client.infer("bands", name, {"clicks": {"background": [[6, 16, 8]]}})
            done["clicks"] += 1
        tag = "final" if turn % 2 else "draft"
        client.save_label(name, str(top / "truth" / f"{name}.nii.gz"), tag, {})
        client.download_label(name, tag)
        if turn % 4 == 0:
            session = client.create_session(str(top / "studies" / f"{name}.nii.gz"))["session_id"]
            client.infer("bands", "", {}, session_id=session)
            client.remove_session(session)
            done["sessions"] += 1
        client.datastore()
        done["rounds"] += 1


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_eight_clients_for_five_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests
    from medvit_label.self_test import running

    bundle = make_learning_bundle(tmp_path / "bundles" / "bands")
    names = make_cases(tmp_path / "studies", tmp_path / "truth", 12)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    # other tests of this process may start servers as copies of a warm one, which cannot be found by their command line
    monkeypatch.setattr("medvit_label.self_test.subprocess", subprocess)
    done: Counter[str] = Counter()
    errors: list[str] = []
    with running(str(tmp_path / "studies"), "--bundle", "bands", "--state", str(tmp_path / "state")) as (url, _):
        process, until = _server(url.rpartition(":")[2]), time.monotonic() + _SECONDS

        def work(number: int) -> None:
            folder = tmp_path / f"client{number}"
            folder.mkdir()
            client = client_module.MONAILabelClient(url, tmpdir=str(folder), client_id=f"client {number}")
            mine = names[number:] + names[:number]
            try:
                _annotate(client, tmp_path, mine, until, done)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {getattr(error, 'msg', error)}")

        threads = [threading.Thread(target=work, args=(n,)) for n in range(_CLIENTS)]
        for thread in threads:
            thread.start()
        resident = []
        while any(thread.is_alive() for thread in threads):
            time.sleep(5)
            resident.append(_resident_mb(process))
            requests.get(f"{url}/stats/", timeout=60).raise_for_status()
        states = requests.get(f"{url}/stats/", timeout=60).json()["queue"]["states"]
    print(dict(done), "resident MB:", [round(v) for v in resident[::6]])
    assert not errors, errors
    assert set(states) == {"done"} and done["rounds"] > 2 * _CLIENTS and done["sessions"] and done["clicks"]
    # the first minute warms allocators and caches; after it nothing may pile up
    warm = len(resident) // 4
    assert max(resident[-warm:]) < max(resident[warm : 2 * warm]) + 60, [round(v) for v in resident]


def _start(top: Path, log: Path) -> tuple[subprocess.Popen[bytes], Any]:
    from medvit_label.self_test import _answers, free_port

    port = free_port()
    command = [sys.executable, "-m", "medvit_label", "start", "-s", str(top / "studies"), "-b", "bands", "--state", str(top / "state"), "--port", str(port)]  # fmt: skip
    with log.open("ab") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out)
    url = f"http://127.0.0.1:{port}"
    wait_for(lambda: _answers(url))
    return server, client_module.MONAILabelClient(url, tmpdir=str(top))


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_server_that_is_killed_takes_its_training_along_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_learning_bundle(tmp_path / "bundles" / "bands")
    names = make_cases(tmp_path / "studies", tmp_path / "truth", 5)
    monkeypatch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
    server, client = _start(tmp_path, tmp_path / "log.txt")
    for name in names:
        client.save_label(name, str(tmp_path / "truth" / f"{name}.nii.gz"), "final", {})
    run = client.train_start("bands", {"steps": 600, "learning_rate": 0.002})
    folder = tmp_path / "state" / "training" / run["id"]
    wait_for((folder / "run" / "bands" / "checkpoint.pt").is_file)
    server.send_signal(signal.SIGKILL)
    server.wait()
    log = folder / "log.txt"
    wait_for(lambda: _still(log))
    assert "of 600 reached" not in log.read_text()

    server, client = _start(tmp_path, tmp_path / "log.txt")
    try:
        run = wait_for(lambda: (shown := client.train_status())["status"] != "RUNNING" and shown, 600)
        assert run["status"] == "DONE" and run["published"] == 1, run
        assert log.read_text().count("Going on from") == 1
        assert client.infer("bands", names[0], {})[1]["bundle"] == "bands 0.1.0+project.1"
        assert len(client.datastore()["objects"]) == 5
    finally:
        server.terminate()
        server.wait(60)


def _still(log: Path) -> bool:
    """Whether nobody writes a log any more: its process is gone."""
    before = log.stat().st_size
    time.sleep(3)
    return log.stat().st_size == before
