"""Fixtures of the tests beside this file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medvit.bundles import Bundle
from tests.training.evaluation.small_bundles import RESTORATION, SHIPPED, TWO_VIEWS, ct, edit, published, write_list


@pytest.fixture
def denoiser(tmp_path) -> tuple[Bundle, Path]:
    """The restoration bundle with a tiny random network, and a list of two small CTs."""
    folder = Path(shutil.copytree(SHIPPED / RESTORATION, tmp_path / "denoiser"))
    small = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}
    edit(folder, "inference.json", lambda c: c["network_def"].update(small))
    edit(folder, "evaluate.json", lambda c: c["scanner"]["beam"].update(views=24))
    cases = {split: ct(tmp_path, split, n) for n, split in enumerate(("training", "validation"))}
    return published(folder), write_list(tmp_path, cases.__getitem__, label=False)


@pytest.fixture
def two_views(tmp_path) -> tuple[Bundle, Path]:
    """The two-view bundle with a small random network, and a list of two small CTs."""
    folder = Path(shutil.copytree(SHIPPED / TWO_VIEWS, tmp_path / "two_views"))

    def shrink(config):
        config.update(img_size=[32, 32, 64], spacing_mm=[10.0, 10.0, 6.0])
        config["network_def"].update(feature_size=4, num_heads=[1, 2, 4, 4], depths=[1, 1, 1, 1])

    edit(folder, "inference.json", shrink)
    cases = {split: ct(tmp_path, split, n) for n, split in enumerate(("training", "validation"))}
    return published(folder), write_list(tmp_path, cases.__getitem__)
