"""Node that receives objects: C-ECHO and C-STORE. An object is whole on the disk, under its final name, before it is
acknowledged.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.atomic_write import HIDDEN, replace_file
from medvit.errors import TooLargeError
from medvit.io.dicom.header import HeaderValues, check_deflated, read_elements, tag_of
from medvit_batch.errors import NetworkError
from medvit_batch.network.peers import Local
from medvit_batch.network.storage_commitment import SERVICE

if TYPE_CHECKING:
    from pynetdicom import AE

__all__ = ["Node", "Receiver", "keep", "receiving"]

_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_LONGEST_UID = 64
_HEAD = 4096
"""Number of bytes of a file that are parsed first; most headers fit."""
_INCOMING = f"{HIDDEN}incoming"
"""Folder of files that are still being written, within the inbox."""

_OK, _NO_SPACE, _OTHER_CLASS, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
"""Status of C-STORE (PS3.4 B.2.3)."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """Settings of a listening node.

    Attributes:
        local: our title, time limit and TLS files.
        host, port: address to listen on.
        callers: AE titles that may call; empty for all.
        most: maximum number of associations; a further one is refused and may be tried again.
        min_free_gb: free space below which no object is accepted.
        reports: handler of storage commitment reports; None if no commitment is asked.
    """

    local: Local
    host: str = "127.0.0.1"
    port: int = 11112
    callers: tuple[str, ...] = ()
    most: int = 10
    min_free_gb: float = 1.0
    reports: Callable[[Any], tuple[int, None]] | None = None


class Receiver:
    """Receiver of objects, which stores them below a folder by the UIDs of study, series and object."""

    def __init__(self, inbox: Path, node: Node) -> None:
        self.inbox, self.node = inbox, node

    def store(self, event: Any) -> int:
        """Store the object of a C-STORE request; return the status."""
        try:
            if shutil.disk_usage(self.inbox).free / 1e9 < self.node.min_free_gb:
                return _NO_SPACE
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                content = event.encoded_dataset()
                check_deflated(BytesIO(content))
                if _class_of(content) not in ("", str(event.request.AffectedSOPClassUID)):
                    return _OTHER_CLASS
                kept = keep(content, self.inbox)
        except (OSError, MemoryError, TooLargeError):
            return _NO_SPACE
        return _OK if kept else _NOT_UNDERSTOOD


def keep(content: bytes, inbox: Path) -> bool:
    """Write a DICOM file under its final name, whole or not at all; return False if its UIDs are not valid as a path.

    Raises:
        OSError: the operating system refuses.
    """
    uids = _uids(content)
    if uids is None:
        return False
    home = inbox / uids[0] / uids[1]
    home.mkdir(parents=True, exist_ok=True)
    final = home / f"{uids[2]}.dcm"
    if final.exists():
        if final.read_bytes() == content:
            return True
        # another object under the same UID: both are kept, and preflight reports them
        final = home / f"{uids[2]}-{hashlib.sha256(content).hexdigest()[:8]}.dcm"
    with replace_file(final, staged_in=inbox / _INCOMING, durable=True, private=True) as aside:
        aside.write_bytes(content)
    return True


def _texts(content: bytes, *names: str) -> list[str] | None:
    """Read UIDs from a file's header; decompress no more than the header; return None if it cannot be read."""
    stream = BytesIO(content)
    try:
        header = HeaderValues(read_elements(stream, stream.read(_HEAD), {tag_of(name): b"UI" for name in names}))
        return [header.text(name) for name in names]
    except (MemoryError, OSError):
        raise
    except Exception:  # any fault in what a peer sends affects only that object
        return None


def _class_of(content: bytes) -> str:
    """Return the SOPClassUID, or "" if the header states none."""
    return (_texts(content, "SOPClassUID") or [""])[0]


def _uids(content: bytes) -> tuple[str, str, str] | None:
    """Return the UIDs of study, series and object if they are valid UIDs, else None; no other text may become a path."""
    found = _texts(content, "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    if found is None:
        return None
    if not all(_UID.fullmatch(uid) and len(uid) <= _LONGEST_UID for uid in found):
        return None
    return found[0], found[1], found[2]


@contextmanager
def receiving(inbox: Path, node: Node) -> Iterator[Receiver]:
    """Listen while the block runs.

    Raises:
        NetworkError: the port is in use, or a title or certificate cannot be used.
    """
    from pynetdicom import evt

    from medvit_batch.network.node_server import end_server, start_server

    receiver = Receiver(inbox, node)
    handlers: list[Any] = [(evt.EVT_C_ECHO, lambda event: _OK), (evt.EVT_C_STORE, receiver.store)]
    handlers += [] if node.reports is None else [(evt.EVT_N_EVENT_REPORT, node.reports)]
    try:
        ae = _entity(node)
        tls = node.local.tls.context(server=True)
        server = start_server(ae, (node.host, node.port), handlers, tls, node.local.timeout)
    except (OSError, ValueError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(
            f"that {node.local.aet} cannot listen on {node.host}:{node.port} ({error})",
            "a free port is needed",
            "Choose another --port or --host, or end what uses it.",
        ) from error
    try:
        yield receiver
    finally:
        end_server(server)
        shutil.rmtree(inbox / _INCOMING, ignore_errors=True)


def _entity(node: Node) -> AE:
    from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
    from pynetdicom.sop_class import Verification

    ae = AE(ae_title=node.local.aet)
    ae.maximum_associations = node.most
    ae.require_called_aet = True
    ae.require_calling_aet = list(node.callers)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = node.local.timeout
    ae.add_supported_context(Verification)
    if node.reports is not None:  # the peer opens the association although it is the provider (SCP) of the service
        ae.add_supported_context(SERVICE, scu_role=True, scp_role=True)
    for context in AllStoragePresentationContexts:
        assert context.abstract_syntax is not None
        ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    return ae
