"""How undecided a network is about its labels: known chances, any cutting, and what is made of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medvit
from medvit.bundles import Calibration
from medvit.inference import LabelEntropy, by_name, load_model, loaded_bundle_for
from medvit.inference import uncertainty as entropy
from medvit.pipeline import Predictor
from medvit.reports import UncertaintySignals
from medvit.settings import RunSettings
from tests.bands import make_bundle, oblique_affine, phantom


def _bits(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def test_known_chances_give_their_entropy():
    chances = torch.tensor([[0.1, 0.2, 0.7], [0.05, 0.6, 0.35], [0.9, 0.05, 0.05], [0.3, 0.3, 0.4]])
    found = LabelEntropy()
    found.add_planes(chances.log().T.reshape(3, 2, 2))
    one, two = found.values()
    assert one == pytest.approx(_bits(0.6), abs=1e-4)
    assert two == pytest.approx((_bits(0.7) + _bits(0.4)) / 2, abs=1e-4)


def test_one_channel_is_a_label_above_nought():
    found = LabelEntropy()
    found.add_planes(torch.tensor([[[0.0, -3.0, 2.0, 50.0]]]))  # 0 is background, 50 is sure
    assert found.values() == (pytest.approx(_bits(1 / (1 + np.exp(-2))) / 2, abs=1e-4),)


def test_planes_give_what_the_whole_gives_and_labels_nobody_got_are_none(monkeypatch):
    logits = torch.randn(4, 12, 9, 7, generator=torch.Generator().manual_seed(0)) * 4
    logits[2] = -100
    whole, parts = LabelEntropy(), LabelEntropy()
    whole.add_planes(logits)
    monkeypatch.setattr(entropy, "_BLOCK", 50)
    for planes in logits.split(5, 1):
        parts.add_planes(planes)
    (a, none, b), (c, nothing, d) = whole.values(), parts.values()
    assert none is None and nothing is None and LabelEntropy().values() == ()
    assert (c, d) == (pytest.approx(a, abs=2e-4), pytest.approx(b, abs=2e-4))


def _scan() -> MetaTensor:
    values = torch.from_numpy(phantom()[0].astype(np.float32))[None]
    return MetaTensor(values, affine=torch.from_numpy(oblique_affine()))


@pytest.mark.parametrize("low_memory", [False, True])
def test_a_run_says_it_of_each_label_it_found(banded, tmp_path, low_memory):
    """The same whether logits are held as a whole or go by plane by plane, and never the mirror image's."""
    result = Predictor(
        load_model(banded, "cpu"), RunSettings(device="cpu", low_memory=low_memory, quality_map=True)
    ).run(_scan())
    plain = medvit.segment(_scan(), bundle=banded, roi_subset=("brainstem", "larynx"))
    assert set(result.entropy()) == {label.name for label in result.requested_labels}
    assert all(0 <= bits <= 1 for bits in result.entropy().values())
    assert set(plain.entropy()) == {"brainstem", "larynx"}
    assert plain.entropy()["larynx"] == pytest.approx(result.entropy()["larynx"], abs=1e-3)
    result.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["entropy_bits"] == result.entropy()


def test_only_a_calibration_of_these_very_weights_is_used(tmp_path):
    folder = make_bundle(tmp_path / "bands")
    assert (
        medvit.segment(_scan(), bundle=folder).calibration is None
    )  # what the shipped bundle knows is of other weights
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    weights = metadata["medvit"]["weights"]["sha256"]
    metadata["medvit"]["quality"] = {"weights_sha256": weights, "cases": 3, "bad": "x", "limits": {"entropy": 0.0001}}
    path.write_text(json.dumps(metadata))
    result = medvit.segment(_scan(), bundle=folder)
    assert result.calibration is not None and result.quality()["rating"] == "check"
    assert any("the network is in doubt about larynx (0." in reason for reason in result.quality()["reasons"])
    given = Predictor(loaded_bundle_for(medvit.open_bundle(folder), load_model(folder, "cpu").network)).run(_scan())
    assert given.calibration is None and not any("in doubt" in reason for reason in given.quality()["reasons"])


def test_limits_decide_and_a_signal_that_tells_nothing_is_left_out():
    entropy, agreement = {"a": 0.3, "b": 0.1}, {"a": 0.65, "b": 0.9}
    assert UncertaintySignals(entropy, agreement).reasons() == ["a and what the mirror image gave overlap by 0.65 only"]
    known = Calibration(weights_sha256="0", cases=5, bad="x", limits={"entropy": 0.2})
    assert UncertaintySignals(entropy, agreement, known).reasons() == [
        "the network is in doubt about a (0.300 bits a voxel, where up to 0.200 is usual)"
    ]
    both = Calibration(weights_sha256="0", cases=5, bad="x", limits={"entropy": 0.35, "agreement": 0.95})
    assert [reason[:6] for reason in UncertaintySignals(entropy, agreement, both).reasons()] == ["a and ", "b and "]


def test_names_of_what_was_given():
    labels = medvit.open_bundle("hippocampus_mr_swin_unetr").facts.labels
    assert by_name((None, 0.2), labels) == {labels[1].name: 0.2} and by_name((), labels) == {}


def test_a_bundle_that_is_mostly_wrong_calls_nothing_good():
    """Met with a first set of weights: no signal parts the bad answers where all are, and every one was called good."""
    known = Calibration(weights_sha256="0", cases=8, spoilt=5, bad="Dice of a label below 0.7", limits={})
    assert UncertaintySignals(calibration=known).reasons() == [
        "of 8 cases whose answer is known, 5 came out bad (Dice of a label below 0.7)"
    ]
    assert UncertaintySignals(calibration=known.model_copy(update={"spoilt": 4})).reasons() == []
