"""Web application: endpoints, errors as JSON, and access control."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from medvit.errors import MedvitError
from medvit_label.access_control import AccessControl
from medvit_label.accounts import Accounts
from medvit_label.errors import request_words
from medvit_label.project import Project
from medvit_label.routes import inference, labels, login, page, training
from medvit_label.routes import project as project_routes
from medvit_label.settings import ServerSettings

__all__ = ["create_app", "serve"]

_log = logging.getLogger("medvit_label")


def create_app(settings: ServerSettings) -> Any:
    """Create the ASGI application; its project opens when the application starts and closes when it ends."""
    accounts = Accounts(settings.users, settings.limits.login_s) if settings.users is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.project, app.state.accounts = Project(settings), accounts
        yield
        app.state.project.close()

    app = FastAPI(title="medvit label", lifespan=lifespan, docs_url=None, redoc_url=None)
    for routes in (login, project_routes, labels, inference, training, page):
        app.include_router(routes.router)
    app.add_exception_handler(MedvitError, _refusal_answer)
    app.add_exception_handler(Exception, _fault_answer)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return AccessControl(app, settings, accounts)


async def _refusal_answer(request: Request, error: Exception) -> JSONResponse:
    """Answer with the error's message, with the server's paths removed."""
    settings: ServerSettings = request.app.state.project.settings
    words = error.sentence(request_words) if isinstance(error, MedvitError) else str(error)
    for place in settings.places:
        words = words.replace(place, "…")
    _log.info("refused: %s", type(error).__name__)
    return JSONResponse({"detail": words, "kind": type(error).__name__}, getattr(error, "status", 422))


async def _fault_answer(_: Request, error: Exception) -> JSONResponse:
    """Answer an unexpected error; log its type and place, but not its message, which may name a patient."""
    number, last = uuid.uuid4().hex[:8], error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f"{last.tb_frame.f_code.co_name}:{last.tb_lineno}" if last is not None else "?"
    _log.error("fault %s: %s in %s", number, type(error).__name__, where)
    return JSONResponse(
        {"detail": f"The server failed at this (fault {number}, {type(error).__name__}); report it with its log line."},
        500,
    )


def serve(settings: ServerSettings) -> None:
    """Serve until SIGINT or SIGTERM."""
    import uvicorn

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("uvicorn.error", "dicomweb_client", "urllib3", "retrying", "highdicom", "pydicom"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # their messages and tracebacks can name patients
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
    )
