"""Configs of every bundle: each builds, each name in it exists, and the allow-list for fetched configs admits the
pinned names.
"""

from __future__ import annotations

import json

import pytest

from medvit import MedvitError
from tests.laws import pins
from tests.laws.allow_list import HARMFUL, allow_list
from tests.laws.configs import (
    BUNDLES,
    STARTS,
    built,
    config_files,
    has_weights,
    look_up,
    own_ids,
    targets,
    unresolved,
)
from tests.laws.scratch import scratch

every_config = pytest.mark.parametrize("path", config_files(), ids=lambda path: f"{path.parents[1].name}/{path.stem}")


def test_every_kind_of_config_is_found():
    assert {path.parents[1].name for path in config_files()} == {path.parent.name for path in BUNDLES.glob("*/configs")}
    kinds = {path.stem for path in config_files()}
    assert {"inference", "inference_monai", "train", "pretrain", "pretrain_simmim", "evaluate"} <= kinds


@every_config
def test_every_target_is_there(path):
    assert [name for name in targets(path) if look_up(name) is None] == []


@every_config
def test_every_name_in_an_expression_is_there(path, tmp_path):
    assert unresolved(path, tmp_path) == []


def test_a_name_that_is_gone_is_noticed(tmp_path):
    config = tmp_path / "configs" / "inference.json"
    config.parent.mkdir()
    config.write_text(
        '{"imports": ["$import os", "$import medvit.gone"], "side": 1,'
        ' "a": "$os.gone(@side)", "b": "$gone.there", "c": "$@side + @other", "network": null}'
    )
    with pytest.raises(ImportError):
        unresolved(config, tmp_path)
    config.write_text(config.read_text().replace(', "$import medvit.gone"', ""))
    assert unresolved(config, tmp_path) == [
        "@side + @other: no id @other",
        "gone.there: no gone.there",
        "os.gone(@side): no os.gone",
    ]


@every_config
def test_every_id_is_built_but_those_that_start_something(path):
    left_out = set(own_ids(path)) - built(path).keys()
    assert left_out <= set(STARTS)
    assert left_out, "a config that starts nothing"


def test_what_configs_become():
    pins.require("configs")


def test_weights_that_do_not_ship_are_refused_and_no_others():
    without = {path.parents[1] for path in config_files() if not has_weights(path)}
    assert {folder.name for folder in without} == {"abdomen_ct_swin_unetr_btcv"}
    for folder in without:
        config = json.loads((folder / "configs" / "inference.json").read_text())
        load = look_up(config["network"]["_target_"])
        with scratch(), pytest.raises(MedvitError, match="not fetched"):
            load(None, folder / "models" / "model.safetensors")


def test_what_fetched_configs_may_name():
    pins.require("allow_list")


def test_nothing_harmful_is_admitted():
    admitted = {f"{room}.{name}" for room, names in allow_list()["admitted"].items() for name in names}
    assert not admitted & set(HARMFUL)
    assert {name for path in config_files() for name in targets(path)} <= admitted
