"""Server of a DICOM node that tolerates silent, slow and hostile callers: such a caller loses its connection and delays
no other.

pynetdicom does the TLS handshake in the thread that accepts connections, and reads as many bytes as a PDU claims to
have. Here both are bounded: each connection does its handshake and sends its association request in its own thread,
within the time limit. Only then does an association exist and count towards the maximum number.
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
"""Upper limit of a PDU in bytes. Our announced maximum is far smaller, and an association request with all known
contexts has a tenth.
"""

_MOST_WAITING = 128
"""Upper limit of connections without an association request; one more closes the oldest."""

_REQUEST, _DATA, _ABORT = 0x01, 0x04, 0x07
_KNOWN = range(_REQUEST, _ABORT + 1)
_HEADER = struct.Struct(">BBL")
_TITLES = slice(4, 20), slice(20, 36)
"""Positions of called and calling AE title after the header of an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""

_UNRECOGNIZED, _UNEXPECTED, _INVALID = 1, 2, 6
"""Reasons for an abort by the provider (PS3.8 table 9-26)."""

_NOT_CALLED, _NOT_CALLING = 7, 3
"""Reasons for rejecting an association (PS3.8 table 9-21)."""

_CANNOT_UNDERSTAND, _OTHER_CLASS = 0xC000, 0xA900
"""Status of C-STORE (PS3.4 B.2.3)."""

_PARTING_S = 1.0
"""Seconds that a peer gets to read the last answer before its connection is closed."""


class _UnfitError(Exception):
    """Rejection of a caller; ``args[0]`` is the encoded answer."""


def _abort(reason: int) -> bytes:
    return struct.pack(">BBLBBBB", _ABORT, 0, 4, 0, 0, 2, reason)


def _rejection(reason: int) -> bytes:
    return struct.pack(">BBLBBBB", 0x03, 0, 4, 0, 1, 1, reason)


def _receive_some(sock: socket.socket, count: int, until: float) -> bytearray:
    """Receive ``count`` bytes, all of them before ``until``; return fewer if the peer closes the connection.

    Raises:
        TimeoutError: the bytes did not arrive in time.
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
    """Receive exactly ``count`` bytes.

    Raises:
        TimeoutError: the bytes did not arrive in time. ConnectionError: the peer closed the connection.
    """
    found = _receive_some(sock, count, until)
    if len(found) < count:
        raise ConnectionError("the peer closed the connection")
    return bytes(found)


class _Socket(AssociationSocket):  # type: ignore[misc]
    """Socket with an upper limit on the length of a PDU and a time limit for receiving a whole one."""

    def __init__(self, assoc: Association, sock: socket.socket, ahead: bytes, patience: float) -> None:
        super().__init__(assoc, client_socket=sock)
        self._ahead, self._patience, self._until = bytearray(ahead), patience, 0.0

    @property
    def ready(self) -> bool:
        """True if there are bytes to read."""
        return bool(self._ahead) or bool(super().ready)

    def recv(self, nr_bytes: int) -> bytearray:
        """Receive the header of a PDU, or the rest of it; fewer bytes if the peer closes the connection."""
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
    """Handler of one connection, from its first byte on."""

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
        except (OSError, ValueError):  # silent, closed, or not TLS (ssl.SSLError is an OSError)
            _close(sock)
            return
        finally:
            self.server.leave(sock)
        self.request = sock
        super().handle()

    def _asked(self, sock: socket.socket, until: float) -> bytes:
        """Return the A-ASSOCIATE-RQ of a caller, if it is permitted to call."""
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
        made.dul.event_queue.get_nowait()  # drop the event of the socket; the replacement below reports it again
        made.dul.socket = _Socket(made, self.request, self.ahead, self.server.patience)
        made.dul.daemon = True  # so that a silent peer cannot keep the process from ending
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
    """Return the status for an object that pynetdicom would not answer, or would abort for; 0 for other objects."""
    accepted = association._accepted_cx.get(context)
    if accepted is None or asked.MessageID is None:
        return 0
    if not asked.is_valid_request:  # its UIDs are missing
        return _CANNOT_UNDERSTAND
    return 0 if asked.AffectedSOPClassUID == accepted.abstract_syntax else _OTHER_CLASS


def _refuse(association: Association, asked: C_STORE, context: int, status: int) -> None:
    """Answer a C-STORE request with a status, so that the peer can continue with other objects."""
    answer = C_STORE()
    answer.MessageID = answer.MessageIDBeingRespondedTo = asked.MessageID
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = asked.AffectedSOPClassUID, asked.AffectedSOPInstanceUID
    answer.Status = status
    association.dimse.send_msg(answer, context)


def _part(sock: socket.socket, words: bytes) -> None:
    """Send a last answer and close the connection, once the peer has read it or after a second."""
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
    """Shut down a connection while another thread waits for it; that thread then finds it closed."""
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(
                sock, socket.SHUT_RDWR
            )  # SSLSocket.shutdown would discard the TLS state that the other thread uses


class NodeServer(ThreadedAssociationServer):  # type: ignore[misc]
    """Server that accepts connections without waiting for earlier ones."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, *arguments: Any, tls: ssl.SSLContext | None, patience: float, **more: Any) -> None:
        self.tls, self.patience = tls, patience
        self._waiting: OrderedDict[socket.socket | None, None] = OrderedDict()
        self._lock = threading.Lock()
        super().__init__(*arguments, request_handler=_Handler, **more)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; its own thread reads from it."""
        made, address = self.socket.accept()
        self.enter(made)
        return made, address

    def enter(self, sock: socket.socket, former: socket.socket | None = None) -> None:
        """Register a connection without an association request, or its TLS replacement; close the oldest if there are
        too many.
        """
        with self._lock:
            self._waiting.pop(former, None)
            self._waiting[sock] = None
            oldest = self._waiting.popitem(last=False)[0] if len(self._waiting) > _MOST_WAITING else None
        if oldest is not None:
            _hang_up(oldest)

    def leave(self, sock: socket.socket) -> None:
        """Unregister a connection that sent its association request or was closed."""
        with self._lock:
            self._waiting.pop(sock, None)

    def hang_up(self) -> None:
        """Close all connections without an association request."""
        with self._lock:
            waiting = list(self._waiting)
        for sock in waiting:
            _hang_up(sock)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing, since an error's message may quote what a peer sent."""


def start_server(
    ae: AE, address: tuple[str, int], handlers: Sequence[Any], tls: ssl.SSLContext | None, patience: float
) -> NodeServer:
    """Start a server that listens in its own thread.

    Args:
        ae: titles, contexts and limits.
        address: host and port.
        handlers: handlers of pynetdicom's events.
        tls: TLS settings; None for plain associations.
        patience: seconds that a peer may be silent, or take for one PDU.

    Raises:
        OSError: the address cannot be used.
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
    """Stop listening, abort all associations, and close each connection, within a few seconds.

    Args:
        server: server from ``start_server``.
        grace: seconds that peers get to receive the abort.
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
