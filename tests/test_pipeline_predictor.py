"""The one way to run: a resident predictor, many cases and prepared sources, for each of the three tasks."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import medvit
from medvit.bundles import open_bundle
from medvit.errors import BundleError, ImageError, ModalityError, SelectionError, SourceError
from medvit.inference import load_model
from medvit.pipeline import Predictor, prepare, run, run_many, task_of
from medvit.reconstruction import ReconstructionSettings, ViewInput
from medvit.reconstruction.views import ViewGeometry
from medvit.tasks import PreparedScan
from tests.bands import make_reconstructing_bundle, make_restoring_bundle

TASKS = ("segmentation", "restoration", "reconstruction")


@pytest.fixture(scope="module")
def places(banded: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A bundle of each task with a source for it."""
    folder = tmp_path_factory.mktemp("sources")
    values = np.random.default_rng(0).normal(0, 60, (30, 28, 26)).astype(np.float32)
    values[:6], values[20:, 10:, 10:] = -1000, values[20:, 10:, 10:] + 400
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.5, 2.0, 1.0])), folder / "scan.nii.gz")
    geometry = ViewGeometry(pixel_spacing_mm=2.0, magnification=1.5)
    for name, low in (("ap", 24), ("lat", 30)):
        picture = np.full((96, 96), 10, np.uint8)
        picture[low : low + 30, 30:70] = 200
        picture[40:44, 40:44] = 190
        Image.fromarray(picture).save(folder / f"{name}.png")
    views = {name: ViewInput(source=folder / f"{name}.png", geometry=geometry) for name in ("ap", "lat")}
    return {
        "segmentation": (banded, folder / "scan.nii.gz"),
        "restoration": (make_restoring_bundle(folder / "smoothing"), folder / "scan.nii.gz"),
        "reconstruction": (make_reconstructing_bundle(folder / "crossing"), views),
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_predictor_gives_what_run_gives_from_several_threads_too(places, task):
    bundle, source = places[task]
    wanted = run(bundle, source, device="cpu")
    predictor = medvit.Predictor(bundle, device="cpu")
    assert predictor.bundle.facts.task == task
    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(predictor, [source] * 3))
    for result in (*found, Predictor(load_model(bundle, "cpu")).run(source)):
        assert type(result) is type(wanted) and np.array_equal(result.array, wanted.array)
        assert result.notes == wanted.notes
    assert predictor(source).settings == wanted.settings
    assert len(np.unique(wanted.array)) > 1


@pytest.mark.parametrize("task", TASKS)
def test_many_cases_of_each_task_and_one_that_fails(places, task, tmp_path):
    bundle, source = places[task]
    absent = (
        tmp_path / "absent.png" if task != "reconstruction" else {"ap": tmp_path / "absent.png", "lat": source["lat"]}
    )
    cases = list(run_many(bundle, iter([source, absent, source]), device="cpu"))
    assert [case.error is None for case in cases] == [True, False, True]
    assert "absent" in str(cases[1].error) and cases[1].source is absent
    wanted = run(bundle, source, device="cpu").array
    assert all(np.array_equal(case.result.array, wanted) for case in (cases[0], cases[2]))
    assert cases[0].result.progress is not cases[2].result.progress


def test_a_source_that_is_open_is_not_read_again(places):
    bundle, source = places["segmentation"]
    scan, wanted = medvit.open_source(source), run(bundle, source, device="cpu").array
    result = run(bundle, scan, device="cpu")
    assert result.scan is scan and "read" not in result.progress.seconds
    prepared = prepare(bundle, scan, device="cpu")
    assert isinstance(prepared, PreparedScan) and prepared.scan is scan
    again = Predictor(bundle, device="cpu").run(prepared)
    assert np.array_equal(result.array, wanted) and np.array_equal(again.array, wanted)
    bundle, views = places["reconstruction"]
    opened = prepare(bundle, views)
    result = run(bundle, dict(zip(("ap", "lat"), opened.views, strict=True)))
    assert result.views[0] is opened.views[0] and result.views[1] is opened.views[1]
    assert "read" not in result.progress.seconds
    assert np.array_equal(result.array, run(bundle, views).array)


def test_an_open_scan_is_still_checked(places):
    bundle, source = places["segmentation"]
    scan = medvit.open_source(source)
    scan.array[0, 3, 3, 3] = np.nan
    with pytest.raises(ImageError, match="1 NaN or infinite values"):
        run(bundle, scan)


def test_inputs_and_settings_of_another_task_are_refused(places):
    labels, scan = places["segmentation"]
    views, pair = places["reconstruction"]
    with pytest.raises(SourceError, match="Found one source for crossing, whose inputs are ap, lat. Give a mapping"):
        run(views, scan)
    with pytest.raises(SourceError, match="Found inputs named ap, lat for banded, which takes a single source"):
        run(labels, pair)
    with pytest.raises(SourceError, match="Found inputs named ap for crossing"):
        run(views, {"ap": pair["ap"]})
    with pytest.raises(
        BundleError, match="Found RunSettings for crossing, a bundle for reconstruction; Reconstruction"
    ):
        run(views, pair, medvit.RunSettings(device="cpu"))
    with pytest.raises(BundleError, match="Found ReconstructionSettings for banded, a bundle for segmentation; RunSet"):
        Predictor(labels, ReconstructionSettings("cpu"))
    with pytest.raises(SelectionError, match="must be body, or a box"):
        Predictor(labels, roi_crop="head")
    assert [task_of(open_bundle(places[task][0])).name for task in TASKS] == list(TASKS)


def test_what_a_run_finds_is_in_its_prediction(places):
    bundle, source = places["segmentation"]
    predictor = Predictor(bundle, device="cpu")
    prediction = predictor.predict(prepare(bundle, source).data)
    result = predictor(source)
    assert (prediction.backend, prediction.precision) == (result.settings["backend"], result.settings["precision"])
    assert prediction.reason == result.settings["backend_reason"]
    assert prediction.entropies == result.entropies and any(bits is not None for bits in prediction.entropies)
    assert np.array_equal(np.asarray(prediction.output)[0], result.array)
    assert prediction.entropy_map is None and prediction.mirrored is None


def test_mistakes_are_refused_before_torch_is_loaded(places, tmp_path):
    """A wrong label, an image the bundle was not made for, and views of which one is missing."""
    bundle, source = places["segmentation"]
    nib.save(nib.Nifti1Image(np.arange(27, dtype=np.float32).reshape(3, 3, 3), np.eye(4)), tmp_path / "bright.nii.gz")
    code = """
import sys
import medvit
from medvit.pipeline import prepare
bundle, source, bright, crossing = sys.argv[1:]
def refused(kind, *given, **switches):
    try:
        prepare(*given, **switches)
    except medvit.MedvitError as error:
        assert type(error).__name__ == kind, error
    else:
        raise SystemExit(f"{kind} was not raised")
refused("BundleError", bundle, source, roi_subset=["no_such_label"])
refused("SelectionError", bundle, source, roi_crop="head")
refused("ModalityError", bundle, bright)
refused("SourceError", crossing, {"ap": "absent.png", "lat": "absent.png"})
prepare(bundle, source)
assert "torch" not in sys.modules and "monai" not in sys.modules
"""
    given = [bundle, source, tmp_path / "bright.nii.gz", places["reconstruction"][0]]
    done = subprocess.run([sys.executable, "-c", code, *map(str, given)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(ModalityError):
        prepare(bundle, tmp_path / "bright.nii.gz")
