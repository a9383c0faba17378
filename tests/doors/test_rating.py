"""The rating: what "good" asks of a bundle's weights and of the image, as every door states it."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.physics.degradations import LowDoseCT, ParallelBeam
from tests.bands import make_restoring_bundle, oblique_affine, phantom, reorient, write_series

ROOT = Path(__file__).resolve().parents[2]
AFFINE = oblique_affine()


def _bundle(banded: Path, folder: Path, acceptable: float = 0.70, **known: object) -> Path:
    """The bundle of bands with other facts about its calibration."""
    bundle = shutil.copytree(banded, folder)
    path = bundle / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medvit"]["validation"] |= known
    metadata["medvit"]["acceptable"] = acceptable
    path.write_text(json.dumps(metadata))
    return bundle


def _nifti(folder: Path, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(phantom()[0], affine), folder / "ct.nii.gz")
    return folder / "ct.nii.gz"


def _series(folder: Path, **changes: object) -> Path:
    write_series(folder, phantom()[0], AFFINE, **changes)
    return folder


def _segment(source: Path, bundle: Path, out: Path, *more: str) -> tuple[int, dict, str]:
    outcome = CliRunner().invoke(
        app, ["segment", str(source), "-b", str(bundle), "-o", str(out), "-ot", "nifti", *more]
    )
    quality = json.loads((out / "statistics.json").read_text())["quality"] if out.is_dir() else {}
    return outcome.exit_code, quality, outcome.output


def test_too_few_real_cases_are_uncalibrated_at_every_door(banded, tmp_path):
    bundle = _bundle(banded, tmp_path / "few", real_cases=7, synthetic_cases=30)
    code, quality, said = _segment(_nifti(tmp_path), bundle, tmp_path / "out", "-p")
    reason = "the calibration rests on 7 cases of real patients (30 are synthetic); at least 8 are needed"
    assert code == 0 and quality == {"rating": "uncalibrated", "reasons": [reason]}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["quality"] == quality
    assert f"rating uncalibrated ({reason})" in said.replace("\n", " ")
    listed = CliRunner().invoke(app, ["bundles", "show", str(bundle)]).output
    assert "Best rating: uncalibrated" in listed and f"Results are uncalibrated: {reason}" in listed
    archive, batch = tmp_path / "archive", tmp_path / "batch"
    _series(archive / "one")
    outcome = CliRunner().invoke(
        app, ["batch", "run", str(archive), "-o", str(batch), "-b", str(bundle), "--workers", "1"]
    )
    assert outcome.exit_code == 0, outcome.output
    (row,) = csv.DictReader((batch / "cases.csv").open(encoding="utf-8"))
    assert (row["rating"], row["flagged"], row["rating_reasons"]) == ("uncalibrated", "no", reason)
    assert 'medvit_batch_ratings{rating="uncalibrated"} 1.0' in (batch / "metrics.prom").read_text()
    assert "1 uncalibrated" in (batch / "report.html").read_text(encoding="utf-8")


def test_a_low_score_is_uncalibrated_unless_the_card_accepts_it(banded, tmp_path):
    low = _bundle(banded, tmp_path / "low", mean_dice=0.65)
    found = medvit.segment(_nifti(tmp_path), bundle=low).quality()
    assert (
        found["rating"] == "uncalibrated"
        and "mean Dice on the 8 cases of the calibration is 0.65" in found["reasons"][0]
    )
    argued = _bundle(banded, tmp_path / "argued", acceptable=0.62, mean_dice=0.65)
    assert medvit.segment(tmp_path / "ct.nii.gz", bundle=argued).quality() == {"rating": "good", "reasons": []}
    lax = _bundle(banded, tmp_path / "lax", acceptable=0.55)
    outcome = CliRunner().invoke(app, ["bundles", "show", str(lax)])
    assert outcome.exit_code == 1 and "medvit.acceptable" in outcome.output


def test_other_weights_have_no_calibration(banded, tmp_path):
    other = _bundle(banded, tmp_path / "other", weights_sha256="0" * 64)
    found = medvit.segment(_nifti(tmp_path), bundle=other).quality()
    assert (
        found["rating"] == "uncalibrated"
        and "these weights were not calibrated on real patients" in found["reasons"][0]
    )


@pytest.mark.parametrize(
    ("part", "rating"),
    [
        ("HEADNECK", "good"), ("Head and Neck", "good"), ("HEAD", "good"), ("NECK_1", "good"), ("CSPINE", "good"),
        ("HALS", "good"), ("", "good"), ("UNKNOWN", "good"), (None, "good"), ("CHEST", "uncalibrated"), ("HEADNECKCHEST", "uncalibrated"),
        ("WHOLEBODY", "uncalibrated"), ("HAND", "uncalibrated"), ("XYZZY", "uncalibrated"),
    ],
)  # fmt: skip
def test_the_examined_body_part_is_compared(banded, tmp_path, part, rating):
    changes = {} if part is None else {"BodyPartExamined": part}
    found = medvit.segment(_series(tmp_path / "series", **changes), bundle=banded).quality()
    assert found["rating"] == rating, found
    if rating != "good":
        assert "BodyPartExamined names" in found["reasons"][0] and "XYZZY" not in found["reasons"][0]


@pytest.mark.parametrize(
    ("scale", "rating"), [(1.0, "good"), (0.85, "good"), (1.25, "good"), (0.7, "uncalibrated"), (1.4, "uncalibrated")]
)
def test_the_field_of_view_is_compared_with_a_tolerance(banded, tmp_path, scale, rating):
    """The phantom covers 82 x 74 x 58 mm; stored with another axis order, the patient's axes still count."""
    field = [[82.0 * scale, 74.0, 58.0], [82.0 * scale, 74.0, 58.0]]
    bundle = _bundle(banded, tmp_path / "field", field_of_view_mm=field)
    values, affine = reorient(phantom()[0], AFFINE, (2, 0, 1), (1, -1, 1))
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "turned.nii.gz")
    found = medvit.segment(tmp_path / "turned.nii.gz", bundle=bundle).quality()
    assert found["rating"] == rating, found
    if rating != "good":
        assert "the image covers 82 x 74 x 58 mm (right-left, front-back, head-foot)" in found["reasons"][0]


def test_poor_wins_and_keeps_the_other_reason(banded, tmp_path):
    values = phantom()[0]
    values[phantom()[1] == 6] = -1000
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "ct.nii.gz")
    few = _bundle(banded, tmp_path / "few", real_cases=0)
    code, quality, _ = _segment(tmp_path / "ct.nii.gz", few, tmp_path / "out")
    assert code == 3 and quality["rating"] == "poor"
    assert quality["reasons"][0] == "larynx was not found" and "0 cases of real patients" in quality["reasons"][-1]


def _slab(rng: np.random.Generator, noise: float) -> np.ndarray:
    """Soft tissue of 40 HU around bone, in air, with noise."""
    values = np.full((64, 64, 6), -1000.0)
    values[8:-8, 8:-8] = 40
    values[28:36, 28:36] = 400
    return values + rng.normal(0, noise, values.shape)


def test_a_restoration_that_moves_soft_tissue_is_at_most_check(tmp_path, rng):
    nib.save(nib.Nifti1Image(_slab(rng, 10).astype(np.float32), AFFINE), tmp_path / "ct.nii.gz")
    for shift, rating in ((0.6, "good"), (2.0, "check"), (7.0, "poor")):
        bundle = make_restoring_bundle(tmp_path / f"by_{shift}", None, shift)
        found = medvit.restore(tmp_path / "ct.nii.gz", bundle=bundle)
        assert found.quality()["rating"] == rating, found.quality()
        if rating != "good":
            assert f"the mean of soft tissue moved by +{shift:g}" in found.quality()["reasons"][0]


def test_too_much_noise_hides_a_shift_and_is_said(tmp_path, rng):
    nib.save(nib.Nifti1Image(_slab(rng, 60).astype(np.float32), AFFINE), tmp_path / "ct.nii.gz")
    found = medvit.restore(tmp_path / "ct.nii.gz", bundle=make_restoring_bundle(tmp_path / "mean")).quality()
    assert found["rating"] == "check"
    assert any("beside so much a shift of 1 HU cannot be seen" in reason for reason in found["reasons"]), found


def _triples(path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Slices all over a volume, each between its neighbours."""
    image = nib.load(path)
    values = np.asarray(image.dataobj, dtype=np.float32)
    at = np.linspace(0, values.shape[2] - 1, count + 2).round().astype(int)[1:-1]
    return np.ascontiguousarray(values[..., (at[:, None] + np.arange(-1, 2)).ravel()]), image.affine


def test_the_denoiser_is_not_called_good_on_a_chest_at_a_tenth_of_the_dose(shared, tmp_path):
    """A tenth of the dose as the bundle defines it, for pixels of 2 mm; clean heads with their usual shift are not flagged."""
    values, affine = _triples(shared / "data" / "ct_chest" / "LIDC-IDRI-0314_ct_2mm.nii.gz", 2)
    scanner = LowDoseCT(photons_per_ray=140_000.0, electronic_noise=3.2, beam=ParallelBeam(views=180))
    low = scanner.at_dose(0.1, 0)(values, (2.0, 2.0, 2.0))
    nib.save(nib.Nifti1Image(low, affine), tmp_path / "low.nii.gz")
    outcome = CliRunner().invoke(app, ["restore", str(tmp_path / "low.nii.gz"), "-o", str(tmp_path / "out"), "--json"])
    quality = json.loads(outcome.stdout)["quality"]
    assert quality["rating"] in ("check", "poor"), quality
    assert any(re.search(r"[+-][\d.]+ HU", reason) and "soft tissue" in reason for reason in quality["reasons"])
    values, affine = _triples(shared / "data" / "ct_headneck_openkbp" / "pt_201_ct.nii.gz", 8)
    source = MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine))
    assert medvit.restore(source).quality()["rating"] == "good"


def test_the_documented_standing_is_that_of_the_bundles():
    page = (ROOT / "docs" / "rating.md").read_text()
    rows = {name: cells.split(" | ") for name, cells in re.findall(r"^\| `(\w+_\w+)` \| (.*) \|$", page, re.M)}
    shown = json.loads(CliRunner().invoke(app, ["bundles", "list", "--json"]).stdout)
    shipped = {row["name"]: row for row in shown if (ROOT / "bundles" / row["name"]).is_dir()}
    assert set(rows) == {folder.name for folder in (ROOT / "bundles").iterdir()}
    for name, (cases, dice, _, anatomy, best) in rows.items():
        standing = shipped[name]["standing"]
        assert best == shipped[name]["best_rating"], name
        assert (cases.split()[0], dice) == (
            str(standing["real_cases"] or ("0" if standing["synthetic_cases"] else "none")),
            f"{standing['mean_dice']:.3f}" if "mean_dice" in standing else "-",
        )
        assert ", ".join(standing["body_parts"]) in anatomy
        for low, high in zip(*standing.get("field_of_view_mm", ((), ())), strict=True):
            assert (f"{low:.0f} to {high:.0f}" if low != high else f"{low:.0f}") in anatomy, name
    assert [name for name, row in shipped.items() if row["best_rating"] == "good"] == [
        "ct_denoise_restore_rwkv", "headneck_ct_swin_unetr", "hippocampus_mr_swin_unetr", "nuclei_barlow_swin",
    ]  # fmt: skip


def test_an_acceptable_dice_is_shown_where_there_is_a_dice():
    shown = {
        name: CliRunner().invoke(app, ["bundles", "show", name]).stdout
        for name in ("headneck_ct_swin_unetr", "ct_denoise_restore_rwkv")
    }
    assert "(acceptable 0.70)" in shown["headneck_ct_swin_unetr"]
    assert "acceptable" not in shown["ct_denoise_restore_rwkv"]
