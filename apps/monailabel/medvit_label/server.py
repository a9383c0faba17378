"""The web application: endpoints, errors in one form, and the guard before them."""

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
from medvit_label.access_control import Guard
from medvit_label.accounts import Accounts
from medvit_label.project import Project
from medvit_label.routes import inference as routes_work
from medvit_label.routes import labels as routes_labels
from medvit_label.routes import login as routes_login
from medvit_label.routes import page as routes_page
from medvit_label.routes import project as routes_project
from medvit_label.routes import training as routes_train
from medvit_label.settings import ServerSettings

__all__ = ["create_app", "serve"]

_log = logging.getLogger("medvit_label")


def create_app(settings: ServerSettings) -> Any:
    """The ASGI application for checked settings; its service opens when it starts and closes when it ends."""
    accounts = Accounts(settings.users, settings.limits.login_s) if settings.users is not None else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service, app.state.accounts = Project(settings), accounts
        yield
        app.state.service.close()

    app = FastAPI(title="medvit label", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.include_router(routes_login.router)
    app.include_router(routes_project.router)
    app.include_router(routes_labels.router)
    app.include_router(routes_work.router)
    app.include_router(routes_train.router)
    app.include_router(routes_page.router)
    app.add_exception_handler(MedvitError, _explained)
    app.add_exception_handler(Exception, _unexpected)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    return Guard(app, settings, accounts)


async def _explained(request: Request, error: Exception) -> JSONResponse:
    """What was found, needed and to be done, in the words of the error; no path of the server goes out."""
    settings: ServerSettings = request.app.state.service.settings
    words = str(error)
    for place in settings.places:
        words = words.replace(place, "…")
    _log.info("refused: %s", type(error).__name__)
    return JSONResponse({"detail": words, "kind": type(error).__name__}, getattr(error, "status", 422))


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours: its kind and place are logged, not its words, which may name a patient."""
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
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # their lines and tracebacks can name patients
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_config=None,
        server_header=False,
    )
