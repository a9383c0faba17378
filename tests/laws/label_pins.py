"""Interface of the label server: its endpoints, the shapes of their answers, and its journal, observed over HTTP."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests import warm
from tests.laws.scenes import Scenes, make_scenes
from tests.laws.scratch import free_port, invoke, scratch
from tests.laws.shapes import schema, shape

READY_S = 300
"""Seconds after which a server that does not answer counts as failed."""

ASKED = (
    "GET /auth/",
    "GET /info/",
    "GET /datastore/",
    "GET /datastore/image/info?image=scan",
    "POST /infer/segmenting?image=scan&output=json",
    "POST /infer/no_such_model?image=scan&output=json",
    "POST /activelearning/quality",
    "PUT /datastore/label?image=scan&tag=final",
    "GET /datastore/label/info?label=scan&tag=final",
    "GET /datastore/label/versions?label=scan",
    "GET /datastore/?output=all",
    "GET /datastore/?output=train",
    "PUT /session/",
    "GET /session/no_such_session",
    "GET /train/",
    "GET /stats/",
)
"""Requests in their order; POST and PUT carry an empty form of parameters, those of labels and sessions also a file."""


def label_server() -> dict[str, Any]:
    """Serve one image with one model; describe endpoints, answers and the journal."""
    with scratch(OMP_NUM_THREADS="1") as folder:
        scenes, state = make_scenes(folder), folder / "state"
        studies = folder / "studies"
        studies.mkdir()
        (studies / "scan.nii.gz").write_bytes(scenes.nifti.read_bytes())
        with _serving(scenes, studies, state) as url:
            endpoints = _endpoints(requests.get(f"{url}/openapi.json", timeout=60).json())
            answers = {asked: _described(_ask(url, asked, scenes)) for asked in ASKED}
        printed = invoke("label", "versions", "segmenting", "-s", studies, "--state", state, "--json").stdout
        databases = {path.name: schema(path) for path in state.glob("*.sqlite")}
    return {
        "endpoints": endpoints,
        "answers": answers,
        "databases": databases,
        "label versions": shape(json.loads(printed)),
    }


@contextmanager
def _serving(scenes: Scenes, studies: Path, state: Path) -> Iterator[str]:
    """Run ``medvit label start`` until the block ends; yield its address once it answers."""
    port = free_port()
    words = ["label", "start", "-s", studies, "--state", state, "-b", "segmenting", "--port", str(port), "-d", "cpu"]
    environment = {**os.environ, "MEDVIT_BUNDLES": str(scenes.bundle(""))}
    with open(scenes.top / "server.txt", "wb") as log:
        server = warm.Popen([sys.executable, "-m", "medvit", *words], stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + READY_S
        while not _answers(f"http://127.0.0.1:{port}/info/"):
            running = server.poll() is None and time.monotonic() < end
            assert running, (scenes.top / "server.txt").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def _answers(url: str) -> bool:
    try:
        return bool(requests.get(url, timeout=60).ok)
    except requests.ConnectionError:
        return False


def _ask(url: str, asked: str, scenes: Scenes) -> requests.Response:
    method, _, path = asked.partition(" ")
    more: dict[str, Any] = {} if method == "GET" else {"data": {"params": "{}"}}
    if path.startswith("/activelearning"):
        more = {"json": {}}
    if method == "PUT":
        name, file = ("files", scenes.nifti) if "session" in path else ("label", scenes.labels)
        more["files"] = {name: (file.name, file.read_bytes())}
    return requests.request(method, url + path, timeout=120, **more)


def _described(answer: requests.Response) -> Any:
    return {"status": answer.status_code, "answer": shape(answer.json())}


def _endpoints(document: dict[str, Any]) -> dict[str, list[str]]:
    """List methods and paths with the names of their parameters."""
    found = {}
    for path, methods in document["paths"].items():
        for method, content in methods.items():
            taken = [f"{p['in']} {p['name']}{'' if p['required'] else '?'}" for p in content.get("parameters", [])]
            forms = [part["schema"] for part in content.get("requestBody", {}).get("content", {}).values()]
            taken += [f"body {_form(document, form)}" for form in forms]
            found[f"{method.upper()} {path}"] = sorted(taken)
    return found


def _form(document: dict[str, Any], form: dict[str, Any]) -> str:
    """Return the names of a form's fields."""
    name = form.get("$ref", "").rpartition("/")[2]
    fields = document.get("components", {}).get("schemas", {}).get(name, form).get("properties", {})
    return ", ".join(sorted(fields)) or "any JSON"
