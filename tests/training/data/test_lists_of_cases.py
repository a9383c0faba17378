"""Lists of cases: those of the bundles are without leakage, and what cannot be used is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medvit.bundles import open_bundle
from medvit.errors import SourceError
from medvit.training.data import read_list
from tests.conftest import ROOT


def _patient(file: str) -> str:
    name = Path(file).name
    if name.startswith("hippocampus_"):  # numbers 2k-1 and 2k are the two sides of one head
        return f"hippocampus head {(int(name[12:15]) + 1) // 2}"
    if name.startswith("synthseg_training_seg_"):  # one map of each person
        return name
    return name.rsplit("_", 1)[0]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bundles").glob("*/configs/datalist.json")), ids=lambda p: p.parents[1].name
)
def test_no_training_file_is_in_a_validation_list(path):
    content = json.loads(path.read_text())
    files = {
        split: {entry[k] for entry in content[split] for k in ("image", "label") if k in entry}
        for split in ("training", "validation")
    }
    assert files["training"]
    assert files["validation"]
    assert not files["training"] & files["validation"]
    patients = {split: {_patient(f) for f in names} for split, names in files.items()}
    assert not patients["training"] & patients["validation"]
    if path.parents[1].name.startswith("headneck_ct"):
        assert {"pt_201", "pt_222", "pt_225", "pt_236"} <= patients["validation"]
        assert len(patients["validation"]) == 8


def test_lists_that_cannot_be_used(labelled, tmp_path):
    folder, data = labelled
    bundle = open_bundle(folder)
    with pytest.raises(SourceError, match="no readable data list"):
        read_list(bundle, tmp_path / "absent.json", None, "training")
    with pytest.raises(SourceError, match="no 'test' entries.*Its parts: training, validation"):
        read_list(bundle, data, tmp_path, "test")
    with pytest.raises(SourceError, match=r"every file of the list is needed. Set root"):
        read_list(bundle, data, tmp_path / "elsewhere", "training")
    content = json.loads(data.read_text())
    content["validation"] = content["training"]
    content["test"] = []
    data.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="a case may be in one part only"):
        read_list(bundle, data, tmp_path, "training")
    content["validation"] = [e | {"image": f"./elsewhere/../{e['image']}"} for e in content["training"]]
    data.write_text(json.dumps(content))
    with pytest.raises(SourceError, match="Found s0_ct.nii.gz in several parts"):  # written another way, the same file
        read_list(bundle, data, tmp_path, "validation")
    for parts, words in (
        ({"training": []}, "no 'training' entries in .*; give a list with some"),
        ([], "no readable data list at .*it is not an object"),
        ({"training": [{"label": "s0_oar.nii.gz"}]}, "an entry without 'image' in"),
    ):
        data.write_text(json.dumps(parts))
        with pytest.raises(SourceError, match=words):
            read_list(bundle, data, tmp_path, "training")
