"""Annotators: an annotator is the account that logged in, else the ``client_id`` of the request; the role grants
permissions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request

from medvit_label.errors import AccessError

__all__ = ["Annotator", "account_of", "annotator_of", "display_name", "require_manager", "require_reviewer"]

_REVIEWING, _MANAGING = ("reviewer", "admin"), ("admin",)


@dataclass(frozen=True)
class Annotator:
    """Annotator who sends a request.

    Attributes:
        name: name of the account, or the ``client_id``; empty if the client sends none.
        role: role of the account; without accounts everyone has the role "admin".
        account: True if a login proved the name.
    """

    name: str = ""
    role: str = "admin"
    account: bool = False

    @property
    def display_name(self) -> str:
        """Name of the annotator in messages."""
        return display_name(self.name)

    @property
    def reviews(self) -> bool:
        """True if the role may decide about other annotators' labels."""
        return self.role in _REVIEWING

    @property
    def supersedes(self) -> bool:
        """True for a reviewer's or admin's account, whose final label replaces an annotator's at once."""
        return self.account and self.reviews


def display_name(name: str) -> str:
    """Return an annotator's name for messages."""
    return name or "an annotator without a name"


def account_of(request: Request) -> Annotator | None:
    """Return the account that access control found for a request's token; None without accounts."""
    account = getattr(request.state, "account", None)
    return Annotator(account.name, account.role, True) if account is not None else None


def annotator_of(request: Request, content: dict[str, Any]) -> Annotator:
    """Return the annotator who sends a request with these ``params``."""
    client = content.get("client_id")
    whole = (
        client.encode("utf-8", "replace").decode() if isinstance(client, str) else ""
    )  # JSON may hold half a surrogate pair
    named = " ".join(whole.split())[:64]
    return account_of(request) or Annotator(named)


def _require(request: Request, roles: tuple[str, ...]) -> None:
    account = account_of(request)
    if account is not None and account.role not in roles:
        raise AccessError(
            f"the role {account.role!r} of {account.name}",
            f"this needs the role {' or '.join(roles)}",
            "Ask one of them, or the administrator of the server for another role.",
        )


def require_reviewer(request: Request) -> None:
    """Refuse accounts that may not decide about labels, training and batches.

    Raises:
        AccessError: the account's role is "annotator".
    """
    _require(request, _REVIEWING)


def require_manager(request: Request) -> None:
    """Refuse accounts that may not change which version of a model answers.

    Raises:
        AccessError: the account's role is not "admin".
    """
    _require(request, _MANAGING)
