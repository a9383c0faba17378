"""Class names that code compares as text: each test fails where a class is renamed and the text is forgotten."""

from __future__ import annotations

import ast
from importlib import import_module
from inspect import getsource

import pytest

from medvit.bundles import open_bundle
from medvit.inference import load_model
from medvit.inference.streaming import steps_of
from medvit.interop import published
from medvit.restoration import preconditions

NETWORK_ROOMS = ("segmentation", "restoration", "reconstruction")


def _texts(module) -> set[str]:
    """The texts of a module that look like the end of a dotted class name."""
    constants = (node.value for node in ast.walk(ast.parse(getsource(module))) if isinstance(node, ast.Constant))
    return {text[1:] for text in constants if isinstance(text, str) and text.startswith(".") and text[1:2].isupper()}


def test_preconditions_of_a_restoration_name_classes_that_are_there():
    names = _texts(preconditions)
    assert len(names) == 2
    rooms = [import_module("medvit.transforms"), import_module("medvit.inference")]
    assert all(any(hasattr(room, name) for room in rooms) for name in names), names


def test_a_restoration_is_slice_wise_by_its_config():
    assert preconditions.is_slice_wise(open_bundle("ct_denoise_restore_rwkv"))
    assert not preconditions.is_slice_wise(open_bundle("mr_superres_restore_rwkv"))  # it has another grid


@pytest.mark.parametrize("name", sorted(published._TRANSLATORS))
def test_a_network_with_published_weights_has_its_class_and_its_translator(name):
    assert callable(import_module(published._TRANSLATORS[name]).translate)
    assert any(hasattr(import_module(f"medvit.{room}.networks"), name) for room in NETWORK_ROOMS)


def test_the_networks_that_tensors_point_to_have_a_translator():
    assert {name for name, _ in published._TRAITS} == set(published._TRANSLATORS)


def test_a_loaded_bundle_leaves_out_the_step_that_saves_an_image():
    bundle = open_bundle("nuclei_barlow_swin")
    stated = [step["_target_"].rpartition(".")[2] for step in bundle.config["postprocessing"]["transforms"]]
    loaded = [type(step).__name__ for step in load_model(bundle, "cpu").postprocessing.transforms]
    savers = [name for name in stated if name not in loaded]
    assert savers == ["SaveImagePNGd"]


@pytest.mark.parametrize("name", ["headneck_ct_swin_unetr", "hippocampus_mr_swin_unetr"])
def test_the_postprocessing_of_a_shipped_bundle_can_be_streamed(name):
    assert steps_of(load_model(name, "cpu").postprocessing) is not None
