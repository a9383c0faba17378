"""Short ways to fetch and change bundles."""

from __future__ import annotations

import json
from pathlib import Path

from medvit.bundles.remote import FetchRequest, FetchSummary, fetch
from medvit.bundles.remote.http import RetryPolicy
from tests.bundles.remote.conftest import NAME

QUICK = RetryPolicy(tries=2, wait_s=0.0, timeout_s=30.0)


def yes(_: FetchSummary) -> bool:
    return True


def fetch_small(name: str = NAME, agree=yes, **options):
    return fetch(FetchRequest(name, **options), agree, patience=QUICK)


def edit(folder: Path, change) -> None:
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


def put(folder: Path, content: bytes, name: str = "given.pt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name
