"""Fetching as a whole: shown, agreed to, checked, placed; then the bundle runs, and nothing else ever fetches."""

from __future__ import annotations

import hashlib
import json
import threading

import nibabel as nib
import numpy as np
import pytest

import medvit
from medvit.bundles import open_bundle
from medvit.bundles.remote import FetchRequest, fetch, remove
from medvit.bundles.store import locked
from medvit.errors import BundleError, ChecksumError, FetchError
from medvit.progress import Cancelled, Progress
from tests.bands import oblique_affine, phantom
from tests.bundles.remote.conftest import BTCV, NAME, small
from tests.bundles.remote.fetching import QUICK, edit, fetch_small, files, put, yes


def test_fetch_verify_and_run(published, store, tmp_path, monkeypatch, server):
    """A bundle is fetched, verified and run; its weights give the same voxels through MONAI's own network in the twin."""
    nib.save(nib.Nifti1Image(phantom((48, 40, 36))[0], oblique_affine((3.0, 3.0, 3.0))), tmp_path / "scan.nii.gz")
    bundle = open_bundle(NAME)
    assert bundle.state == "not fetched"
    for use in (
        lambda: medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME),
        bundle.verify,
        lambda: bundle.weights_sha256,
    ):
        with pytest.raises(
            BundleError,
            match=rf"state: not fetched\).*Fetch them once: medvit\.bundles\.remote\.fetch\(FetchRequest\(name='{NAME}'\)\)",
        ):
            use()
    assert server.asked == []
    assert not store.exists()

    cards = []
    outcome = fetch_small(agree=lambda card: not cards.append(card))
    assert [c.kind for c in cards] == ["weights"]
    assert (cards[0].version, cards[0].size) == ("0.1.0", None)
    assert cards[0].licence.startswith("Apache-2.0, as MONAI's model zoo states")
    assert cards[0].intended_use == "For research use, not for diagnosis"
    assert cards[0].source == f"{server.base}/zoo/model_v1.pt"
    assert files(store) == {"manifest.json", f"weights/{NAME}/model.safetensors"}

    bundle = open_bundle(NAME)
    assert bundle.state == "fetched"
    assert bundle.verify() == bundle.weights_sha256 == outcome.entry.sha256
    assert bundle.weights == store / "weights" / NAME / "model.safetensors"
    assert not (published.folder / "models").exists()
    result = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu")
    assert result.array.shape == (48, 40, 36)
    assert len(np.unique(result.array)) > 1
    saved = result.save(tmp_path / "out")
    assert json.loads((saved.folder / "run.json").read_text())["bundle"]["weights_sha256"] == outcome.entry.sha256

    config = published.folder / "configs" / "inference.json"
    config.write_text((published.folder / "configs" / "inference_monai.json").read_text())
    twin = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu")
    assert (twin.array == result.array).mean() > 0.999


def test_what_is_installed_is_written_down(published, store):
    entry = fetch_small(agreed="--yes").entry
    content = json.loads((store / "manifest.json").read_text())
    assert content["format"] == 1
    assert content["bundles"][NAME] == entry.model_dump()
    assert entry.source.endswith("/zoo/model_v1.pt")
    assert entry.download.startswith("md5:")
    assert (entry.kind, entry.version, entry.agreed) == ("weights", "0.1.0", "--yes")
    assert hashlib.sha256((store / entry.file).read_bytes()).hexdigest() == entry.sha256


def test_what_is_there_is_not_fetched_again(published, server):
    fetch_small()
    server.asked = []
    refused = pytest.fail
    assert fetch_small(agree=lambda _: refused("asked")).entry is None
    assert server.asked == []
    assert fetch_small(overwrite=True).entry is not None
    assert len(server.asked) == 1


def test_damaged_weights_are_noticed_and_fetched_again(published, store):
    bundle = fetch_small().bundle
    content = bytearray(bundle.weights.read_bytes())
    content[-1] ^= 1
    bundle.weights.write_bytes(content)
    with pytest.raises(ChecksumError, match="they must be equal"):
        open_bundle(NAME).verify()
    assert fetch_small().entry is not None
    open_bundle(NAME).verify()
    bundle.weights.unlink()
    assert open_bundle(NAME).state == "not fetched"
    assert fetch_small().entry is not None


def test_newer_weights_in_the_metadata_make_the_old_ones_not_fetched(published):
    fetch_small()
    edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(checksum="md5:" + "0" * 32))
    assert open_bundle(NAME).state == "not fetched"
    with pytest.raises(ChecksumError, match="Found a file with md5:.*but md5:0{32} is published"):
        fetch_small()


def test_no_agreement_no_contact(published, server, store):
    with pytest.raises(FetchError, match="no agreement to the licence; it is needed, and nothing was installed"):
        fetch_small(agree=lambda _: False)
    assert server.asked == []
    assert not store.exists()


def test_broken_off_for_good_then_resumed(published, server, store):
    server.faults = [("break", 5_000_000), ("reset",), ("reset",)]
    with pytest.raises(FetchError, match="5000000 bytes have arrived and are kept"):
        fetch_small()
    assert open_bundle(NAME).state == "not fetched"
    server.asked = []
    fetch_small()
    assert server.ranges == ["bytes=5000000-"]
    assert not list((store / "cache").iterdir())


def test_the_wrong_file_installs_nothing(published, server, store):
    server.files["/zoo/model_v1.pt"] = b"another file"
    with pytest.raises(ChecksumError, match="It is damaged or another file"):
        fetch_small()
    assert files(store) == set()


def test_from_a_file(published, server, store, tmp_path):
    given = put(tmp_path, published.content)
    cards = []
    entry = fetch_small(given=given, agree=lambda card: not cards.append(card)).entry
    assert cards[0].size == len(published.content)
    assert entry.source == "local file"
    assert str(tmp_path) not in (store / "manifest.json").read_text()
    assert given.read_bytes() == published.content
    assert server.asked == []
    with pytest.raises(FetchError, match="Found no file at .*absent; given needs one"):
        fetch_small(given=tmp_path / "absent", overwrite=True)
    with pytest.raises(ChecksumError, match="is published; they must be equal"):
        fetch_small(given=put(tmp_path, b"x", "other.pt"), overwrite=True)


def test_a_mirror_stands_for_every_address(published, server, store, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("MEDVIT_MIRROR", str(mirror))
    with pytest.raises(FetchError, match="no folder at .*mirror, which MEDVIT_MIRROR names; no other place"):
        fetch_small()
    mirror.mkdir()
    with pytest.raises(FetchError, match="Found no model_v1.pt in .*mirror, which MEDVIT_MIRROR names"):
        fetch_small()
    put(mirror, published.content, published.file)
    assert fetch_small().entry.source == "mirror folder"
    assert server.asked == []
    monkeypatch.setenv("MEDVIT_MIRROR", f"{server.base}/hospital/")
    with pytest.raises(FetchError, match="127.0.0.1 has no such file"):
        fetch_small(overwrite=True)
    server.files["/hospital/model_v1.pt"] = published.content
    fetch_small(overwrite=True)
    assert {path for path, _ in server.asked} == {"/hospital/model_v1.pt"}


@pytest.mark.parametrize(
    "address", ["https://user:secret@host/x", "ftp://host/x", "file:///x", "https://host/x?token=secret"]
)
def test_mirror_addresses_that_are_refused(address, published, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", address)
    with pytest.raises(FetchError, match="MEDVIT_MIRROR that is not a plain http or https one") as caught:
        fetch_small()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a..b", "C:x", "a\\b", "x\n"])
def test_names_that_are_none(name, store):
    for call in (fetch_small, remove):
        with pytest.raises(BundleError, match="where a bundle's name is needed"):
            call(name)
    assert not store.exists()


def test_unknown_names_and_files(published, tmp_path):
    with pytest.raises(
        BundleError, match="Found no bundle named 'abdomen_ct'. Did you mean .*set MEDVIT_MIRROR, or give its zip"
    ):
        fetch_small("abdomen_ct")
    with pytest.raises(
        FetchError, match="Found given.pt, which is neither a bundle's zip nor weights that new asks for"
    ):
        fetch_small("new", given=put(tmp_path, b"x"))
    edit(
        published.folder, lambda m: m["medvit"].update(weights={"file": "models/model.safetensors", "sha256": "0" * 64})
    )
    assert open_bundle(NAME).state == "not trained"
    with pytest.raises(BundleError, match=f"Found no address for {NAME} in its metadata"):
        fetch_small()


def test_what_ships_is_there(server):
    assert fetch_small("headneck_ct_swin_unetr").entry is None


def test_two_at_once(published, server, store):
    """The second is told; what the first fetched is whole."""
    met = threading.Event()
    told: list[str] = []

    def second(stage: str, done: int, total: int) -> None:
        if not met.is_set():
            met.set()
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

    def attempt() -> None:
        try:
            fetch_small()
        except FetchError as error:
            told.append(str(error))

    from contextlib import nullcontext

    fetch(FetchRequest(NAME), yes, lambda: nullcontext(Progress(second)), QUICK)
    assert len(told) == 1
    assert f"Found another process fetching or removing {NAME}; only one may" in told[0]
    open_bundle(NAME).verify()
    with locked(NAME), pytest.raises(FetchError, match="Wait until it has finished"):
        remove(NAME)


def test_cancelling_keeps_what_has_arrived(published, server, store):
    from contextlib import nullcontext

    progress = Progress(lambda _, done, __: progress.cancel() if done > 3000 else None)
    with pytest.raises(Cancelled):
        fetch(FetchRequest(NAME), yes, lambda: nullcontext(progress), QUICK)
    (part,) = (store / "cache").glob("*.part")
    assert part.stat().st_size > 3000 << 10


def test_small_is_the_shipped_bundle(tmp_path):
    """The small bundle of these tests differs from the shipped one only in size, grid and address."""
    folder = small(tmp_path / NAME, b"", "https://host/x")
    ours, shipped = (json.loads((f / "configs/inference.json").read_text()) for f in (folder, BTCV))
    assert {k for k in shipped if ours[k] != shipped[k]} == {"network_def", "spacing_mm", "roi_size"}
