"""The field of view of a two-view network, from the config of its bundle."""

from __future__ import annotations

import json
import shutil

import pytest

from medvit.bundles import bundle_folders, open_bundle
from medvit.errors import BundleError
from medvit.reconstruction.field import field_of

NAME = "headneck_xray_swin_x2s"


def test_the_field_is_that_of_the_config():
    config = open_bundle(NAME).config
    assert field_of(open_bundle(NAME)) == (tuple(config["img_size"]), tuple(config["spacing_mm"]))


@pytest.mark.parametrize("change", [{"img_size": [8, 8]}, {"spacing_mm": None}])
def test_a_config_without_a_field_is_refused(change, tmp_path):
    root = tmp_path / NAME
    shutil.copytree(bundle_folders()[NAME], root, ignore=shutil.ignore_patterns("*.safetensors"))
    path = root / "configs" / "inference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(
        BundleError, match=f"no img_size and spacing_mm of three numbers in {NAME}; they define the field"
    ):
        field_of(open_bundle(root))
