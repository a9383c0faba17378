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
from tests.bands import make_reconstructing_bundle, make_restoring_bundle, phantom
from tests.batch.archives import IDENTIFYING, SMALL, Mixed, make_mixed, series_of, without_numbers, write_small

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


def test_failures_stop_the_run_and_are_tried_again_by_reason(banded, tmp_path):
    for n in range(3):
        write_small(tmp_path / "archive" / str(n), n)
    out = tmp_path / "out"
    limits = ("--time-limit", 0.001, "--stop-after", 2)
    outcome = _batch("run", tmp_path / "archive", "-o", out, "-b", banded, "--no-preview", "-ot", "nifti", *limits)
    assert outcome.exit_code == 1
    assert "2 cases in a row failed (--stop-after)" in outcome.output
    states = sorted(row["state"] for row in _rows(out))
    assert states == ["failed", "failed", "pending"]
    (code,) = {row["code"] for row in _rows(out) if row["state"] == "failed"}
    assert code == "TimeLimit"
    nothing = _batch("retry", out, "--reason", "memory")
    assert nothing.exit_code == 1
    assert (
        "Found no failed cases with 'memory' in their reason; the kinds of error there are: TimeLimit" in nothing.output
    )
    outcome = _batch("retry", out, "--reason", "timelimit", "--time-limit", 600)
    assert outcome.exit_code == 3, outcome.output
    assert "2 case(s) are tried again" in outcome.output
    assert sorted(row["state"] for row in _rows(out)) == ["pending", "published", "published"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ABSENT", "-o", "OUT"), "Found no folder at .*an archive is a folder with images in it"),
        (("EMPTY", "-o", "OUT", "-b", "BANDED"), "Found no images among 0 file.s. in empty"),
        (("EMPTY", "-o", "OUT", "-b", "headneck_ct"), "Did you mean headneck_ct_swin_unetr"),
        (("EMPTY", "-o", "OUT", "-b", "BANDED", "-rs", "mandibel"), "Did you mean mandible"),
        (("EMPTY", "-o", "OUT", "-b", "BANDED", "--select", "Modality = CT"), "Found '=' at character 10"),
        (("EMPTY", "-o", "OUT", "-b", "BANDED", "-ot", "tiff"), "Found output type 'tiff'; it must be one of nifti"),
        (("EMPTY", "-o", "OUT", "-b", "BANDED", "--workers", "0"), "Found --workers 0; at least 1 is needed"),
        (
            ("EMPTY", "-o", "OUT", "-b", "BANDED", "--on-irregular", "guess"),
            "Found --on-irregular guess; it must be one of",
        ),
        (
            ("EMPTY", "-o", "OUT", "-b", "BANDED", "--backend", "quick"),
            "Found inference backend 'quick'; it must be one",
        ),
        (
            ("EMPTY", "-o", "OUT", "-b", "BANDED", "--precision", "fp8"),
            "Found precision 'fp8'; it must be fp32 or bf16",
        ),
        (("EMPTY", "-o", "OUT", "-b", "BANDED", "--rules", "r.toml"), "Found both -b and --rules"),
        (("EMPTY", "-o", "EMPTY", "-b", "BANDED"), "Found the archive itself given for the results"),
        (("EMPTY", "-o", "FULL", "-b", "BANDED"), "that no batch has written"),
    ],
)
def test_mistakes_are_refused_before_anything_is_run(arguments, message, banded, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    places = {
        "ABSENT": tmp_path / "absent",
        "EMPTY": tmp_path / "empty",
        "OUT": tmp_path / "out",
        "FULL": tmp_path / "full",
    }
    outcome = _batch("run", *({**places, "BANDED": banded}.get(a, a) for a in arguments))
    assert outcome.exit_code == 1
    assert re.search(message, " ".join(outcome.output.split())), outcome.output
    assert "Traceback" not in outcome.output


def test_two_rules_send_one_series_to_two_bundles(banded, tmp_path):
    other = shutil.copytree(banded, tmp_path / "bundles" / "other")
    write_small(tmp_path / "archive" / "a", 1, BodyPartExamined="HEADNECK")
    write_small(tmp_path / "archive" / "b", 2, BodyPartExamined="FOOT")
    rules = tmp_path / "rules.toml"
    rules.write_text(
        f"[[rules]]\nwhen = 'BodyPart ~ head'\nbundles = ['{banded}', '{other}']\n[[rules]]\nwhen = 'Slices < 100'\nskip = 'no heads'\n"
    )
    outcome = _batch("run", tmp_path / "archive", "-o", tmp_path / "out", "--rules", rules, "--dry-run", "--json")
    decisions = json.loads(outcome.stdout)["decisions"]
    found = sorted((d["bundle"], d["action"], d["reason"]) for d in decisions)
    assert found == [("", "skipped", "rule 2: no heads"), ("banded", "run", "rule 1"), ("other", "run", "rule 1")]
    assert {d["case"] for d in decisions if d["bundle"]} == {
        f"{series_of(tmp_path / 'archive' / 'a')}/{name}" for name in ("banded", "other")
    }
    table = _batch("run", tmp_path / "archive", "-o", tmp_path / "out", "--rules", rules, "--dry-run")
    assert "2 run; 1 skipped. Nothing was run or written." in table.output


def test_little_space_starts_no_case(banded, tmp_path):
    write_small(tmp_path / "archive", 1)
    outcome = _batch("run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "--min-free-gb", 1e9)
    assert outcome.exit_code == 1
    assert "GB are to stay free (--min-free-gb). Free some space" in outcome.output
    assert [row["state"] for row in _rows(tmp_path / "out")] == ["pending"]


def test_a_backend_that_is_asked_for_runs_and_is_recorded(banded, tmp_path):
    write_small(tmp_path / "archive", 1)
    outcome = _batch(
        "run", tmp_path / "archive", "-o", tmp_path / "out", "-b", banded, "--backend", "eager", "--no-preview"
    )
    assert outcome.exit_code in (0, 3), outcome.output
    ran = json.loads(next((tmp_path / "out").rglob("run.json")).read_text())["settings"]
    assert (ran["backend_asked"], ran["backend"], ran["backend_reason"]) == ("eager", "eager", "asked for")


@pytest.mark.parametrize("words", ["", "run", "watch", "retry", "status", "report"])
def test_every_command_explains_itself(words):
    outcome = CliRunner().invoke(app, [*words.split(), "--help"])
    assert outcome.exit_code == 0
    assert "Usage" in outcome.output


def test_a_bundle_that_restores_gives_a_derived_series(tmp_path):
    bundle = make_restoring_bundle(tmp_path / "bundles" / "stencil")
    write_small(tmp_path / "archive", 1)
    out = tmp_path / "out"
    outcome = _batch("run", tmp_path / "archive", "-o", out, "-b", bundle)
    assert outcome.exit_code in (0, 3), outcome.output
    (row,) = _rows(out)
    assert row["state"] == "published", row
    home = out / row["folder"]
    alone = medvit.restore(tmp_path / "archive", bundle=bundle)
    ours = nib.load(home / "restored.nii.gz")
    assert np.allclose(np.asarray(ours.dataobj), alone.array, atol=0.5)
    assert len(list((home / "derived").glob("*.dcm"))) == SMALL[2]
    refused = _batch("run", tmp_path / "archive", "-o", tmp_path / "x", "-b", bundle, "-ot", "dicom-seg")
    assert refused.exit_code == 1
    assert "Found no output type for stencil" in " ".join(refused.output.split())


def test_a_bundle_that_takes_two_views_is_refused(tmp_path):
    bundle = make_reconstructing_bundle(tmp_path / "bundles" / "views")
    write_small(tmp_path / "archive", 1)
    outcome = _batch("run", tmp_path / "archive", "-o", tmp_path / "x", "-b", bundle)
    assert outcome.exit_code == 1
    assert "a bundle for reconstruction; a batch runs bundles for segmentation and restoration" in " ".join(
        outcome.output.split()
    )


def test_a_nifti_with_a_mirrored_qform_is_flagged_until_a_geometry_is_chosen(banded, tmp_path):
    affine = np.array([[0.0, -2, 0, 30], [-2, 0, 0, 40], [0, 0, -3, 50], [0, 0, 0, 1]])
    image = nib.Nifti1Image(phantom((32, 28, 20))[0], None)
    image.set_sform(affine, 1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]) @ affine, 1)
    (tmp_path / "in").mkdir()
    nib.save(image, tmp_path / "in" / "a.nii.gz")
    asked = ("run", tmp_path / "in", "-o", tmp_path / "out", "-b", banded, "--no-preview")
    outcome = _batch(*asked)
    assert outcome.exit_code == 3, outcome.output
    (row,) = _rows(tmp_path / "out")
    assert row["state"] == "published" and "PLI by the sform (code 1), PRI by the qform" in row["flags"]
    assert "sform and qform differ" in (tmp_path / "out" / "report.html").read_text()
    chosen = _batch(*asked, "--geometry", "sform")
    assert chosen.exit_code == 0, chosen.output
    (row,) = (row for row in _rows(tmp_path / "out") if row["state"] == "published")
    assert not row["flags"]
    record = json.loads((tmp_path / "out" / row["folder"] / "run.json").read_text())
    assert record["settings"]["geometry"] == "sform"
    wrong = _batch("run", tmp_path / "in", "-o", tmp_path / "w", "-b", banded, "--geometry", "left")
    assert wrong.exit_code == 1 and "it must be sform or qform" in wrong.output
