"""A bundle's zip may come from anywhere; nothing leaves its folder, nothing is half installed."""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from medvit.bundles.remote import archive as module
from medvit.bundles.remote.archive import is_bundle_archive, read_metadata, unpack
from medvit.bundles.remote.config_allowlist import check_configs
from medvit.errors import BundleError, FetchError
from medvit.progress import Cancelled, Progress
from tests.bundles.remote.conftest import BTCV

MARK = "configs/metadata.json"


def _zip(path: Path, entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def _info(name: str, mode: int = 0) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = info.orig_filename = name
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize("top", ["", "liver/"])
def test_files_at_the_top_or_in_one_folder(top, tmp_path):
    path = _zip(
        tmp_path / "a.zip", [(top + MARK, b'{"version": "1"}'), (top + "LICENSE", b"x"), (top + "docs/a/b.md", b"y")]
    )
    assert is_bundle_archive(path)
    assert read_metadata(path, "liver") == {"version": "1"}
    unpack(path, tmp_path / "out", "liver", Progress())
    found = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {MARK, "LICENSE", "docs/a/b.md"}


BAD = [
    ("../evil.json", "the path"),
    ("configs/../../evil.json", "the path"),
    ("a/./b.json", "the path"),
    ("a//b.json", "the path"),
    ("trailing. /b.json", "the path"),
    ("dot./b.json", "the path"),
    ("/etc/evil.json", "the absolute or foreign path"),
    ("//server/evil.json", "the absolute or foreign path"),
    ("..\\evil.json", "the absolute or foreign path"),
    ("C:evil.json", "the absolute or foreign path"),
    ("C:/evil.json", "the absolute or foreign path"),
    ("a.json:stream", "the absolute or foreign path"),
    ("evil.json\x00.md", "the name"),
    ("ev\nil.json", "the name"),
    ("docs/aux.md", "a name that Windows keeps for a device"),
    ("LPT1/x.json", "a name that Windows keeps for a device"),
    ("models/model.pt", "a kind of file that no bundle needs"),
    ("scripts/run.py", "a kind of file that no bundle needs"),
    ("docs/x.so", "a kind of file that no bundle needs"),
    (".bashrc", "a kind of file that no bundle needs"),
]


@pytest.mark.parametrize(("name", "reason"), BAD, ids=[ascii(n) for n, _ in BAD])
def test_names_that_leave_the_folder_or_do_not_belong(name, reason, tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), (_info(name), b"evil")])
    with pytest.raises(FetchError, match=f"Found .*{reason}.*nothing was installed"):
        unpack(path, tmp_path / "deep" / "out", "liver", Progress())
    assert [p.name for p in tmp_path.rglob("*")] == ["a.zip"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices(kind, tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), (_info("docs/link.md", kind | 0o777), b"/etc/passwd")])
    with pytest.raises(FetchError, match="'docs/link.md', which is a link or a device"):
        unpack(path, tmp_path / "out", "liver", Progress())
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a.json", "A.json", "\uff41.json"], ids=["same", "case", "width"])
def test_names_that_are_one_file_somewhere(second, tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("a.json", b"1"), (second, b"2")])
    with pytest.raises(FetchError, match="json' twice in the bundle's archive"):
        unpack(path, tmp_path / "out", "liver", Progress())


def test_a_file_that_is_also_a_folder(tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("LICENSE", b"1"), ("LICENSE/a.json", b"2")])
    with pytest.raises(FetchError, match="'LICENSE' as a file and as a folder"):
        unpack(path, tmp_path / "out", "liver", Progress())


def test_bombs(tmp_path, monkeypatch):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("a.txt", bytes(8 << 20))])
    with pytest.raises(FetchError, match="an entry that unpacks to [0-9]+ times its size"):
        unpack(path, tmp_path / "out", "liver", Progress())
    many = _zip(tmp_path / "b.zip", [(MARK, b"{}"), *((f"{n}.txt", b"") for n in range(2001))])
    with pytest.raises(FetchError, match="Found 2002 entries in the bundle's archive"):
        unpack(many, tmp_path / "out", "liver", Progress())
    monkeypatch.setattr(module, "_MOST_BYTES", 1 << 20)
    with pytest.raises(FetchError, match="Found 8 MiB of content in the bundle's archive"):
        unpack(path, tmp_path / "out", "liver", Progress())
    assert not (tmp_path / "out").exists()


def test_a_size_that_lies_is_damage(tmp_path):
    """An entry that declares 10 bytes and packs 100,000."""
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("a.txt", os.urandom(100_000))])
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 10)
    path.write_bytes(content)
    with pytest.raises(FetchError, match="Found a damaged archive .* a whole zip is needed"):
        unpack(path, tmp_path / "out", "liver", Progress())


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_damage(cut, tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("a.txt", os.urandom(50_000))])
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[int(len(content) * cut)] ^= 0xFF
    path.write_bytes(flipped)
    if cut == 0.3:
        with pytest.raises(FetchError, match="Found a damaged archive"):
            unpack(path, tmp_path / "out", "liver", Progress())
    path.write_bytes(content[: int(len(content) * cut)])
    assert not is_bundle_archive(path)
    with pytest.raises(FetchError, match="Found a damaged archive"):
        read_metadata(path, "liver")


def test_another_bundle_two_bundles_and_none(tmp_path):
    other = _zip(tmp_path / "a.zip", [("kidney/" + MARK, b"{}")])
    message = re.escape("Found the bundle 'kidney' in the archive, where 'liver' was asked for")
    with pytest.raises(
        FetchError, match=message + r".*medvit\.bundles\.remote\.fetch\(FetchRequest\(name='kidney'\)\)"
    ):
        unpack(other, tmp_path / "out", "liver", Progress())
    for entries in ([("a/" + MARK, b"{}"), ("b/" + MARK, b"{}")], [("liver/x/" + MARK, b"{}")], [("LICENSE", b"")]):
        with pytest.raises(FetchError, match="no configs/metadata.json at the top or in one folder"):
            unpack(_zip(tmp_path / "b.zip", entries), tmp_path / "out", "liver", Progress())
    assert not is_bundle_archive(_zip(tmp_path / "c.zip", [("archive/data.pkl", b"")]))


@pytest.mark.parametrize("content", [b"[]", b" " * (5 << 20)])
def test_metadata_that_is_none(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(MARK, content)
    with pytest.raises(FetchError, match="configs/metadata.json, which is no JSON object"):
        read_metadata(tmp_path / "a.zip", "liver")


def test_unpacking_can_be_stopped(tmp_path):
    path = _zip(tmp_path / "a.zip", [(MARK, b"{}"), ("LICENSE", b"x")])
    progress = Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        unpack(path, tmp_path / "out", "liver", progress)


def _configured(folder: Path, **changes: object) -> Path:
    (folder / "configs").mkdir(parents=True, exist_ok=True)
    config = json.loads((BTCV / "configs" / "inference.json").read_text())
    (folder / "configs" / "inference.json").write_text(json.dumps(config | changes))
    return folder


def test_shipped_configs_pass_the_look(tmp_path):
    check_configs(BTCV)
    check_configs(_configured(tmp_path, network_def={"_target_": "monai.networks.nets.UNet", "channels": [4, 8]}))


@pytest.mark.parametrize(
    "changes",
    [
        {"imports": ["$import subprocess"]},
        {"output_dir": "$__import__('os').system('true')"},
        {"network_def": {"_target_": "os.system", "command": "true"}},
        {"network_def": {"_target_": "monai.transforms.io.array.os.system", "command": "true"}},
        {"network_def": {"_target_": "monai.bundle.run", "config_file": "x"}},
        {"network_def": {"_target_": "$print"}},
        {"preprocessing": {"_target_": "monai.transforms.Compose", "transforms": [{"_target_": "builtins.exec"}]}},
        {"roi_size": "%other.json::roi_size"},
    ],
)
def test_configs_that_would_run_other_things(changes, tmp_path):
    with pytest.raises(BundleError, match="configs can run code, and no shipped bundle has this expression"):
        check_configs(_configured(tmp_path, **changes))


def test_configs_that_escape_the_look(tmp_path):
    _configured(tmp_path)
    (tmp_path / "configs" / "inference.yaml").write_text("network: $print()")
    with pytest.raises(BundleError, match="Found configs/inference.yaml in a bundle; configs are JSON"):
        check_configs(tmp_path)
