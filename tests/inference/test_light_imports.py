"""Commands that leave imports out when they start must do the same as with them."""

from __future__ import annotations

import os
import subprocess
import sys

import monai  # noqa: F401
import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvit.inference import import_monai_lightly


def test_monai_without_its_engine_still_infers_and_the_packages_are_there_for_others():
    code = """
import sys
from medvit.bundles import open_bundle
from medvit.inference import import_monai_lightly, never_train
import_monai_lightly(open_bundle("headneck_ct_swin_unetr").config)
assert "monai" not in sys.modules, "a process that may train imports MONAI as a whole"
never_train()
import_monai_lightly(open_bundle("nuclei_barlow_swin").config)
assert "monai" not in sys.modules, "this bundle needs nothing of MONAI"
import_monai_lightly(open_bundle("headneck_ct_swin_unetr").config)
assert "monai" in sys.modules
assert not {"pandas", "scipy.signal", "skimage"} & sys.modules.keys()
assert not [name for name in sys.modules if name.split(".")[0] == "ignite"], "ignite was imported"
assert "matplotlib.pyplot" not in sys.modules
from medvit.inference import load_model
load_model("headneck_ct_swin_unetr")
import ignite.engine, matplotlib.pyplot, pandas, scipy.signal, skimage.measure
import medvit.training.loop.training_loop
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_where_monai_is_there_already_nothing_is_hidden():
    before = dict(sys.modules)
    import_monai_lightly({})
    assert sys.modules == before


def test_packages_for_steps_of_other_bundles_stay_visible():
    code = """
import sys
from medvit.inference import import_monai_lightly, never_train
never_train()
step = {"_target_": "monai.transforms.KeepLargestConnectedComponentd", "keys": "pred"}
import_monai_lightly({"postprocessing": {"_target_": "monai.transforms.Compose", "transforms": [step]}})
import torch
from monai.transforms import KeepLargestConnectedComponent
image = torch.zeros(1, 5, 5, 5)
image[0, 0, 0, 0] = image[0, 3, 3, 3] = image[0, 3, 3, 4] = 1
assert KeepLargestConnectedComponent()(image).sum() == 2
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


UNNEEDED = (
    "IPython dask highdicom ignite itk matplotlib matplotlib.pyplot pandas scipy.signal skimage tensorboard torch._dynamo"
).split()
"""Modules that no run on a volume in NIfTI needs."""

UNNEEDED_WITH_A_GRAPH = [*UNNEEDED, "monai", "numba", "safetensors", "medvit.segmentation.networks.swin_unetr"]
"""Modules that a run does not need either if the network's graph is in the cache."""


@pytest.mark.parametrize(
    ("backend", "unneeded"), [("eager", UNNEEDED), ("openvino", UNNEEDED_WITH_A_GRAPH)], ids=["eager", "graph"]
)
def test_a_run_that_writes_labels_loads_nothing_for_training_pictures_or_dicom_objects(tmp_path, backend, unneeded):
    if backend == "openvino":
        pytest.importorskip("openvino")
    image = gaussian_filter(np.random.default_rng(0).normal(size=(35, 51, 35)), 3) * 1000 + 500
    nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), tmp_path / "image.nii.gz")
    arguments = [
        "segment",
        str(tmp_path / "image.nii.gz"),
        "-b",
        "hippocampus_mr_swin_unetr",
        "-o",
        str(tmp_path / "out"),
    ]
    code = f"""
import sys
from medvit.cli.main import app
app({[*arguments, "--backend", backend, "--device", "cpu", "--overwrite"]!r}, standalone_mode=False)
loaded = sorted(set({unneeded!r}) & sys.modules.keys())
assert sys.argv[1] == "first" or not loaded, loaded
"""
    for run in ("first", "second") if backend == "openvino" else ("only",):
        outcome = subprocess.run([sys.executable, "-c", code, run], check=False, capture_output=True, text=True)
        assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "out" / "labels.nii.gz").is_file()


@pytest.mark.parametrize("given", ["", "ACTIVE"])
def test_threads_wait_without_spinning_unless_the_user_chose_otherwise(given: str):
    code = """
import os
from medvit.cli.main import app
try:
    app(["inspect", "no_such_file"])
except SystemExit as end:
    assert end.code == 1, end.code
print(os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    outcome = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert outcome.stdout.split()[-1:] == [given or "PASSIVE"], outcome.stderr
