"""The project's state: ``/stats/`` for programs, and at ``/`` a page that shows it to people."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from medvit_label.labels.scoring import statistics
from medvit_label.routes.project import CurrentProject

__all__ = ["router"]

router = APIRouter()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
"""Nothing from elsewhere is loaded, and nothing is sent elsewhere."""


@router.get("/stats/")
def stats(service: CurrentProject) -> dict[str, Any]:
    """Labels with agreement, volumes and seconds; the line; the cases in doubt; versions and trainings of each model."""
    return statistics(service)


@router.get("/")
def page() -> HTMLResponse:
    """The page. It holds no data of the project; it asks for them, with the token where one is needed."""
    text = (files("medvit_label") / "page.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": _POLICY, "referrer-policy": "no-referrer"})
