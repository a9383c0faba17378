"""A picture of what a network makes of one real image, beside what it should have made: for looking, not for scoring.

    python benchmarks/look.py BUNDLE [--from CHECKPOINT] [--case N] [-o picture.png]

Runs the bundle's own chain (medvit.model.apply) on case N of its validation list: labels over a volume or a picture
against the reference, a slice at a tenth of the dose before and after, or two projections of a CT and the labels found in
them. With --from the network is given the averaged weights of a training run, so that a bundle that is not trained can be
looked at while it trains.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import nibabel as nib
import numpy as np
import torch
from matplotlib import pyplot as plt
from monai.bundle import ConfigParser

from medvit.bundles import Bundle, open_bundle
from medvit.model import Model, apply, load_model, model_around
from medvit.pipeline import open_for
from medvit.progress import Progress
from medvit.settings import RunSettings
from medvit.training.data import load_labels, read_list
from medvit.training.evaluation import evaluation_of
from medvit.training.restoration import read_images
from medvit.training.start import start_from


def model_of(bundle: Bundle, weights: str | None) -> Model:
    if weights is None:
        return load_model(bundle, "cpu")
    network = ConfigParser({**bundle.config, "bundle_root": str(bundle.root)}).get_parsed_content("network_def")
    print(start_from(network, weights))
    return model_around(bundle, network)


def panels(bundle: Bundle, model: Model, case: int) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Titles, grey or colour pictures (row, column) and labels over them."""
    if bundle.facts.task == "restoration":
        return restored(bundle, model, case)
    pair = read_list(bundle, None, None, "validation")[case]
    if bundle.facts.task == "reconstruction":
        return projected(bundle, model, {"image": str(pair.image), "label": str(pair.label)})
    ready = open_for(bundle, str(pair.image), RunSettings(), Progress())
    found = np.asarray(apply(model, {"image": ready.scan.meta_tensor()}))[0]
    truth = load_labels(pair)
    image = ready.scan.array
    if ready.scan.is_picture:
        picture = np.moveaxis(image[:3], 0, -1) / max(1.0, float(image.max()))
        return [("picture", picture, None), ("found", picture, found), ("reference", picture, truth)]
    turn = nib.io_orientation(ready.scan.affine)
    image, found, truth = (nib.apply_orientation(volume, turn) for volume in (image[0], found, truth))
    middle = int(np.median(np.argwhere(truth > 0)[:, 1]))
    grey = np.clip(image[:, middle], -160, 240).T[::-1]
    return [("found", grey, found[:, middle].T[::-1]), ("reference", grey, truth[:, middle].T[::-1])]


def restored(bundle: Bundle, model: Model, case: int) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    evaluation: Any = evaluation_of(bundle)
    volume = read_images(bundle, None, None, "validation")[case]
    clean = volume.image[..., volume.image.shape[2] // 2 :][..., :1]
    poor = evaluation.scanner.at_dose(evaluation.doses[0], evaluation.seed)(clean, volume.spacing_mm)
    from monai.data import MetaTensor

    source = MetaTensor(torch.from_numpy(poor)[None], affine=torch.diag(torch.tensor([*volume.spacing_mm, 1.0])))
    ready = open_for(bundle, source, RunSettings(force=True), Progress())
    after = np.asarray(apply(model, {"image": ready.scan.meta_tensor()}))[0]
    low, high = evaluation.window

    def shown(values: np.ndarray) -> np.ndarray:
        return np.clip(values[..., 0], low, high).T[::-1]

    change = np.clip((after - clean)[..., 0], -100, 100).T[::-1]
    title = f"{100 * evaluation.doses[0]:g} % dose"
    return [
        ("full dose", shown(clean), None),
        (title, shown(poor), None),
        ("restored", shown(after), None),
        ("restored - full dose, ±100", change, None),
    ]


def projected(bundle: Bundle, model: Model, paths: dict[str, str]) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    parser = ConfigParser()
    parser.read_config([str(bundle.root / "configs" / f"{name}.json") for name in ("inference", "train")])
    made = parser.get_parsed_content("draws").preparation.transforms[0](paths)  # radiographs, before they are stacked
    found = np.asarray(apply(model, {"coronal": made["coronal"], "sagittal": made["sagittal"]}))[0]
    truth = np.asarray(made["label"])[0]
    out = []
    for view, unseen in (("coronal", 1), ("sagittal", 0)):
        picture = np.asarray(made[view])[0]
        for title, labels in (("found", found), ("reference", truth)):
            # radiographs show the patient's right, or face, on their left; labels run towards right and face
            shadow = labels.max(unseen).T[::-1, ::-1]
            grown = np.kron(shadow, np.ones([a // b for a, b in zip(picture.shape, shadow.shape, strict=True)]))
            out.append((f"{view}: {title}", picture, grown))
    return out


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("bundle")
    asked.add_argument("--from", dest="weights", help="checkpoint of a training run; default: the bundle's own weights")
    asked.add_argument("--case", type=int, default=0)
    asked.add_argument("-o", "--output", type=Path, default=Path("look.png"))
    given = asked.parse_args()
    bundle = open_bundle(given.bundle)
    shown = panels(bundle, model_of(bundle, given.weights), given.case)
    figure, axes = plt.subplots(1, len(shown), figsize=(4 * len(shown), 4.5), squeeze=False)
    for axis, (title, picture, labels) in zip(axes[0], shown, strict=True):
        axis.imshow(picture, cmap="gray")
        if labels is not None:
            axis.imshow(np.ma.masked_equal(labels, 0), cmap="tab10", vmin=0, vmax=9, alpha=0.5, interpolation="nearest")
        axis.set_title(title)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(given.output, dpi=80)
    print(f"Written: {given.output}")


if __name__ == "__main__":
    main()
