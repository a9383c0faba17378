"""The manifest of the store and the weights that it vouches for."""

from __future__ import annotations

import os
import shutil

import pytest

from medvit.bundles import bundle_folders, open_bundle
from medvit.bundles.remote import remove
from medvit.errors import BundleError, FetchError, StoreError
from medvit.user_folders import store_folder
from tests.bundles.remote.conftest import NAME
from tests.bundles.remote.fetching import edit, fetch_small, files, put


def test_remove(published, store, server):
    with pytest.raises(
        StoreError, match=f"Found no '{NAME}' in the bundle store; only fetched bundles.* It holds: nothing"
    ):
        remove(NAME)
    fetch_small()
    remove(NAME)
    assert files(store) == {"manifest.json"}
    assert open_bundle(NAME).state == "not fetched"
    with pytest.raises(StoreError, match="only fetched bundles can be removed"):
        remove("headneck_ct_swin_unetr")
    server.faults = [("break", 1000), ("reset",), ("reset",)]
    with pytest.raises(FetchError, match="1000 bytes have arrived"):
        fetch_small()
    remove(NAME)  # a download that is not wanted any more
    assert not list((store / "cache").iterdir())
    assert bundle_folders()["headneck_ct_swin_unetr"].is_dir()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2, "bundles": {}}', '{"bundles": {"x": {}}}'])
def test_a_damaged_manifest(content, published, server, store):
    fetch_small()
    (store / "manifest.json").write_text(content)
    server.asked = []
    for use in (fetch_small, open_bundle(NAME).verify, lambda: open_bundle(NAME).state, lambda: remove(NAME)):
        with pytest.raises(StoreError, match="manifest.json damaged .*Move it away and fetch its bundles again"):
            use()
    assert server.asked == []
    (store / "manifest.json").unlink()
    assert fetch_small().entry is not None


def test_an_unreadable_manifest(published, store):
    (store / "manifest.json").mkdir(parents=True)
    with pytest.raises(StoreError, match="manifest.json, which cannot be read .*; this file records the"):
        fetch_small()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(published, tmp_path):
    given = put(tmp_path, published.content)
    given.chmod(0)
    with pytest.raises(FetchError, match="no right to read .*; it is needed. Check its permissions"):
        fetch_small(given=given)


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
    edit(published.folder, lambda m: m["medvit"]["weights"]["origin"].update(origin))
    (key,) = origin
    with pytest.raises(BundleError, match=rf"Found medvit\.weights\.origin\.{key} in the metadata"):
        _ = open_bundle(NAME).facts


def test_weights_must_say_what_they_are(published):
    edit(published.folder, lambda m: m["medvit"]["weights"].pop("origin"))
    with pytest.raises(BundleError, match="a sha256 is needed, or an origin to fetch the weights from"):
        _ = open_bundle(NAME).facts


def test_weights_lying_in_the_folder_unvouched_for_are_not_used(published):
    """Without a sha256 in the metadata, only what was fetched and checked counts."""
    (published.folder / "models").mkdir()
    (published.folder / "models" / "model.safetensors").write_bytes(b"anything")
    assert open_bundle(NAME).state == "not fetched"


def test_own_weights_with_their_sha256_go_before_fetched_ones(published, tmp_path):
    bundle = fetch_small().bundle
    (published.folder / "models").mkdir()
    shutil.copy(bundle.weights, published.folder / "models")
    edit(published.folder, lambda m: m["medvit"]["weights"].update(sha256=bundle.weights_sha256))
    assert open_bundle(NAME).weights == published.folder / "models" / "model.safetensors"
    assert open_bundle(NAME).state == "trained"
