"""Bundles are found, checked and refused with reasons; MONAI's own tools accept them and give the same voxels."""

from __future__ import annotations

import json
import logging
import re
import runpy
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medvit
from medvit.bundles import bundle_folders, open_bundle
from medvit.errors import BundleError
from medvit.settings import DEFAULT_BUNDLE
from tests import warm
from tests.bands import dice

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(p.parents[1] for p in (ROOT / "bundles").glob("*/configs/metadata.json"))


def _edit(folder: Path, name: str, change) -> None:
    path = folder / "configs" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _monai(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return warm.run([sys.executable, "-m", "monai.bundle", *args], cwd=cwd, capture_output=True, text=True)


def test_default_is_installed_trained_and_intact():
    bundle = open_bundle(DEFAULT_BUNDLE)
    assert DEFAULT_BUNDLE in bundle_folders()
    assert bundle.verify() == bundle.facts.weights.sha256
    assert bundle.weights.stat().st_size <= 16_000_000


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_metadata_is_complete_and_consistent(folder):
    bundle = open_bundle(folder)
    data = bundle.metadata
    assert data["version"] in data["changelog"]
    output = data["network_data_format"]["outputs"]["pred"]
    names = [label.name for label in bundle.facts.labels]
    channels = [output["channel_def"][str(c)] for c in range(output["num_channels"])]
    if bundle.facts.task == "restoration":
        assert (channels, names) == (["restored"], [])
    else:  # one logit for the one label; otherwise background comes first
        assert channels == (names if len(channels) == 1 else ["background", *names])
    assert [label.id for label in bundle.facts.labels] == list(range(1, len(names) + 1))
    assert output["num_channels"] == bundle.config["network_def"]["out_channels"]
    assert (folder / "docs" / "README.md").is_file()
    assert (folder / "LICENSE").is_file()


def _verified(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, folder: Path, *command: str) -> str:
    """What MONAI's command says, run from the bundle's folder as ``python -m monai.bundle`` runs it, without its start."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["monai.bundle", *command])
    scripts = import_module("monai.bundle.scripts")
    monkeypatch.setattr(scripts.logger, "propagate", True)  # it keeps what it says to itself
    caplog.set_level(logging.INFO)
    runpy.run_module("monai.bundle", run_name="__main__")
    return caplog.text


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda p: p.name)
def test_monai_verifies_metadata(folder, tmp_path, monkeypatch, caplog):
    schema = shutil.copy(ROOT / "tests" / "bundles" / "metadata.schema.json", tmp_path / "schema.json")
    command = ("verify_metadata", "--meta_file", "configs/metadata.json", "--filepath", str(schema))
    assert "metadata is verified with no error" in _verified(monkeypatch, caplog, folder, *command)


def _networks() -> list:
    """Each bundle's network and its twin; the largest, and what MONAI wrote itself, are for the long runs."""
    found = [(folder, path.name) for folder in BUNDLES for path in sorted((folder / "configs").glob("inference*.json"))]
    long = [f.name.startswith("abdomen") or "monai" in config for f, config in found]
    return [
        pytest.param(*one, marks=pytest.mark.soak if late else (), id=f"{one[0].name}-{one[1]}")
        for one, late in zip(found, long, strict=True)
    ]


@pytest.mark.parametrize(("folder", "config"), _networks())
def test_monai_verifies_the_network(folder, config, monkeypatch, caplog):
    files = ("--meta_file", "configs/metadata.json", "--config_file", f"configs/{config}")
    said = _verified(monkeypatch, caplog, folder, "verify_net_in_out", "network_def", *files)
    assert "data shape of network is verified with no error" in said


def test_the_schema_refuses_what_monai_would(tmp_path):
    import jsonschema

    schema = json.loads((ROOT / "tests" / "bundles" / "metadata.schema.json").read_text())
    data = json.loads((ROOT / "bundles" / DEFAULT_BUNDLE / "configs" / "metadata.json").read_text())
    jsonschema.validate(data, schema)
    for broken in (
        {k: v for k, v in data.items() if k != "task"},
        {**data, "version": 1},
        {**data, "network_data_format": {"inputs": {}}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


@pytest.mark.parametrize(
    ("config", "tolerance"),
    [("inference.json", 1.0), pytest.param("inference_monai.json", 0.999, marks=pytest.mark.soak)],
)
def test_monai_bundle_run_gives_identical_voxels_and_the_twin_the_same_labels(
    config, tolerance, examples, tmp_path, example_result
):
    """One truth: our command, MONAI's command on the same config, and MONAI's own network and inferer."""
    source = tmp_path / "data"
    source.mkdir()
    shutil.copy(examples / "headneck_ct_dicom.zip", source)
    ours = np.asarray(example_result.array)
    out = tmp_path / config
    outcome = _monai(
        "run", "--config_file", f"configs/{config}", "--bundle_root", ".", "--dataset_dir", str(source), "--output_dir", str(out),
        "--device", "cpu", cwd=ROOT / "bundles" / DEFAULT_BUNDLE,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    (written,) = list(out.rglob("*.nii.gz"))
    image = nib.load(written)
    assert np.allclose(image.affine, example_result.scan.affine, atol=1e-4)
    theirs = np.asarray(image.dataobj).reshape(ours.shape)
    if tolerance == 1.0:
        assert np.array_equal(theirs, ours)
    else:
        assert min(dice(theirs == c, ours == c) for c in range(1, 8)) >= tolerance


@pytest.mark.parametrize("folder", [f for f in BUNDLES if "swin_unetr" in f.name], ids=lambda p: p.name)
def test_twin_differs_only_in_network_and_inferer(folder):
    """Where MONAI has the network (Swin UNETR), the bundle has a twin for it."""
    ours, twin = (
        json.loads((folder / "configs" / name).read_text()) for name in ("inference.json", "inference_monai.json")
    )
    assert twin["network_def"].pop("_target_") == "monai.networks.nets.SwinUNETR"
    assert ours["network_def"].pop("_target_") == "medvit.segmentation.SwinUNETR"
    assert twin.pop("inferer").pop("_target_") == "monai.inferers.SlidingWindowInferer"
    assert ours.pop("inferer").pop("_target_") == "medvit.inference.SlidingWindow"
    if ours.pop("mirrored", None):  # MONAI's inferer has no word for it
        assert ours.pop("fast_mirrored") is None
    if ours["network_def"]["downsample"] == "merging_legacy":
        # MONAI has no word for its old merging, but takes it as a class
        ours["network_def"].pop("downsample")
        assert twin["network_def"].pop("downsample") == "$LegacyPatchMerging"
        assert twin["imports"].pop() == "$from medvit.segmentation import LegacyPatchMerging"
    assert ours == twin


def test_the_zoos_weights_are_named_as_the_zoo_names_them():
    """Address and md5 of MONAI's model zoo, swin_unetr_btcv_segmentation, large_files.yml; grid and range of its inference.json."""
    bundle = open_bundle(ROOT / "bundles" / "abdomen_ct_swin_unetr_btcv")
    origin, config = bundle.facts.weights.origin, bundle.config
    assert origin.file == "model_swin_unetr_btcv_segmentation_v1.pt"
    assert origin.checksum == "md5:50dd67a01b28a1d5487fd9ac27e682fb"
    assert (config["spacing_mm"], config["intensity_range"]) == ([1.5, 1.5, 2.0], [-175.0, 250.0])
    assert (config["roi_size"], config["overlap"]) == ([96, 96, 96], 0.5)
    assert (config["network_def"]["feature_size"], config["network_def"]["downsample"]) == (48, "merging_legacy")
    names = [label.name for label in bundle.facts.labels]
    assert names[:4] == ["spleen", "kidney_right", "kidney_left", "gallbladder"]
    assert [bundle.label(name).laterality.meaning for name in names if name.endswith(("right", "left"))] == [
        "Right",
        "Left",
    ] * 2


def test_codes_mean_what_dicom_says():
    """Value and meaning of each code are those of the standard's tables (PS3.16) as pydicom carries them."""
    from pydicom.sr.codedict import codes

    known = {(code.value, code.meaning) for code in (getattr(codes.SCT, name) for name in codes.SCT.dir())}
    for label in open_bundle(ROOT / "bundles" / "abdomen_ct_swin_unetr_btcv").facts.labels:
        for code in filter(None, (label.category, label.type, label.laterality)):
            assert (code.value, code.meaning) in known


def test_unknown_bundle_offers_the_nearest():
    with pytest.raises(BundleError, match=f"no bundle named 'headneck_swin_unetr'. Did you mean {DEFAULT_BUNDLE}"):
        open_bundle("headneck_swin_unetr")


def test_unknown_keys_are_errors_with_a_hint(copy):
    _edit(copy, "inference.json", lambda c: c.update(overlapp=0.7))
    with pytest.raises(BundleError, match=r"unknown key 'overlapp' in configs/inference.json; nothing uses it"):
        open_bundle(copy).verify()
    _edit(copy, "inference.json", lambda c: c.pop("overlapp"))
    _edit(copy, "metadata.json", lambda m: m.update(licens="x"))
    with pytest.raises(BundleError, match="unknown key 'licens' in configs/metadata.json"):
        open_bundle(copy).verify()
    _edit(copy, "metadata.json", lambda m: (m.pop("licens"), m["medvit"].update(spacing=[1, 1, 1])))
    with pytest.raises(BundleError, match=r"medvit\.spacing in the metadata .*Extra inputs are not permitted"):
        open_bundle(copy).verify()


def test_an_unknown_argument_in_a_config_is_a_clear_error(copy, examples):
    _edit(copy, "inference.json", lambda c: c["inferer"].update(overlapp=0.7))
    with pytest.raises(BundleError, match=r"a config of copy that cannot be built.*overlapp"):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle=copy)
    _edit(copy, "inference.json", lambda c: c["inferer"].update(_target_="medvit.inference.NoLongerThere"))
    with pytest.raises(
        BundleError, match=r"a config of copy that cannot be built: .*'medvit\.inference\.NoLongerThere'"
    ):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle=copy)


def test_broken_json_and_missing_files(copy):
    (copy / "configs" / "inference.json").write_text("{")
    with pytest.raises(BundleError, match="inference.json of copy, which is not JSON"):
        open_bundle(copy).verify()
    (copy / "configs" / "inference.json").unlink()
    with pytest.raises(BundleError, match="no readable inference.json in copy"):
        open_bundle(copy).verify()


def test_not_trained_is_listed_and_refuses(copy, examples, monkeypatch):
    (copy / "models" / "model.safetensors").unlink()
    _edit(copy, "metadata.json", lambda m: m["medvit"].update(state="not trained"))
    monkeypatch.setenv("MEDVIT_BUNDLES", str(copy.parent))
    assert "copy" in bundle_folders()
    with pytest.raises(
        BundleError, match=re.escape("no weights for copy (state: not trained); a bundle needs its weights to run")
    ):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle="copy")


def test_a_bundle_for_another_task(copy, examples):
    _edit(copy, "metadata.json", lambda m: m["medvit"].update(task="restoration"))
    with pytest.raises(BundleError, match="a bundle for restoration; one for segmentation is needed"):
        medvit.segment(examples / "headneck_ct.nii.gz", bundle=copy)
