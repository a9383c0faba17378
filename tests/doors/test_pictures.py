"""The same path for 2-D bundles: PNG and JPEG in, a label picture out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import ImageError, OutputError
from tests.bands import make_bundle, oblique_affine, phantom, write_series


@pytest.fixture(scope="module")
def flat(tmp_path_factory) -> Path:
    """The banded bundle for grey pictures."""
    folder = make_bundle(tmp_path_factory.mktemp("flat") / "flat")
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config |= {"roi_size": [32, 32], "intensity_range": [0.0, 255.0]}
    del config["spacing_mm"]
    config["preprocessing"]["transforms"] = [
        t
        for t in config["preprocessing"]["transforms"]
        if "OpenSourceImaged" in t["_target_"] or "Scale" in t["_target_"]
    ]
    config["postprocessing"]["transforms"] = [
        {"_target_": "monai.transforms.AsDiscreted", "keys": "pred", "argmax": True}
    ]
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    metadata["medvit"] |= {"dimensions": 2, "modalities": [], "values": None}
    for label in metadata["medvit"]["labels"]:
        label["volume_ml"] = None
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return folder


@pytest.fixture
def picture(tmp_path) -> tuple[Path, np.ndarray]:
    labels = phantom()[1].max(2)
    Image.fromarray((labels * 32).astype(np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png", labels


def test_a_png_gives_a_label_png_of_the_same_rows_and_columns(flat, picture, tmp_path):
    path, labels = picture
    outcome = CliRunner().invoke(app, ["segment", str(path), "-o", str(tmp_path / "out"), "-b", str(flat), "-s"])
    assert outcome.exit_code in (0, 3), outcome.output
    saved = Image.open(tmp_path / "out" / "labels.png")
    assert np.array_equal(np.asarray(saved), labels)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "labels.png",
        "run.json",
        "statistics.csv",
        "statistics.json",
    }
    rows = json.loads((tmp_path / "out" / "statistics.json").read_text())["labels"]
    assert {row["name"]: row["voxels"] for row in rows}["mandible"] == int((labels == 7).sum())
    assert all(row["volume_ml"] is None for row in rows)


def test_volumes_and_pictures_do_not_mix(flat, picture, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    with pytest.raises(ImageError, match="a volume, where flat takes pictures"):
        medvit.segment(tmp_path / "series", bundle=flat)
    with pytest.raises(OutputError, match="pictures give png"):
        medvit.segment(picture[0], bundle=flat).save(tmp_path / "out", ("nifti",))
