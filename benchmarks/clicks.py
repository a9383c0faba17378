"""Dice after simulated corrective clicks, each sent to a running annotation server as 3D Slicer would send it.

    python benchmarks/clicks.py hippocampus_mr_swin_unetr headneck_ct_swin_unetr nuclei_barlow_swin [--cases 10] [-o clicks.json]

The clicks are those of the robot user in the literature on interactive segmentation: a click is at the centre (the
largest distance to the border) of the largest connected error (voxels with one reference label and another found
label), and names the reference label. The server continues from its last labels. Cases are from the bundle's data list,
by default the first of the validation part.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import nibabel as nib
import numpy as np
import requests
from medvit_label.self_test import running
from PIL import Image
from scipy import ndimage

from medvit.bundles import Bundle, open_bundle
from medvit.reports import dice
from medvit.training.data import ImageLabelPair, load_labels
from medvit.training.evaluation import EvaluationSet
from medvit.training.evaluation.evaluation_set import labelled_pairs

CLICKS = 5
SHOWN = (0, 1, 3, 5)


@dataclass(frozen=True)
class Click:
    """A click and its effect.

    Attributes:
        label: label named by the click.
        gain: change of that label's Dice; for background, of the label that was there before.
        voxels: number of voxels whose label changed.
        seconds: seconds until the server's reply.
    """

    label: str
    gain: float
    voxels: int
    seconds: float


def largest_error(
    found: np.ndarray, truth: np.ndarray, ids: list[int], spacing: tuple[float, ...]
) -> tuple[tuple[int, ...], int] | None:
    """Return the centre of the largest connected error and its reference label; None if all labels are correct."""
    largest, most, label = None, 0, 0
    for number in [0, *ids]:
        pieces, _ = ndimage.label((truth == number) & (found != number))
        sizes = np.bincount(pieces.ravel())[1:]
        if sizes.size and sizes.max() > most:
            largest, most, label = pieces == 1 + int(sizes.argmax()), int(sizes.max()), number
    if largest is None:
        return None
    inside = ndimage.distance_transform_edt(np.pad(largest, 1), sampling=spacing)[(slice(1, -1),) * largest.ndim]
    return tuple(int(p) for p in np.unravel_index(int(inside.argmax()), inside.shape)), label


def ask(url: str, bundle: Bundle, image: str, params: dict[str, Any]) -> tuple[np.ndarray, tuple[float, ...], float]:
    """Return the server's labels, their voxel sides and the seconds of the request."""
    answer = requests.post(
        f"{url}/infer/{bundle.name}",
        params={"image": image, "output": "image"},
        data={"params": json.dumps(params)},
        timeout=3600,
    )
    answer.raise_for_status()
    seconds = answer.elapsed.total_seconds()
    if answer.content.startswith(b"\x89PNG"):
        return np.asarray(Image.open(io.BytesIO(answer.content))), (1.0, 1.0), seconds
    labels = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    return np.asarray(labels.dataobj), tuple(float(side) for side in labels.header.get_zooms()), seconds


def annotate(url: str, bundle: Bundle, pair: ImageLabelPair) -> tuple[list[float], list[Click]]:
    """Run the bundle on a case and correct it by clicks; return the mean Dice after each click, and the clicks."""
    truth, names = load_labels(pair), {label.id: label.name for label in bundle.facts.labels}
    found, spacing, _ = ask(url, bundle, pair.name, {})
    means, clicks = [], list[Click]()
    scores = {n: dice(found == n, truth == n) for n in names}
    means.append(mean(scores.values()))
    for _ in range(CLICKS):
        error = largest_error(found, truth, list(names), spacing)
        if error is not None:
            place, label = error
            fields = {"foreground": [], "background": []}
            fields["foreground" if label else "background"] = [list(place)]
            own = label or int(found[place])
            after, _, seconds = ask(url, bundle, pair.name, {"label": names[own], **fields})
            before, scores = scores, {n: dice(after == n, truth == n) for n in names}
            changed = int(np.count_nonzero(after != found))
            clicks.append(Click(names.get(label, "background"), scores[own] - before[own], changed, seconds))
            found = after
        means.append(mean(scores.values()))
    return means, clicks


def measure(bundles: list[Bundle], cases: list[int], split: str) -> dict[str, Any]:
    """Return, for each bundle, the Dice of each case after 0 to 5 clicks and every click."""
    pairs = {}
    for bundle, count in zip(bundles, cases, strict=True):
        listed = [pair for pair in labelled_pairs(EvaluationSet(bundle=bundle, split=split)) if pair.annotated is None]
        pairs[bundle.name] = listed[:count]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as top:
        studies = Path(top) / "studies"
        studies.mkdir()
        for pair in (pair for listed in pairs.values() for pair in listed):
            shutil.copyfile(pair.image, studies / pair.image.name)
        names = [option for bundle in bundles for option in ("--bundle", bundle.name)]
        with running(str(studies), "--state", str(Path(top) / "state"), *names) as (url, _):
            for bundle in bundles:
                runs = {pair.name: annotate(url, bundle, pair) for pair in pairs[bundle.name]}
                found[bundle.name] = {
                    "dice": {name: means for name, (means, _) in runs.items()},
                    "clicks": {name: [asdict(click) for click in clicks] for name, (_, clicks) in runs.items()},
                }
    return found


def table(found: dict[str, Any]) -> str:
    """Return the numbers as a Markdown table."""
    lines = [
        f"| bundle | cases | {' | '.join(f'{n} clicks' if n != 1 else '1 click' for n in SHOWN)} | largest loss of a click's label | median answer |",
        f"|{'---|' * (len(SHOWN) + 4)}",
    ]
    for name, run in found.items():
        columns = [mean(means[n] for means in run["dice"].values()) for n in SHOWN]
        clicks = [click for listed in run["clicks"].values() for click in listed]
        loss = max([0.0, *(-click["gain"] for click in clicks)])
        wait = median([click["seconds"] for click in clicks])
        lines.append(
            f"| {name} | {len(run['dice'])} | {' | '.join(f'{v:.4f}' for v in columns)} | {loss:.4f} | {wait:.2f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+")
    parser.add_argument(
        "--cases", type=int, nargs="+", default=[10], help="one number for all bundles, or one for each"
    )
    parser.add_argument("--split", default="validation")
    parser.add_argument("-o", "--output", type=Path, help="all numbers as JSON")
    given = parser.parse_args()
    cases = given.cases * len(given.bundle) if len(given.cases) == 1 else given.cases
    if len(cases) != len(given.bundle):
        parser.error(f"found {len(cases)} numbers of cases for {len(given.bundle)} bundles; give one, or one for each")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = measure([open_bundle(name) for name in given.bundle], cases, given.split)
    print(table(found))
    if given.output:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
