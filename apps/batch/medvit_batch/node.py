"""``medvit dicom listen``: a node that runs the batch on received series and sends the results on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from medvit.atomic_write import os_errors_as_output_errors
from medvit.cli.common import Terminal
from medvit_batch.commands import checked
from medvit_batch.errors import BatchError, NetworkError
from medvit_batch.execution.publish import RECEIVED, prepare
from medvit_batch.journal import Journal
from medvit_batch.network.peers import Peer, parse_peer, quiet_networking
from medvit_batch.network.send_queue import Queue, Sender
from medvit_batch.network.storage_commitment import listener
from medvit_batch.network.store_scp import Node, receiving
from medvit_batch.options import BatchOptions
from medvit_batch.watch import Pace, watch_folder

__all__ = ["Target", "drain", "inbox_of", "listen", "say_unsent", "target_of"]

_NAP = 0.1


@dataclass(frozen=True)
class Target:
    """Destination of results.

    Attributes:
        peer: peer that receives them.
        commit: True to request storage commitment.
    """

    peer: Peer
    commit: bool = False


def target_of(send_to: str | None, commit: bool) -> Target | None:
    """Return the target that ``--send-to`` and ``--commit`` name; None without ``--send-to``.

    Raises:
        PeerError: the peer's address is not valid. NetworkError: ``--commit`` without a peer, or with a DICOMweb
            server.
    """
    if send_to is None:
        if commit:
            raise NetworkError(
                "--commit without --send-to",
                "storage commitment is for objects that are sent",
                "Add --send-to, or leave it out.",
            )
        return None
    peer = parse_peer(send_to)
    if commit and peer.url:
        raise NetworkError(
            "--commit with a DICOMweb server, whose answer already lists the stored objects",
            "storage commitment is a service of DIMSE nodes",
            "Leave --commit out, or send to AET@host:port.",
        )
    return Target(peer, commit)


def listen(asked: BatchOptions, out: Path, shown: Terminal, node: Node, pace: Pace, target: Target | None) -> int:
    """Receive, run and send on until a signal; return the exit code, which is 3 if results still wait to be sent."""
    quiet_networking()
    if node.most < 1:
        raise BatchError(f"--max-associations {node.most}", "at least 1 is needed", "Correct it.")
    inbox = inbox_of(out)
    asked = replace(asked, archive=str(inbox))
    checked(asked, out)  # refuses a bundle before any peer sends objects

    @contextmanager
    def beside() -> Iterator[None]:
        with ExitStack() as open_:
            if target is not None:
                sender = Sender(out, target.peer, node.local, commit=target.commit)
                sender.start()
                open_.callback(sender.close)
            reports = listener(out) if target is not None and target.commit else None
            open_.enter_context(receiving(inbox, replace(node, reports=reports)))
            shown.say(f"Listening as {node.local.aet} on {node.host}:{node.port}.")
            yield

    code = watch_folder(asked, out, shown, pace, beside)
    left = say_unsent(out, target, shown) if target is not None else 0
    return 3 if left and not code else code


def inbox_of(out: Path) -> Path:
    """Return the folder for received images; it is as confidential as the archive they come from."""
    prepare(out)
    inbox = out / RECEIVED
    with os_errors_as_output_errors(inbox):
        inbox.mkdir(mode=0o700, exist_ok=True)
    return inbox


def say_unsent(out: Path, target: Target, shown: Terminal) -> int:
    """Print how many results were sent; return the number of those not sent or, if commitment was requested, not
    committed.
    """
    with closing(Journal(out)) as journal:
        queue = Queue(journal, out, target.peer, commit=target.commit)
        queue.fill()
        counts, open_ = queue.counts(), queue.uncommitted()
    listed = ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "none"
    shown.say(f"Results for {target.peer.name}: {listed}.")
    return counts.get("waiting", 0) + counts.get("refused", 0) + open_


def drain(out: Path, target: Target, node: Node) -> None:
    """Offer each waiting result once; with commitment, wait for answers up to the peer's timeout."""
    with ExitStack() as open_:
        queue = Queue(open_.enter_context(closing(Journal(out))), out, target.peer, commit=target.commit)
        if target.commit:
            open_.enter_context(receiving(inbox_of(out), replace(node, reports=listener(out))))
        while queue.step(node.local):
            pass
        until = time.monotonic() + node.local.timeout
        while queue.uncommitted() and time.monotonic() < until:
            time.sleep(_NAP)
