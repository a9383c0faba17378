"""The table of docs/dicom.md: what ends alike in one line, each message once, and every file of the shared data in it."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def oddities() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dicom_oddities", ROOT / "benchmarks" / "dicom_oddities.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_what_ends_alike_stands_in_one_line_and_a_message_once(oddities):
    refused = [oddities.Outcome(1, "refused", f"Found {n} slices | no tags.") for n in (4, 8)]
    done = oddities.Outcome(3, "NIfTI", "no label was found")
    rows = [
        oddities.Row(
            source=f"a/ct_{n}.dcm", found="0: CT volume", sizes=(size,), done=ended, remedy="--force", remedied=done
        )
        for n, size, ended in ((1, "4x4x4", refused[0]), (2, "8x8x8", refused[1]))
    ]
    rows.insert(1, oddities.Row(source="b.zip", found="0: CT volume", sizes=("9x9x9",), done=done))
    notes = oddities.Notes()
    lines = oddities.table(rows, ("series", "inspect", "segment", "remedy"), notes)
    assert lines[2:] == [
        "| `a/ct_{1, 2}.dcm` | 0: CT volume (4x4x4, 8x8x8) | 1: refused [1] | `--force`: 3: NIfTI [2] |",
        "| `b.zip` | 0: CT volume (9x9x9) | 3: NIfTI [2] |  |",
    ]
    assert notes.texts == ["Found 4 slices | no tags.", "no label was found"]


@pytest.mark.parametrize(
    ("names", "cell"),
    [
        (["a/x.dcm"], "`a/x.dcm`"),
        (["a/MR_small.dcm", "a/MR_small_RLE.dcm"], "`a/MR_{small, small_RLE}.dcm`"),
        (["a/CT_one.dcm", "a/CT_two.dcm", "b/three.zip"], "`a/CT_{one, two}.dcm`, `b/three.zip`"),
    ],
)
def test_names_of_one_folder_are_folded_at_whole_words(names, cell, oddities):
    assert oddities.folded(names) == cell


def test_every_dicom_file_of_the_shared_data_is_in_a_source(oddities, shared):
    data = shared / "data" / "dicom"
    found = oddities.sources(data)
    assert len(found) == len(set(found)) > 60
    for path in data.rglob("*"):
        if path.is_file() and not path.name.endswith((".nrrd", ".gz", ".dump")):
            covering = [source for source in found if source in (path, path.parent)]
            assert len(covering) == 1, path
    results = {path.name for path in oddities.results_of_others(data)}
    assert {"rtss.dcm", "liver.dcm", "label.seg", "seg_image_ct_true_fractional.dcm"} <= results


def test_the_page_names_the_sources(oddities, shared):
    text = (ROOT / "docs" / "dicom.md").read_text()
    for source in oddities.sources(shared / "data" / "dicom"):
        assert source.parent.name in text or source.name in text, source
