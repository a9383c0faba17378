"""Endpoints of the project's statistics: ``/stats/`` as JSON, and ``/`` as an HTML page."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

from medvit_label.routes.project import CurrentProject
from medvit_label.routes.project_state import project_statistics

__all__ = ["router"]

router = APIRouter()

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; frame-ancestors 'none'"
"""Content security policy: the page may load from and send to this server only."""


@router.get("/stats/")
def stats(project: CurrentProject) -> dict[str, Any]:
    """Return labels with agreement, volumes and seconds; the queue; uncertain cases; versions and trainings of each model."""
    return project_statistics(project)


@router.get("/")
def page() -> HTMLResponse:
    """Return the page, which contains no data of the project; its script requests the data, with the token if one is
    needed.
    """
    text = (files("medvit_label") / "page.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": _POLICY, "referrer-policy": "no-referrer"})
