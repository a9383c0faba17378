"""Limits of the signals of quality: where bad answers part from others, and nowhere if they do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import BundleError
from medvit.training.evaluation import QUALITY, EvaluationSet, calibrate
from medvit.training.evaluation.calibration import _measured, limit_of
from medvit.training.evaluation.outcomes import LabelOutcome, ScoredCases
from tests.bands import make_bundle, make_restoring_bundle, oblique_affine, phantom

EVALUATE = Path(__file__).resolve().parents[3] / "bundles" / "headneck_ct_swin_unetr" / "configs" / "evaluate.json"


def _answers(signal: str, pairs: list[tuple[float, bool]]) -> list[LabelOutcome]:
    return [LabelOutcome(f"case{n}", 0.0, bad, {signal: value}) for n, (value, bad) in enumerate(pairs)]


def test_bad_answers_are_parted_from_others():
    pairs = [(0.1, False), (0.2, False), (0.3, True), (0.5, True)]
    assert limit_of("entropy", _answers("entropy", pairs)) == pytest.approx(0.25, abs=2e-4)
    pairs = [(0.95, False), (0.9, False), (0.6, True)]
    assert limit_of("agreement", _answers("agreement", pairs)) == pytest.approx(0.75, abs=2e-4)


def test_one_outlier_among_the_good_does_not_hide_the_bad():
    pairs = [(v / 100, False) for v in range(10, 20)] + [(0.9, False)] + [(0.4, True), (0.5, True), (0.6, True)]
    assert limit_of("entropy", _answers("entropy", pairs)) == pytest.approx(0.295, abs=2e-4)


def test_a_signal_that_does_not_tell_has_no_limit():
    pairs = [(0.1, True), (0.2, False), (0.3, True), (0.4, False)]
    assert limit_of("entropy", _answers("entropy", pairs)) is None
    assert limit_of("moved", _answers("entropy", pairs)) is None
    assert limit_of("entropy", _answers("entropy", [(0.1, True)])) is None


def test_only_what_tells_of_cases_left_out_is_used():
    """Two bad cases that are alike are known from each other; one that is like the good ones gives no limit to go by."""
    good = [(0.1, False), (0.12, False), (0.11, False), (0.13, False)]
    (alike,) = _measured(
        ScoredCases(bad="", score="", answers=tuple(_answers("entropy", [*good, (0.4, True), (0.5, True)])), ratings={})
    )
    assert alike.used and alike.left_out == (*[(False, False)] * 4, (True, True), (True, True))
    (lonely,) = _measured(
        ScoredCases(
            bad="", score="", answers=tuple(_answers("entropy", [*good, (0.125, True), (0.105, True)])), ratings={}
        )
    )
    assert not lonely.used
    (fine,) = _measured(ScoredCases(bad="", score="", answers=tuple(_answers("entropy", good)), ratings={}))
    assert fine.used and fine.limit == 0.13


def test_without_a_bad_answer_the_strangest_is_the_limit():
    pairs = [(0.12345, False), (0.2, False)]
    assert limit_of("entropy", _answers("entropy", pairs)) == 0.2
    assert limit_of("agreement", _answers("agreement", pairs)) == 0.1234


def _listed(folder: Path, truths: dict[str, np.ndarray | None]) -> Path:
    """A data list whose images are the phantom with a little noise; None lists an image without labels."""
    cases = []
    for n, (name, truth) in enumerate(truths.items()):
        values = phantom()[0] + np.random.default_rng(n).integers(-2, 3, phantom()[0].shape)
        nib.save(nib.Nifti1Image(values.astype(np.int16), oblique_affine()), folder / f"{name}.nii.gz")
        entry = {"image": f"{name}.nii.gz"}
        if truth is not None:
            nib.save(nib.Nifti1Image(truth.astype(np.uint8), oblique_affine()), folder / f"{name}_labels.nii.gz")
            entry["label"] = f"{name}_labels.nii.gz"
        cases.append(entry)
    (folder / "list.json").write_text(json.dumps({"validation": cases, "training": []}))
    return folder / "list.json"


def test_a_segmentation_is_calibrated_and_recorded(tmp_path):
    bundle, labels = make_bundle(tmp_path / "bands"), phantom()[1]
    (bundle / "docs").mkdir(exist_ok=True)
    (bundle / "docs" / "README.md").write_text(f"before\n{QUALITY.start}\n{QUALITY.end}\nafter\n")
    shutil.copy(EVALUATE, bundle / "configs")
    data = _listed(tmp_path, {"whole": labels, "moved": np.roll(labels, 4, 0)})
    call = ["evaluate", str(bundle), "--data", str(data), "--root", str(tmp_path), "--calibrate", "--record"]
    outcome = CliRunner().invoke(app, call)
    assert outcome.exit_code == 0, outcome.output
    known = medvit.open_bundle(bundle).facts.quality
    assert known.cases == 2 and known.bad == "Dice of a label below 0.6"
    assert known.weights_sha256 == medvit.open_bundle(bundle).weights_sha256
    cases = medvit.open_bundle(bundle).facts.validation
    assert (cases.real_cases, cases.synthetic_cases, cases.body_parts) == (2, 0, ("HEADNECK",))
    assert (
        cases.weights_sha256 == known.weights_sha256 and 0.5 < cases.mean_dice < 0.8
    )  # one of two is labelled elsewhere
    assert cases.field_of_view_mm == ((82, 74, 58), (82, 74, 58))
    shown = CliRunner().invoke(app, ["bundles", "show", str(bundle)]).output
    assert "Calibration: 2 cases of real patients, mean Dice" in shown and "Best rating: uncalibrated" in shown
    page = (bundle / "docs" / "README.md").read_text()
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    assert "| with a quality map | " in page
    assert "14 answers, 6 bad" in page and "of 6 |" in page and "of 8 |" in page
    assert "| plain | good | 2 |" in page


def test_a_restoration_is_calibrated_by_its_bias(tmp_path):
    bundle = make_restoring_bundle(tmp_path / "lifting", None, 7.0)
    config = json.loads((bundle / "configs" / "evaluate.json").read_text())
    config["scanner"]["beam"]["views"], config["evaluation"]["slice_stride"] = 30, 8
    (bundle / "configs" / "evaluate.json").write_text(json.dumps(config))
    data = _listed(tmp_path, {"one": None, "two": None})
    from medvit.training.evaluation import evaluation_of

    opened, lines = medvit.open_bundle(bundle), []
    found = calibrate(
        EvaluationSet(bundle=opened, data=data, root=tmp_path), evaluation_of(opened), lines.append, "cpu"
    )
    assert found.calibration.bad == "bias of soft tissue beyond 1 HU" and found.calibration.cases == 4
    assert len(lines) == 4 and "moved 7.00" in lines[0]
    assert "mean bias (HU)" in found.table
    assert found.validation.real_cases == 2 and found.validation.mean_dice is None
    assert found.validation.field_of_view_mm == ((82, 74, 0), (82, 74, 58))  # slices one by one: any number of them


def test_what_cannot_be_calibrated(tmp_path):
    bundle = make_bundle(tmp_path / "bands")

    class Nothing:
        pass

    with pytest.raises(BundleError, match="Found Nothing in configs/evaluate.json of bands, which gives no signals"):
        calibrate(EvaluationSet(bundle=medvit.open_bundle(bundle)), Nothing(), print, "cpu")
    shutil.copy(EVALUATE, bundle / "configs")
    (bundle / "docs").mkdir(exist_ok=True)
    (bundle / "docs" / "README.md").write_text("no marks")
    outcome = CliRunner().invoke(app, ["evaluate", str(bundle), "--calibrate", "--record"])
    assert outcome.exit_code == 1 and "Found no place for the rating in docs/README.md" in outcome.output
