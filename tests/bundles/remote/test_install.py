"""Fetching as a whole: shown, agreed to, checked, placed; then the bundle runs, and nothing else ever fetches."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import threading
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import medvit
from medvit.bundles import bundle_folders, open_bundle
from medvit.bundles.remote import FetchRequest, FetchSummary, fetch, remove
from medvit.bundles.remote.convert_checkpoint import convert
from medvit.bundles.remote.http import RetryPolicy
from medvit.bundles.store import locked, read_manifest
from medvit.errors import BundleError, ChecksumError, FetchError, StoreError
from medvit.progress import Cancelled, Progress
from medvit.user_folders import store_folder
from tests.bands import oblique_affine, phantom
from tests.bundles.remote.conftest import BTCV, NAME, small

QUICK = RetryPolicy(tries=2, wait_s=0.0, timeout_s=30.0)


def _yes(_: FetchSummary) -> bool:
    return True


def _fetch(name: str = NAME, agree=_yes, **options):
    return fetch(FetchRequest(name, **options), agree, patience=QUICK)


def _edit(folder: Path, change) -> None:
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock"}


@pytest.fixture
def archive(published, tmp_path) -> Path:
    """A whole bundle's zip with its checksum beside it, made from fetched weights as CONTRIBUTING.md tells."""
    bundle = _fetch().bundle
    folder = Path(shutil.copytree(published.folder, tmp_path / "made" / "own_abdomen"))
    (folder / "models").mkdir()
    shutil.copy(bundle.weights, folder / "models")
    _edit(
        folder,
        lambda m: m["medvit"].update(weights={"file": "models/model.safetensors", "sha256": bundle.weights_sha256}),
    )
    remove(NAME)
    return _zip(folder)


def _zip(folder: Path) -> Path:
    path = folder.parent / f"{folder.name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        for file in sorted(folder.rglob("*")):
            content.write(file, file.relative_to(folder.parent))
    path.with_name(path.name + ".sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    return path


def test_fetch_verify_and_run(published, store, tmp_path, monkeypatch, server):
    """The whole way, and the same weights give the same voxels through MONAI's own network in the twin."""
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
    outcome = _fetch(agree=lambda card: not cards.append(card))
    assert [c.kind for c in cards] == ["weights"]
    assert (cards[0].version, cards[0].size) == ("0.1.0", None)
    assert cards[0].licence.startswith("Apache-2.0, as MONAI's model zoo states")
    assert cards[0].intended_use == "For research use, not for diagnosis"
    assert cards[0].source == f"{server.base}/zoo/model_v1.pt"
    assert _files(store) == {"manifest.json", f"weights/{NAME}/model.safetensors"}

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


def test_the_merging_is_the_old_one(published, tmp_path):
    """Weights of before MONAI 1.5 give other labels in today's order, so it matters that the bundle says which."""
    nib.save(nib.Nifti1Image(phantom((48, 40, 36))[0], oblique_affine((3.0, 3.0, 3.0))), tmp_path / "scan.nii.gz")
    _fetch()
    old = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu").array
    config = published.folder / "configs" / "inference.json"
    assert '"downsample": "merging_legacy"' in config.read_text()
    config.write_text(config.read_text().replace("merging_legacy", "merging"))
    new = medvit.segment(tmp_path / "scan.nii.gz", bundle=NAME, device="cpu").array
    assert (old != new).mean() > 0.01


def test_what_is_installed_is_written_down(published, store):
    entry = _fetch(agreed="--yes").entry
    content = json.loads((store / "manifest.json").read_text())
    assert content["format"] == 1
    assert content["bundles"][NAME] == entry.model_dump()
    assert entry.source.endswith("/zoo/model_v1.pt")
    assert entry.download.startswith("md5:")
    assert (entry.kind, entry.version, entry.agreed) == ("weights", "0.1.0", "--yes")
    assert hashlib.sha256((store / entry.file).read_bytes()).hexdigest() == entry.sha256


def test_what_is_there_is_not_fetched_again(published, server):
    _fetch()
    server.asked = []
    refused = pytest.fail
    assert _fetch(agree=lambda _: refused("asked")).entry is None
    assert server.asked == []
    assert _fetch(overwrite=True).entry is not None
    assert len(server.asked) == 1


def test_damaged_weights_are_noticed_and_fetched_again(published, store):
    bundle = _fetch().bundle
    content = bytearray(bundle.weights.read_bytes())
    content[-1] ^= 1
    bundle.weights.write_bytes(content)
    with pytest.raises(ChecksumError, match="they must be equal"):
        open_bundle(NAME).verify()
    assert _fetch().entry is not None
    open_bundle(NAME).verify()
    bundle.weights.unlink()
    assert open_bundle(NAME).state == "not fetched"
    assert _fetch().entry is not None


def test_newer_weights_in_the_metadata_make_the_old_ones_not_fetched(published):
    _fetch()
    _edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(checksum="md5:" + "0" * 32))
    assert open_bundle(NAME).state == "not fetched"
    with pytest.raises(ChecksumError, match="Found a file with md5:.*but md5:0{32} is published"):
        _fetch()


def test_no_agreement_no_contact(published, server, store):
    with pytest.raises(FetchError, match="no agreement to the licence; it is needed, and nothing was installed"):
        _fetch(agree=lambda _: False)
    assert server.asked == []
    assert not store.exists()


def test_conversion_is_the_same_each_time_and_changes_no_number(published, state, tmp_path):
    from safetensors.torch import load_file

    first = _fetch().entry.sha256
    assert _fetch(overwrite=True).entry.sha256 == first
    stored = load_file(open_bundle(NAME).weights)
    learnt = {k for k in state if not k.endswith("relative_position_index")}
    assert stored.keys() == learnt
    assert all(torch.equal(stored[k], state[k]) for k in learnt)


@pytest.mark.parametrize(
    "wrap",
    [lambda s: s, lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "best_acc": 0.8}],
    ids=["plain", "data parallel"],
)
def test_the_layouts_in_which_such_weights_are_published(wrap, state, published, tmp_path):
    torch.save(wrap(state), tmp_path / "other.pt")
    convert(open_bundle(NAME), tmp_path / "other.pt", tmp_path / "other.safetensors")
    convert(open_bundle(NAME), _put(tmp_path, published.content), tmp_path / "zoo.safetensors")
    assert (tmp_path / "other.safetensors").read_bytes() == (tmp_path / "zoo.safetensors").read_bytes()


def _put(folder: Path, content: bytes, name: str = "given.pt") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def test_the_shipped_bundle_takes_the_published_sizes(tmp_path):
    """Feature size 48, as the zoo's checkpoint has: names and shapes of MONAI's network of that size, strictly."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(1, 14, feature_size=48)
    assert sum(p.numel() for p in network.parameters()) == 62_187_296
    torch.save({"model": network.state_dict()}, tmp_path / "model.pt")
    convert(open_bundle(BTCV), tmp_path / "model.pt", tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").stat().st_size > 4 * 62_187_296


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("out.conv.conv.bias"), "1 tensors do not fit, the first is out.conv.conv.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "1 tensors do not fit, the first is extra"),
        (lambda s: s.update({"out.conv.conv.bias": torch.zeros(13)}), "1 tensors do not fit, the first is out.conv.conv.bias"),
        (lambda s: s["swinViT.layers1.0.blocks.0.attn.relative_position_index"].add_(1), "1 tensors do not fit, the first is swinViT"),
        (lambda s: s["out.conv.conv.bias"].fill_(float("nan")), "numbers that are not finite in given.pt, first in out.conv.conv.bias"),
        (lambda s: s.clear(), "no table of tensors in given.pt"),
        (lambda s: s.update(epoch=3), "no table of tensors in given.pt"),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change, message, state, published, tmp_path):
    changed = {k: v.clone() for k, v in state.items()}
    change(changed)
    torch.save({"model": changed}, tmp_path / "given.pt")
    with pytest.raises(BundleError, match=message):
        convert(open_bundle(NAME), tmp_path / "given.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain"])
def test_a_pickle_that_would_run_code_never_does(kind, published, tmp_path, server, store):
    """Even one that the metadata vouch for."""
    witness = tmp_path / "ran"

    class Attack:
        def __reduce__(self):
            return (Path.touch, (witness,))

    path = tmp_path / "evil.pt"
    if kind == "plain":
        path.write_bytes(pickle.dumps({"model": Attack()}))
    else:
        torch.save({"model": Attack()}, path, _use_new_zipfile_serialization=kind == "zip")
    server.files["/zoo/model_v1.pt"] = content = path.read_bytes()
    _vouch(published.folder, content)
    with pytest.raises(
        BundleError, match="more than tensors in model_v1.pt: reading it all would run code, .* nothing in it was run"
    ):
        _fetch()
    assert not witness.exists()
    assert "manifest.json" not in _files(store)
    assert open_bundle(NAME).state == "not fetched"


def _vouch(folder: Path, content: bytes) -> None:
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    _edit(folder, lambda m: m["medvit"]["weights"]["origin"].update(checksum=f"md5:{md5}"))


def test_what_is_no_checkpoint_at_all(published, server):
    for content, message in (
        (b"nothing of the kind", "or it is no checkpoint"),
        (b"PK\3\4 cut", "is not a readable torch file"),
    ):
        server.files["/zoo/model_v1.pt"] = content
        _vouch(published.folder, content)
        with pytest.raises(BundleError, match=message):
            _fetch()


def test_published_safetensors_are_checked_the_same(state, published, server):
    from safetensors.torch import save

    learnt = {k: v for k, v in state.items() if not k.endswith("relative_position_index")}
    server.files["/zoo/model_v1.pt"] = content = save(learnt)
    _vouch(published.folder, content)
    _edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(format="safetensors"))
    assert _fetch().bundle.verify() == hashlib.sha256(content).hexdigest()


def test_broken_off_for_good_then_resumed(published, server, store):
    server.faults = [("break", 5_000_000), ("reset",), ("reset",)]
    with pytest.raises(FetchError, match="5000000 bytes have arrived and are kept"):
        _fetch()
    assert open_bundle(NAME).state == "not fetched"
    server.asked = []
    _fetch()
    assert server.ranges == ["bytes=5000000-"]
    assert not list((store / "cache").iterdir())


def test_the_wrong_file_installs_nothing(published, server, store):
    server.files["/zoo/model_v1.pt"] = b"another file"
    with pytest.raises(ChecksumError, match="It is damaged or another file"):
        _fetch()
    assert _files(store) == set()


def test_from_a_file(published, server, store, tmp_path):
    given = _put(tmp_path, published.content)
    cards = []
    entry = _fetch(given=given, agree=lambda card: not cards.append(card)).entry
    assert cards[0].size == len(published.content)
    assert entry.source == "local file"
    assert str(tmp_path) not in (store / "manifest.json").read_text()
    assert given.read_bytes() == published.content
    assert server.asked == []
    with pytest.raises(FetchError, match="Found no file at .*absent; given needs one"):
        _fetch(given=tmp_path / "absent", overwrite=True)
    with pytest.raises(ChecksumError, match="is published; they must be equal"):
        _fetch(given=_put(tmp_path, b"x", "other.pt"), overwrite=True)


def test_a_mirror_stands_for_every_address(published, server, store, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    monkeypatch.setenv("MEDVIT_MIRROR", str(mirror))
    with pytest.raises(FetchError, match="no folder at .*mirror, which MEDVIT_MIRROR names; nothing else is asked"):
        _fetch()
    mirror.mkdir()
    with pytest.raises(FetchError, match="Found no model_v1.pt in .*mirror, which MEDVIT_MIRROR names"):
        _fetch()
    _put(mirror, published.content, published.file)
    assert _fetch().entry.source == "mirror folder"
    assert server.asked == []
    monkeypatch.setenv("MEDVIT_MIRROR", f"{server.base}/hospital/")
    with pytest.raises(FetchError, match="127.0.0.1 has no such file"):
        _fetch(overwrite=True)
    server.files["/hospital/model_v1.pt"] = published.content
    _fetch(overwrite=True)
    assert {path for path, _ in server.asked} == {"/hospital/model_v1.pt"}


@pytest.mark.parametrize(
    "address", ["https://user:secret@host/x", "ftp://host/x", "file:///x", "https://host/x?token=secret"]
)
def test_mirror_addresses_that_are_refused(address, published, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", address)
    with pytest.raises(FetchError, match="MEDVIT_MIRROR that is not a plain http or https one") as caught:
        _fetch()
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("where", ["given", "mirror folder", "mirror address"])
def test_a_whole_bundle(where, archive, server, store, tmp_path, monkeypatch):
    cards, options = [], {}
    if where == "given":
        options = {"given": archive}
    elif where == "mirror folder":
        monkeypatch.setenv("MEDVIT_MIRROR", str(archive.parent))
    else:
        monkeypatch.setenv("MEDVIT_MIRROR", server.base)
        for path in (archive, archive.with_name(archive.name + ".sha256")):
            server.files[f"/{path.name}"] = path.read_bytes()
    bundle = _fetch("own_abdomen", agree=lambda card: not cards.append(card), **options).bundle
    assert bundle.root == store / "bundles" / "own_abdomen"
    assert bundle.state == "fetched"
    assert bundle.verify() == read_manifest().bundles["own_abdomen"].sha256
    assert [c.licence for c in cards] == (["Apache-2.0"] if where != "mirror address" else [None, "Apache-2.0"])
    assert "own_abdomen" in bundle_folders()
    nib.save(nib.Nifti1Image(phantom((48, 40, 36))[0], oblique_affine((3.0, 3.0, 3.0))), tmp_path / "scan.nii.gz")
    assert medvit.segment(tmp_path / "scan.nii.gz", bundle="own_abdomen", device="cpu").array.any()
    remove("own_abdomen")
    assert "own_abdomen" not in bundle_folders()
    assert _files(store) == {"manifest.json"}


def test_a_second_no_installs_nothing(archive, server, store, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", server.base)
    for path in (archive, archive.with_name(archive.name + ".sha256")):
        server.files[f"/{path.name}"] = path.read_bytes()
    with pytest.raises(FetchError, match="nothing was installed"):
        _fetch("own_abdomen", agree=lambda card: card.licence is None)
    assert "own_abdomen" not in bundle_folders()
    server.asked = []
    _fetch("own_abdomen")  # what had arrived is not fetched again
    assert [path for path, _ in server.asked] == ["/own_abdomen.zip.sha256"]


def test_mirror_checksums(archive, store, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", str(archive.parent))
    beside = archive.with_name(archive.name + ".sha256")
    beside.write_text("0" * 64)
    with pytest.raises(ChecksumError, match="but sha256:0{64} is published"):
        _fetch("own_abdomen")
    with pytest.raises(ChecksumError, match="but sha256:0{64} is published"):
        _fetch("own_abdomen", given=archive)
    beside.write_text("see elsewhere")
    with pytest.raises(
        FetchError, match="no sha256 in own_abdomen.zip.sha256; its first word must be 64 hexadecimal digits"
    ):
        _fetch("own_abdomen")
    beside.unlink()
    with pytest.raises(FetchError, match="Found no own_abdomen.zip.sha256 in"):
        _fetch("own_abdomen")
    assert "own_abdomen" not in bundle_folders()


def _remade(archive: Path, change) -> Path:
    folder = archive.parent / "own_abdomen"
    change(folder)
    return _zip(folder)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda f: (f / "models/model.safetensors").write_bytes(b"x"), ChecksumError, "is recorded in the bundle's metadata"),
        (lambda f: (f / "models/model.safetensors").unlink(), BundleError, "Found no weights for own_abdomen"),
        (lambda f: (f / "configs/inference.json").write_text("{"), BundleError, "inference.json of own_abdomen, which is not JSON"),
        (lambda f: (f / "configs/inference.json").unlink(), BundleError, "no readable inference.json in own_abdomen"),
        (lambda f: _edit(f, lambda m: m.update(licens="x")), BundleError, "unknown key 'licens'"),
        (lambda f: _edit(f, lambda m: m["medvit"]["weights"].update(file="../../manifest.json")), BundleError, "must lie in the bundle's folder"),
        (lambda f: _edit(f, lambda m: m["medvit"].update(weights=json.loads((BTCV / "configs/metadata.json").read_text())["medvit"]["weights"])),
         BundleError, "no sha256 of the weights in the metadata of own_abdomen"),
    ],
    ids=["weights", "no weights", "not json", "no config", "unknown key", "file outside", "no sha256"],
)  # fmt: skip
def test_a_bundle_that_does_not_verify_leaves_the_old_one(change, kind, message, archive, store):
    _fetch("own_abdomen", given=archive)
    before = _files(store), read_manifest()
    with pytest.raises(kind, match=message):
        _fetch("own_abdomen", given=_remade(archive, change), overwrite=True)
    assert (_files(store), read_manifest()) == before
    open_bundle("own_abdomen").verify()


def test_a_program_in_a_config_never_runs(archive, store, tmp_path):
    def change(folder: Path) -> None:
        path = folder / "configs" / "inference.json"
        config = json.loads(path.read_text())
        config["imports"].append(f"$import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
        path.write_text(json.dumps(config))

    with pytest.raises(BundleError, match="configs run as programs, and no shipped bundle has these words"):
        _fetch("own_abdomen", given=_remade(archive, change))
    assert not (tmp_path / "ran").exists()
    assert "own_abdomen" not in bundle_folders()


def test_a_newer_bundle_replaces_the_old_one(archive, store):
    _fetch("own_abdomen", given=archive)
    newer = _remade(archive, lambda f: _edit(f, lambda m: m.update(version="0.2.0", changelog={"0.2.0": "x"})))
    assert _fetch("own_abdomen", given=newer).entry is None
    assert _fetch("own_abdomen", given=newer, overwrite=True).bundle.version == "0.2.0"
    assert read_manifest().bundles["own_abdomen"].version == "0.2.0"


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a..b", "C:x", "a\\b", "x\n"])
def test_names_that_are_none(name, store):
    for call in (_fetch, remove):
        with pytest.raises(BundleError, match="where a bundle's name is needed"):
            call(name)
    assert not store.exists()


def test_unknown_names_and_files(published, tmp_path):
    with pytest.raises(
        BundleError, match="Found no bundle named 'abdomen_ct'. Did you mean .*set MEDVIT_MIRROR, or give its zip"
    ):
        _fetch("abdomen_ct")
    with pytest.raises(
        FetchError, match="Found given.pt, which is neither a bundle's zip nor weights that new asks for"
    ):
        _fetch("new", given=_put(tmp_path, b"x"))
    _edit(
        published.folder, lambda m: m["medvit"].update(weights={"file": "models/model.safetensors", "sha256": "0" * 64})
    )
    assert open_bundle(NAME).state == "not trained"
    with pytest.raises(BundleError, match=f"Found no address for {NAME} in its metadata"):
        _fetch()


def test_what_ships_is_there(server):
    assert _fetch("headneck_ct_swin_unetr").entry is None


def test_remove(published, store, server):
    with pytest.raises(
        StoreError, match=f"Found no '{NAME}' in the bundle store; only what was fetched.* It holds: nothing"
    ):
        remove(NAME)
    _fetch()
    remove(NAME)
    assert _files(store) == {"manifest.json"}
    assert open_bundle(NAME).state == "not fetched"
    with pytest.raises(StoreError, match="only what was fetched can be removed"):
        remove("headneck_ct_swin_unetr")
    server.faults = [("break", 1000), ("reset",), ("reset",)]
    with pytest.raises(FetchError, match="1000 bytes have arrived"):
        _fetch()
    remove(NAME)  # a download that is not wanted any more
    assert not list((store / "cache").iterdir())
    assert bundle_folders()["headneck_ct_swin_unetr"].is_dir()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "bundles": {}}', '{"bundles": {"x": {}}}'])
def test_a_damaged_manifest(content, published, server, store):
    _fetch()
    (store / "manifest.json").write_text(content)
    server.asked = []
    for use in (_fetch, open_bundle(NAME).verify, lambda: open_bundle(NAME).state, lambda: remove(NAME)):
        with pytest.raises(StoreError, match="manifest.json damaged .*Move it away and fetch its bundles again"):
            use()
    assert server.asked == []
    (store / "manifest.json").unlink()
    assert _fetch().entry is not None


def test_an_unreadable_manifest(published, store):
    (store / "manifest.json").mkdir(parents=True)
    with pytest.raises(StoreError, match="manifest.json, which cannot be read .*; it says which weights are right"):
        _fetch()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(published, tmp_path):
    given = _put(tmp_path, published.content)
    given.chmod(0)
    with pytest.raises(FetchError, match="which may not be read; it must be. Check its permissions"):
        _fetch(given=given)


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
            _fetch()
        except FetchError as error:
            told.append(str(error))

    from contextlib import nullcontext

    fetch(FetchRequest(NAME), _yes, lambda: nullcontext(Progress(second)), QUICK)
    assert len(told) == 1
    assert f"Found another process fetching or removing {NAME}; only one may" in told[0]
    open_bundle(NAME).verify()
    with locked(NAME), pytest.raises(FetchError, match="Wait until it has finished"):
        remove(NAME)


def test_cancelling_keeps_what_has_arrived(published, server, store):
    from contextlib import nullcontext

    progress = Progress(lambda _, done, __: progress.cancel() if done > 3000 else None)
    with pytest.raises(Cancelled):
        fetch(FetchRequest(NAME), _yes, lambda: nullcontext(progress), QUICK)
    (part,) = (store / "cache").glob("*.part")
    assert part.stat().st_size > 3000 << 10


def test_where_the_store_lies(monkeypatch, tmp_path):
    assert store_folder() == tmp_path / "home"
    monkeypatch.delenv("MEDVIT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert store_folder() == tmp_path / "data" / "medvit"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_folder() == tmp_path / ".local" / "share" / "medvit"
    monkeypatch.setenv("MEDVIT_HOME", "~/mine")
    assert store_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    "origin",
    [
        {"address": "ftp://host/x"},
        {"address": "https://user:secret@host/x"},
        {"address": "https://host/"},
        {"checksum": "md5:xyz"},
        {"checksum": "crc32:00000000"},
        {"size": 0},
        {"format": "pickle"},
    ],
)
def test_origins_that_are_refused(origin, published):
    _edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(origin))
    (key,) = origin
    with pytest.raises(BundleError, match=rf"Found medvit\.weights\.origin\.{key} in the metadata"):
        _ = open_bundle(NAME).facts


def test_weights_must_say_what_they_are(published):
    _edit(published.folder, lambda m: m["medvit"]["weights"].pop("origin"))
    with pytest.raises(BundleError, match="a sha256 is needed, or an origin to fetch the weights from"):
        _ = open_bundle(NAME).facts


def test_weights_lying_in_the_folder_unvouched_for_are_not_used(published):
    """Without a sha256 in the metadata, only what was fetched and checked counts."""
    (published.folder / "models").mkdir()
    (published.folder / "models" / "model.safetensors").write_bytes(b"anything")
    assert open_bundle(NAME).state == "not fetched"


def test_own_weights_with_their_sha256_go_before_fetched_ones(published, tmp_path):
    bundle = _fetch().bundle
    (published.folder / "models").mkdir()
    shutil.copy(bundle.weights, published.folder / "models")
    _edit(published.folder, lambda m: m["medvit"]["weights"].update(sha256=bundle.weights_sha256))
    assert open_bundle(NAME).weights == published.folder / "models" / "model.safetensors"
    assert open_bundle(NAME).state == "trained"


def test_small_is_the_shipped_bundle(tmp_path):
    """What these tests run differs from what ships in size, grid and address alone."""
    folder = small(tmp_path / NAME, b"", "https://host/x")
    ours, shipped = (json.loads((f / "configs/inference.json").read_text()) for f in (folder, BTCV))
    assert {k for k in shipped if ours[k] != shipped[k]} == {"network_def", "spacing_mm", "roi_size"}
