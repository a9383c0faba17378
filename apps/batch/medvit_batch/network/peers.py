"""Peers from which images are fetched and to which results are sent: DIMSE by ``AET@host:port``, DICOMweb by its
address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.io.dicom import dicomweb
from medvit_batch.errors import NetworkError, PeerError, RefusedError

if TYPE_CHECKING:
    import ssl

    from dicomweb_client import DICOMwebClient
    from pynetdicom import AE, Association

__all__ = ["Local", "Peer", "Tls", "associated", "parse_peer", "quiet_networking", "web_client"]

_NODE = re.compile(r"(?P<aet>[^@\\\s][^@\\]{0,15})@(?P<host>[^\s@/]+):(?P<port>[0-9]{1,5})")
_PORTS = range(1, 65536)
_ECHO_TIMEOUT = 30.0


@dataclass(frozen=True)
class Tls:
    """Files for TLS: our certificate, its key, and the trusted certificates."""

    certificate: Path | None = None
    key: Path | None = None
    trusted: Path | None = None

    def __bool__(self) -> bool:
        return self.certificate is not None or self.trusted is not None

    def context(self, server: bool) -> ssl.SSLContext | None:
        """Return an SSL context, or None if no file is given. With ``trusted``, both sides must show a certificate.

        Raises:
            NetworkError: a file cannot be used, or a server has no certificate.
        """
        if not self:
            return None
        import ssl

        if server and self.certificate is None:
            raise NetworkError(
                "--tls-trust without --tls-cert", "a node that listens needs its own certificate", "Give --tls-cert."
            )
        purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
        try:
            made = ssl.create_default_context(purpose, cafile=None if self.trusted is None else str(self.trusted))
            made.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.certificate is not None:
                made.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise NetworkError(
                f"certificates that cannot be used ({type(error).__name__}: {error})",
                "PEM files are needed",
                "Check --tls-cert, --tls-key and --tls-trust.",
            ) from error
        if self.trusted is not None:
            made.verify_mode = ssl.CERT_REQUIRED
        made.check_hostname = False if server else made.check_hostname
        return made


@dataclass(frozen=True)
class Local:
    """Local DICOM node.

    Attributes:
        aet: our application entity title.
        timeout: seconds that a peer may be silent.
        tls: files for TLS.
    """

    aet: str = "MEDVIT"
    timeout: float = _ECHO_TIMEOUT
    tls: Tls = Tls()


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Peer: a DIMSE node or a DICOMweb server.

    Attributes:
        name: address as the user wrote it; it holds no secret.
        aet, host, port: address of a DIMSE node.
        url: address of a DICOMweb server; empty for a DIMSE node.
    """

    name: str
    aet: str = ""
    host: str = ""
    port: int = 0
    url: str = ""


def parse_peer(text: str) -> Peer:
    """Parse ``AET@host:port`` or ``http(s)://...``.

    Raises:
        PeerError: the text is neither.
    """
    if text.startswith(("http://", "https://")):
        if dicomweb.names_a_password(text):
            raise PeerError(
                "a password in the address of a server, where logs would show it",
                "set MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or MEDVIT_DICOMWEB_TOKEN, instead",
            )
        return Peer(name=text, url=text.rstrip("/"))
    match = _NODE.fullmatch(text)
    if match is None or int(match["port"]) not in _PORTS:
        raise PeerError(
            f"{text!r} for a peer",
            "AET@host:port or the address of a DICOMweb server is needed",
            "Write it as PACS@10.0.0.5:104 or https://pacs/dicom-web.",
        )
    return Peer(name=text, aet=match["aet"], host=match["host"], port=int(match["port"]))


def quiet_networking() -> None:
    """Silence the logs and warnings of the network libraries, which may quote values of datasets.

    Raises:
        NetworkError: a package of the extra is not installed.
    """
    try:
        import dicomweb_client  # noqa: F401
        import pynetdicom  # noqa: F401
    except ImportError as error:
        raise NetworkError(
            f"that {error.name} is not installed",
            "DICOM over the network needs it",
            "Run pip install 'medvit[network]'.",
        ) from error
    import logging
    import warnings

    # for the whole process, since its threads would undo each other's filters
    warnings.filterwarnings("ignore", category=UserWarning, module="pydicom|pynetdicom")
    for name in ("pynetdicom", "dicomweb_client", "retrying", "urllib3", "pydicom"):
        logger = logging.getLogger(name)
        logger.propagate = False
        logger.handlers = [logging.NullHandler()]


@contextmanager
def associated(ae: AE, peer: Peer, local: Local, **more: Any) -> Iterator[Association]:
    """Open an association with a peer; release it at the end, or abort it on an error.

    Raises:
        PeerError: the peer is not reachable or refuses. RefusedError: it supports none of the services.
    """
    ae.ae_title = local.aet
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = local.timeout
    context = local.tls.context(server=False)
    if context is not None:
        more["tls_args"] = (context, peer.host)
    association = ae.associate(peer.host, peer.port, ae_title=peer.aet, **more)
    if not association.is_established and association.rejected_contexts:
        raise RefusedError(
            f"that {peer.name} supports none of the requested services",
            "a peer for these kinds of objects or queries is needed",
            "Choose another.",
        )
    if not association.is_established:
        rejected = association.is_rejected
        why = "refused the association" if rejected else "could not be reached, or broke the connection"
        step = "Check the AE titles on both sides." if rejected else "Check that it runs, its host and its port."
        raise PeerError(f"that {peer.name} {why}", f"a peer that accepts {local.aet} is needed", step)
    try:
        yield association
    except BaseException:
        association.abort()
        raise
    if association.is_established:
        association.release()


def web_client(peer: Peer, timeout: float) -> DICOMwebClient:
    """Return a DICOMweb client that takes its login from the environment and retries when a server is busy."""
    return dicomweb.web_client(peer.url, timeout)
