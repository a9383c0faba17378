"""Storage commitment (PS3.4 annex J): a request to a peer to confirm that it keeps the objects it was sent.

The peer answers later, on its own association to our port, so only a listening node receives the answer. Each request
is entered in the journal under its transaction UID before it is sent.
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
"""UID of the Storage Commitment Push Model SOP class."""

_INSTANCE = "1.2.840.10008.1.20.1.1"
_REQUEST = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS commitments (id TEXT PRIMARY KEY, send INTEGER, asked REAL, state TEXT DEFAULT 'asked')"
)
_PATIENCE = 600.0
"""Seconds after which a request without an answer is repeated."""

_TIMES = 5
"""Upper limit of requests for one result."""


@dataclass(frozen=True)
class Reported:
    """Answer of a peer to a storage commitment request.

    Attributes:
        transaction: transaction UID of the request.
        failed: number of objects that the peer does not commit to.
    """

    transaction: str
    failed: int


class Commitments:
    """Storage commitment requests and their state, in the journal beside the send queue."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self.base = base
        base.execute(_SCHEMA)

    def due(self, peer: str, now: float) -> tuple[int, str] | None:
        """Return (number, folder) of the next sent result for which commitment is to be requested; None if there is
        none.
        """
        row = self.base.execute(
            "SELECT s.id, s.folder FROM sends s WHERE s.peer=? AND s.state='sent' AND NOT EXISTS (SELECT 1 FROM commitments c WHERE "
            "c.send=s.id AND (c.state='not offered' OR c.asked>?)) AND (SELECT COUNT(*) FROM commitments c WHERE c.send=s.id)<? "
            "ORDER BY s.id LIMIT 1",
            (peer, now - _PATIENCE, _TIMES),
        ).fetchone()
        return None if row is None else (row["id"], row["folder"])

    def ask(self, send: int, files: list[Path], peer: Peer, local: Local) -> None:
        """Request storage commitment for the objects of a result.

        Raises:
            RefusedError: the peer has no such service, or refuses. PeerError: it is not reachable.
        """
        transaction = generate_uid(prefix=None)
        self.base.execute("INSERT INTO commitments (id, send, asked) VALUES (?,?,?)", (transaction, send, time.time()))
        _request(transaction, files, peer, local)

    def not_offered(self, send: int) -> None:
        """Record that commitment for a result is not to be requested again."""
        self.base.execute("UPDATE commitments SET state='not offered' WHERE send=?", (send,))

    def hear(self, reported: Reported) -> None:
        """Record an answer: the result is committed, or is sent again."""
        row = self.base.execute("SELECT send FROM commitments WHERE id=?", (reported.transaction,)).fetchone()
        if row is None:  # a transaction that we never started
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
        """Return the number of results that were sent to the peer and may still be committed."""
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
            f"that {peer.name} {said} to a request for storage commitment",
            "the request is repeated later",
            "See its log.",
        )


def listener(out: Path) -> Callable[[Any], tuple[int, None]]:
    """Return a handler of N-EVENT-REPORT for pynetdicom, which records a peer's answers in the journal of a batch."""

    def heard(event: Any) -> tuple[int, None]:
        found = event.event_information
        reported = Reported(str(found.get("TransactionUID") or ""), len(found.get("FailedSOPSequence") or []))
        with closing(Journal(out)) as journal:
            Commitments(journal.base).hear(reported)
        return 0x0000, None

    return heard
