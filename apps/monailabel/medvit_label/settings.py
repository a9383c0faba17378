"""Settings of ``medvit label start``, in a module that is fast to import."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from medvit.errors import SourceError
from medvit.io.dicom import Login, names_a_password
from medvit.settings import check_geometry
from medvit_label.errors import AccessError

__all__ = ["Limits", "ServerSettings", "is_loopback", "is_url", "state_folder"]

SHORTEST_TOKEN = 16
"""Least number of characters of a token; a shorter one can be guessed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the server.

    Attributes:
        upload_mb: size limit of a request's body, in units of 2**20 bytes.
        waiting: inferences that may wait or run; one more is refused at once.
        session_s: seconds after which an unused session is removed.
        corrections: sets of corrections that are kept, one for each annotator, model and image.
        login_s: seconds for which a login is valid.
    """

    upload_mb: int = 1024
    waiting: int = 16
    session_s: int = 3600
    corrections: int = 1000
    login_s: float = 12 * 3600.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of the server.

    Attributes:
        studies: folder with images, or the URL of a DICOMweb service.
        state: folder for labels, the journal and caches.
        bundles: names of the bundles to offer; empty for all that are trained.
        host: address to bind to.
        port: port to bind to; 0 for any free one.
        token: token that clients must send; it may be empty on loopback only.
        device: see ``RunSettings.device``.
        origins: addresses of web viewers (OHIF) that may call from a browser.
        limits: limits of the server.
        login: the login for a DICOMweb service.
        users: file of accounts; None for a single token, or on loopback no token.
        geometry: "sform" or "qform" for the project's NIfTI files; None for the sform if the file has one.
    """

    studies: str
    state: Path
    bundles: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = field(default="", repr=False)
    device: str = "auto"
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    login: Login = field(default=Login(), repr=False)
    users: Path | None = None
    geometry: str | None = None

    @property
    def asks_login(self) -> bool:
        """True if clients must send a token, an account's or the server's."""
        return bool(self.token) or self.users is not None

    @property
    def places(self) -> tuple[str, ...]:
        """Paths and addresses of this server that no answer may contain, longest first."""
        paths = [self.state] if is_url(self.studies) else [self.state, Path(self.studies)]
        # a relative path of one part, such as "." or "data", could be part of ordinary words, so it is not searched for
        given = {str(path) for path in (*paths, *(path.resolve() for path in paths)) if len(path.parts) > 1}
        return tuple(sorted(given | ({self.studies} if is_url(self.studies) else set()), key=len, reverse=True))

    def check(self) -> ServerSettings:
        """Check the settings and return them.

        Raises:
            AccessError: the server would be open to anyone on the network, a token is too short, or accounts and a
                token are mixed.
            SourceError: there is no folder of studies.
        """
        check_geometry(self.geometry)
        if self.users is not None:
            from medvit_label.accounts import read_accounts

            if self.token:
                raise AccessError(
                    "both accounts (--users) and a token for everybody",
                    "only one of them may be given",
                    "Leave --token-file out and MEDVIT_LABEL_TOKEN unset.",
                )
            if not read_accounts(self.users):
                raise AccessError(
                    f"no account in {self.users}",
                    "at least one is needed",
                    "Run: medvit label users add NAME --users FILE.",
                )
        if not is_loopback(self.host) and not self.asks_login:
            raise AccessError(
                f"the address {self.host}, which other machines can reach, and no token",
                "a token is needed there",
                "Give --token-file, set MEDVIT_LABEL_TOKEN, give --users, or leave --host out.",
            )
        if self.token and len(self.token) < SHORTEST_TOKEN:
            raise AccessError(
                f"a token of {len(self.token)} characters",
                f"at least {SHORTEST_TOKEN} are needed",
                "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'.",
            )
        if is_url(self.studies) and names_a_password(self.studies):
            raise AccessError(
                "a user or password in the address of --studies, where logs and process lists show it",
                "an address without is needed",
                (
                    "Put the login in the environment (MEDVIT_DICOMWEB_USER, MEDVIT_DICOMWEB_PASSWORD) or in "
                    "--login-file."
                ),
            )
        if not is_url(self.studies) and not Path(self.studies).is_dir():
            raise SourceError(
                f"no folder at {self.studies}",
                "a folder with images or the URL of a DICOMweb service is needed",
                "Check --studies.",
            )
        return self


def is_url(studies: str) -> bool:
    """Return True if the studies come from a DICOMweb service."""
    return studies.startswith(("http://", "https://"))


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def state_folder(studies: str, given: Path | None) -> Path:
    """Return the folder for labels and the journal: ``given``, else ``medvit-labels`` in the folder of studies or, for
    DICOMweb, in the current folder.
    """
    if given is not None:
        return given
    return Path("medvit-labels") if is_url(studies) else Path(studies) / "medvit-labels"
