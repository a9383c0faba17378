"""Fine-tuning of all weights against adapters: number of trained parameters, time of a step, scores before and after.

    python benchmarks/adapters.py [--steps 60] [--cases 8]

The shipped hippocampus network is fine-tuned on a new contrast: eight of its training images (shared data) with dark
and bright exchanged, as between T1 and T2 weighting. Both sides begin with the same weights and see the same crops; the
scored cases are from its validation list, with the same exchange, and are not trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
import torch

from medvit.bundles import open_bundle
from medvit.inference import load_model
from medvit.training import FineTuning, fine_tune
from medvit.training.data import DataList, read_list
from medvit.training.loop import AdapterSettings

NAME = "hippocampus_mr_swin_unetr"
CONTESTANTS = {
    "all weights": None,
    "adapters of rank 8, norms and head": AdapterSettings(8),
    "adapters of rank 8 alone": AdapterSettings(8, rest=False),
}


def exchanged(folder: Path, cases: int) -> DataList:
    """Write cases with dark and bright exchanged, half as many for scores, and their data list."""
    content: dict[str, list[dict[str, str]]] = {}
    for split, count in (("training", cases), ("validation", max(1, cases // 2))):
        content[split] = []
        for pair in read_list(open_bundle(NAME), None, None, split)[:count]:
            image = nib.load(pair.image)
            values = np.asarray(image.dataobj).astype(np.float32)
            nib.save(nib.Nifti1Image(values.max() - values, image.affine), folder / f"{pair.name}.nii.gz")
            content[split].append({"image": f"{pair.name}.nii.gz", "label": str(pair.label.resolve())})
    (folder / "list.json").write_text(json.dumps(content))
    return DataList(folder / "list.json", folder)


def row(name: str, adapters: AdapterSettings | None, data: DataList, steps: int, folder: Path) -> str:
    """Format one line of the table."""
    wanted = FineTuning(
        base=open_bundle(NAME),
        data=data,
        folder=folder,
        version="0",
        steps=steps,
        learning_rate=1e-3,
        device="cpu",
        adapters=adapters,
    )
    found = fine_tune(wanted, lambda stage: print(f"{name}: {stage}", flush=True))
    record = json.loads((wanted.candidate / "docs" / "training.json").read_text())
    numbers = record.get("adapters", {}).get("trained_parameters") or _size()
    with next(folder.rglob("curve.csv")).open(newline="") as file:
        seconds = median(float(line["seconds_per_step"]) for line in csv.DictReader(file))
    return f"| {name} | {numbers:,} | {seconds:.2f} s | {found['before']:.3f} | {found['after']:.3f} |"


def _size() -> int:
    return sum(p.numel() for p in load_model(open_bundle(NAME), "cpu").network.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--cases", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = exchanged(folder, given.cases)
        rows = [
            row(name, adapters, data, given.steps, folder / f"run{n}")
            for n, (name, adapters) in enumerate(CONTESTANTS.items())
        ]
    print("| trained | numbers | a step | mean Dice before | after |\n|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
