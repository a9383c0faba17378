"""``medvit dicom query``: series of a PACS, found by C-FIND or QIDO-RS, fetched by C-GET, C-MOVE or WADO-RS."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom import Dataset
from pydicom.datadict import keyword_dict

from medvit.atomic_write import HIDDEN
from medvit.io.dicom import web_words
from medvit_batch.errors import NetworkError, PeerError
from medvit_batch.network.peers import Local, Peer, associated, web_client
from medvit_batch.network.store_scp import Node, Receiver, keep, receiving

if TYPE_CHECKING:
    from pynetdicom import AE

__all__ = ["Fetched", "Found", "fetch", "find", "parse_keys"]

_OF_SERIES = {
    "Modality", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "SeriesDate", "BodyPartExamined", "ProtocolName",
    "PerformedProcedureStepStartDate",
}  # fmt: skip
_PENDING = (0xFF00, 0xFF01)

_IN_A_ROW = 3
"""Number of series in a row that cannot be fetched, after which a query gives up."""


@dataclass(frozen=True)
class Found:
    """A series of a peer; ``objects`` is 0 if the peer does not state a number."""

    study: str
    series: str
    modality: str
    objects: int


def parse_keys(texts: list[str]) -> dict[str, str]:
    """Parse the ``Keyword=value`` pairs of a query; values may hold wildcards and ranges.

    Raises:
        NetworkError: a text is not a pair, or its keyword is unknown.
    """
    keys = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name not in keyword_dict:
            raise NetworkError(
                f"key {name!r}",
                "Keyword=value with a keyword of DICOM's dictionary is needed",
                "Write for example -k Modality=CT -k StudyDate=20260101-20260131.",
            )
        keys[name] = value
    return keys


def find(peer: Peer, keys: dict[str, str], local: Local) -> list[Found]:
    """Return each series that matches the keys. C-FIND first asks for studies, then for their series, as a strict PACS
    requires.

    Raises:
        PeerError: the peer is not reachable, or the query failed.
    """
    of_series = {name: value for name, value in keys.items() if name in _OF_SERIES}
    of_study = {name: value for name, value in keys.items() if name not in _OF_SERIES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _qido(peer, keys, local) if peer.url else _c_find(peer, of_study, of_series, local)
    return sorted(set(found), key=lambda item: (item.study, item.series))


def _c_find(peer: Peer, of_study: dict[str, str], of_series: dict[str, str], local: Local) -> list[Found]:
    from pynetdicom import AE
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Model

    ae = AE()
    ae.add_requested_context(Model)
    found = []
    with associated(ae, peer, local) as association:
        studies = list(
            _ask(association, Model, peer, {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "", **of_study})
        )
        for study in {str(item.get("StudyInstanceUID") or "") for item in studies} - {""}:
            asked = {
                "QueryRetrieveLevel": "SERIES", "SeriesInstanceUID": "", "Modality": "", "NumberOfSeriesRelatedInstances": "",
                **of_series, "StudyInstanceUID": study,
            }  # fmt: skip
            for item in _ask(association, Model, peer, asked):
                found.append(_found(study, item))
    return found


def _found(study: str, item: Dataset) -> Found:
    number = str(item.get("NumberOfSeriesRelatedInstances") or "0")
    series, modality = str(item.get("SeriesInstanceUID") or ""), str(item.get("Modality") or "")
    return Found(study, series, modality, int(number) if number.isdigit() else 0)


def _ask(association: Any, model: Any, peer: Peer, asked: dict[str, str]) -> Iterator[Dataset]:
    query = Dataset()
    for name, value in asked.items():
        setattr(query, name, value)
    for status, item in association.send_c_find(query, model):
        code = status.get("Status")
        if code in _PENDING and item is not None:
            yield item
        elif code != 0:
            said = "was silent" if code is None else f"answered status {code:04X}"
            raise PeerError(f"that {peer.name} {said} when it was asked for series", "see its log, and check the keys")


def _qido(peer: Peer, keys: dict[str, str], local: Local) -> list[Found]:
    import requests

    fields = ["NumberOfSeriesRelatedInstances"]
    try:
        rows = web_client(peer, local.timeout).search_for_series(search_filters=keys, fields=fields, get_remaining=True)
    except requests.RequestException as error:
        raise PeerError(web_words(peer.name, error)) from error
    items = [Dataset.from_json(row) for row in rows]
    return [_found(str(item.get("StudyInstanceUID") or ""), item) for item in items]


@dataclass(frozen=True)
class Fetched:
    """Outcome for a series: the number of its objects in the folder, or the error for which it could not be fetched."""

    item: Found
    objects: int
    error: PeerError | None = None


def fetch(peer: Peer, series: list[Found], inbox: Path, node: Node, move: bool) -> Iterator[Fetched]:
    """Fetch series into a folder; yield the outcome of each.

    A series that did not come completely is set aside under a hidden name, so that no batch runs on a part of it, and
    the next one is fetched.

    Raises:
        PeerError: several series in a row could not be fetched.
    """
    receiver, in_a_row = Receiver(inbox, node), 0
    with receiving(inbox, node) if move and not peer.url else nullcontext():
        for item in series:
            home = inbox / item.study / item.series
            try:
                if peer.url:
                    _wado(peer, item, inbox, node.local)
                elif move:
                    _c_move(peer, item, node.local)
                else:
                    _c_get(peer, item, receiver, node.local)
                done = Fetched(item, _whole(peer, item, home))
            except PeerError as error:
                _set_aside(home)
                in_a_row += 1
                if in_a_row == min(_IN_A_ROW, len(series)):
                    raise
                done = Fetched(item, 0, error)
            else:
                in_a_row = 0
            yield done


def _set_aside(home: Path) -> None:
    """Hide what came of a series; a folder that was hidden before is replaced."""
    if home.is_dir():
        hidden = home.with_name(f"{HIDDEN}incomplete-{home.name}")
        shutil.rmtree(hidden, ignore_errors=True)
        home.rename(hidden)


def _whole(peer: Peer, item: Found, home: Path) -> int:
    count = sum(1 for _ in home.glob("*.dcm")) if home.is_dir() else 0
    if count < max(1, item.objects):
        raise PeerError(
            f"{count} of {item.objects or 'the'} objects of series {item.series} after the transfer from {peer.name}",
            "the whole series is needed",
            "See the peer's log, or try --move.",
        )
    return count


def _request(item: Found) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel, asked.StudyInstanceUID, asked.SeriesInstanceUID = "SERIES", item.study, item.series
    return asked


def _c_get(peer: Peer, item: Found, receiver: Receiver, local: Local) -> None:
    from pynetdicom import AE, StoragePresentationContexts, build_role, evt
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Model

    ae: AE = AE()
    ae.add_requested_context(Model)
    roles = []
    for context in StoragePresentationContexts:
        uid = context.abstract_syntax
        assert uid is not None
        ae.add_requested_context(uid)
        roles.append(build_role(uid, scp_role=True))
    handlers = [(evt.EVT_C_STORE, receiver.store)]
    with associated(ae, peer, local, ext_neg=roles, evt_handlers=handlers) as association:
        _through(association.send_c_get(_request(item), Model), peer)


def _c_move(peer: Peer, item: Found, local: Local) -> None:
    from pynetdicom import AE
    from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as Model

    ae = AE()
    ae.add_requested_context(Model)
    with associated(ae, peer, local) as association:
        _through(association.send_c_move(_request(item), local.aet, Model), peer)


def _through(answers: Any, peer: Peer) -> None:
    for status, _ in answers:
        code = status.get("Status")
        if code is None:
            raise PeerError(f"that {peer.name} broke the connection while it sent", "give the same command again")
        if code not in (*_PENDING, 0):
            raise PeerError(
                f"that {peer.name} ended the retrieval with status {code:04X}",
                "see its log, and check that it knows our AE title",
            )


def _wado(peer: Peer, item: Found, inbox: Path, local: Local) -> None:
    import requests

    client = web_client(peer, local.timeout)
    try:
        for found in client.iter_series(item.study, item.series, media_types=(("application/dicom", "*"),)):
            keep(_packed(found), inbox)
    except requests.RequestException as error:
        raise PeerError(web_words(peer.name, error)) from error


def _packed(found: Dataset) -> bytes:
    """Encode an object as a DICOM file; one without UIDs is encoded as it is, so that later objects are still received."""
    packed = BytesIO()
    try:
        pydicom.dcmwrite(packed, found, enforce_file_format=True)
    except (AttributeError, ValueError):
        packed = BytesIO()
        found.preamble = bytes(128)
        pydicom.dcmwrite(packed, found)
    return packed.getvalue()
