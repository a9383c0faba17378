"""Accounts of an annotation server: a file with names, roles and hashed passwords, and the tokens of logged-in users."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.atomic_write import replace_file
from medvit_label.errors import AccountError

__all__ = ["ROLES", "SHORTEST_PASSWORD", "Account", "Accounts", "add_account", "read_accounts", "remove_account"]

ROLES = ("annotator", "reviewer", "admin")
"""Roles in the order of their permissions, fewest first; docs/label.md lists the permissions."""

SHORTEST_PASSWORD = 8
"""Least number of characters of a password."""

_LONGEST_PASSWORD = 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_COST = {"n": 2**15, "r": 8, "p": 3}
"""Parameters of scrypt: one password takes some tenths of a second and 32 MB, so that guessing from a stolen file is
slow.
"""

_HIGHEST = {"n": 2**18, "r": 16, "p": 8}
_REMEMBERED_S = 86400.0
"""Seconds for which an expired token is still recognised, so that the answer can ask its owner to log in again."""

_log = logging.getLogger("medvit_label")


@dataclass(frozen=True, kw_only=True)
class Account:
    """An annotator's account.

    Attributes:
        name: name typed at the login.
        role: one of ``ROLES``.
        salt, digest: salt and hash of the password, hexadecimal.
        cost: parameters n, r and p of scrypt.
    """

    name: str
    role: str
    salt: str
    digest: str
    cost: Mapping[str, int]

    def has_password(self, password: str) -> bool:
        """Compare a password with the account's in constant time."""
        return hmac.compare_digest(_digest(password, self.salt, self.cost), self.digest)


def _digest(password: str, salt: str, cost: Mapping[str, int]) -> str:
    memory = 128 * cost["n"] * cost["r"] * 2
    made = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), **cost, maxmem=memory, dklen=32)
    return made.hex()


def read_accounts(path: Path) -> dict[str, Account]:
    """Read a file of accounts; the keys are the names in lower case.

    Raises:
        AccountError: the file is missing, readable by other users of the machine, or not a file of accounts.
    """
    try:
        state = path.stat()
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is no text"
        raise AccountError(
            f"no readable file of accounts at {path} ({words})",
            "one is needed",
            "Make it with: medvit label users add NAME --users FILE.",
        ) from error
    if os.name == "posix" and state.st_mode & 0o077:
        raise AccountError(
            f"that other users of this machine may open {path} (mode {state.st_mode & 0o777:04o})",
            "it holds password hashes, so only its owner may",
            f"Run: chmod 600 {path}",
        )
    try:
        rows = json.loads(text)["users"]
        found = {str(name).lower(): _account(str(name), row) for name, row in rows.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AccountError(
            f"{path}, which is not a file of accounts ({type(error).__name__})",
            "one written by medvit label users add is needed",
            "Restore an earlier copy, or make a new file.",
        ) from error
    if len(found) != len(rows):
        raise AccountError(
            f"two accounts in {path} whose names differ in letter case alone",
            "each person needs one",
            "Remove one of them.",
        )
    return found


def _account(name: str, row: Mapping[str, Any]) -> Account:
    cost = {key: int(row["scrypt"][key]) for key in _COST}
    if (
        any(not 1 <= cost[key] <= _HIGHEST[key] for key in cost)
        or row["role"] not in ROLES
        or not _NAME.fullmatch(name)
    ):
        raise ValueError("a value that cannot be")
    salt, digest = str(row["salt"]), str(row["digest"])
    if len(bytes.fromhex(salt)) < 8 or len(bytes.fromhex(digest)) != 32:
        raise ValueError("a hash that is cut")
    return Account(name=name, role=row["role"], salt=salt, digest=digest, cost=cost)


def add_account(path: Path, name: str, role: str, password: str) -> None:
    """Add an account to a file, which is created if missing; only its owner may read it.

    Raises:
        AccountError: the name is taken or not allowed, the role unknown, the password too short, or the file not one of
            accounts.
    """
    if not _NAME.fullmatch(name):
        raise AccountError(
            f"the name {name[:40]!r}",
            "a name is 1 to 64 letters, digits, '.', '_', '@' or '-', the first a letter or digit",
            "Choose another.",
        )
    if role not in ROLES:
        raise AccountError(f"the role {role[:40]!r}", f"it must be one of {', '.join(ROLES)}", "Correct --role.")
    if not SHORTEST_PASSWORD <= len(password) <= _LONGEST_PASSWORD:
        raise AccountError(
            f"a password of {len(password)} characters",
            f"{SHORTEST_PASSWORD} to {_LONGEST_PASSWORD} are needed",
            "Choose another.",
        )
    known = read_accounts(path) if path.exists() else {}
    if name.lower() in known:
        raise AccountError(
            f"an account {known[name.lower()].name!r} in {path} already",
            "nothing was changed",
            "Choose another name, or remove the account first: medvit label users remove.",
        )
    salt = secrets.token_hex(16)
    _write(
        path,
        [*known.values(), Account(name=name, role=role, salt=salt, digest=_digest(password, salt, _COST), cost=_COST)],
    )


def remove_account(path: Path, name: str) -> None:
    """Remove an account from a file.

    Raises:
        AccountError: there is no such account, or the file is not one of accounts.
    """
    known = read_accounts(path)
    if name.lower() not in known:
        listed = ", ".join(account.name for account in known.values()) or "none"
        raise AccountError(f"no account {name[:40]!r} in {path}", f"there are: {listed}", "Correct the name.")
    _write(path, [account for key, account in known.items() if key != name.lower()])


def _write(path: Path, accounts: list[Account]) -> None:
    rows = {
        account.name: {
            "role": account.role,
            "scrypt": dict(account.cost),
            "salt": account.salt,
            "digest": account.digest,
        }
        for account in accounts
    }
    try:
        with replace_file(path, durable=True, private=True) as aside:
            aside.write_text(json.dumps({"users": rows}, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AccountError(
            f"that {path} cannot be written ({error.strerror})",
            "a folder that can be written is needed",
            "Check --users.",
        ) from error


class Accounts:
    """Accounts of a running server and its tokens; a change of the file takes effect at the next request.

    Args:
        path: file of accounts, already checked.
        life_s: seconds for which a token is valid.
    """

    def __init__(self, path: Path, life_s: float) -> None:
        self._path, self.life_s = path, life_s
        self._lock = threading.Lock()
        self._stamp = self._stat()
        self._known = read_accounts(path)
        self._tokens: dict[str, tuple[str, str, float]] = {}
        salt = secrets.token_hex(16)
        # an unknown name is compared with this account, so that its login takes as long as any other
        self._nobody = Account(
            name="", role=ROLES[0], salt=salt, digest=_digest(secrets.token_hex(16), salt, _COST), cost=_COST
        )

    def _stat(self) -> tuple[int, int]:
        try:
            state = self._path.stat()
        except OSError:
            return (0, 0)
        return (state.st_mtime_ns, state.st_size)

    def _current(self) -> dict[str, Account]:
        stamp = self._stat()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._known = read_accounts(self._path)
            except AccountError as error:
                _log.error(
                    "The file of accounts changed and cannot be used; nobody has access until it is repaired. %s", error
                )
                self._known = {}
        return self._known

    def log_in(self, name: str, password: str) -> tuple[str, Account] | None:
        """Return a new token and the account for a correct password, else None; both take the same time."""
        with self._lock:
            account = self._current().get(name.lower())
        fits = (account or self._nobody).has_password(password[: _LONGEST_PASSWORD + 1])
        if account is None or not fits:
            return None
        token, now = secrets.token_urlsafe(32), time.time()
        with self._lock:
            self._tokens = {key: row for key, row in self._tokens.items() if row[2] > now - _REMEMBERED_S}
            self._tokens[_hashed(token)] = (name.lower(), account.digest, now + self.life_s)
        return token, account

    def of_token(self, token: str) -> tuple[Account | None, bool]:
        """Return the account that a token was given to, or None; and True if the token was valid and has expired."""
        with self._lock:
            row = self._tokens.get(_hashed(token))
            account = self._current().get(row[0]) if row is not None else None
        if (
            row is None or account is None or account.digest != row[1]
        ):  # the account was removed, or got another password
            return None, False
        return (None, True) if row[2] < time.time() else (account, False)


def _hashed(token: str) -> str:
    """Hash a token, so that the time of a look-up reveals nothing about the token."""
    return hashlib.sha256(token.encode()).hexdigest()
