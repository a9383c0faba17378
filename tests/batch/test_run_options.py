"""Options of a batch, bundles of other tasks, and mistakes that are refused before anything is run."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from medvit_batch.cli import app
from typer.testing import CliRunner

import medvit
from tests.bands import make_reconstructing_bundle, make_restoring_bundle, phantom
from tests.batch.archives import SMALL, series_of, write_small
from tests.batch.test_cli import _batch, _rows


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
            "Found precision 'fp8'; it must be fp32, bf16 or int8",
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
    of_places = ("Found no folder", "Found no images", "Found the archive itself", "that no batch")
    assert outcome.exit_code == (1 if message.startswith(of_places) else 2)
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
    assert refused.exit_code == 2
    assert "Found no output type for stencil" in " ".join(refused.output.split())


def test_a_bundle_that_takes_two_views_is_refused(tmp_path):
    bundle = make_reconstructing_bundle(tmp_path / "bundles" / "views")
    write_small(tmp_path / "archive", 1)
    outcome = _batch("run", tmp_path / "archive", "-o", tmp_path / "x", "-b", bundle)
    assert outcome.exit_code == 2
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
    assert wrong.exit_code == 2 and "it must be sform or qform" in wrong.output


def test_image_files_have_no_dicom_objects_and_what_else_was_asked_for(banded, tmp_path):
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(phantom((32, 28, 20))[0], np.eye(4)), tmp_path / "in" / "a.nii.gz")
    asked = ("run", tmp_path / "in", "-b", banded, "--no-preview", "-ot", "dicom-seg")
    alone = _batch(*asked, "-o", tmp_path / "alone")
    assert alone.exit_code == 3, alone.output
    (row,) = _rows(tmp_path / "alone")
    assert (row["state"], row["code"]) == ("set aside", "OutputError")
    assert row["reason"].startswith("an image file, of which no DICOM objects can be made: add -ot nifti")
    both = _batch(*asked, "-ot", "nifti", "-o", tmp_path / "both")
    assert both.exit_code in (0, 3), both.output
    (row,) = _rows(tmp_path / "both")
    assert row["state"] == "published"
    assert (tmp_path / "both" / row["folder"] / "labels.nii.gz").is_file()
    assert not list((tmp_path / "both" / row["folder"]).rglob("*.dcm"))


def test_what_macos_adds_is_no_case(banded, tmp_path):
    (tmp_path / "in" / "__MACOSX").mkdir(parents=True)
    nib.save(nib.Nifti1Image(phantom((32, 28, 20))[0], np.eye(4)), tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "._a.nii.gz").write_bytes(b"\0\5\x16\7")
    (tmp_path / "in" / "__MACOSX" / "._b.nii.gz").write_bytes(b"\0\5\x16\7")
    table = _batch("run", tmp_path / "in", "-o", tmp_path / "out", "-b", banded, "--dry-run")
    assert "1 run. Nothing was run or written." in " ".join(table.output.split()), table.output
