"""Batches under faults: twenty kills, a thousand mutated files, a full disk, and the shared DICOM tree as one archive."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.io.dicom import run_preflight
from tests.batch.archives import command, series_of, write_small
from tests.batch.execution.test_session import counts, kept, results, seconds, start
from tests.soak.test_fuzz import _mutate

pytestmark = pytest.mark.soak


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_twenty_kills_at_random_moments(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    for n in range(40):
        write_small(archive / str(n), n)
    rng = random.Random(3)
    before: dict[str, tuple[int, int]] = {}
    for _ in range(20):
        run = start(archive, out, banded, "--workers", 2)
        # not before it is at work, but for every fifth
        limit = time.monotonic() + 60
        while rng.random() > 0.002 and not any((out / "staging").glob("**/.medvit-*")) and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 2))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        before = kept(before, out)
    run = start(archive, out, banded, "--workers", 2)
    said, _ = run.communicate()
    assert run.returncode in (0, 3), said
    failed = counts(out).get("failed", 0)  # a case that three kills in a row fell on
    assert len(kept(before, out)) + failed == 40
    if failed:
        line, env = command("retry", out, "--reason", "Interrupted")
        assert subprocess.run(line, env=env).returncode in (0, 3)
    assert len(kept(before, out)) == 40
    assert counts(out) == {"published": 40}
    assert not list((out / "staging").iterdir())
    assert any("ahead" in case for case in seconds(out))
    assert any("behind" in case for case in seconds(out))


def test_a_thousand_mutated_files_lose_no_good_case(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    rng = np.random.default_rng(21)
    template = [path.read_bytes() for path in write_small(tmp_path / "one", 1)][:4]
    uids = re.compile(rb"1\.2\.826\.0\.1\.3680043\.8\.498\.\d+")
    for n in range(250):
        place = archive / f"{n % 20:02d}" / f"{n:03d}"
        place.mkdir(parents=True)
        for k, content in enumerate(template):
            # each series its own UIDs of the same length, so that lengths in the headers stay true
            own = uids.sub(lambda m, n=n: m[0][:-4] + b"%04d" % n, content)
            (place / f"{k}.dcm").write_bytes(_mutate(own, rng))
    good = set()
    for n in range(5):
        write_small(archive / f"{n:02d}" / "good", 100 + n)
        good.add(series_of(archive / f"{n:02d}" / "good"))
    line, env = command(
        "run", archive, "-o", out, "-b", banded, "-ot", "nifti", "--no-preview", "--workers", 2, "--time-limit", 60
    )
    outcome = subprocess.run(line, env=env, capture_output=True, text=True, timeout=3000)
    assert outcome.returncode == 3, outcome.stdout[-2000:] + outcome.stderr[-2000:]
    rows = _rows(out)
    assert good <= {row["series_uid"] for row in rows if row["state"] == "published"}
    for row in rows:
        assert row["state"] in ("published", "set aside", "skipped"), row
        assert row["reason"] or row["state"] == "published", row
    results(out)
    print({state: sum(row["state"] == state for row in rows) for state in {row["state"] for row in rows}})


def test_a_full_disk_puts_the_case_back(banded, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "disk"
    for n in range(6):
        write_small(archive / str(n), n)
    out.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(out)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here; root can")
    try:
        (out / "results").mkdir()
        (out / "ballast").write_bytes(bytes(1_500_000))
        line, env = command("run", archive, "-o", out / "results", "-b", banded, "-ot", "sc", "--min-free-gb", 0)
        outcome = subprocess.run(line, env=env, capture_output=True, text=True)
        assert outcome.returncode == 1, outcome.stdout
        assert "no space" in outcome.stdout + outcome.stderr or "full" in outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr
        found = counts(out / "results")
        assert found.get("pending", 0) + found.get("running", 0) >= 1, found
        results(out / "results")
        (out / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=100m", str(out)], check=True)
        outcome = subprocess.run(line, env=env, capture_output=True, text=True)
        assert outcome.returncode in (0, 3), outcome.stdout + outcome.stderr
        rows = _rows(out / "results")
        assert counts(out / "results") == {"published": 6}, [row["reason"] for row in rows]
        results(out / "results")
    finally:
        subprocess.run(["umount", str(out)], check=True)


_ALPHABETS = {
    "ISO_IR 100": "Bj\xf6rnsson^\xc6gir", "ISO_IR 101": "Wa\u0142\u0119sa^Le\u015b", "ISO_IR 109": "\u0108apek^\u0124ugo", "ISO_IR 110": "K\u0101rlis^\u0122irts",
    "ISO_IR 144": "\u041b\u044e\u043a\u0441\u0435\u043c\u0431\u0443\u0440\u0433", "ISO_IR 127": "\u0642\u0628\u0627\u0646\u064a^\u0644\u0646\u0632\u0627\u0631", "ISO_IR 126": "\u0394\u03b9\u03bf\u03bd\u03c5\u03c3\u03b9\u03bf\u03c2",
    "ISO_IR 138": "\u05e9\u05e8\u05d5\u05df^\u05d3\u05d1\u05d5\u05e8\u05d4", "ISO_IR 148": "\u00c7elik^\u0130brahim", "ISO_IR 166": "\u0e2a\u0e21\u0e0a\u0e32\u0e22", "ISO_IR 192": "\u738b^\u5c0f\u6771", "GB18030": "\u738b^\u5c0f\u4e1c",
    "\\ISO 2022 IR 87": "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce", "\\ISO 2022 IR 149": "Hong^Gildong=\u6d2a^\u5409\u6d1e=\ud64d^\uae38\ub3d9",
}  # fmt: skip
"""A name in each of DICOM's character sets (PS3.3 C.12.1.1.2)."""


def test_names_in_every_character_set(banded, tmp_path):
    """Published with the name as it was in what DICOM writes, and without it anywhere else."""
    archive, out, names = tmp_path / "archive", tmp_path / "out", {}
    for n, (characters, name) in enumerate(_ALPHABETS.items()):
        folder = archive / f"{n} {name.partition('=')[2] or name}"
        write_small(folder, n, SpecificCharacterSet=characters.split("\\"), PatientName=name)
        names[series_of(folder)] = name
    line, env = command("run", archive, "-o", out, "-b", banded, "-ot", "nifti", "-ot", "dicom-seg", "--workers", 2)
    outcome = subprocess.run(line, env=env, capture_output=True, text=True)
    assert outcome.returncode in (0, 3), outcome.stdout + outcome.stderr
    assert counts(out) == {"published": len(names)}
    said = outcome.stdout + outcome.stderr + "".join(str(path.relative_to(out)) for path in out.rglob("*"))
    said += "".join(
        path.read_text(encoding="utf-8")
        for path in out.rglob("*")
        if path.suffix in (".csv", ".html", ".jsonl", ".json", ".prom")
    )
    for row in _rows(out):
        name = names[row["series_uid"]]
        assert str(pydicom.dcmread(out / row["folder"] / "seg.dcm").PatientName) == name
        for part in re.split(r"[=^]", name):
            assert part not in said or part.isascii(), part
    assert "Yamada" not in said
    assert "Gildong" not in said


def test_the_shared_tree_as_one_archive(banded, shared, tmp_path):
    archive, out = tmp_path / "archive", tmp_path / "out"
    shutil.copytree(shared / "data" / "dicom", archive, symlinks=True)
    line, env = command("run", archive, "-o", out, "-b", banded, "-ot", "nifti", "--workers", 2)
    clean = subprocess.run(line, env=env, capture_output=True, text=True)
    assert clean.returncode == 3, clean.stderr
    good = {row["case"] for row in _rows(out) if row["state"] == "published"}
    assert len(good) >= 14
    assert not [row for row in _rows(out) if row["state"] in ("failed", "pending")]
    assert {json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()} == {"case", "end"}

    _spoil(archive)
    line[line.index(str(out))] = str(tmp_path / "again")
    spoilt = subprocess.run(line, env=env, capture_output=True, text=True)
    assert spoilt.returncode == 3, spoilt.stderr
    rows = _rows(tmp_path / "again")
    published = {row["case"] for row in rows if row["state"] == "published"}
    assert good <= published
    # a byte changed where it does not matter leaves a good slice
    assert all(name.startswith("1.3.6.1.4.1.5962.9.9.") for name in published - good)
    for row in rows:
        assert row["state"] in ("published", "set aside", "skipped"), row
        assert row["reason"] or row["state"] == "published", row


def _spoil(archive: Path) -> None:
    """Faults beside what is there; none of them touches a series of the archive itself."""
    rng = np.random.default_rng(4)
    source = archive / "pydicom_data" / "CT_small.dcm"
    home = archive / "spoilt"
    home.mkdir()
    for n in range(30):
        place = home / str(n)
        place.mkdir()
        (place / "x.dcm").write_bytes(
            _mutate(source.read_bytes().replace(b"1.3.6.1.4.1.5962.1.3.1", b"1.3.6.1.4.1.5962.9.9.%d" % (n % 10)), rng)
        )
    (home / "empty.dcm").touch()
    (home / "random").write_bytes(rng.bytes(100_000))
    (home / "round").symlink_to(archive, target_is_directory=True)
    os.mkfifo(home / "pipe")
    with open(os.fsencode(home) + b"/\xff\xfe.dcm", "wb") as file:
        file.write(rng.bytes(50))
    assert run_preflight(archive / "pydicom_data").volumes  # the archive's own is as it was
