"""A wheel and a fresh checkout hold the same bundles, samples and data files, in any folder.

Modules find bundles, samples and data by the place of their own file or the name of their package. A module that moves can lose
them without an error: medvit then has no bundle. Both layouts are made in temporary folders and run from there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import pytest

from tests.bands import oblique_affine, phantom
from tests.laws.before.bundles import BANDS, make_bands

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "medvit": "medvit", "medvit_batch": "apps/batch/medvit_batch", "medvit_napari": "apps/napari/medvit_napari",
    "medvit_label": "apps/monailabel/medvit_label",
}  # fmt: skip
SAMPLES = ("headneck_ct_dicom.zip", "nuclei.png")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git says which files belong to a checkout")


@dataclass(frozen=True)
class Layout:
    """A checkout of medvit: the folders on the import path, and the folder that holds them."""

    top: Path
    paths: tuple[Path, ...]

    def python(self, *arguments: str, codes: tuple[int, ...] = (0,), beside: tuple[Path, ...] = ()) -> str:
        """Run Python with this medvit and no settings of the user; return its output."""
        own = {"PYTHONPATH": os.pathsep.join(map(str, (*self.paths, *beside))), "QT_QPA_PLATFORM": "offscreen"}
        own |= {"MEDVIT_HOME": str(self.top / "home"), "MEDVIT_CACHE": str(self.top / "cache")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MEDVIT", "PYTHON"))}
        done = subprocess.run(
            [sys.executable, *arguments], cwd=self.top, env=kept | own, capture_output=True, text=True, timeout=300
        )
        assert done.returncode in codes, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + (done.stderr if 0 not in codes else "")


def _listed(*folders: str) -> list[str]:
    """Return the files of a checkout, including those not committed yet."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *folders]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    return sorted(name for name in set(names) - {""} if (ROOT / name).is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    line = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(place),
        str(ROOT),
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (wheel,) = place.glob("medvit-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(built: Path) -> Layout:
    """Install the wheel into an empty folder; its dependencies come from this environment."""
    place = built.parent / "installed"
    line = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-compile",
        "--target",
        str(place),
        str(built),
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return Layout(built.parent, (place,))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Copy the files that git knows to another folder."""
    top = tmp_path_factory.mktemp("checkout")
    place = top / "project"
    for name in _listed("medvit", "apps", "bundles", "examples"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place / name)
    return Layout(top, (place, *(place / folder for folder in ("apps/batch", "apps/napari", "apps/monailabel"))))


@pytest.fixture(params=["wheel", "checkout"])
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.getfixturevalue(request.param)
    return found


def test_the_wheel_holds_every_file_of_the_packages_and_bundles(built: Path) -> None:
    with zipfile.ZipFile(built) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (points,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        commands = archive.read(points).decode()
    wanted = {package + name.removeprefix(folder) for package, folder in PACKAGES.items() for name in _listed(folder)}
    wanted |= {f"medvit/_{name}" for name in _listed("bundles")} | {f"medvit_napari/samples/{name}" for name in SAMPLES}
    assert wanted - names == set()
    assert names - wanted == set()
    for line in (
        "batch = ",
        "dicom = ",
        "label = ",
        "medvit = medvit.cli.main:app",
        "medvit = medvit_napari:napari.yaml",
    ):
        assert line in commands


def test_every_shipped_bundle_is_found(layout: Layout) -> None:
    home = layout.python("-c", "import medvit; print(medvit.__file__)").strip()
    assert Path(home).is_relative_to(layout.paths[0])
    found = {row["name"]: row for row in json.loads(layout.python("-m", "medvit", "bundles", "list", "--json"))}
    shipped = {path.parents[1].name for path in (ROOT / "bundles").glob("*/configs/metadata.json")}
    assert set(found) == shipped and len(shipped) >= 8
    weights = {name for name in shipped if (ROOT / "bundles" / name / "models" / "model.safetensors").is_file()}
    assert {name for name, row in found.items() if row["state"] == "trained"} == weights != set()


def test_the_commands_of_the_apps_are_found(wheel: Layout) -> None:
    said = wheel.python("-m", "medvit", "--help")
    assert all(f" {name} " in said for name in ("batch", "dicom", "label"))
    assert "watch" in wheel.python("-m", "medvit", "batch", "--help")


_DATA_FILES = r"""
import json, re, sys
from importlib.resources import files
from pathlib import Path

pattern = re.compile(r'files\(\s*"([\w.]+)"\s*\)\s*(?:\.joinpath\(|/)\s*"([^"]+)"')
found = {}
for package in sys.argv[1:]:
    for path in Path(str(files(package))).rglob("*.py"):
        for home, name in pattern.findall(path.read_text(encoding="utf-8")):
            found[home + "/" + name] = files(home).joinpath(name).is_file()
print(json.dumps(found))
"""


def test_data_files_named_by_their_package_are_there(layout: Layout) -> None:
    found = json.loads(layout.python("-c", _DATA_FILES, *PACKAGES))
    assert len(found) >= 3, found
    assert [name for name, there in found.items() if not there] == []


_NAPARI = """
import importlib, json
from importlib.resources import files
import yaml

contributions = yaml.safe_load((files("medvit_napari") / "napari.yaml").read_text())["contributions"]
named = {}
for command in contributions["commands"]:
    module, _, name = command["python_name"].partition(":")
    named[command["id"]] = getattr(importlib.import_module(module), name)
print(json.dumps({row["key"]: [list(layer[0].shape) for layer in named[row["command"]]()] for row in contributions["sample_data"]}))
"""


def test_every_command_of_the_napari_manifest_and_every_sample_is_there(layout: Layout) -> None:
    pytest.importorskip("qtpy", reason="qtpy is not installed: pip install 'medvit[napari]'")
    shapes = json.loads(layout.python("-c", _NAPARI).splitlines()[-1])
    assert set(shapes) == {"headneck_ct", "nuclei"} and all(shapes.values())


def test_a_checkout_reads_training_data_from_the_shared_folder_beside_it(checkout: Layout) -> None:
    data = checkout.top / "shared" / "data"
    data.mkdir(parents=True)
    said = checkout.python(
        "-m", "medvit", "train", "headneck_ct_swin_unetr", "--steps", "1", "-d", "cpu", "-o", "runs", codes=(1,)
    )
    assert f"Found no {data}/" in said.replace("\n", " ").replace("  ", " "), said


def test_a_training_in_a_checkout_records_its_commit(checkout: Layout) -> None:
    project = checkout.paths[0]
    git = ["git", "-c", "user.name=tests", "-c", "user.email=tests@localhost", "-C", str(project)]
    for words in (["init", "-q"], ["add", "medvit", ":!*.safetensors"], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (project / "medvit" / "__init__.py").open("a").write("# changed\n")
    bundle = make_bands(checkout.top / BANDS)
    values, labels = phantom()
    for name, array in (("image", values), ("label", labels)):
        nib.save(nib.Nifti1Image(array, oblique_affine()), checkout.top / f"{name}.nii.gz")
    listed = checkout.top / "list.json"
    listed.write_text(json.dumps({"training": [{"image": "image.nii.gz", "label": "label.nii.gz"}], "validation": []}))
    options = [
        "--data",
        str(listed),
        "--root",
        str(checkout.top),
        "--steps",
        "1",
        "-d",
        "cpu",
        "-o",
        "runs",
        "--publish",
    ]
    checkout.python("-m", "medvit", "train", str(bundle), *options, beside=(ROOT,))
    assert json.loads((bundle / "docs" / "training.json").read_text())["commit"] == f"{head} + changes"
