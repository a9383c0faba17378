"""The reader of shipped configs gives what MONAI's ConfigParser gives, and leaves everything else to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from medvit.bundles import ConfigReader, bundle_folders, open_bundle
from medvit.inference import SlidingWindow
from medvit.inference.backends.network_fingerprint import fingerprint
from medvit.inference.loaded_bundle import without_saver

PARTS = ("inferer", "preprocessing", "postprocessing")
BUNDLES = bundle_folders()
SCALE = {"_target_": "medvit.transforms.ScaleIntensityRanged", "keys": "image", "a_min": "$@range[0]", "a_max": "@most"}
BASE: dict[str, Any] = {"range": [0, 80], "most": 80.0, "name": "scan", "device": "cpu"}


def _described(value: Any) -> Any:
    """Describe an object by its class and its attributes, down to plain values."""
    if isinstance(value, nn.Module):
        return fingerprint(value)
    if isinstance(value, Mapping):
        return {key: _described(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value), [_described(part) for part in value]
    return (type(value), _described(vars(value))) if hasattr(value, "__dict__") else (type(value), value)


def _config(name: str) -> dict[str, Any]:
    bundle = open_bundle(name)
    config = {**bundle.config, "bundle_root": str(bundle.root), "device": "cpu"}
    return {**config, "postprocessing": without_saver(config["postprocessing"])}


@pytest.mark.parametrize("name", BUNDLES)
def test_every_shipped_bundle_is_read_as_monai_reads_it(name):
    config = _config(name)
    reader, parser = ConfigReader(config), ConfigParser(json.loads(json.dumps(config)))
    assert reader.knows("network", *PARTS)
    for part in ("spacing_mm", "roi_size", "network_def", *PARTS):
        if part in config:
            torch.manual_seed(0)
            ours = _described(reader.get(part))
            torch.manual_seed(0)
            assert ours == _described(parser.get_parsed_content(part)), part
    assert reader.get("inferer") is reader.get("inferer")


@pytest.mark.parametrize("name", ["hippocampus_mr_swin_unetr", "nuclei_barlow_swin", "ct_denoise_restore_rwkv"])
def test_the_network_has_the_bundles_weights(name):
    config = _config(name)
    ours, theirs = ConfigReader(config).get("network"), ConfigParser(config).get_parsed_content("network")
    assert fingerprint(ours) == fingerprint(theirs) and not ours.training


@pytest.mark.parametrize(
    "value",
    [
        "@range",
        "@most",
        "$@range[1]",
        "$@range[-0]",
        "$@range + [3, @most]",
        "$@name + '/models' + \"/x\"",
        "$[@most, @range[0], 'text']",
        "plain text with @ and $ inside",
        "mail@most",
        "",
        "$1 + 2.5",
        {"a": ["@name", {"b": "$@range[0] + 1"}], "c": None, "d": True},
        [[], {}, "@name"],
        SCALE,
        [SCALE, {**SCALE, "_desc_": "said twice"}],
        {"_target_": "medvit.transforms.Compose", "transforms": [SCALE]},
    ],
    ids=str,
)
def test_odd_values_are_read_as_monai_reads_them(value):
    config = {**BASE, "value": value}
    reader = ConfigReader(config)
    if value != "$@range[-0]":
        assert reader.knows("value")
        wanted = ConfigParser(json.loads(json.dumps(config))).get_parsed_content("value")
        assert _described(reader.get("value")) == _described(wanted)
    else:
        assert not reader.knows("value")


@pytest.mark.parametrize(
    "value",
    [
        "$__import__('os').getcwd()",
        "$@name.upper()",
        "$@name.to",
        "$@name.to('cpu', copy=True)",
        "$open('x')",
        "$reference_most",
        "$'reference_most'",
        "$[n for n in @range]",
        "$lambda: 1",
        "$@range[@most]",
        "$@range[0:1]",
        "$@most - 1",
        "$@most if @most else 0",
        "$f'{@name}'",
        "$import os",
        "$ @most",
        "$@most #comment",
        "$(",
        "$\0",
        "@absent",
        "$@absent",
        "@range::0",
        "@range#0",
        "@::range",
        "$@range::0",
        "%most",
        "%other.json::most",
        "@name.x",
        {"_target_": "builtins.exec", "source": "1"},
        {"_target_": "monai.transforms.ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1},
        {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 1},
        {"_target_": "$@most"},
        {"_target_": ["medvit.transforms.Compose"]},
        {**SCALE, "_disabled_": True},
        {**SCALE, "_requires_": "@most"},
        {**SCALE, "_mode_": "callable"},
        {**SCALE, "a_min": "$print(1)"},
        ["@name", {"deep": ["@absent"]}],
        "@value",
        {"self": "$[@value]"},
    ],
    ids=str,
)
def test_what_the_reader_does_not_know_is_left_to_monai(value):
    reader = ConfigReader({**BASE, "value": value, "through": {"a": ["@value"]}})
    assert not reader.knows("value")
    assert not reader.knows("most", "through")
    assert reader.knows("most")


def test_a_config_with_nested_ids_or_additions_is_left_to_monai():
    assert not ConfigReader({**BASE, "network_def::in_channels": 2}).knows("most")
    assert not ConfigReader({**BASE, "+range": [1]}).knows("most")
    assert not ConfigReader(BASE).knows("absent")


def test_an_object_that_is_referred_to_twice_is_made_once():
    reader = ConfigReader({**BASE, "step": SCALE, "both": ["@step", "@step"]})
    assert reader.get("both")[0] is reader.get("both")[1] is reader.get("step")


def test_an_object_that_cannot_be_made_names_its_cause():
    config = {**BASE, "inferer": {"_target_": "medvit.inference.SlidingWindow", "roi_size": 4, "overlap": 2}}
    reader = ConfigReader(config)
    assert reader.knows("inferer")
    with pytest.raises(RuntimeError, match="medvit.inference.SlidingWindow cannot be made: Found an overlap of 2"):
        reader.get("inferer")
    assert isinstance(
        ConfigReader({**config, "inferer": {**config["inferer"], "overlap": 0}}).get("inferer"), SlidingWindow
    )
