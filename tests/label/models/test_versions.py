"""Versions of a model whose configs are not those of the installed bundle: refused, with the reason and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from medvit_label.journal import Journal
from medvit_label.models.versions import INSTALLED, VersionRepository

from medvit.bundles import Bundle
from medvit.errors import BundleError
from tests.bands import make_bundle
from tests.laws.before.bundles import BANDS
from tests.laws.test_before import unpack


@pytest.fixture
def versions(tmp_path: Path) -> VersionRepository:
    return VersionRepository(tmp_path / "state", Journal(tmp_path / "state"))


def test_a_version_with_the_names_of_an_earlier_release_is_refused(tmp_path: Path, versions: VersionRepository) -> None:
    """The version is one that the release before the renames made; its configs name classes that are gone."""
    before = unpack("label", tmp_path) / "state" / "models" / BANDS / "v0001" / BANDS
    installed = Bundle(make_bundle(tmp_path / "bundles" / BANDS))
    assert b"medvit.transforms.OpenSourced" in (before / "configs" / "inference.json").read_bytes()
    versions.publish(BANDS, before, {})
    with pytest.raises(BundleError) as refused:
        versions.bundle(installed)
    words = str(refused.value)
    assert words.startswith(
        f"Found names in the configs of version 1 of {BANDS} that the installed bundle does not use"
    )
    assert "as an earlier release of medvit wrote them; the configs of the installed bundle are needed" in words
    assert words.endswith(
        f"Train the version again, or serve the installed bundle: medvit label rollback {BANDS} --to 0."
    )
    assert "(medvit." in words and "more)" in words
    assert versions.bundle(installed, INSTALLED) is installed
    assert versions.roll_back(BANDS, INSTALLED) == INSTALLED and versions.bundle(installed) is installed


def test_a_version_with_other_configs_of_the_same_names_is_refused(tmp_path: Path, versions: VersionRepository) -> None:
    installed = Bundle(make_bundle(tmp_path / "bundles" / BANDS))
    versions.publish(BANDS, installed.root, {})
    assert versions.bundle(installed).root != installed.root
    config = installed.root / "configs" / "inference.json"
    config.write_text(config.read_text() + "\n")
    with pytest.raises(
        BundleError, match=r"Found configs in version 1 of bands .* only weights may differ. .* --to 0\."
    ):
        versions.bundle(installed)
