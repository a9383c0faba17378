"""The command line as a user meets it: exit codes, one clear line, nothing half written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medvit.cli.main import app
from tests import warm
from tests.bands import oblique_affine, phantom, write_series

runner = CliRunner()


def _run(*args: object):
    return runner.invoke(app, [str(a) for a in args])


@pytest.fixture
def scan(tmp_path) -> Path:
    nib.save(nib.Nifti1Image(phantom()[0], oblique_affine()), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def series(tmp_path) -> Path:
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    return tmp_path / "series"


def test_help_loads_neither_torch_nor_qt_nor_monai():
    program = "import sys; from medvit.cli.main import app; import medvit; print([m for m in ('torch', 'monai', 'qtpy', 'PySide6', 'pydicom', 'numpy') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    "command",
    [
        "",
        "segment",
        "convert",
        "bundles",
        "bundles list",
        "bundles show",
        "bundles verify",
        "bundles export",
        "doctor",
        "train",
        "evaluate",
    ],
)
def test_every_command_explains_itself(command):
    outcome = _run(*command.split(), "--help")
    assert outcome.exit_code == 0
    assert "Usage" in outcome.output


def test_a_mistake_is_refused_before_torch_is_loaded(tmp_path):
    program = (
        "import sys; from typer.testing import CliRunner; from medvit.cli.main import app; "
        f"r = CliRunner().invoke(app, ['segment', 'absent.nii.gz', '-o', {str(tmp_path / 'out')!r}]); "
        "print(r.exit_code, 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "1 False False"


def test_version():
    import medvit

    assert _run("--version").output.strip() == f"medvit {medvit.__version__}"


def test_dicom_in_gives_seg_and_nifti_out(series, banded, tmp_path):
    outcome = _run("segment", series, "-o", tmp_path / "out", "-b", banded)
    assert outcome.exit_code == 0, outcome.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "labels.json",
        "labels.nii.gz",
        "run.json",
        "seg.dcm",
        "statistics.json",
    }
    assert "For research use, not for diagnosis" in outcome.output


def test_report_and_pictures_are_named_in_one_line(series, banded, tmp_path):
    outcome = _run("segment", series, "-o", tmp_path / "out", "-b", banded, "-ot", "sr,sc")
    assert outcome.exit_code == 0
    assert "Note: The segmentation was written as well" in outcome.stdout
    assert "run.json, seg.dcm, sr.dcm, statistics.json, sc/ with 29 files" in " ".join(outcome.stdout.split())


def test_what_was_set_aside_is_said(series, banded, tmp_path):
    (series / "readme.txt").write_text("hello")
    outcome = _run("segment", series, "-o", tmp_path / "out", "-b", banded)
    assert outcome.exit_code == 0
    assert "Note: 1 file(s) that are not DICOM were set aside." in outcome.output


def test_nifti_in_gives_nifti_out_and_every_switch_works(scan, banded, tmp_path):
    outcome = _run(
        "segment", scan, "-o", tmp_path / "out", "-ta", banded, "-ot", "nifti", "-rs", "mandible,brainstem", "-p", "-s", "-f", "-v", "-d", "cpu",
        "--per-label",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"mandible.nii.gz", "brainstem.nii.gz", "preview.png", "statistics.csv"} <= names
    assert set(np.unique(np.asarray(nib.load(tmp_path / "out/labels.nii.gz").dataobj))) == {0, 1, 7}
    assert "Volume (mL)" in outcome.output
    assert "infer" in outcome.output


def test_json_is_json_and_quiet_is_quiet(scan, banded, tmp_path):
    outcome = _run("segment", scan, "-o", tmp_path / "a", "-b", banded, "--json")
    assert json.loads(outcome.stdout)["quality"]["rating"] == "good"
    assert _run("segment", scan, "-o", tmp_path / "b", "-b", banded, "-q").output == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.nii.gz",), "Found nothing at absent.nii.gz"),
        (("SCAN", "-b", "headneck_ct"), "Did you mean headneck_ct_swin_unetr"),
        (("SCAN", "-rs", "mandibel"), "Did you mean mandible"),
        (("SCAN", "-ot", "dicom-seg"), "DICOM objects refer to the original DICOM slices"),
        (("SCAN", "-ot", "tiff"), "must be one of nifti, dicom-seg, rtstruct, sr, sc, png"),
        (("SCAN", "-d", "gpu:9"), "no other device is used instead"),
    ],
)
def test_a_mistake_is_one_clear_line_and_exit_1(arguments, message, scan, tmp_path):
    outcome = _run("segment", *[scan if a == "SCAN" else a for a in arguments], "-o", tmp_path / "out")
    assert outcome.exit_code == 1
    assert message in outcome.output
    assert "Traceback" not in outcome.output
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".medvit-*"))


def test_wrong_use_is_exit_2():
    assert _run("segment").exit_code == 2
    assert _run("segmnt").exit_code == 2


def test_debug_shows_the_error_itself(tmp_path):
    from medvit.errors import SourceError

    assert isinstance(_run("segment", "absent", "-o", tmp_path / "o", "--debug").exception, SourceError)


def test_existing_output_is_kept_until_overwrite(scan, banded, tmp_path):
    assert _run("segment", scan, "-o", tmp_path / "out", "-b", banded).exit_code == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    again = _run("segment", scan, "-o", tmp_path / "out", "-b", banded)
    assert again.exit_code == 1
    assert "--overwrite" in again.output
    assert (tmp_path / "out" / "run.json").read_bytes() == before
    assert _run("segment", scan, "-o", tmp_path / "out", "-b", banded, "--overwrite").exit_code == 0


def test_set_aside_and_poor_are_exit_3(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), SOPInstanceUID="")
    outcome = _run("segment", tmp_path / "series", "-o", tmp_path / "a", "-b", banded)
    assert outcome.exit_code == 3
    assert "29 of 29 slices have no SOPInstanceUID. NIfTI was written instead" in outcome.output
    values = phantom()[0]
    values[values == 50] = -1000
    values[values == -12] = -1000
    nib.save(nib.Nifti1Image(values, oblique_affine()), tmp_path / "poor.nii.gz")
    outcome = _run("segment", tmp_path / "poor.nii.gz", "-o", tmp_path / "b", "-b", banded)
    assert outcome.exit_code == 3
    assert "implausible anatomy, quality is poor" in outcome.output
    assert (tmp_path / "b" / "labels.nii.gz").exists()


def test_mr_is_refused_and_force_is_recorded(banded, tmp_path):
    write_series(tmp_path / "mr", phantom()[0], oblique_affine(), Modality="MR")
    refused = _run("segment", tmp_path / "mr", "-o", tmp_path / "out", "-b", banded)
    assert refused.exit_code == 1
    assert "modality MR" in refused.output
    assert _run("segment", tmp_path / "mr", "-o", tmp_path / "out", "-b", banded, "--force").exit_code == 0
    assert json.loads((tmp_path / "out/run.json").read_text())["settings"]["forced"]


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing_half_written(stop, swallowed, examples, tmp_path):
    out = tmp_path / "deep" / "out"
    # a library that swallows an interrupt, as some do while they import, must not save the run from being stopped
    swallow = (
        "import signal, sys\n"
        "from medvit.cli import common, main\n"
        "import medvit.inference\n"
        "inner = medvit.inference.apply\n"
        "def infer(*given, **how):\n"
        "    print('inferring', file=sys.stderr, flush=True)\n"
        "    try:\n"
        "        signal.pause()\n"
        "    except KeyboardInterrupt:\n"
        "        if swallowed: return inner(*given, **how)\n"
        "        raise\n"
        f"swallowed = {swallowed}\n"
        "medvit.inference.apply = infer\n"
        "main.app()\n"
    )
    command = [sys.executable, "-c", swallow, "segment", str(examples / "headneck_ct_dicom.zip"), "-o", str(out)]
    process = warm.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    seen = ""
    while "inferring" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Cancelled: nothing was written." in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_bundles_commands(banded, monkeypatch):
    monkeypatch.setenv("MEDVIT_BUNDLES", str(banded.parent))
    listing = _run("bundles", "list")
    assert listing.exit_code == 0
    assert "headneck_ct_swin_unetr" in listing.output
    assert "banded" in listing.output
    rows = json.loads(_run("bundles", "list", "--json").stdout)
    assert all({"name", "state", "licence", "scores", "size_mb"} <= row.keys() for row in rows)
    shown = _run("bundles", "show", "headneck_ct_swin_unetr").output
    assert "Intended use: For research use, not for diagnosis" in shown
    assert "Label 7: mandible (Mandible, SCT 91609006)" in shown
    assert "is intact" in _run("bundles", "verify", "headneck_ct_swin_unetr").output
    assert json.loads(_run("bundles", "verify", "banded", "--json").stdout)["intact"]
    wrong = _run("bundles", "verify", "band")
    assert wrong.exit_code == 1
    assert "Did you mean banded" in wrong.output


def test_doctor_checks_and_reports(monkeypatch):
    outcome = _run("doctor")
    assert outcome.exit_code == 0, outcome.output
    assert "relative error" in outcome.output
    findings = {f["what"]: f for f in json.loads(_run("doctor", "--json").stdout)}
    assert findings["bundles"]["ok"]
    assert "pydicom" in findings["versions"]["detail"]


def test_doctor_fails_on_a_damaged_bundle(banded, tmp_path, monkeypatch):
    import shutil

    copy = shutil.copytree(banded, tmp_path / "bundles" / "damaged")
    with (copy / "models" / "model.safetensors").open("ab") as file:
        file.write(b"x")
    monkeypatch.setenv("MEDVIT_BUNDLES", str(tmp_path / "bundles"))
    outcome = _run("doctor")
    assert outcome.exit_code == 1
    assert "FAIL  bundles: ChecksumError" in outcome.output


def test_public_names():
    import medvit

    assert set(medvit.__all__) <= set(dir(medvit))
    for name in medvit.__all__:
        assert getattr(medvit, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'segmnt'"):
        _ = medvit.segmnt
