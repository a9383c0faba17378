"""The brain bundle: sides are the patient's, maps that judge do not train, and the shipped weights do what their card says."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

import medvit
from medvit.bundles import load_weights, open_bundle
from medvit.inference import load_model
from medvit.inference.mirror_agreement import exchanged_sides
from medvit.pipeline import Predictor
from medvit.reports import dice
from medvit.training.evaluation import EvaluationSet, evaluation_of

NAME = "brain_mr_swin_unetr"
FOLDER = Path(__file__).resolve().parents[2] / "bundles" / NAME

trained = pytest.mark.skipif(open_bundle(NAME).facts.state != "trained", reason="no weights are shipped yet")


def _label_maps() -> dict[str, list]:
    return json.loads((FOLDER / "configs" / "inference.json").read_text())["label_maps"]


def test_right_and_left_ids_become_right_and_left_classes():
    names = {label.id: label.name for label in open_bundle(NAME).facts.labels}
    classes = {source: names[target] for source, target in _label_maps()["classes"]}
    assert set(classes.values()) == set(names.values())
    # FreeSurfer's colour table: 2 is Left-Cerebral-White-Matter, 41 Right-Cerebral-White-Matter
    assert (classes[2], classes[41]) == ("cerebral_white_matter_left", "cerebral_white_matter_right")
    sided = {source for source, name in classes.items() if name.endswith(("_right", "_left"))}
    paired = {source for pair in _label_maps()["pairs"] for source in pair}
    assert sided <= paired
    for right, left in _label_maps()["pairs"]:
        if right in classes:
            assert classes[right].removesuffix("_right") == classes[left].removesuffix("_left")
    assert not set(classes) & {*_label_maps()["outside"], *_label_maps()["rim"]}


def test_no_head_trains_and_judges_and_every_map_knows_its_sides():
    content = json.loads((FOLDER / "configs" / "datalist.json").read_text())
    training, judging = ({entry["image"] for entry in content[split]} for split in ("training", "validation"))
    assert len(training) == 14 and len(judging) == 3 and not training & judging
    assert all("synthseg" in image for image in training | judging)  # SynthSR's maps name both sides left


@trained
def test_the_file_is_small_and_fits_medvits_network_and_monais():
    assert open_bundle(NAME).weights.stat().st_size < 3_500_000
    found = []
    for config in ("inference", "inference_monai"):
        parser = ConfigParser(json.loads((FOLDER / "configs" / f"{config}.json").read_text()))
        network = load_weights(parser.get_parsed_content("network_def"), open_bundle(NAME).weights)
        found.append(network.state_dict()["encoder10.layer.conv1.conv.weight"])
    assert found[0].shape == (192, 192, 3, 3, 3) and bool((found[0] == found[1]).all())


@trained
def test_mirror_images_exchange_every_sided_class_and_no_other_and_fast_runs_leave_them_out():
    bundle = open_bundle(NAME)
    mirrored = load_model(NAME, "cpu").inferer.mirrored
    ids = np.array([0, *(label.id for label in bundle.facts.labels)], np.int16)
    wanted = exchanged_sides(ids, bundle.facts.labels)
    given = {one: other for pair in mirrored.swapped_classes for one, other in (pair, reversed(pair))}
    assert [given.get(int(n), int(n)) for n in ids] == wanted.tolist() and len(given) == 22
    assert load_model(NAME, "cpu", fast=True).inferer.mirrored is None


@trained
def test_a_mirrored_head_gets_its_labels_mirrored():
    """Both answers count alike, so a patient and the mirror image are labelled as mirror images."""
    values = np.random.default_rng(0).random((64, 64, 64), np.float32)
    head = np.linalg.norm(np.indices(values.shape) - 31.5, axis=0) < 28
    scan = MetaTensor(torch.from_numpy(values * head)[None], affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    model = load_model(NAME, "cpu", backend="eager")
    first = Predictor(model).run(scan)
    second = Predictor(model).run(MetaTensor(scan.flip(1), affine=scan.affine))
    turned = exchanged_sides(np.flip(second.array, 0).astype(np.int16), model.bundle.facts.labels)
    assert (turned == first.array).mean() > 0.999 and (first.array > 0).mean() > 0.05
    assert first.settings["mirrored"] is True


@trained
def test_a_real_head_has_its_right_on_its_right(shared):
    result = medvit.segment(shared / "data" / "brain_mr" / "stroke_T1.nii.gz", bundle=NAME, backend="eager")
    places = {
        label.name: np.argwhere(result.array == label.id).mean(0)  # stored along RAS axes
        for label in result.bundle.facts.labels
        if (result.array == label.id).any()
    }
    for kind in ("cerebral_white_matter", "cerebral_cortex", "cerebellum", "thalamus"):
        assert places[f"{kind}_right"][0] > places[f"{kind}_left"][0] + 10
    assert places["brainstem"][2] < places["thalamus_left"][2] - 10
    volume = float((result.array > 0).sum()) / 1000
    assert 800 < volume < 1700  # mL; stripped of its skull, the head has 1,100


@trained
def test_the_shipped_weights_reach_their_score_on_a_head_they_were_not_trained_on(shared):
    bundle = open_bundle(NAME)
    case = evaluation_of(bundle).cases(EvaluationSet(bundle=bundle, data=None, root=shared / "data"))[0]
    result = Predictor(load_model(bundle, "cpu")).run(case.source)
    truth = case.truth(result)
    found = np.mean([dice(result.array == label.id, truth == label.id) for label in bundle.facts.labels])
    assert found > bundle.metadata["eval_metrics"]["mean_dice"] - 0.15
    assert nib.aff2axcodes(result.scan.affine) == ("R", "A", "S")
