"""Discovery: every file looked at once, nothing in an archive can stop it, damaged files found their series."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
from medvit_batch.catalogue.catalogue import Catalogue
from medvit_batch.catalogue.folder_walk import walk
from medvit_batch.errors import BatchError

from medvit.io.dicom import run_preflight
from medvit.io.dicom.preflight import sort_planes
from medvit.progress import Progress
from tests.bands import oblique_affine, phantom, write_series

SMALL = phantom((12, 10, 6))[0]


@pytest.fixture
def catalogue(tmp_path):
    opened = Catalogue(tmp_path / "catalogue.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def archive(tmp_path) -> Path:
    return tmp_path / "archive"


def _look(catalogue: Catalogue, archive: Path, **more: int) -> int:
    return catalogue.look(archive, archive / "out", Progress(), **more)


def test_a_second_look_reads_only_what_changed(catalogue, archive):
    paths = write_series(archive / "a", SMALL, oblique_affine())
    write_series(archive / "b", SMALL, oblique_affine())
    assert _look(catalogue, archive) == 12
    stamps = {group.series: group.file_signature for group in catalogue.groups()}
    assert _look(catalogue, archive) == 0
    assert {group.series: group.file_signature for group in catalogue.groups()} == stamps
    os.utime(paths[0], ns=(1, 1))
    assert _look(catalogue, archive) == 1
    assert sum(group.file_signature != stamps[group.series] for group in catalogue.groups()) == 1
    paths[1].unlink()
    shutil.rmtree(archive / "b")
    assert _look(catalogue, archive) == 0
    assert [len(group.planes) for group in catalogue.groups()] == [5]


def test_volumes_are_those_that_inspect_finds(catalogue, archive, shared):
    folder = shared / "data" / "dicom" / "icometrix"
    _look(catalogue, folder)
    ours = [v for group in catalogue.groups() for v in sort_planes(group.planes)]
    theirs = run_preflight(folder).volumes
    assert [v.describe() for v in ours] == [v.describe() for v in theirs]
    assert [[f.code for f in v.findings] for v in ours] == [[f.code for f in v.findings] for v in theirs]


def test_zips_are_read_where_they_lie(catalogue, archive):
    paths = write_series(archive / "a", SMALL, oblique_affine())
    with zipfile.ZipFile(archive / "packed.zip", "w") as packed:
        for path in paths:
            packed.write(path, f"deep/er/{path.name}")
            packed.write(path, f"other/{path.name}")
    shutil.rmtree(archive / "a")
    assert _look(catalogue, archive) == 1
    (group,) = catalogue.groups()
    assert len(group.planes) == 12
    (volume,) = sort_planes(group.planes)
    assert (len(volume.planes), [f.code for f in volume.findings]) == (6, ["copies"])
    assert volume.first.file.read()[128:132] == b"DICM"
    assert _look(catalogue, archive) == 0
    assert len(next(catalogue.groups()).planes) == 12
    name = group.planes[0].file.name
    assert catalogue.path_of(name).endswith(f"packed.zip : deep/er/{paths[0].name}")


def test_odd_files_stop_nothing_and_are_counted(catalogue, archive):
    write_series(archive / "a", SMALL, oblique_affine())
    (archive / "empty.dcm").touch()
    (archive / "noise").write_bytes(bytes(range(256)) * 9)
    (archive / "truncated.zip").write_bytes(b"PK\x03\x04" + b"x" * 50)
    (archive / "scan.nii.gz").write_bytes(b"nothing")
    (archive / "note.docx").write_bytes(b"x")
    with zipfile.ZipFile(archive / "papers.zip", "w") as packed:
        packed.writestr("letter.txt", "to whom")
    with zipfile.ZipFile(archive / "hostile.zip", "w") as packed:
        packed.writestr("../../outside.dcm", "x")
    os.mkfifo(archive / "pipe")
    (archive / "round").symlink_to(archive, target_is_directory=True)
    (archive / "nowhere").symlink_to(archive / "absent")
    (archive / "self").symlink_to(archive / "self")
    with open(os.fsencode(archive) + b"/\xff\xfe\x80.dcm", "wb") as file:
        file.write(b"x")
    for name in ("Å ñ 漢字 \n", "-rf", "'; DROP TABLE files; --", "a" * 250):
        (archive / name).write_bytes(b"x")
    _look(catalogue, archive)
    counts = catalogue.counts()
    assert counts == {"damaged": 2, "image": 1, "missing": 2, "other": 9, "planes": 6}
    said = {kind: why for _, kind, why in catalogue.unused()}
    assert said["links"] == "a link to a folder that is read by another name"
    whys = [why for _, _, why in catalogue.unused()]
    assert any(why.startswith("a damaged or encrypted zip") for why in whys)
    assert any("points outside of it" in why for why in whys)
    assert whys.count("empty") == 1
    assert [len(group.planes) for group in catalogue.groups()] == [6]
    assert _look(catalogue, archive) == 0


def test_results_within_the_archive_are_no_images_of_it(catalogue, archive):
    write_series(archive / "a", SMALL, oblique_affine())
    write_series(archive / "out" / "cases", SMALL, oblique_affine())
    write_series(archive / ".medvit-host-1-x", SMALL, oblique_affine())
    assert _look(catalogue, archive) == 6


def test_an_unreadable_folder_is_named_and_passed_over():
    home = Path(tempfile.mkdtemp(prefix="medvit-test-"))
    try:
        home.chmod(0o755)
        for name in ("a", "closed", "z"):
            (home / name).mkdir()
            (home / name / "file").write_bytes(b"x")
        (home / "closed").chmod(0)
        was = os.geteuid()
        if was == 0:
            os.seteuid(65534)  # nobody: root may read everything
        try:
            folders = list(walk(home, home / "out"))
        finally:
            os.seteuid(was)
        assert [len(f.files) for f in folders] == [0, 1, 0, 1]
        assert [f.problem for f in folders] == ["", "", "Permission denied", ""]
    finally:
        (home / "closed").chmod(stat.S_IRWXU)
        shutil.rmtree(home)


def _cut(path: Path, after: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.index(after) + len(after) + 20])


def test_a_damaged_file_is_held_against_its_own_series_alone(catalogue, archive):
    ours = write_series(archive / "flat", SMALL, oblique_affine())
    series = [group.series for group in _groups(catalogue, archive)]
    write_series(archive / "flat2", SMALL, oblique_affine())
    for path in (archive / "flat2").iterdir():  # one flat folder, as an export writes it
        path.rename(archive / "flat" / f"other-{path.name}")
    ours[2].write_bytes(ours[2].read_bytes().replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00DS\x02\x00"))
    groups = {group.series: group for group in _groups(catalogue, archive)}
    assert len(groups) == 2
    for name, group in groups.items():
        assert len(group.damaged) == (name == series[0]), (name, group.damaged)
        assert group.doubtful == 0
    _cut(ours[3], b"\x08\x00\x60\x00CS")  # before its series is stated
    groups = {group.series: group for group in _groups(catalogue, archive)}
    assert [group.doubtful for group in groups.values()] == [1, 1]


def test_alone_in_its_folder_a_series_answers_for_damaged_files(catalogue, archive):
    paths = write_series(archive / "a", SMALL, oblique_affine())
    write_series(archive / "b", SMALL, oblique_affine())
    _cut(paths[0], b"\x08\x00\x60\x00CS")
    assert sorted(len(group.damaged) for group in _groups(catalogue, archive)) == [0, 1]


def _groups(catalogue: Catalogue, archive: Path):
    _look(catalogue, archive)
    return list(catalogue.groups())


def test_reasons_never_quote_a_header(catalogue, archive):
    paths = write_series(archive / "a", SMALL, oblique_affine())
    content = paths[0].read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")
    paths[0].write_bytes(content[:at] + b"\x28\x00\x10\x00DS\x06\x00Secret" + content[at + 10 :])
    _look(catalogue, archive)
    ((_, _, why),) = catalogue.unused()
    assert "Secret" not in why
    assert why == "an image without rows or columns"


def test_many_readers_find_the_same(tmp_path, archive, monkeypatch):
    monkeypatch.setattr(
        "medvit_batch.catalogue.header_pool._PATIENCE", 0.0
    )  # at once, not only when reading takes long
    for n in range(11):
        write_series(archive / f"s{n}", phantom((4, 4, 100))[0], oblique_affine())
    found = []
    for readers in (1, 2):
        catalogue = Catalogue(tmp_path / f"{readers}.sqlite", secret=b"one key for both catalogues")
        assert _look(catalogue, archive, readers=readers) == 1100
        found.append([(g.series, g.file_signature, [p.sop_instance for p in g.planes]) for g in catalogue.groups()])
        catalogue.close()
    assert found[0] == found[1]


def test_only_its_owner_can_read_it(catalogue, tmp_path):
    assert stat.S_IMODE((tmp_path / "catalogue.sqlite").stat().st_mode) == 0o600


def test_another_version_or_a_damaged_one_is_refused(tmp_path):
    (tmp_path / "catalogue.sqlite").write_bytes(b"SQLite no more" * 100)
    with pytest.raises(BatchError, match="Found catalogue.sqlite, which cannot be used .*not a database"):
        Catalogue(tmp_path / "catalogue.sqlite")
    opened = Catalogue(tmp_path / "new.sqlite")
    opened.base.execute("PRAGMA user_version=99")
    opened.close()
    with pytest.raises(BatchError, match="Found new.sqlite of version 99; this medvit writes version 2"):
        Catalogue(tmp_path / "new.sqlite")
