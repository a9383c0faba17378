"""Endpoints of MONAI Label's login: name and password give a token, which all other requests need."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request

from medvit_label.accounts import Accounts
from medvit_label.annotators import account_of
from medvit_label.routes.project import CurrentProject

__all__ = ["router"]

router = APIRouter()

_WRONG_S = 1.0
"""Seconds before the answer to a wrong password."""

_AT_ONCE = asyncio.Semaphore(2)
"""Upper limit of passwords compared at the same time; each takes 32 MB and a core."""

_log = logging.getLogger("medvit_label")


@router.get("/auth/")
def auth(request: Request, project: CurrentProject) -> dict[str, Any]:
    """Return whether a login is needed, and whether accounts or a single token are used."""
    accounts = request.app.state.accounts is not None
    return {"enabled": project.settings.asks_login, "client_id": "medvit", "realm": "", "accounts": accounts}


@router.post("/auth/token")
async def token(
    request: Request,
    project: CurrentProject,
    username: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
) -> dict[str, Any]:
    """Log in (OAuth2 password flow) with an account's name and password or, without accounts, any name and the token as
    password.
    """
    accounts: Accounts | None = request.app.state.accounts
    if accounts is None:
        if not project.settings.token or not hmac.compare_digest(password.encode(), project.settings.token.encode()):
            raise HTTPException(
                401,
                "Found a wrong password; the token that the server was started with is needed. Type it as the password.",
            )
        return {"access_token": password, "token_type": "bearer"}
    async with _AT_ONCE:
        found = await asyncio.to_thread(accounts.log_in, username.strip(), password)
    if found is None:
        _log.warning(
            "a login was refused"
        )  # the name is not logged, since it may be a password typed in the wrong field
        await asyncio.sleep(_WRONG_S)
        raise HTTPException(
            401,
            "Found no account with this name and password; both are needed. Correct them, or ask the server's administrator.",
        )
    _log.info("%s logged in as %s", found[1].name, found[1].role)
    return {"access_token": found[0], "token_type": "bearer", "expires_in": int(accounts.life_s)}


@router.get("/auth/token/valid")
def valid(request: Request) -> dict[str, Any]:
    """Return the account of a valid token, and its role."""
    account = account_of(request)
    if account is None:
        return {"username": "annotator", "roles": []}
    return {"username": account.name, "name": account.name, "roles": [account.role]}
