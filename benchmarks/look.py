"""Picture of a network's result on a real image beside the reference, for inspection by eye rather than for scores.

    python benchmarks/look.py BUNDLE [--from CHECKPOINT] [--case N] [-o picture.png]
    medvit evaluate BUNDLE --json > scores.json
    python benchmarks/look.py BUNDLE --images FILE FILE ... -o bundles/BUNDLE/docs/real.png
    python benchmarks/look.py BUNDLE --worst 3 --scores scores.json -o bundles/BUNDLE/docs/worst.png

Runs the bundle (medvit.inference.loaded_bundle.apply) on case N of its validation list and draws: labels on a volume or
a picture with the reference, a slice at a tenth of the dose before and after, or two projections of a CT with the
labels found in them. With --from the network gets the averaged weights of a training run, so that a bundle can be
inspected while it trains. With --worst the cases with the lowest scores of ``medvit evaluate`` are drawn, the lowest
first, as in a bundle's docs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import nibabel as nib
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from monai.bundle import ConfigParser
from PIL import Image

from medvit.bundles import Bundle, open_bundle
from medvit.inference import LoadedBundle, load_model, loaded_bundle_for
from medvit.pipeline import Predictor
from medvit.training.data import DataList, case_name, read_entries, read_images, read_list
from medvit.training.evaluation import EvaluationSet, evaluation_of
from medvit.training.loop import start_from


def model_of(bundle: Bundle, weights: str | None) -> LoadedBundle:
    if weights is None:
        return load_model(bundle, "cpu")
    network = ConfigParser({**bundle.config, "bundle_root": str(bundle.root)}).get_parsed_content("network_def")
    print(start_from(network, weights))
    return loaded_bundle_for(bundle, network)


def panels(bundle: Bundle, model: LoadedBundle, case: int) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Return titles, grey or colour pictures (row, column) and their labels."""
    if bundle.facts.task == "restoration":
        return restored(bundle, model, case)
    if bundle.facts.task == "reconstruction":
        pair = read_list(bundle, None, None, "validation")[case]
        return projected(bundle, model, {"image": str(pair.image), "label": str(pair.label)})
    judging: Any = evaluation_of(bundle)
    judged = judging.cases(EvaluationSet(bundle=bundle))[case]
    result = Predictor(model).run(judged.source)
    found, truth, image = result.array, judged.truth(result), result.scan.array
    if result.scan.is_picture:
        picture = np.moveaxis(image[:3], 0, -1) / max(1.0, float(image.max()))
        return [("picture", picture, None), ("found", picture, found), ("reference", picture, truth)]
    turn = nib.io_orientation(result.scan.affine)
    image, found, truth = (nib.apply_orientation(volume, turn) for volume in (image[0], found, truth))
    middle = int(np.median(np.argwhere(truth > 0)[:, 1]))
    grey = grey_of(bundle, image)[:, middle].T[::-1]
    alone = [("image", grey, None)] if len(bundle.facts.labels) > 9 else []  # many labels would hide the image
    return [*alone, ("found", grey, found[:, middle].T[::-1]), ("reference", grey, truth[:, middle].T[::-1])]


def grey_of(bundle: Bundle, image: np.ndarray) -> np.ndarray:
    """Scale to 0..1: a soft-tissue window for Hounsfield units, else the range of most voxels."""
    low, high = (-160, 240) if bundle.facts.values is not None else np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)


def three_planes(model: LoadedBundle, path: Path) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    """Draw an image without a reference: axial, coronal and sagittal slice through the middle of the labels, without
    and with labels.

    The patient's right is on the viewer's left, and one voxel is drawn as one pixel of 1 mm.
    """
    result = Predictor(model).run(path)
    turn = nib.io_orientation(result.scan.affine)
    image, found = (nib.apply_orientation(v, turn) for v in (result.scan.array[0], result.array))
    sides = [float(result.scan.spacing_mm[int(np.flatnonzero(turn[:, 0] == axis)[0])]) for axis in range(3)]
    grid = [np.arange(0, n, 1 / s).astype(int).clip(0, n - 1) for n, s in zip(image.shape, sides, strict=True)]
    image, found = (volume[np.ix_(*grid)] for volume in (grey_of(model.bundle, image), found))
    at = [int(np.median(v)) for v in np.nonzero(found)] if found.any() else [n // 2 for n in found.shape]
    at[0] -= 14  # off the midline, where more structures are visible
    shown = []
    for name, axis in (("axial", 2), ("coronal", 1), ("sagittal", 0)):
        picture, labels = (np.take(v, at[axis], axis).T[::-1] for v in (image, found))
        if axis:
            picture, labels = picture[:, ::-1], labels[:, ::-1]
        shown += [(name, picture, None), (result.quality()["rating"], picture, labels)]
    return shown


def restored(bundle: Bundle, model: LoadedBundle, case: int) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    evaluation: Any = evaluation_of(bundle)
    volume = read_images(bundle, None, None, "validation")[case]
    middle = volume.image.shape[2] // 2
    clean = volume.image[..., middle - 1 : middle + 2]  # with the neighbours that a network may need
    poor = evaluation.scanner.at_dose(evaluation.doses[0], evaluation.seed)(clean, volume.spacing_mm)
    from monai.data import MetaTensor

    source = MetaTensor(torch.from_numpy(poor)[None], affine=torch.diag(torch.tensor([*volume.spacing_mm, 1.0])))
    after = Predictor(model, force=True).run(source).array
    low, high = evaluation.window
    # crop to the patient with a margin, since most of a slice is air
    box = tuple(
        slice(max(0, at.min() - 4), at.max() + 5) for at in np.nonzero(clean[..., 1] > evaluation.bias_range[0] - 300)
    )
    clean, poor, after = (volume[box] for volume in (clean, poor, after))

    def shown(values: np.ndarray) -> np.ndarray:
        return np.clip(values[..., 1], low, high).T[::-1]

    change = np.clip((after - clean)[..., 1], -100, 100).T[::-1]
    title = f"{100 * evaluation.doses[0]:g} % dose"
    return [
        ("full dose", shown(clean), None),
        (title, shown(poor), None),
        ("restored", shown(after), None),
        ("restored - full dose, ±100", change, None),
    ]


def projected(
    bundle: Bundle, model: LoadedBundle, paths: dict[str, str]
) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    parser = ConfigParser()
    parser.read_config([str(bundle.root / "configs" / f"{name}.json") for name in ("inference", "train")])
    made = parser.get_parsed_content("draws").preparation.transforms[0](paths)  # radiographs before stacking
    found = np.asarray(Predictor(model).predict({name: made[name] for name in ("coronal", "sagittal")}).output)[0]
    truth = np.asarray(made["label"])[0]
    out = []
    for view, unseen in (("coronal", 1), ("sagittal", 0)):
        picture = np.asarray(made[view])[0]
        for title, labels in (("found", found), ("reference", truth)):
            # radiographs have the patient's right, or front, on their left; the axes of labels run towards right and front
            shadow = labels.max(unseen).T[::-1, ::-1]
            grown = np.kron(shadow, np.ones([a // b for a, b in zip(picture.shape, shadow.shape, strict=True)]))
            out.append((f"{view}: {title}", picture, grown))
    return out


def worst(scores: dict[str, Any], count: int) -> list[tuple[str, float]]:
    """Return names and scores of the cases with the lowest mean Dice of the labels, or PSNR gain."""

    def score(row: dict[str, Any]) -> float:
        values = [v["psnr_gain_db"] if isinstance(v, dict) else v for v in row.values()]
        return float(np.mean(values))

    return sorted(((name, score(row)) for name, row in scores["cases"].items()), key=lambda c: c[1])[:count]


def colours(bundle: Bundle) -> dict[str, Any]:
    """Choose colours: for nine labels or fewer clearly different ones, else the bundle's own."""
    if len(bundle.facts.labels) <= 9:
        return {"cmap": "tab10", "vmin": 0, "vmax": 9}
    own = {label.id: label.color for label in bundle.facts.labels}
    last = max(own)
    return {
        "cmap": ListedColormap([np.array(own.get(n, (0, 0, 0))) / 255 for n in range(last + 1)]),
        "vmin": 0,
        "vmax": last,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("bundle")
    asked.add_argument("--from", dest="weights", help="checkpoint of a training run; default: the bundle's own weights")
    asked.add_argument("--case", type=int, default=0)
    asked.add_argument(
        "--images", type=Path, nargs="+", help="images without a reference, in place of the validation cases"
    )
    asked.add_argument("--worst", type=int, help="draw so many of the lowest cases of --scores")
    asked.add_argument("--scores", type=Path, help="what medvit evaluate --json printed")
    asked.add_argument("-o", "--output", type=Path, default=Path("look.png"))
    given = asked.parse_args()
    bundle = open_bundle(given.bundle)
    model = model_of(bundle, given.weights)
    if given.worst:
        # indices in the list's order; restoration lists have no labels, and their cases are named after the images
        judging: Any = evaluation_of(bundle)
        names = (
            [case.name for case in judging.cases(EvaluationSet(bundle=bundle))]
            if bundle.facts.task == "segmentation"
            else [case_name(e["image"]) for e in read_entries(bundle, DataList(split="validation"), ("image",))]
        )
        chosen = [
            (names.index(n), f"{n} ({s:.3g}): ") for n, s in worst(json.loads(given.scores.read_text()), given.worst)
        ]
    else:
        chosen = [(given.case, "")]
    if given.images:
        rows = [(f"{case_name(path)}: ", three_planes(model, path)) for path in given.images]
    else:
        rows = [(head, panels(bundle, model, case)) for case, head in chosen]
    wide = len(rows[0][1])
    figure, axes = plt.subplots(len(rows), wide, figsize=(3 * wide, 3.4 * len(rows)), squeeze=False)
    for line, (head, shown) in zip(axes, rows, strict=True):
        for axis, (title, picture, labels) in zip(line, shown, strict=True):
            axis.imshow(picture, cmap="gray")
            if labels is not None:
                axis.imshow(np.ma.masked_equal(labels, 0), interpolation="nearest", alpha=0.5, **colours(bundle))
            axis.set_title(f"{head}{title}", fontsize=8)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(given.output, dpi=60 if given.worst or given.images else 80)
    if given.worst or given.images:  # a palette keeps it to tens of kB in the repository
        Image.open(given.output).convert("RGB").quantize(96).save(given.output, optimize=True)
    print(f"Written: {given.output}")


if __name__ == "__main__":
    main()
