"""Every task is scored through the users' path, the same by every way in; a network in memory scores like its weights."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from typer.testing import CliRunner

import medvit
from medvit.bundles import Bundle, Calibration, open_bundle
from medvit.cli.main import app
from medvit.errors import BackendError, BundleError, ModalityError, ShapeError, SourceError
from medvit.inference import load_model, loaded_bundle_for
from medvit.physics.degradations import LowDoseCT, ParallelBeam
from medvit.pipeline import Predictor, run
from medvit.settings import RunSettings
from medvit.training.evaluation import (
    EvaluationSet,
    LowDoseEvaluation,
    best_constant,
    evaluate_bundle,
    evaluation_of,
    mean_atlas,
    record_scores,
    scorer,
    table,
)
from medvit.training.evaluation.classical_denoisers import CLASSICAL, STRENGTHS, _noise, classical
from medvit.training.evaluation.restoration import edge_response
from medvit.training.loop import publish
from medvit.transforms import LabelsOnVolumeGridd
from tests import warm
from tests.bands import BandNetwork, oblique_affine, phantom

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "bundles"
RESTORATION, TWO_VIEWS = "ct_denoise_restore_rwkv", "headneck_xray_swin_x2s"


def _silent(_: str) -> None:
    pass


def _edit(folder: Path, name: str, change) -> None:
    path = folder / "configs" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _write_list(folder: Path, entry, label: bool = True) -> Path:
    """A list of one training and one validation case, in ``folder``."""
    keys = ("image", "label") if label else ("image",)
    cases = {split: [{k: entry(split)[k] for k in keys}] for split in ("training", "validation")}
    (folder / "list.json").write_text(json.dumps(cases))
    return folder / "list.json"


def _published(folder: Path) -> Bundle:
    """The bundle with random weights of its own network."""
    torch.manual_seed(0)
    network = ConfigParser(dict(open_bundle(folder).config)).get_parsed_content("network_def")
    publish(open_bundle(folder), network.state_dict())
    return open_bundle(folder)


def _ct(folder: Path, name: str, moved: int = 0) -> dict[str, str]:
    """A body with a bone and a marked mandible, on an oblique grid."""
    hounsfield = np.full((30, 28, 40), -1000, np.int16)
    hounsfield[5:25, 5:23] = np.random.default_rng(moved).normal(40, 15, (20, 18, 40))
    hounsfield[12:16, 10:14] = 900
    hounsfield[18:22, 8:20, 20 + moved : 26 + moved] = 700
    labels = np.zeros_like(hounsfield, dtype=np.uint8)
    labels[18:22, 8:20, 20 + moved : 26 + moved] = 7
    affine = oblique_affine((8.0, 8.0, 8.0), 5.0)
    nib.save(nib.Nifti1Image(hounsfield, affine), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_oar.nii.gz")
    return {"image": f"{name}_ct.nii.gz", "label": f"{name}_oar.nii.gz"}


@pytest.fixture
def bands(tmp_path, banded) -> tuple[Bundle, Path]:
    """A segmentation bundle with a known answer, and a list of phantoms."""
    values, labels = phantom()
    for name in ("training", "validation"):
        nib.save(nib.Nifti1Image(values, oblique_affine()), tmp_path / f"{name}_ct.nii.gz")
        nib.save(nib.Nifti1Image(labels, oblique_affine()), tmp_path / f"{name}_oar.nii.gz")
    data = _write_list(tmp_path, lambda s: {"image": f"{s}_ct.nii.gz", "label": f"{s}_oar.nii.gz"})
    return open_bundle(shutil.copytree(banded, tmp_path / "bundle")), data


@pytest.fixture
def denoiser(tmp_path) -> tuple[Bundle, Path]:
    """The restoration bundle with a tiny random network, and a list of two small CTs."""
    folder = Path(shutil.copytree(SHIPPED / RESTORATION, tmp_path / "denoiser"))
    small = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}
    _edit(folder, "inference.json", lambda c: c["network_def"].update(small))
    _edit(folder, "evaluate.json", lambda c: c["scanner"]["beam"].update(views=24))
    cases = {split: _ct(tmp_path, split, n) for n, split in enumerate(("training", "validation"))}
    return _published(folder), _write_list(tmp_path, cases.__getitem__, label=False)


@pytest.fixture
def two_views(tmp_path) -> tuple[Bundle, Path]:
    """The two-view bundle with a small random network, and a list of two small CTs."""
    folder = Path(shutil.copytree(SHIPPED / TWO_VIEWS, tmp_path / "two_views"))

    def shrink(config):
        config.update(img_size=[32, 32, 64], spacing_mm=[10.0, 10.0, 6.0])
        config["network_def"].update(feature_size=4, num_heads=[1, 2, 4, 4], depths=[1, 1, 1, 1])

    _edit(folder, "inference.json", shrink)
    cases = {split: _ct(tmp_path, split, n) for n, split in enumerate(("training", "validation"))}
    return _published(folder), _write_list(tmp_path, cases.__getitem__)


def _listed(bundle: Bundle, data: Path) -> tuple[str, ...]:
    return (str(bundle.root), "--data", str(data), "--root", str(data.parent))


def _as_monai(bundle: Bundle, data: Path, out: Path) -> dict:
    """The scores that ``python -m monai.bundle run evaluating`` writes."""
    command = [sys.executable, "-m", "monai.bundle", "run", "evaluating", "--bundle_root", ".", "--device", "cpu"]
    command += ["--config_file", "['configs/inference.json','configs/evaluate.json']", "--output_dir", str(out)]
    command += ["--cases#data", str(data), "--cases#root", str(data.parent)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    outcome = warm.run(command, cwd=bundle.root, env=environment, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    assert table(bundle, json.loads((out / "scores.json").read_text())) in outcome.stdout
    return json.loads((out / "scores.json").read_text())


@pytest.mark.parametrize(
    "kind", ["bands", *(pytest.param(k, marks=pytest.mark.soak) for k in ("denoiser", "two_views"))]
)
def test_medvit_evaluate_and_monai_bundle_run_give_the_same_numbers_and_record_them(kind, request, tmp_path):
    bundle, data = request.getfixturevalue(kind)
    (bundle.root / "docs").mkdir(exist_ok=True)
    page = bundle.root / "docs" / "README.md"
    if not page.exists():
        page.write_text((SHIPPED / "headneck_ct_swin_unetr" / "docs" / "README.md").read_text())
    kept = page.read_text().partition("<!-- scores")[0]
    outcome = CliRunner().invoke(app, ["evaluate", *_listed(bundle, data), "--json", "--record", "--device", "cpu"])
    assert outcome.exit_code == 0, outcome.output
    ours = json.loads(outcome.output)
    assert _as_monai(bundle, data, tmp_path / "out") == ours
    assert ours["metrics"][ours["metric"]] == ours["score"]
    assert next(iter(ours["metrics"])) == ours["metric"]
    assert list(ours["cases"]) == ["validation_ct"]
    assert open_bundle(bundle.root).metadata["eval_metrics"] == {k: round(v, 4) for k, v in ours["metrics"].items()}
    assert page.read_text().startswith(kept)
    assert page.read_text().count(table(bundle, ours)) == 1


@pytest.mark.parametrize("kind", ["bands", "two_views", pytest.param("denoiser", marks=pytest.mark.soak)])
def test_a_network_in_memory_scores_like_its_weights_and_is_left_as_it_was(kind, request):
    bundle, data = request.getfixturevalue(kind)
    wanted = evaluate_bundle(bundle, data, data.parent, "validation", _silent, "cpu")["metrics"]
    network = load_model(bundle, "cpu").network
    parts = list(network.modules())
    network.train()
    parts[-1].eval()  # frozen on purpose, say
    _edit(bundle.root, "metadata.json", lambda m: m["medvit"].update(state="not trained"))
    untrained = open_bundle(bundle.root)
    with pytest.raises(BundleError, match=r"no weights for .* \(state: not trained\)"):
        evaluate_bundle(untrained, data, data.parent, "validation", _silent)
    score = scorer(untrained, data, data.parent)
    assert score(network) == score(network) == wanted
    assert [m.training for m in parts] == [m is not parts[-1] for m in parts]


def test_dice_of_a_known_answer(bands):
    bundle, data = bands
    lines: list[str] = []
    scores = evaluate_bundle(bundle, data, data.parent, "validation", lines.append)
    assert scores["metric"] == "mean_dice"
    assert scores["score"] == scores["mean_dice"] > 0.97
    assert lines == [f"validation_ct: mean Dice {scores['mean_dice']:.3f}"]
    assert set(scores["per_label"]["mandible"]) == {"mean", "std", "lowest"}
    assert scores["metrics"]["dice_mandible"] == scores["cases"]["validation_ct"]["mandible"]


class _Brighter(torch.nn.Module):
    """Adds 10 HU: a restoration whose scores can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.nn.Parameter(torch.tensor(10 / 4096))

    def forward(self, x):
        return x[:, 1:2] + self.shift


def test_restoration_scores_are_what_their_words_say(denoiser):
    bundle, data = denoiser
    judge = evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))
    scores = judge(loaded_bundle_for(bundle, _Brighter()), _silent)
    assert list(scores["per_dose"]) == ["10 %", "25 %"]
    # by hand: the middle of each stride on RAS axes, the first case's seed, the stated scanner
    image = nib.as_closest_canonical(nib.load(data.parent / "validation_ct.nii.gz"))
    near = np.ascontiguousarray(image.get_fdata(dtype=np.float32)[..., [6, 7, 8, 22, 23, 24, 38, 39, 39]])
    clean = near[..., 1::3]
    scanner = LowDoseCT(photons_per_ray=35e3, electronic_noise=3.2, beam=ParallelBeam(24, "ramp"))
    for name, dose in (("10 %", 0.1), ("25 %", 0.25)):
        poor = scanner.at_dose(dose, seed=0)(near, (8.0, 8.0, 8.0))[..., 1::3]
        row = scores["per_dose"][name]
        for key, found in (("psnr_before_db", poor), ("psnr_db", poor + 10)):
            error = np.square(found.clip(-160, 240) - clean.clip(-160, 240).astype(np.float64)).mean((0, 1))
            assert row[key] == pytest.approx((10 * np.log10(400**2 / error)).mean(), abs=1e-3)
        tissue = (clean >= -200) & (clean <= 200)
        assert row["bias_before_hu"] == pytest.approx(float((poor - clean)[tissue].mean()), abs=1e-3)
        assert row["bias_hu"] == pytest.approx(row["bias_before_hu"] + 10, abs=0.01)
        assert row["psnr_gain_db"] == row["psnr_db"] - row["psnr_before_db"]
        assert 0 < row["ssim_before"] < 1
    assert scores["per_dose"]["25 %"]["psnr_before_db"] > scores["per_dose"]["10 %"]["psnr_before_db"] + 1
    assert scores["score"] == np.mean([row["psnr_gain_db"] for row in scores["per_dose"].values()])
    assert "| 10 % |" in table(bundle, scores)


def test_other_denoisers_are_judged_on_the_same_slices(denoiser):
    """They are beside the network in scores and table, take noise away, and blur what has steps."""
    bundle, data = denoiser
    scores = evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))(
        loaded_bundle_for(bundle, _Brighter()), _silent
    )
    assert list(scores["compared"]) == ["non_local_means", "bm3d", "total_variation"]
    for rows in scores["compared"].values():
        assert rows["10 %"]["psnr_db"] > scores["per_dose"]["10 %"]["psnr_before_db"]
        assert 0.5 < rows["10 %"]["edge"] < 1.1
        assert rows["10 %"]["strength"] in STRENGTHS
    assert "| non local means | 10 % |" in table(bundle, scores) and "Spread of the gain over cases" in table(
        bundle, scores
    )
    rng = np.random.default_rng(0)
    image = np.where(np.arange(32)[:, None, None] < 16, 0.0, 100.0) + rng.normal(0, 8, (32, 32, 2))
    for name in CLASSICAL:
        found = classical(name, image.astype(np.float32), (-160.0, 240.0))
        assert found.shape == image.shape and found.dtype == np.float32
        assert found[2:12].std() < 0.6 * image[2:12].std()
        assert abs(float(found[2:12].mean())) < 4 and abs(float(found[20:30].mean()) - 100) < 4
        weaker = classical(name, image.astype(np.float32), (-160.0, 240.0), strength=0.25)
        assert found[2:12].std() < weaker[2:12].std() < image[2:12].std()
    assert _noise(image[..., 0].astype(np.float32)) == pytest.approx(8, rel=0.15)
    flat = np.full((8, 8, 1), 5, np.float32)
    assert np.array_equal(classical("non_local_means", flat, (0.0, 10.0)), flat)
    with pytest.raises(
        BundleError, match="the method 'median' to compare with; it must be one of non_local_means, bm3d, total"
    ):
        classical("median", flat, (0.0, 10.0))


def test_edge_response_is_what_is_left_of_a_step():
    rng = np.random.default_rng(0)
    clean = np.where(np.arange(64)[:, None] < 32, 0.0, 100.0) * np.ones((3, 1, 64))
    assert edge_response(clean, clean) == 1
    assert edge_response(0.4 * clean + 7, clean) == pytest.approx(0.4)
    assert edge_response(clean[:, ::-1], clean) == pytest.approx(-1)
    assert edge_response(clean + rng.normal(0, 5, clean.shape), clean) == pytest.approx(1, abs=0.03)
    blurred = np.stack([np.mean([np.roll(s, n, 0) for n in (-2, -1, 0, 1, 2)], 0) for s in clean])
    # a step over five pixels has a fifth of the slope, seen by central differences as two fifths
    assert edge_response(blurred[:, 8:-8], clean[:, 8:-8]) == pytest.approx(0.4)
    assert edge_response(clean, 0 * clean) == 1


class _Sagging(torch.nn.Module):
    """The mean of a slice's two neighbours: what is judged shows which slices the network was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, ::2].mean(1, keepdim=True)


def test_judged_slices_have_their_own_neighbours(denoiser, monkeypatch):
    """Where intensity rises along k by as much from slice to slice a slice is its neighbours' mean, and nothing changes.

    Judged are slices 7, 23 and 39, the volume's last, which stands for the neighbour that it lacks.
    """
    bundle, data = denoiser
    image = nib.load(data.parent / "validation_ct.nii.gz")
    rising = np.full(image.shape, -100.0) + 5.0 * np.arange(image.shape[2])
    rising[:8], rising[8:12] = -1000, 500  # air and bone, which tell a CT in HU; outside the range of the bias
    nib.save(nib.Nifti1Image(rising.astype(np.float32), image.affine), data.parent / "validation_ct.nii.gz")
    monkeypatch.setattr(LowDoseCT, "__call__", lambda self, image, sides: np.array(image, np.float32))
    _edit(bundle.root, "inference.json", lambda c: c["inferer"].update(context=1))
    _edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(compared=[], bias_range=[-200.0, 200.0]))
    scores = scorer(open_bundle(bundle.root), data, data.parent)(_Sagging())
    assert scores["bias_hu_at_10_percent"] == pytest.approx(-2.5 / 3, abs=1e-2)


def test_a_stride_that_chooses_no_slice_of_the_body(denoiser):
    bundle, data = denoiser
    for change, words in (
        ({"slice_stride": 500}, "slice_stride 500 chooses none"),
        ({"slice_stride": 1, "window": [5000.0, 5400.0]}, "a hundredth of its pixels above 5000"),
    ):
        _edit(bundle.root, "evaluate.json", lambda c, change=change: c["evaluation"].update(change))
        with pytest.raises(BundleError, match=rf"validation_ct with 40 slices, of which.*{words}"):
            scorer(bundle, data, data.parent)


def test_doses_that_cannot_be_judged():
    good = {
        "doses": [0.1],
        "seed": 0,
        "slice_stride": 1,
        "window": [0, 1],
        "bias_range": [0, 1],
    }
    LowDoseEvaluation(scanner=LowDoseCT(), **good)
    for wrong in ({"doses": []}, {"doses": [0.0]}, {"slice_stride": 0}, {"window": [1, 0]}, {"bias_range": [0, 0]}):
        with pytest.raises(BundleError, match=rf"LowDoseEvaluation.{next(iter(wrong))}.* = .*Correct the config"):
            LowDoseEvaluation(scanner=LowDoseCT(), **{**good, **wrong})


class _Told(torch.nn.Module):
    """Answers with the labels it was told."""

    def __init__(self, ids: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.nn.functional.one_hot(ids, 3).movedim(-1, 0)[None].float())

    def forward(self, views):
        assert views.shape == (1, 2, 32, 64)
        return self.logits


def test_two_views_are_scored_beside_the_best_guess_without_them(two_views):
    bundle, data = two_views
    evaluation = evaluation_of(bundle)
    made = {
        split: evaluation.preparation({k: str(data.parent / f"{split}_{v}.nii.gz") for k, v in (("image", "ct"), ("label", "oar"))})
        for split in ("training", "validation")
    }  # fmt: skip
    truth, other = (made[split]["label"].as_tensor()[0] for split in ("validation", "training"))
    judge = evaluation.judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))
    lines: list[str] = []
    scores = judge(loaded_bundle_for(bundle, _Told(truth)), lines.append)
    assert scores["mean_dice"] == 1
    # one training case: the best constant is that case itself
    dice = 2 * float(((truth == 1) & (other == 1)).sum()) / float((truth == 1).sum() + (other == 1).sum())
    assert 0 < dice < 1
    assert scores["metrics"]["dice_mandible_without_xrays"] == pytest.approx(dice)
    assert scores["metrics"]["dice_mandible_mean_atlas"] == pytest.approx(dice)
    assert lines == [f"validation_ct: mean Dice 1.000, without the X-rays {scores['metrics']['mean_dice_without_xrays']:.3f}"]  # fmt: skip
    assert judge(loaded_bundle_for(bundle, _Told(other)), _silent)["cases"] == scores["baseline_cases"]
    assert "without the X-rays" in table(bundle, scores)


def test_answers_from_two_views_come_with_the_networks_doubt(two_views):
    bundle, data = two_views
    evaluation = evaluation_of(bundle)
    paths = {key: str(data.parent / f"training_{end}.nii.gz") for key, end in (("image", "ct"), ("label", "oar"))}
    other = evaluation.preparation(paths)["label"].as_tensor()[0]
    judged = replace(evaluation, acceptable=0.85).answers(
        EvaluationSet(bundle=bundle, data=data, root=data.parent), loaded_bundle_for(bundle, _Told(other)), _silent
    )
    sure = np.e / (np.e + 2)  # of logits 1, 0, 0
    bits = -sure * np.log2(sure) - (1 - sure) * np.log2(1 - sure)
    assert [a.signals for a in judged.answers] == [{"entropy": pytest.approx(bits, abs=1e-3)}] * 2
    assert judged.answers[0].bad and judged.answers[0].score < 0.85  # the mandible of another patient
    (called,) = judged.ratings["plain"].values()
    words = [Calibration(weights_sha256="", cases=1, bad="", limits={"entropy": limit}) for limit in (0.9, 1.0)]
    assert [called(word) for word in words] == ["check", "good"]


def test_labels_of_another_size_than_the_field(two_views):
    bundle, data = two_views
    model = loaded_bundle_for(bundle, _Told(torch.zeros(32, 32, 32, dtype=torch.long)))
    assert isinstance(model.postprocessing.transforms[-1], LabelsOnVolumeGridd)
    with pytest.raises(ShapeError, match=r"labels of \(32, 32, 32\) for references of \(32, 32, 64\).*img_size"):
        evaluation_of(bundle).judge(EvaluationSet(bundle=bundle, data=data, root=data.parent))(model, _silent)


def test_the_best_constant_is_the_best_threshold():
    rng = np.random.default_rng(0)
    masks = [np.zeros((12, 12), bool) for _ in range(5)]
    for mask in masks:
        i, j = rng.integers(0, 6, 2)
        mask[i : i + 6, j : j + 6] = True

    def score(guess):
        return np.mean([2 * (guess & m).sum() / (guess.sum() + m.sum()) for m in masks])

    every = [score(np.sum(masks, axis=0) >= level) for level in range(1, 6)]
    assert score(best_constant(masks)) == max(every)
    assert score(mean_atlas(masks)) == every[2]  # three of five
    assert not best_constant([np.zeros((3, 3), bool)] * 2).any()


def test_lists_of_images_that_cannot_judge(denoiser):
    bundle, data = denoiser
    with pytest.raises(SourceError, match="no readable data list"):
        evaluate_bundle(bundle, data.with_name("absent.json"), None, "validation", _silent)
    with pytest.raises(SourceError, match="no 'test' entries"):
        evaluate_bundle(bundle, data, data.parent, "test", _silent)


def test_lists_that_cannot_judge(bands):
    bundle, data = bands

    def score(**content):
        listed = json.loads(data.read_text())
        data.with_name("other.json").write_text(json.dumps({**listed, **content}))
        return evaluate_bundle(bundle, data.with_name("other.json"), data.parent, "validation", _silent)

    with pytest.raises(SourceError, match="an entry without 'label' in .*other.json; each needs the path of its label"):
        score(validation=[{"image": "validation_ct.nii.gz"}])
    with pytest.raises(SourceError, match="a case may train or judge, not both"):
        score(validation=json.loads(data.read_text())["training"])
    image = nib.load(data.parent / "validation_oar.nii.gz")
    ids = np.asarray(image.dataobj)

    def relabelled(array, affine):
        nib.save(nib.Nifti1Image(array, affine), data.parent / "wrong_oar.nii.gz")
        score(validation=[{"image": "validation_ct.nii.gz", "label": "wrong_oar.nii.gz"}])

    with pytest.raises(SourceError, match=r"image of \(41, 37, 29\) and labels of \(40, 37, 29\); they must share one"):
        relabelled(ids[1:], image.affine)
    with pytest.raises(SourceError, match="Found validation_ct with image and labels on different grids"):
        relabelled(ids, np.diag([-1, 1, 1, 1]) @ image.affine)
    with pytest.raises(SourceError, match=r"label 9 in validation_ct; bundle knows 0\.\.7. Correct the labels"):
        relabelled(np.where(ids == 7, 9, ids).astype(np.uint8), image.affine)
    with pytest.raises(ModalityError, match="values from 0 to 7, where bundle is made for CT"):
        score(validation=[{"image": "validation_oar.nii.gz", "label": "validation_oar.nii.gz"}])


def test_evaluation_configs_that_cannot_be_used(bands):
    bundle, data = bands
    path = bundle.root / "configs" / "evaluate.json"
    shutil.copy(SHIPPED / RESTORATION / "configs" / "evaluate.json", path)
    with pytest.raises(BundleError, match="bundle for segmentation; one for restoration is needed"):
        scorer(bundle, data, data.parent)
    _edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(window=[5, 1]))
    with pytest.raises(BundleError, match=r"evaluate\.json of bundle that cannot be built: .*window = \[5, 1\]"):
        scorer(bundle, data, data.parent)
    _edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(_target_="medvit.training.NoLongerThere"))
    with pytest.raises(BundleError, match=r"evaluate\.json of bundle that cannot be built: .*NoLongerThere"):
        scorer(bundle, data, data.parent)
    _edit(bundle.root, "evaluate.json", lambda c: c.pop("evaluation"))
    with pytest.raises(BundleError, match="cannot be built: it has no 'evaluation'"):
        scorer(bundle, data, data.parent)
    path.unlink()
    with pytest.raises(BundleError, match=r"no configs/evaluate\.json in bundle; it says how to judge"):
        scorer(bundle, data, data.parent)


def test_scores_need_their_place_in_the_docs(bands):
    bundle, data = bands
    scores = evaluate_bundle(bundle, data, data.parent, "validation", _silent)
    before = (bundle.root / "configs" / "metadata.json").read_text()
    (bundle.root / "docs").mkdir()
    for text in (None, "no marks\n", "<!-- scores: written by `medvit evaluate --record` -->\nprecious words\n"):
        if text is not None:
            (bundle.root / "docs" / "README.md").write_text(text)
        with pytest.raises(BundleError, match=r"no place for scores in docs/README\.md of bundle; put the two lines"):
            record_scores(bundle, scores)
        assert (bundle.root / "configs" / "metadata.json").read_text() == before
        outcome = CliRunner().invoke(app, ["evaluate", *_listed(bundle, data.with_name("absent.json")), "--record"])
        assert "no place for scores" in outcome.output  # before anything else is done
    assert (bundle.root / "docs" / "README.md").read_text().endswith("precious words\n")


def test_the_command_refuses_what_is_not_trained():
    for name in ("nuclei_barlow_swin", RESTORATION, TWO_VIEWS):
        if open_bundle(name).state == "not trained":
            outcome = CliRunner().invoke(app, ["evaluate", name])
            assert outcome.exit_code == 1
            assert f"no weights for {name} (state: not trained)" in outcome.output


def _nodes(node, key: str) -> list[dict]:
    """Every object in a config that has a key."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [n for child in children for n in _nodes(child, key)] + (
        [node] if isinstance(node, dict) and key in node else []
    )


@pytest.mark.parametrize(
    "folder", sorted(p.parents[1] for p in SHIPPED.glob("*/configs/metadata.json")), ids=lambda p: p.name
)
def test_every_bundle_says_how_it_is_judged_and_is_judged_on_what_it_learnt(folder):
    bundle = open_bundle(folder)
    assert evaluation_of(bundle).task == bundle.facts.task
    configs = [
        json.loads(p.read_text()) for n in ("train", "evaluate") if (p := folder / "configs" / f"{n}.json").exists()
    ]
    for key, facts in (
        ("photons_per_ray", ("electronic_noise", "bowtie", "beam")),
        ("source_to_isocenter_mm", ("isocenter_to_detector_mm", "pixels_per_voxel", "energy_kev", "img_size")),
        ("label_ids", ("bone_hu", "bone_id")),
    ):
        stated = [{k: node[k] for k in (key, *facts)} for config in configs for node in _nodes(config, key)]
        assert all(node == stated[0] for node in stated)
        assert len(stated) != 1  # by both, or by neither


def test_a_model_around_a_network_runs_as_the_bundle_would(bands):
    bundle, data = bands
    source = data.parent / "validation_ct.nii.gz"
    network = BandNetwork(8)
    network.centres.data = (torch.arange(8) / 8).half().float()
    model = loaded_bundle_for(bundle, network, "cpu")
    theirs, ours = run(bundle, source, RunSettings(device="cpu")), Predictor(model).run(source)
    assert np.array_equal(theirs.array, ours.array)
    reasons = {theirs.settings.pop("backend_reason"), ours.settings.pop("backend_reason")}
    assert "only a bundle's network is converted without being asked" in reasons
    assert theirs.settings | {"device_asked": "auto"} == ours.settings
    assert any("network was given in memory" in note for note in ours.notes)
    assert not any("network was given in memory" in note for note in theirs.notes)
    assert ours.labels.dtype in (torch.uint8, torch.int16)
    fast = load_model(bundle, "cpu", fast=True)
    assert Predictor(fast).run(source).settings["overlap"] == 0.25
    with pytest.raises(
        BackendError, match=r"settings for cpu \(fast: True\) and a model on cpu \(fast: False\); nothing is"
    ):
        Predictor(model, RunSettings(device="cpu", fast=True))


def test_intensities_are_never_made_labels(denoiser):
    bundle, data = denoiser
    with pytest.raises(BundleError, match="a bundle for restoration; one for segmentation is needed"):
        medvit.segment(data.parent / "validation_ct.nii.gz", bundle=bundle)


def test_a_network_that_makes_no_numbers_makes_no_labels(bands):
    bundle, data = bands

    class Overflowing(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.expand(-1, 8, -1, -1, -1) * float("inf")

    with pytest.raises(BundleError, match="no numbers in what bundle's network made on cpu; nothing was made of them"):
        Predictor(loaded_bundle_for(bundle, Overflowing())).run(data.parent / "validation_ct.nii.gz")
