"""The server of a DICOM node: a silent, slow or hostile caller loses its own connection and delays no other caller.

pynetdicom shakes hands for TLS where it accepts connections, and reads as many bytes as a PDU says it has. Here both are bounded: every
connection is secured and says who it is in a thread of its own, within the time limit; only then does an association exist and count
against the most that there may be.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

if TYPE_CHECKING:
    from pynetdicom import AE
    from pynetdicom.association import Association

__all__ = ["NodeServer", "end_server", "start_server"]

_LONGEST_PDU = 2**20
"""Bytes of a PDU; we announce far less, and a request for an association with every context there is has a tenth."""

_MOST_WAITING = 128
"""Most connections without an association request; for a further one, the oldest is closed."""

_REQUEST, _DATA, _ABORT = 0x01, 0x04, 0x07
_KNOWN = range(_REQUEST, _ABORT + 1)
_HEADER = struct.Struct(">BBL")
_TITLES = slice(4, 20), slice(20, 36)
"""Called and calling AE title behind the header of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

_UNRECOGNIZED, _UNEXPECTED, _INVALID = 1, 2, 6
"""Reasons for an abort by the provider (PS3.8 table 9-26)."""

_NOT_CALLED, _NOT_CALLING = 7, 3
"""Reasons for rejecting an association (PS3.8 table 9-21)."""

_CANNOT_UNDERSTAND, _OTHER_CLASS = 0xC000, 0xA900
"""Status of C-STORE (PS3.4 B.2.3)."""

_PARTING_S = 1.0
"""Seconds for a last word to be read."""


class _UnfitError(Exception):
    """Rejection of a caller; ``args[0]`` is the answer it gets."""


def _abort(reason: int) -> bytes:
    return struct.pack(">BBLBBBB", _ABORT, 0, 4, 0, 0, 2, reason)


def _rejection(reason: int) -> bytes:
    return struct.pack(">BBLBBBB", 0x03, 0, 4, 0, 1, 1, reason)


def _receive_some(sock: socket.socket, count: int, until: float) -> bytearray:
    """Receive so many bytes, or fewer where the peer closes the connection, within a time limit for all of them.

    Raises:
        TimeoutError: they did not come.
    """
    found = bytearray()
    while len(found) < count:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the peer was slow")
        sock.settimeout(left)
        part = sock.recv(min(count - len(found), 2**16))
        if not part:
            break
        found += part
    return found


def _receive(sock: socket.socket, count: int, until: float) -> bytes:
    """Receive exactly so many bytes.

    Raises:
        TimeoutError: they did not come. ConnectionError: the peer closed the connection.
    """
    found = _receive_some(sock, count, until)
    if len(found) < count:
        raise ConnectionError("the peer closed the connection")
    return bytes(found)


class _Socket(AssociationSocket):  # type: ignore[misc]
    """A socket that believes no PDU to be longer than one can be, and waits for a whole one no longer than the time limit."""

    def __init__(self, assoc: Association, sock: socket.socket, ahead: bytes, patience: float) -> None:
        super().__init__(assoc, client_socket=sock)
        self._ahead, self._patience, self._until = bytearray(ahead), patience, 0.0

    @property
    def ready(self) -> bool:
        """Tell whether there is something to be read."""
        return bool(self._ahead) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive the header of a PDU or what follows it; fewer bytes where the peer closed the connection."""
        sock = self.socket
        if sock is None:
            raise ConnectionError("the connection is closed")
        if nr_bytes > _LONGEST_PDU:
            self.send(_abort(_INVALID))
            raise ConnectionError("a PDU longer than any")
        if nr_bytes == _HEADER.size:
            self._until = time.monotonic() + self._patience
        found, self._ahead = self._ahead[:nr_bytes], self._ahead[nr_bytes:]
        if len(found) < nr_bytes:
            found += _receive_some(sock, nr_bytes - len(found), self._until)
        sock.settimeout(self._patience)
        return found


class _Handler(RequestHandler):  # type: ignore[misc]
    """One connection, from its first byte on."""

    server: NodeServer
    request: socket.socket

    def handle(self) -> None:
        """Secure the connection, read the association request, and start the association, or reject the caller."""
        sock = self.request
        until = time.monotonic() + self.server.patience
        try:
            if self.server.tls is not None:
                sock = self.server.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                self.server.enter(sock, self.request)
                sock.settimeout(self.server.patience)  # for the whole handshake
                sock.do_handshake()
            self.ahead = self._asked(sock, until)
        except _UnfitError as told:
            _part(sock, told.args[0])
            return
        except (OSError, ValueError):  # silent, gone, or no TLS (ssl.SSLError is an OSError)
            _close(sock)
            return
        finally:
            self.server.leave(sock)
        self.request = sock
        super().handle()

    def _asked(self, sock: socket.socket, until: float) -> bytes:
        """Return the A-ASSOCIATE-RQ of a caller that may call us."""
        head = _receive(sock, _HEADER.size, until)
        kind, _, length = _HEADER.unpack(head)
        if kind != _REQUEST:
            raise _UnfitError(_abort(_UNEXPECTED if kind in _KNOWN else _UNRECOGNIZED))
        if not _TITLES[1].stop <= length <= _LONGEST_PDU:
            raise _UnfitError(_abort(_INVALID))
        titles = _receive(sock, _TITLES[1].stop, until)
        called, calling = (titles[part].decode("latin-1").strip(" \0") for part in _TITLES)
        ae = self.server.ae
        if ae.require_called_aet and called != self.server.ae_title.strip():
            raise _UnfitError(_rejection(_NOT_CALLED))
        if ae.require_calling_aet and calling not in [title.strip() for title in ae.require_calling_aet]:
            raise _UnfitError(_rejection(_NOT_CALLING))
        return head + titles + _receive(sock, length - len(titles), until)

    def _create_association(self) -> Association:
        made = super()._create_association()
        made.dul.event_queue.get_nowait()  # that a socket is there; the one that takes its place says so again
        made.dul.socket = _Socket(made, self.request, self.ahead, self.server.patience)
        made.dul.daemon = True  # a peer that is silent keeps nobody from ending
        serve = made._serve_request

        def served(message: Any, context: int) -> None:
            status = _unfit(made, message, context) if isinstance(message, C_STORE) else 0
            if status:
                _refuse(made, message, context, status)
            else:
                serve(message, context)

        made._serve_request = served
        return made


def _unfit(association: Association, asked: C_STORE, context: int) -> int:
    """Return the status for an object that the library would not answer for, or would abort for; 0 for others."""
    accepted = association._accepted_cx.get(context)
    if accepted is None or asked.MessageID is None:
        return 0
    if not asked.is_valid_request:  # it lacks its UIDs
        return _CANNOT_UNDERSTAND
    return 0 if asked.AffectedSOPClassUID == accepted.abstract_syntax else _OTHER_CLASS


def _refuse(association: Association, asked: C_STORE, context: int, status: int) -> None:
    """Answer a C-STORE request with a status, so that the peer can go on with others."""
    answer = C_STORE()
    answer.MessageID = answer.MessageIDBeingRespondedTo = asked.MessageID
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = asked.AffectedSOPClassUID, asked.AffectedSOPInstanceUID
    answer.Status = status
    association.dimse.send_msg(answer, context)


def _part(sock: socket.socket, words: bytes) -> None:
    """Send a last word and close, once it is read or a moment has passed."""
    with contextlib.suppress(OSError, ValueError):
        sock.settimeout(_PARTING_S)
        sock.sendall(words)
        if not isinstance(sock, ssl.SSLSocket):
            sock.shutdown(socket.SHUT_WR)
        sock.recv(1)
    _close(sock)


def _close(sock: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        sock.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        sock.close()


def _hang_up(sock: socket.socket | None) -> None:
    """End a connection that another thread waits for: it finds it closed."""
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # TLS would take its state away below the other thread


class NodeServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Accepts connections, whatever those before are doing."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any, tls: ssl.SSLContext | None, patience: float, **more: Any) -> None:
        self.tls, self.patience = tls, patience
        self._waiting: OrderedDict[socket.socket | None, None] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(*arguments, request_handler=_Handler, **more)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its requests are read in its own thread."""
        made, address = self.socket.accept()
        self.enter(made)
        return made, address

    def enter(self, sock: socket.socket, former: socket.socket | None = None) -> None:
        """Note a connection without an association request, or its replacement; close the oldest where there are too many."""
        with self._lock:
            self._waiting.pop(former, None)
            self._waiting[sock] = None
            oldest = self._waiting.popitem(last=False)[0] if len(self._waiting) > _MOST_WAITING else None
        if oldest is not None:
            _hang_up(oldest)

    def leave(self, sock: socket.socket) -> None:
        """Note that a connection sent its association request, or was closed."""
        with self._lock:
            self._waiting.pop(sock, None)

    def hang_up(self) -> None:
        """Close the connections without an association request."""
        with self._lock:
            waiting = list(self._waiting)
        for sock in waiting:
            _hang_up(sock)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: the words of an error may quote what a peer sent."""


def start_server(
    ae: AE, address: tuple[str, int], handlers: Sequence[Any], tls: ssl.SSLContext | None, patience: float
) -> NodeServer:
    """Listen, in a thread of its own.

    Args:
        ae: titles, contexts and limits.
        address: host and port.
        handlers: of pynetdicom's events.
        tls: for secured associations.
        patience: seconds that a peer may be silent, or take for one PDU.

    Raises:
        OSError: the address cannot be had.
    """
    server: NodeServer = ae.make_server(
        address, evt_handlers=list(handlers), server_class=NodeServer, tls=tls, patience=patience
    )
    ae._servers.append(server)
    threading.Thread(
        target=server.serve_forever, name="medvit-node", daemon=True, kwargs={"poll_interval": 0.2}
    ).start()
    return server


def end_server(server: NodeServer, grace: float = 2.0) -> None:
    """Listen no more, abort the associations there are, and close every connection, within a few seconds.

    Args:
        server: as ``start_server`` gave it.
        grace: seconds that peers have to hear of it.
    """
    server.shutdown()
    server.hang_up()
    running = server.active_associations
    for association in running:
        association.abort(block=False)
    until = time.monotonic() + grace
    for association in running:
        association.join(max(0.0, until - time.monotonic()))
    for association in running:
        if association.is_alive() and association.dul.socket is not None:
            association.dul.socket._shutdown_socket()
