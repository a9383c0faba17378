"""An annotator's day with the real server and MONAI Label's own client, printed step by step.

    python examples/label_day.py [--cases 8] [--steps 40]

Connects, takes the next case, infers, corrects, submits, until there are labels enough; trains; infers again with the new
version. The images are hippocampus MR (shared data; cases that the shipped weights have not seen) with dark and bright
exchanged, as another sequence would give: there the shipped model is wrong, so that there is something to correct and to
learn. The reference labels stand for the annotator's hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

import nibabel as nib
import numpy as np
from medvit_label.self_test import running
from monailabel.client import MONAILabelClient

from medvit.bundles import open_bundle
from medvit.training.data import data_root
from medvit.training.evaluation import dice

NAME = "hippocampus_mr_swin_unetr"


def prepare(folder: Path, count: int) -> dict[str, Path]:
    """The images as ``folder/case_N.nii.gz``; gives the reference label of each."""
    path = open_bundle(NAME).root / "configs" / "datalist.json"
    root, truths = data_root(None, path), {}
    for number, entry in enumerate(json.loads(path.read_text())["validation"][:count]):
        image = nib.load(root / entry["image"])
        values = image.get_fdata(dtype=np.float32)
        name = f"case_{number}"
        nib.save(nib.Nifti1Image(values.max() - values, image.affine), folder / f"{name}.nii.gz")
        truths[name] = root / entry["label"]
    return truths


def overlap(file: str, truth: Path) -> float:
    """Mean Dice of both parts."""
    found, wanted = (np.asarray(nib.load(path).dataobj) for path in (file, truth))
    return mean(dice(found == part, wanted == part) for part in (1, 2))


def day(client: Any, truths: dict[str, Path], steps: int) -> None:
    """All of it; the last case is kept to see what was learnt."""
    last = list(truths)[-1]
    info = client.info()
    print(f"connected: {info['name']}, models {list(info['models'])}, {info['datastore']['total']} images")
    file, said = client.infer(NAME, last, {})
    print(f"{last} (to be compared later): {said['bundle']} answers, Dice {overlap(file, truths[last]):.3f}")
    for _ in range(len(truths) - 1):
        case = client.next_sample("first", {})["id"]
        file, said = client.infer(NAME, case, {})
        before = overlap(file, truths[case])
        kept = client.save_label(case, str(truths[case]), "final", {"model": NAME})
        print(f"next case {case}: inferred with Dice {before:.3f}, corrected, submitted as version {kept['version']}")
    run = client.train_start(NAME, {"steps": steps, "learning_rate": 1e-3})
    print(
        f"training: {run['split']['training']} cases to learn from, {run['split']['validation']} held out, by {run['split']['by']}"
    )
    while (run := client.train_status())["status"] == "RUNNING":
        time.sleep(2)
    print(f"training {run['status'].lower()} after {run['seconds']:.0f} s and {run['done']} steps: {run['metric']} {run['before']:.3f} before, "
          f"{run['after']:.3f} after; {'published as version ' + str(run['published']) if run['published'] else 'not published'} {run['reason']}")  # fmt: skip
    file, said = client.infer(NAME, last, {})
    print(f"{last} again: {said['bundle']} answers, Dice {overlap(file, truths[last]):.3f}")


def main() -> None:
    """Start a server on a free port, go through the day, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8, help="images in the project")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps")
    parser.add_argument("--keep", type=Path, help="folder for the project; default: one that is removed in the end")
    parser.add_argument("--wait", action="store_true", help="serve on until Enter is pressed, to look at the page")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        top = given.keep or Path(place)
        (top / "studies").mkdir(parents=True, exist_ok=True)
        truths = prepare(top / "studies", given.cases)
        with running(str(top / "studies"), "--bundle", NAME, "--state", str(top / "state"), "--quiet") as (url, ready):
            print(f"server ready after {ready:.1f} s")
            day(MONAILabelClient(url, tmpdir=str(top)), truths, given.steps)
            if given.wait:
                input(f"{url}/ shows the project; Enter ends it. ")


if __name__ == "__main__":
    main()
