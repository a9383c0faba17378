"""Storage commitment (PS3.4 annex J): a peer is asked to vouch for what it was sent, and says so in its own time.

It answers on an association of its own to our port, so only a node that listens can hear it. What was asked stands in the
journal, under the transaction's UID, before it is asked.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import Dataset
from pydicom.uid import generate_uid

from medvit_batch.errors import PeerError
from medvit_batch.journal import Journal
from medvit_batch.network.peers import Local, Peer, associated

if TYPE_CHECKING:
    import sqlite3

__all__ = ["SERVICE", "Commitments", "Reported", "listener"]

SERVICE = "1.2.840.10008.1.20.1"
"""Storage Commitment Push Model."""

_INSTANCE = "1.2.840.10008.1.20.1.1"
_REQUEST = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS commitments (id TEXT PRIMARY KEY, send INTEGER, asked REAL, state TEXT DEFAULT 'asked')"
)
_PATIENCE = 600.0
"""Seconds after which a peer that has not answered is asked again."""

_TIMES = 5
"""How often it is asked about one result."""


@dataclass(frozen=True)
class Reported:
    """A peer's answer.

    Attributes:
        transaction: UID under which it was asked.
        failed: how many objects it does not vouch for.
    """

    transaction: str
    failed: int


class Commitments:
    """What a peer was asked to vouch for, beside the queue of what it was sent."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        base.execute(_SCHEMA)

    def due(self, peer: str, now: float) -> tuple[int, str] | None:
        """(number, folder) of the next result that was sent and that the peer is to be asked about."""
        row = self.base.execute(
            "SELECT s.id, s.folder FROM sends s WHERE s.peer=? AND s.state='sent' AND NOT EXISTS (SELECT 1 FROM commitments c WHERE "
            "c.send=s.id AND (c.state='not offered' OR c.asked>?)) AND (SELECT COUNT(*) FROM commitments c WHERE c.send=s.id)<? "
            "ORDER BY s.id LIMIT 1",
            (peer, now - _PATIENCE, _TIMES),
        ).fetchone()
        return None if row is None else (row["id"], row["folder"])

    def ask(self, send: int, files: list[Path], peer: Peer, local: Local) -> None:
        """Ask about the objects of a result.

        Raises:
            RefusedError: the peer has no such service, or will not. PeerError: it cannot be reached.
        """
        transaction = generate_uid(prefix=None)
        self.base.execute("INSERT INTO commitments (id, send, asked) VALUES (?,?,?)", (transaction, send, time.time()))
        _request(transaction, files, peer, local)

    def not_offered(self, send: int) -> None:
        """Note that the peer is not to be asked about a result again."""
        self.base.execute("UPDATE commitments SET state='not offered' WHERE send=?", (send,))

    def hear(self, reported: Reported) -> None:
        """Note an answer: the result is safe, or is sent again."""
        row = self.base.execute("SELECT send FROM commitments WHERE id=?", (reported.transaction,)).fetchone()
        if row is None:  # about something that we never asked
            return
        self.base.execute(
            "UPDATE commitments SET state=? WHERE id=?", ("failed" if reported.failed else "done", reported.transaction)
        )
        reason = f"the peer does not vouch for {reported.failed} object(s); they are sent again"
        self.base.execute(
            "UPDATE sends SET state=?, reason=? WHERE id=? AND state='sent'",
            ("waiting", reason, row["send"]) if reported.failed else ("committed", "", row["send"]),
        )

    def open(self, peer: str) -> int:
        """How many results the peer was sent and may still vouch for."""
        row = self.base.execute(
            "SELECT COUNT(*) FROM sends s WHERE s.peer=? AND s.state='sent' AND NOT EXISTS "
            "(SELECT 1 FROM commitments c WHERE c.send=s.id AND c.state='not offered')",
            (peer,),
        ).fetchone()
        return int(row[0])


def _request(transaction: str, files: list[Path], peer: Peer, local: Local) -> None:
    import pydicom
    from pynetdicom import AE

    asked = Dataset()
    asked.TransactionUID, asked.ReferencedSOPSequence = transaction, []
    for path in files:
        meta, item = pydicom.filereader.read_file_meta_info(path), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = (
            meta.MediaStorageSOPClassUID,
            meta.MediaStorageSOPInstanceUID,
        )
        asked.ReferencedSOPSequence.append(item)
    ae = AE()
    ae.add_requested_context(SERVICE)
    with warnings.catch_warnings(), associated(ae, peer, local) as association:
        warnings.simplefilter("ignore")
        status, _ = association.send_n_action(asked, _REQUEST, SERVICE, _INSTANCE)
    code = status.get("Status")
    if code != 0:
        said = "was silent" if code is None else f"answered status {code:04X}"
        raise PeerError(
            f"Found that {peer.name} {said} when it was asked to vouch for what it was sent; it is asked again later. See its log."
        )


def listener(out: Path) -> Callable[[Any], tuple[int, None]]:
    """What hears a peer's reports (N-EVENT-REPORT) for a batch, as pynetdicom calls it."""

    def heard(event: Any) -> tuple[int, None]:
        found = event.event_information
        reported = Reported(str(found.get("TransactionUID") or ""), len(found.get("FailedSOPSequence") or []))
        with closing(Journal(out)) as journal:
            Commitments(journal.base).hear(reported)
        return 0x0000, None

    return heard
