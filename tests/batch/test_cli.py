"""A mixed archive from end to end: every good case published once, every bad one explained, nobody named."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medvit_batch.cli import app
from typer.testing import CliRunner

import medvit
from tests.batch.archives import IDENTIFYING, Mixed, make_mixed, without_numbers

_SAID: list[str] = []
"""Everything that the commands of this module printed."""


def _batch(*arguments: object):
    outcome = CliRunner().invoke(app, [str(a) for a in arguments])
    _SAID.append(outcome.output)
    return outcome


@pytest.fixture(scope="module")
def bundle(banded, tmp_path_factory) -> Path:
    return shutil.copytree(banded, tmp_path_factory.mktemp("own") / "banded")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Mixed:
    return make_mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def out(mixed, bundle, tmp_path_factory) -> Path:
    """The archive, run once."""
    folder = tmp_path_factory.mktemp("results") / "out"
    planned = _batch("run", mixed.folder, "-o", folder, "-b", bundle, "--dry-run", "--json")
    assert planned.exit_code == 0, planned.output
    assert not folder.exists()
    outcome = _batch("run", mixed.folder, "-o", folder, "-b", bundle, "--workers", 1)
    assert outcome.exit_code == 3, outcome.output
    rows = _rows(folder)
    decided = {d["case"]: d["action"] for d in json.loads(planned.stdout)["decisions"]}
    ran = {r["folder"].removeprefix("cases/") for r in rows if r["stage"] != "plan"}
    assert {case for case, action in decided.items() if action == "run"} == ran
    return folder


def _rows(out: Path) -> list[dict[str, str]]:
    with (out / "cases.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _seals(out: Path) -> dict[str, tuple[int, str]]:
    """When each result was written, and its record."""
    return {p.parent.parent.name: (p.stat().st_mtime_ns, p.read_text()) for p in (out / "cases").glob("*/*/run.json")}


def test_every_good_case_is_published_once(out, mixed):
    for name, series in mixed.good.items():
        states = [row["state"] for row in _rows(out) if row["series_uid"] == series]
        assert states.count("published") == 1, (name, states)
    (image,) = [row for row in _rows(out) if row["case"].startswith("image-")]
    assert image["state"] == "published"
    published = [row for row in _rows(out) if row["state"] == "published"]
    assert len(published) == len(mixed.good) + 1
    for row in published:
        folder = out / row["folder"]
        record = json.loads((folder / "run.json").read_text())
        assert {p.name for p in folder.iterdir()} == {*record["files"], "run.json"}
        for name, digest in record["files"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert {"labels.nii.gz", "statistics.json", "preview.png"} <= set(record["files"])
        assert ("seg.dcm" in record["files"]) == bool(row["series_uid"])


def test_every_bad_case_is_explained(out, mixed):
    rows = {row["series_uid"]: row for row in _rows(out) if row["state"] == "set aside"}
    assert set(rows) == set(mixed.bad)
    for series, why in mixed.bad.items():
        assert why in rows[series]["reason"], rows[series]
        assert re.search(r"\. [A-Z].*\.$", rows[series]["reason"])  # and what to do about it
        assert not (out / rows[series]["folder"]).exists()


def test_the_same_images_in_a_zip_are_not_run_again(out, mixed):
    twins = [row for row in _rows(out) if row["series_uid"] == mixed.good["whole"]]
    assert sorted(row["state"] for row in twins) == ["published", "skipped"]
    (skipped,) = [row for row in twins if row["state"] == "skipped"]
    assert skipped["reason"].startswith("the same images as ")


def test_results_are_those_of_segment(out, mixed, bundle):
    (row,) = [r for r in _rows(out) if r["series_uid"] == mixed.good["whole"] and r["state"] == "published"]
    assert (row["rating"], row["flagged"]) == ("good", "no")
    alone = medvit.segment(mixed.folder / "again" / "copy of whole", bundle=bundle)
    ours = nib.load(out / row["folder"] / "labels.nii.gz")
    assert np.array_equal(np.asarray(ours.dataobj), alone.array)
    assert np.allclose(ours.affine, np.asarray(alone.labels.affine))


def test_implausible_anatomy_is_published_with_its_flag(out, mixed):
    (row,) = [r for r in _rows(out) if r["series_uid"] == mixed.good["zipped"]]
    assert (row["state"], row["flagged"], row["rating"]) == ("published", "yes", "poor")
    assert "was not found" in row["rating_reasons"]


def test_nobody_is_named(out):
    texts = {
        p: p.read_bytes()
        for p in out.rglob("*")
        if p.suffix in (".csv", ".html", ".jsonl", ".json", ".sqlite", ".prom")
    }
    texts.pop(out / "catalogue.sqlite")  # paths, for its owner alone
    assert len(texts) > 10
    texts[Path("terminal")] = "".join(_SAID).encode()
    names = "\n".join(str(p.relative_to(out)) for p in out.rglob("*"))
    texts[Path("names of files")] = names.encode()
    for path, content in texts.items():
        plain = without_numbers(content)
        for value in IDENTIFYING:
            assert value.encode() not in plain, (path, value)


def test_the_report_opens_offline_and_says_it_all(out, mixed):
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:|//)", page)
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == len(mixed.good) + 1
    for words in (
        "For research use, not for diagnosis",
        "Set aside (6)",
        "several patients under one SeriesInstanceUID",
        "Volumes",
        "mandible",
        "a link to a folder that is read by another name",
        "a damaged or encrypted zip",
    ):
        assert words in page, words
    with (out / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 * (len(mixed.good) + 1)
    assert {row["label"] for row in rows} >= {"mandible", "brainstem"}


def test_a_batch_of_an_earlier_version_goes_on(out, tmp_path):
    """Version 1 of the journal called the rating "quality"."""
    older = shutil.copytree(out, tmp_path / "older")
    with closing(sqlite3.connect(older / "journal.sqlite")) as base:
        for now, before in (
            ("rating", "quality"), ("rating_reasons", "quality_reasons"), ("file_signature", "stamp"), ("options_hash", "asked"),
            ("result_key", "held"), ("run_sha256", "seal"),
        ):  # fmt: skip
            base.execute(f"ALTER TABLE cases RENAME COLUMN {now} TO {before}")
        base.execute("DROP INDEX of_result_key")
        base.execute("CREATE INDEX of_held ON cases (held)")
        for name in ("patient", "note", "recall"):  # they came with version 3
            base.execute(f"ALTER TABLE cases DROP COLUMN {name}")
        base.execute("PRAGMA user_version=1")
        base.commit()
    listed = [json.loads(_batch("status", folder, "--cases", "--json").stdout)["list"] for folder in (older, out)]
    assert listed[0] == listed[1]
    assert {case["rating"] for case in listed[0] if case["state"] == "published"} == {"good", "poor"}


def test_metrics_say_where_it_stands(out, mixed):
    lines = (out / "metrics.prom").read_text().splitlines()
    assert f'medvit_batch_cases{{state="published"}} {len(mixed.good) + 1}.0' in lines
    assert f'medvit_batch_cases{{state="set aside"}} {len(mixed.bad)}.0' in lines
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["medvit_batch_case_seconds_total"]) > 0
    expected = dict.fromkeys(("good", "uncalibrated", "check", "poor"), 0)
    expected |= Counter(row["rating"] for row in _rows(out) if row["state"] == "published")
    assert expected["good"] and expected["poor"]
    assert {name: float(values[f'medvit_batch_ratings{{rating="{name}"}}']) for name in expected} == expected
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert Counter(e["rating"] for e in events if e.get("state") == "published") == Counter(
        {name: n for name, n in expected.items() if n}
    )


def test_status_names_files_only_when_asked(out, mixed):
    plain = _batch("status", out, "--cases")
    assert plain.exit_code == 0
    assert "4 published" in plain.output
    assert "6 set aside" in plain.output
    outcome = CliRunner().invoke(app, ["status", str(out), "--paths", "--json"])
    content = json.loads(outcome.stdout)
    (cut,) = [r for r in content["reasons"] if "the file is cut off" in r["reason"]]
    alias = re.search(r"d\d+/f\d+", cut["reason"])[0]
    assert Path(content["paths"][alias]).parent == (mixed.folder / "cut").resolve()


def test_a_second_run_does_nothing_and_a_touched_file_no_more(out, mixed, bundle):
    before = _seals(out)
    outcome = _batch("run", mixed.folder, "-o", out, "-b", bundle)
    assert outcome.exit_code == 3
    assert "0 case(s) to run" in outcome.output
    path = next((mixed.folder / "漢字 ñ\n").iterdir())
    os.utime(path)
    outcome = _batch("run", mixed.folder, "-o", out, "-b", bundle)
    assert "1 case(s) to run" in outcome.output
    assert "published, nothing has changed" in outcome.output
    assert _seals(out) == before


def test_a_new_model_redoes_what_it_must(out, mixed, bundle):
    before = _seals(out)
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps({**metadata, "version": "0.2.0", "changelog": {"0.2.0": "x"}}))
    planned = _batch("run", mixed.folder, "-o", out, "-b", bundle, "--dry-run", "--json")
    actions = [d["action"] for d in json.loads(planned.stdout)["decisions"]]
    assert actions.count("run again") == len(mixed.good) + 2  # and the copy in the zip, which is compared anew
    chosen = f"SeriesInstanceUID == '{mixed.good['odd name']}'"
    outcome = _batch("run", mixed.folder, "-o", out, "-b", bundle, "--select", chosen)
    assert "1 case(s) to run" in outcome.output, outcome.output
    after = _seals(out)
    assert {name for name in after if after[name] != before[name]} == {mixed.good["odd name"]}
    (row,) = [r for r in _rows(out) if r["series_uid"] == mixed.good["odd name"]]
    assert (row["version"], row["state"]) == ("0.2.0", "published")
