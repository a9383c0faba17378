"""Every task is scored through the users' path, the same by every way in; a network in memory scores like its weights."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medvit.bundles import Bundle, open_bundle
from medvit.cli.main import app
from medvit.errors import BackendError, BundleError, ModalityError, SourceError
from medvit.inference import load_model, loaded_bundle_for
from medvit.pipeline import Predictor, run
from medvit.settings import RunSettings
from medvit.training.evaluation import (
    evaluate_bundle,
    evaluation_of,
    record_scores,
    scorer,
    table,
)
from tests import warm
from tests.bands import BandNetwork, oblique_affine, phantom
from tests.training.evaluation.small_bundles import RESTORATION, ROOT, SHIPPED, TWO_VIEWS, edit, silent, write_list


@pytest.fixture
def bands(tmp_path, banded) -> tuple[Bundle, Path]:
    """A segmentation bundle with a known answer, and a list of phantoms."""
    values, labels = phantom()
    for name in ("training", "validation"):
        nib.save(nib.Nifti1Image(values, oblique_affine()), tmp_path / f"{name}_ct.nii.gz")
        nib.save(nib.Nifti1Image(labels, oblique_affine()), tmp_path / f"{name}_oar.nii.gz")
    data = write_list(tmp_path, lambda s: {"image": f"{s}_ct.nii.gz", "label": f"{s}_oar.nii.gz"})
    return open_bundle(shutil.copytree(banded, tmp_path / "bundle")), data


def _listed(bundle: Bundle, data: Path) -> tuple[str, ...]:
    return (str(bundle.root), "--data", str(data), "--root", str(data.parent))


def _as_monai(bundle: Bundle, data: Path, out: Path) -> dict:
    """Return the scores that ``python -m monai.bundle run evaluating`` writes."""
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
    wanted = evaluate_bundle(bundle, data, data.parent, "validation", silent, "cpu")["metrics"]
    network = load_model(bundle, "cpu").network
    parts = list(network.modules())
    network.train()
    parts[-1].eval()  # frozen on purpose, say
    edit(bundle.root, "metadata.json", lambda m: m["medvit"].update(state="not trained"))
    untrained = open_bundle(bundle.root)
    with pytest.raises(BundleError, match=r"no weights for .* \(state: not trained\)"):
        evaluate_bundle(untrained, data, data.parent, "validation", silent)
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


def test_lists_that_cannot_judge(bands):
    bundle, data = bands

    def score(**content):
        listed = json.loads(data.read_text())
        data.with_name("other.json").write_text(json.dumps({**listed, **content}))
        return evaluate_bundle(bundle, data.with_name("other.json"), data.parent, "validation", silent)

    with pytest.raises(SourceError, match="an entry without 'label' in .*other.json; each needs the path of its label"):
        score(validation=[{"image": "validation_ct.nii.gz"}])
    with pytest.raises(SourceError, match="a case may be in one part only"):
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
    with pytest.raises(SourceError, match=r"label 9 in validation_ct; bundle has labels 0\.\.7. Correct the labels"):
        relabelled(np.where(ids == 7, 9, ids).astype(np.uint8), image.affine)
    with pytest.raises(ModalityError, match="values from 0 to 7, where bundle is made for CT"):
        score(validation=[{"image": "validation_oar.nii.gz", "label": "validation_oar.nii.gz"}])


def test_evaluation_configs_that_cannot_be_used(bands):
    bundle, data = bands
    path = bundle.root / "configs" / "evaluate.json"
    shutil.copy(SHIPPED / RESTORATION / "configs" / "evaluate.json", path)
    with pytest.raises(BundleError, match="bundle for segmentation; one for restoration is needed"):
        scorer(bundle, data, data.parent)
    edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(window=[5, 1]))
    with pytest.raises(BundleError, match=r"evaluate\.json of bundle that cannot be built: .*window = \[5, 1\]"):
        scorer(bundle, data, data.parent)
    edit(bundle.root, "evaluate.json", lambda c: c["evaluation"].update(_target_="medvit.training.NoLongerThere"))
    with pytest.raises(BundleError, match=r"evaluate\.json of bundle that cannot be built: .*NoLongerThere"):
        scorer(bundle, data, data.parent)
    edit(bundle.root, "evaluate.json", lambda c: c.pop("evaluation"))
    with pytest.raises(BundleError, match="cannot be built: it has no 'evaluation'"):
        scorer(bundle, data, data.parent)
    path.unlink()
    with pytest.raises(BundleError, match=r"no configs/evaluate\.json in bundle; it configures the evaluation"):
        scorer(bundle, data, data.parent)


def test_scores_need_their_place_in_the_docs(bands):
    bundle, data = bands
    scores = evaluate_bundle(bundle, data, data.parent, "validation", silent)
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
        BackendError, match=r"settings for cpu \(fast: True\) and a model on cpu \(fast: False\); a loaded model is"
    ):
        Predictor(model, RunSettings(device="cpu", fast=True))


def test_a_network_that_makes_no_numbers_makes_no_labels(bands):
    bundle, data = bands

    class Overflowing(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image.expand(-1, 8, -1, -1, -1) * float("inf")

    with pytest.raises(BundleError, match="values in the output of bundle's network on cpu; no result was made"):
        Predictor(loaded_bundle_for(bundle, Overflowing())).run(data.parent / "validation_ct.nii.gz")
