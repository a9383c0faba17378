"""Send queue in the journal: results to send to a peer, kept until the peer has confirmed them.

The queue is filled from the journal itself, so a kill between publishing and queueing loses no result. If a peer is not
reachable, results wait; objects that it refuses are offered a few times and then left, with the reason.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.cli import command_line_words
from medvit_batch.errors import PeerError, RefusedError
from medvit_batch.journal import Journal
from medvit_batch.network.peers import Local, Peer, associated, web_client
from medvit_batch.network.storage_commitment import Commitments

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Queue", "Sender", "send_files"]

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS sends (id INTEGER PRIMARY KEY, folder TEXT, run_sha256 TEXT, peer TEXT, state TEXT DEFAULT 'waiting', "
    "tries INTEGER DEFAULT 0, due REAL DEFAULT 0, reason TEXT DEFAULT '', UNIQUE (folder, run_sha256, peer))"
)
_REFUSALS = 5
"""Number of times that objects which a peer refuses are offered."""

_LONGEST_PAUSE = 300.0
_WARNINGS = range(0xB000, 0xC000)
_OUT_OF_RESOURCES = range(0xA700, 0xA800)
_WARNED = 0x0001


@dataclass(frozen=True)
class _Due:
    number: int
    folder: str
    run_sha256: str
    tries: int


class Queue:
    """Queue of the results to send to one peer."""

    def __init__(self, journal: Journal, out: Path, peer: Peer, pause: float = 10.0, commit: bool = False) -> None:
        self.base, self.out, self.peer, self.pause = journal.base, out, peer, pause
        self.base.execute(_SCHEMA)
        if "seal" in {row["name"] for row in self.base.execute("PRAGMA table_info(sends)")}:
            self.base.execute(
                "ALTER TABLE sends RENAME COLUMN seal TO run_sha256"
            )  # the column's name in earlier versions
        self.commitments = Commitments(self.base) if commit else None

    def fill(self) -> None:
        """Enter each published result that is not in the queue; drop a result that was replaced before it was sent."""
        self.base.execute(
            "INSERT OR IGNORE INTO sends (folder, run_sha256, peer) SELECT folder, run_sha256, ? FROM cases WHERE state='published'",
            (self.peer.name,),
        )
        self.base.execute(
            "UPDATE sends SET state='replaced' WHERE peer=? AND state='waiting' AND NOT EXISTS "
            "(SELECT 1 FROM cases c WHERE c.folder=sends.folder AND c.run_sha256=sends.run_sha256 AND c.state='published')",
            (self.peer.name,),
        )
        self.base.execute(  # a case that was only checked again still has the same result
            "UPDATE sends SET state='waiting' WHERE peer=? AND state='replaced' AND EXISTS "
            "(SELECT 1 FROM cases c WHERE c.folder=sends.folder AND c.run_sha256=sends.run_sha256 AND c.state='published')",
            (self.peer.name,),
        )

    def due(self, now: float) -> _Due | None:
        """Return the next result to send; None if none is due."""
        row = self.base.execute(
            "SELECT * FROM sends WHERE peer=? AND state='waiting' AND due<=? ORDER BY due, id LIMIT 1",
            (self.peer.name, now),
        ).fetchone()
        return None if row is None else _Due(row["id"], row["folder"], row["run_sha256"], row["tries"])

    def counts(self) -> dict[str, int]:
        """Return the number of results by state: waiting, sent, refused ..."""
        rows = self.base.execute(
            "SELECT state, COUNT(*) AS n FROM sends WHERE peer=? GROUP BY state", (self.peer.name,)
        )
        return {row["state"]: int(row["n"]) for row in rows.fetchall()}

    def step(self, local: Local) -> bool:
        """Send one due result, or request storage commitment for one; return True if there was one."""
        self.fill()
        item = self.due(time.time())
        if item is None:
            return self._ask(local)
        files = _objects(self.out / item.folder)
        try:
            refused = send_files(files, self.peer, local) if files else ""
        except RefusedError as error:
            refused = error.sentence(command_line_words)
        except PeerError as error:  # not reachable: the result waits, and the try does not count
            self._set(item, "waiting", error.sentence(command_line_words), item.tries)
            return True
        except Exception as error:  # its message may quote a header; the other results are still sent
            refused = f"Found an unexpected error on sending ({type(error).__name__}); valid objects are needed. Check them with dciodvfy."
        if not refused:
            self._set(item, "sent", "", item.tries + 1)
        else:
            self._set(item, "waiting" if item.tries + 1 < _REFUSALS else "refused", refused, item.tries + 1)
        return True

    def _ask(self, local: Local) -> bool:
        """Request storage commitment for one sent result, if the user wants it; return True if one was due."""
        due = None if self.commitments is None else self.commitments.due(self.peer.name, time.time())
        if due is None or self.commitments is None:
            return False
        number, folder = due
        try:
            self.commitments.ask(number, _objects(self.out / folder), self.peer, local)
        except RefusedError as error:
            self.commitments.not_offered(number)
            self._say(number, error.sentence(command_line_words))
        except PeerError as error:
            self._say(number, error.sentence(command_line_words))
        return True

    def uncommitted(self) -> int:
        """Return the number of sent results that still wait for storage commitment; 0 if none is asked."""
        return 0 if self.commitments is None else self.commitments.open(self.peer.name)

    def _say(self, number: int, reason: str) -> None:
        self.base.execute("UPDATE sends SET reason=? WHERE id=?", (reason, number))

    def _set(self, item: _Due, state: str, reason: str, tries: int) -> None:
        pause = min(_LONGEST_PAUSE, self.pause * 2**tries)
        self.base.execute(
            "UPDATE sends SET state=?, reason=?, tries=?, due=? WHERE id=?",
            (state, reason, tries, time.time() + pause, item.number),
        )


def _objects(folder: Path) -> list[Path]:
    try:
        names = json.loads((folder / "run.json").read_text())["files"]
    except OSError:  # the folder was removed
        return []
    return sorted(folder / name for name in names if name.endswith(".dcm"))


def send_files(files: list[Path], peer: Peer, local: Local) -> str:
    """Send DICOM files; return the reason why one was not accepted, or "" if the peer has all.

    A file that cannot be sent, or is refused, does not stop the others.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lacking = {path: words for path in files if (words := _lacking(path))}
        sound = [path for path in files if path not in lacking]
        said = [
            f"Found {path.name} {words}, so it cannot be sent; the others were. Write it anew."
            for path, words in lacking.items()
        ]
        if sound and peer.url:
            said += _post([pydicom.dcmread(path) for path in sound], peer, local)
        elif sound:
            said += _store(sound, peer, local)
    return f"{said[0]}{f' And {len(said) - 1} more like it.' if len(said) > 1 else ''}" if said else ""


def _lacking(path: Path) -> str:
    """Return a phrase with the attributes that sending needs and the object lacks; "" if it lacks none."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
    except (pydicom.errors.InvalidDicomError, EOFError):
        return "is no DICOM file"
    names = [name for name in ("SOPClassUID", "SOPInstanceUID") if not header.get(name)]
    names += [] if header.file_meta.get("TransferSyntaxUID") else ["TransferSyntaxUID"]
    return f"without {' and '.join(names)}" if names else ""


def _store(files: list[Path], peer: Peer, local: Local) -> list[str]:
    import pydicom
    from pynetdicom import AE

    ae, said = AE(), []
    for path in files:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        ae.add_requested_context(header.SOPClassUID, header.file_meta.TransferSyntaxUID)
    with associated(ae, peer, local) as association:
        for path in files:
            try:
                status = association.send_c_store(path)
            except (ValueError, AttributeError):
                said.append(
                    f"Found that {peer.name} takes no objects such as {path.name}; send it elsewhere, or leave out its output type."
                )
                continue
            if "Status" not in status:
                raise PeerError(
                    f"that {peer.name} broke the connection or was silent for {local.timeout:g} s",
                    "it is tried again",
                    "Check the peer if this goes on.",
                )
            code = int(status.Status)
            if code and code != _WARNED and code not in _WARNINGS:
                said.append(
                    f"Found that {peer.name} refused {path.name} with status {code:04X}; see its log, then run medvit dicom listen again."
                )
            if code in _OUT_OF_RESOURCES:  # it would refuse the others as well
                break
    return said


def _post(objects: list[Dataset], peer: Peer, local: Local) -> list[str]:
    import requests

    try:
        answer: Any = web_client(peer, local.timeout).store_instances(objects)
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status in (401, 403, 409):
            return [
                f"Found that {peer.name} refused the results with HTTP {status}; see its log and the login, then try again."
            ]
        raise PeerError(f"that {peer.name} answered HTTP {status}", "it is tried again", "Check the server.") from error
    except requests.RequestException as error:
        raise PeerError(
            f"that {peer.name} cannot be reached ({type(error).__name__})", "it is tried again", "Check its address."
        ) from error
    failed = answer.get("FailedSOPSequence") or []
    return [f"Found that {peer.name} refused {len(failed)} object(s); see its log, then try again."] if failed else []


class Sender(threading.Thread):
    """Thread that sends results while a batch runs; it opens its own connection to the journal."""

    def __init__(self, out: Path, peer: Peer, local: Local, pause: float = 10.0, commit: bool = False) -> None:
        super().__init__(name="medvit-sender", daemon=True)
        self.out, self.peer, self.local, self.pause, self.commit = out, peer, local, pause, commit
        self.ended = threading.Event()

    def run(self) -> None:
        """Send due results until ``close``."""
        with closing(Journal(self.out)) as journal:
            queue = Queue(journal, self.out, self.peer, self.pause, self.commit)
            while not self.ended.is_set():
                if not queue.step(self.local):
                    self.ended.wait(0.5)

    def close(self) -> None:
        """Finish the current result; the others stay in the queue."""
        self.ended.set()
        self.join(2 * self.local.timeout)
