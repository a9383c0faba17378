"""Whole bundles from a file, a mirror or an address: checked before they replace another."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import pytest

import medvit
from medvit.bundles import bundle_folders, open_bundle
from medvit.bundles.remote import remove
from medvit.bundles.store import read_manifest
from medvit.errors import BundleError, ChecksumError, FetchError
from tests.bands import oblique_affine, phantom
from tests.bundles.remote.conftest import BTCV, NAME
from tests.bundles.remote.fetching import edit, fetch_small, files


@pytest.fixture
def archive(published, tmp_path) -> Path:
    """A whole bundle's zip with its checksum beside it, made from fetched weights as CONTRIBUTING.md tells."""
    bundle = fetch_small().bundle
    folder = Path(shutil.copytree(published.folder, tmp_path / "made" / "own_abdomen"))
    (folder / "models").mkdir()
    shutil.copy(bundle.weights, folder / "models")
    edit(
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
    bundle = fetch_small("own_abdomen", agree=lambda card: not cards.append(card), **options).bundle
    assert bundle.root == store / "bundles" / "own_abdomen"
    assert bundle.state == "fetched"
    assert bundle.verify() == read_manifest().bundles["own_abdomen"].sha256
    assert [c.licence for c in cards] == (["Apache-2.0"] if where != "mirror address" else [None, "Apache-2.0"])
    assert "own_abdomen" in bundle_folders()
    nib.save(nib.Nifti1Image(phantom((48, 40, 36))[0], oblique_affine((3.0, 3.0, 3.0))), tmp_path / "scan.nii.gz")
    assert medvit.segment(tmp_path / "scan.nii.gz", bundle="own_abdomen", device="cpu").array.any()
    remove("own_abdomen")
    assert "own_abdomen" not in bundle_folders()
    assert files(store) == {"manifest.json"}


def test_a_second_no_installs_nothing(archive, server, store, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", server.base)
    for path in (archive, archive.with_name(archive.name + ".sha256")):
        server.files[f"/{path.name}"] = path.read_bytes()
    with pytest.raises(FetchError, match="nothing was installed"):
        fetch_small("own_abdomen", agree=lambda card: card.licence is None)
    assert "own_abdomen" not in bundle_folders()
    server.asked = []
    fetch_small("own_abdomen")  # what had arrived is not fetched again
    assert [path for path, _ in server.asked] == ["/own_abdomen.zip.sha256"]


def test_mirror_checksums(archive, store, monkeypatch):
    monkeypatch.setenv("MEDVIT_MIRROR", str(archive.parent))
    beside = archive.with_name(archive.name + ".sha256")
    beside.write_text("0" * 64)
    with pytest.raises(ChecksumError, match="but sha256:0{64} is published"):
        fetch_small("own_abdomen")
    with pytest.raises(ChecksumError, match="but sha256:0{64} is published"):
        fetch_small("own_abdomen", given=archive)
    beside.write_text("see elsewhere")
    with pytest.raises(
        FetchError, match="no sha256 in own_abdomen.zip.sha256; its first word must be 64 hexadecimal digits"
    ):
        fetch_small("own_abdomen")
    beside.unlink()
    with pytest.raises(FetchError, match="Found no own_abdomen.zip.sha256 in"):
        fetch_small("own_abdomen")
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
        (lambda f: edit(f, lambda m: m.update(licens="x")), BundleError, "unknown key 'licens'"),
        (lambda f: edit(f, lambda m: m["medvit"]["weights"].update(file="../../manifest.json")), BundleError, "must lie in the bundle's folder"),
        (lambda f: edit(f, lambda m: m["medvit"].update(weights=json.loads((BTCV / "configs/metadata.json").read_text())["medvit"]["weights"])),
         BundleError, "no sha256 of the weights in the metadata of own_abdomen"),
    ],
    ids=["weights", "no weights", "not json", "no config", "unknown key", "file outside", "no sha256"],
)  # fmt: skip
def test_a_bundle_that_does_not_verify_leaves_the_old_one(change, kind, message, archive, store):
    fetch_small("own_abdomen", given=archive)
    before = files(store), read_manifest()
    with pytest.raises(kind, match=message):
        fetch_small("own_abdomen", given=_remade(archive, change), overwrite=True)
    assert (files(store), read_manifest()) == before
    open_bundle("own_abdomen").verify()


def test_a_program_in_a_config_never_runs(archive, store, tmp_path):
    def change(folder: Path) -> None:
        path = folder / "configs" / "inference.json"
        config = json.loads(path.read_text())
        config["imports"].append(f"$import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()")
        path.write_text(json.dumps(config))

    with pytest.raises(BundleError, match="configs can run code, and no shipped bundle has this expression"):
        fetch_small("own_abdomen", given=_remade(archive, change))
    assert not (tmp_path / "ran").exists()
    assert "own_abdomen" not in bundle_folders()


def test_a_newer_bundle_replaces_the_old_one(archive, store):
    fetch_small("own_abdomen", given=archive)
    newer = _remade(archive, lambda f: edit(f, lambda m: m.update(version="0.2.0", changelog={"0.2.0": "x"})))
    assert fetch_small("own_abdomen", given=newer).entry is None
    assert fetch_small("own_abdomen", given=newer, overwrite=True).bundle.version == "0.2.0"
    assert read_manifest().bundles["own_abdomen"].version == "0.2.0"
