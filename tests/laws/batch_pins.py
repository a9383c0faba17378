"""Pins of a batch: its folder, tables, events, metrics, records and databases, all made through the command line."""

from __future__ import annotations

import ast
import json
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pydicom

from tests.bands import oblique_affine, phantom, write_series
from tests.laws.scenes import Scenes, make_scenes
from tests.laws.scratch import free_port, invoke, scratch
from tests.laws.shapes import OPEN, columns, file_shape, lines_by_kind, schema, shape, statement_parts

ROOT = Path(__file__).resolve().parents[2]

_OPEN = (*OPEN, "seconds")
"""Keys whose inner names count as one; "seconds" is one, since its stages depend on the work of a worker's other threads."""


def batch() -> dict[str, Any]:
    """Run a small batch, withdraw one of its results and ask for its status; describe the products."""
    found: dict[str, Any] = {}
    with scratch(OMP_NUM_THREADS="1") as folder:
        scenes, out = make_scenes(folder), folder / "out"
        archive = _archive(folder / "archive", scenes)
        line: list[object] = ["batch", "run", archive, "-o", out, "-b", scenes.bundle("segmenting"), "-s", "-d", "cpu"]
        found["dry run"] = _json(invoke(*line, "--dry-run", "--json"))
        port = free_port()
        with _watching(f"http://127.0.0.1:{port}/metrics") as answers:
            printed = invoke(*line, "--log-format", "json", "--metrics-port", port)
        found["/metrics"] = answers
        found["run.json"] = file_shape(next(iter(sorted(out.glob("cases/*/*/run.json")))), _OPEN)
        _dispute(archive)
        found["run"] = _json(invoke(*line, "--json"))
        mistake = invoke("batch", "run", folder / "absent", "-o", out, "--log-format", "json")
        found["printed events"] = lines_by_kind(printed.stdout + mistake.stdout, "event", _OPEN)
        found["status"] = _json(invoke("batch", "status", out, "--cases", "--json"))
        found |= _folder(out)
    return found


@contextmanager
def _watching(url: str) -> Iterator[dict[str, Any]]:
    """Request an address repeatedly while the block runs; describe its first answer."""
    answers: dict[str, Any] = {}
    ended = threading.Event()

    def ask() -> None:
        while not answers and not ended.wait(0.1):
            with suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
                answers["type"], answers["metrics"] = answer.headers["Content-Type"], metrics(answer.read().decode())

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def _archive(top: Path, scenes: Scenes) -> Path:
    """Write a good series, a damaged one, one of another modality, an image that is not DICOM, and a note."""
    values = phantom((24, 20, 8))[0]
    write_series(top / "good", values, oblique_affine())
    damaged = write_series(top / "damaged", values + 1, oblique_affine())[3]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    write_series(top / "other", values + 2, oblique_affine(), Modality="MR")
    shutil.copy(scenes.nifti, top / "scan.nii.gz")
    (top / "note.txt").write_text("not an image")
    return top


def _dispute(archive: Path) -> None:
    """Add a copy of the good series that names another patient."""
    shutil.copytree(archive / "good", archive / "again")
    for path in (archive / "again").iterdir():
        header = pydicom.dcmread(path)
        header.PatientID = "ANOTHER"
        header.save_as(path, enforce_file_format=True)


def _folder(out: Path) -> dict[str, Any]:
    """Describe a batch's folder."""
    names = {
        re.sub(r"[0-9a-f.]{12,}", "#", path.relative_to(out).as_posix()) for path in out.rglob("*") if path.is_file()
    }
    databases = {path.name: schema(path) for path in out.glob("*.sqlite")}
    tables: dict[str, Any] = {path.name: columns(path) for path in out.glob("*.csv")}
    for path in out.glob("*.parquet"):
        tables[path.name] = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(path)}
    return {
        "files": sorted(names),
        "databases": databases,
        "tables": tables,
        "events in log.jsonl": lines_by_kind((out / "log.jsonl").read_text(), "event", _OPEN),
        "metrics.prom": metrics((out / "metrics.prom").read_text()),
    }


def metrics(text: str) -> list[str]:
    """List Prometheus metrics with their types and labels."""
    types = re.findall(r"^# TYPE (\w+) (\w+)", text, re.MULTILINE)
    series = re.findall(r"^(\w+\{.*\}) ", text, re.MULTILINE)
    return [*(f"{name}: {kind}" for name, kind in types), *series]


def _json(outcome: Any) -> Any:
    return {"exit_code": outcome.exit_code, "printed": shape(json.loads(outcome.stdout), _OPEN)}


def statements() -> dict[str, list[list[str]]]:
    """Collect the SQL that creates or changes tables in the sources, by package, also for tables that a small run does
    not make.
    """
    found: dict[str, list[list[str]]] = {}
    for package in ("medvit", "apps/batch/medvit_batch", "apps/monailabel/medvit_label"):
        lines = set()
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    parts = (" ".join(part.split()) for part in node.value.split(";"))
                    lines |= {part for part in parts if re.match(r"(CREATE|ALTER|DROP) [A-Z]", part)}
        if lines:
            found[Path(package).name] = [statement_parts(line) for line in sorted(lines)]
    return found
