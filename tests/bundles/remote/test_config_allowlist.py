"""The names that a fetched config may use."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from medvit.bundles.remote.config_allowlist import MEDVIT_NAMES, check_configs
from medvit.errors import BundleError


@pytest.mark.parametrize("name", sorted(MEDVIT_NAMES))
def test_each_allowed_name_can_be_imported(name):
    room, _, last = name.rpartition(".")
    assert callable(getattr(import_module(room), last))


@pytest.mark.parametrize(
    "name", ["medvit.segmentation.Result", "medvit.inference.LoadedBundle", "medvit.transforms.NetworkGrid"]
)
def test_another_public_class_of_the_same_room_is_refused(name, tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "inference.json").write_text(json.dumps({"network_def": {"_target_": name}}))
    with pytest.raises(BundleError, match="configs can run code, and no shipped bundle has this expression"):
        check_configs(tmp_path)


def test_every_target_of_the_shipped_bundles_is_allowed_by_name(examples):
    targets = set()

    def collect(node):
        if isinstance(node, dict):
            targets.update({node["_target_"]} if "_target_" in node else ())
            for value in node.values():
                collect(value)
        elif isinstance(node, list):
            for value in node:
                collect(value)

    for path in (examples.parent / "bundles").glob("*/configs/inference*.json"):
        collect(json.loads(path.read_text()))
    ours = {target for target in targets if target.startswith("medvit.")}
    assert ours and ours <= MEDVIT_NAMES
