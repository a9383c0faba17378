"""Generator of states that an earlier commit leaves: a batch folder, a label project, a training run.

python tests/laws/before/make.py [--commit COMMIT] [--to FOLDER] [batch] [label] [training]

The commit's files are unpacked into a temporary folder and run from there by this Python, through PYTHONPATH. Of this folder only
``bundles.py`` and this file go with them. Each state becomes a ``NAME.tar.gz``. UIDs, dates and the moments at which runs are
killed differ from one making to the next, so the archives are equal in content and never byte by byte.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
COMMIT = "c2dde8bc7bfc0eb2b5771bfc0e82513ee1302494"
"""Last commit before the files of the package moved."""

RUN = ("-ot", "nifti", "--no-preview", "--backend", "eager")
"""Options of the batch, which the continued run repeats."""

LABEL_STEPS, TRAINING_STEPS = 400, 10
"""Steps of the label project's interrupted training, and of the training run."""

_PATIENCE = 300.0

_KILLED_AFTER_A_CHECKPOINT = """
import os, signal, sys
from medvit.cli.main import app
from medvit.training.loop import training_loop as loop

whole = loop.store_state
def stored(path, state):
    whole(path, state)
    if path.name == "checkpoint.pt":
        os.kill(os.getpid(), signal.SIGKILL)

loop.store_state = stored
app(sys.argv[1:])
"""


def make_batch(top: Path) -> None:
    """Run a batch of three cases to its end, add four series and kill the next run while one or two of them are
    running.
    """
    import nibabel as nib
    import numpy as np

    from tests.bands import oblique_affine, write_series
    from tests.batch.archives import SMALL, command, write_small
    from tests.laws.before.bundles import BANDS, make_bands

    archive, out, bundle = top / "archive", top / "out", make_bands(top / "bundles" / BANDS)
    write_small(archive / "first", 1)
    nib.save(nib.Nifti1Image(_volume(0), oblique_affine()), archive / "second.nii.gz")
    write_series(archive / "values of no CT", np.full(SMALL, 5, np.int16), oblique_affine())
    line, environment = command("run", archive, "-o", out, "-b", bundle, *RUN)
    first = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert _counts(out) == {"published": 2, "set aside": 1}, first.stdout + first.stderr
    write_small(archive / "of another kind", 2, Modality="MR")
    for number, name in enumerate(("third", "fourth", "fifth"), 3):
        write_small(archive / name, number)
    run = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    _wait(lambda: any((out / "staging").glob("**/.medvit-*")) or run.poll() is not None)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    time.sleep(2)  # its worker sees that it is alone and ends
    counts = _counts(out)
    assert counts.pop("running") + counts.pop("pending") == 3 and counts == {"published": 2, "set aside": 2}, _counts(
        out
    )


def make_label(top: Path) -> None:
    """Label a project, train a version of its model, and close it while it trains the next."""
    import nibabel as nib
    import pytest

    from tests.bands import oblique_affine, phantom, write_series
    from tests.label.serving import served
    from tests.laws.before.bundles import BANDS, make_bands

    bundle = make_bands(top / "bundles" / BANDS)
    studies, truth = top / "studies", top / "truth"
    studies.mkdir()
    truth.mkdir()
    for number in range(5):
        nib.save(
            nib.Nifti1Image(_volume(number), oblique_affine(degrees=5.0 * number)), studies / f"case{number}.nii.gz"
        )
        labels = nib.Nifti1Image(phantom()[1], oblique_affine(degrees=5.0 * number))
        nib.save(labels, truth / f"case{number}.nii.gz")
    write_series(studies / "Secret_Person", _volume(5), oblique_affine())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDVIT_BUNDLES", str(bundle.parent))
        with served(studies, top / "state") as project:
            listed = project.ask("GET", "/datastore/?output=all").json()["objects"]
            series = next(name for name in listed if not name.startswith("case"))
            nib.save(nib.Nifti1Image(phantom()[1], oblique_affine()), truth / f"{series}.nii.gz")
            for name in (*(f"case{number}" for number in range(4)), series, "case0"):
                assert project.save(name, truth / f"{name}.nii.gz", model=BANDS, client_id="reader").status_code == 200
            assert project.ask("PUT", "/datastore/image/info?image=case1", data={"info": '{"patient": "P1"}'}).ok
            project.infer("case4")
            _train(project, 60)
            assert project.ask("GET", "/train/").json()["published"] == 1, project.ask("GET", "/train/").json()
            nib.save(nib.Nifti1Image(project.labels("case4"), oblique_affine(degrees=20.0)), top / "answer.nii.gz")
            started = project.ask("POST", f"/train/{BANDS}", json={"steps": LABEL_STEPS, "learning_rate": 0.003}).json()
            checkpoint = top / "state" / "training" / started["id"] / "run" / BANDS / "checkpoint.pt"
            _wait(checkpoint.is_file)
    assert json.loads((checkpoint.parents[2] / "before.json").read_text())["score"] > 0


def _train(project: Any, steps: int) -> None:
    answer = project.ask("POST", "/train/bands", json={"steps": steps, "learning_rate": 0.003})
    assert answer.status_code == 200, answer.text
    _wait(lambda: project.ask("GET", "/train/").json()["status"] != "RUNNING")


def make_training(top: Path) -> None:
    """Kill a training run after its first checkpoint, and let another end; the first must reach the same weights."""
    import nibabel as nib
    import numpy as np
    import torch
    from safetensors.torch import save_file

    from tests.laws.before.bundles import DENOISE, make_denoise

    make_denoise(top / "bundles" / DENOISE)
    for name, seed in (("learned", 1), ("judged", 2)):
        image = np.random.default_rng(seed).normal(40, 10, (20, 16, 3)).astype(np.int16)
        image[:3], image[10, 8] = -1000, 400  # air and bone, by which a CT is known
        nib.save(nib.Nifti1Image(image, np.diag([2.0, 2.0, 3.0, 1.0])), top / f"{name}.nii.gz")
    listed = {"training": [{"image": "learned.nii.gz"}], "validation": [{"image": "judged.nii.gz"}]}
    (top / "list.json").write_text(json.dumps(listed) + "\n")
    options = train_options(top, top / "bundles" / DENOISE)
    whole = ["-c", "import sys; from medvit.cli.main import app; app(sys.argv[1:])", *options, "-o", str(top / "whole")]
    subprocess.run([sys.executable, *whole], check=True)
    killed = subprocess.run([sys.executable, "-c", _KILLED_AFTER_A_CHECKPOINT, *options, "-o", str(top / "runs")])
    assert killed.returncode == -signal.SIGKILL
    ended = torch.load(top / "whole" / DENOISE / "checkpoint.pt", weights_only=True)
    assert ended["step"] == TRAINING_STEPS
    held = ended["objective"]["held.0.multipliers"]
    save_file({**ended["average"], "held.0.multipliers": held}, top / "ended.safetensors")
    shutil.copy(top / "whole" / DENOISE / "scores.csv", top / "scores.csv")
    shutil.rmtree(top / "whole")


def train_options(top: Path, bundle: Path) -> list[str]:
    """Return the options of ``medvit train``, without the folder of runs."""
    data = ["--data", str(top / "list.json"), "--root", str(top)]
    return ["train", str(bundle), *data, "--steps", str(TRAINING_STEPS), "-d", "cpu"]


def _volume(number: int) -> Any:
    from tests.bands import phantom

    return phantom()[0] + number


def _counts(out: Path) -> dict[str, int]:
    base = sqlite3.connect(f"file:{out}/journal.sqlite?mode=ro", uri=True)
    found = dict(base.execute("SELECT state, COUNT(*) FROM cases GROUP BY state").fetchall())
    base.close()
    return found


def _wait(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + _PATIENCE
    while not true():
        assert time.monotonic() < limit, "it took too long"
        time.sleep(0.002)


MAKERS: dict[str, Callable[[Path], None]] = {"batch": make_batch, "label": make_label, "training": make_training}


def pack(folder: Path, file: Path) -> None:
    """Write a folder as a gzipped tar file, without owners and without SQLite's shared memory files."""

    def without_owner(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.name.endswith("-shm"):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, arcname=folder.name, filter=without_owner)
    file.write_bytes(gzip.compress(content.getvalue(), 9, mtime=0))


def main() -> int:
    """Unpack the commit, run this file in it for each state, and pack the states."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[[], *MAKERS])
    parser.add_argument("--commit", default=COMMIT)
    parser.add_argument("--to", type=Path, default=HERE)
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.within is not None:
        for name in options.names:
            MAKERS[name](options.within)
        return 0
    with tempfile.TemporaryDirectory(prefix="medvit-before-") as place:
        tree = Path(place) / "tree"
        tree.mkdir()
        content = subprocess.run(["git", "archive", options.commit], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(tree, filter="data")
        within = tree / HERE.relative_to(ROOT)
        within.mkdir(parents=True, exist_ok=True)
        (within.parent / "__init__.py").touch()
        for name in ("__init__.py", "bundles.py", "make.py"):
            shutil.copy(HERE / name, within / name)
        paths = [str(path) for path in (tree, *sorted((tree / "apps").iterdir()))]
        own = {"MEDVIT_HOME": f"{place}/home", "MEDVIT_CACHE": f"{place}/cache", "PYTHONPATH": os.pathsep.join(paths)}
        for name in options.names or MAKERS:
            made = Path(place) / name
            made.mkdir()
            command = [sys.executable, "-m", "tests.laws.before.make", name, "--within", str(made)]
            subprocess.run(command, cwd=tree, env=os.environ | own, check=True)
            pack(made, options.to / f"{name}.tar.gz")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
