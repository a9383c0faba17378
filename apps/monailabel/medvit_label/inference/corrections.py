"""Corrections of an answer by an annotator: a second run on a box, clicks, scribbles. The files are those of an
inference.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.progress import Progress
from medvit.segmentation import Result
from medvit_label.inference.box_rerun import read_box, run_again
from medvit_label.inference.click_refinement import refine_labels
from medvit_label.inference.run import InferenceFiles, Params, centroids, convert_file
from medvit_label.inference.strokes import has_points, read_strokes
from medvit_label.labels.label_files import read_scribbles
from medvit_label.labels.label_info import read_label_info
from medvit_label.request_params import read_flag

__all__ = ["Correction", "correct", "with_earlier_corrections"]

_AGREED = "The clicks or scribbles agree with the labels; they changed nothing."


@dataclass(frozen=True)
class Correction:
    """A correction that an annotator requests.

    Attributes:
        content: the request's params: ``roi``, ``clicks``, ``foreground``, ``background``.
        drawn: file of scribbles on the image's grid.
        params: settings of an inference from the request's params.
        device: device for the second run on a box.
    """

    content: dict[str, Any]
    drawn: Path | None
    params: Params
    device: str

    def has_strokes(self, bundle: Bundle) -> bool:
        """Return whether there are strokes; also True for an empty request, which is then refused."""
        strokes = has_points(self.content, bundle) or self.drawn is not None
        return strokes or (self.box is None and not self.resumes(bundle))

    @property
    def box(self) -> Any:
        """Box to run on again; None without one (3D Slicer sends an empty list)."""
        return self.content.get("roi") or None

    def resumes(self, bundle: Bundle) -> bool:
        """Return whether the request asks for the stored corrections only."""
        asks = has_points(self.content, bundle) or self.box is not None or self.drawn is not None
        return read_flag(self.content, "resume") and not asks


def with_earlier_corrections(plain: Result, ids: NDArray[np.integer], words: list[str]) -> Result:
    """Replace the labels of a plain answer by those of earlier corrections.

    Args:
        plain: the model's answer.
        ids: labels after the annotator's corrections, on the same grid.
        words: notes on the origin of the labels.
    """
    entropies, lost = _valid_entropies(plain, ids)
    return _with_labels(plain, ids, entropies, [*words, *_uncertainty_note(lost)])


def correct(before: Result, asked: Correction, scratch: Path, progress: Progress) -> InferenceFiles:
    """Apply a box and strokes to an answer and write the files for the client.

    Raises:
        RequestError: an invalid box or strokes. MedvitError: the box cannot be run on.
    """
    started, ids, words = time.perf_counter(), before.array, list[str]()
    if asked.box is not None:
        ids = run_again(before, read_box(asked.box, ids.shape), asked.device, progress)
        words.append("A box that an annotator drew was run on again.")
    if asked.has_strokes(before.bundle):
        scan = before.scan
        names = read_label_info(asked.content)
        scribbles = (
            None if asked.drawn is None else read_scribbles(asked.drawn, scan, before.bundle.facts.labels, names)
        )
        strokes = read_strokes(asked.content, before.bundle, ids.shape, scribbles)
        with progress.stage("refine"):
            spacing = (1.0, 1.0) if scan.is_picture else scan.spacing_mm
            refined = refine_labels(scan.array.mean(axis=0), ids, strokes, spacing)
        agreed = refined.ids is ids
        ids = refined.ids
        words += [*refined.notes, _AGREED if agreed else "Corrected by an annotator's clicks or scribbles."]
    made = _corrected(before, ids, words, asked.params, scratch)
    made.params["latencies"] = {"total": round(time.perf_counter() - started, 3)}
    return made


def _corrected(
    result: Result, ids: NDArray[np.integer], words: list[str], params: Params, scratch: Path
) -> InferenceFiles:
    """Replace a result's labels and write its files as those of an inference.

    Args:
        result: the result.
        ids: labels that replace those of the result.
        words: notes on the origin of the labels.
        params: settings from the client.
        scratch: folder for files.
    """
    entropies, lost = _valid_entropies(result, ids)
    made = _with_labels(result, ids, entropies, [*words, *_uncertainty_note(lost)])
    folder = Path(tempfile.mkdtemp(prefix="infer-", dir=scratch))
    try:
        name = _write(made, folder)
        answer = json.loads(json.dumps({
            "label_names": {label.name: label.id for label in made.bundle.facts.labels}, "quality": made.quality(),
            "entropy_bits": made.entropy(), "centroids": centroids(made.array), "notes": list(made.notes),
            "changed_voxels": int((ids != result.array).sum()),
        }))  # fmt: skip
        return InferenceFiles(folder, convert_file(folder / name, params), answer, made)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _uncertainty_note(lost: list[str]) -> list[str]:
    names = ", ".join(lost)
    return [f"The uncertainty of {names} is left out, since their voxels have changed."] if lost else []


def _with_labels(
    result: Result, ids: NDArray[np.integer], entropies: tuple[float | None, ...], words: list[str]
) -> Result:
    labels = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(ids))[None], affine=result.labels.affine, meta={"space": "RAS"}
    )
    notes = tuple(dict.fromkeys((*result.notes, *words)))
    return replace(result, labels=labels, mirrored=None, entropies=entropies, notes=notes)


def _valid_entropies(result: Result, ids: NDArray[np.integer]) -> tuple[tuple[float | None, ...], list[str]]:
    """Return the entropies of unchanged labels (None for others), and the names of the labels that lost theirs."""
    before, changed = result.array, ids != result.array
    touched = set(np.unique(before[changed]).tolist()) | set(np.unique(ids[changed]).tolist())
    kept = tuple(None if n in touched else bits for n, bits in enumerate(result.entropies, 1))
    names = {label.id: label.name for label in result.bundle.facts.labels}
    lost = [names[n] for n, bits in enumerate(result.entropies, 1) if bits is not None and n in touched and n in names]
    return kept, lost


def _write(result: Result, folder: Path) -> str:
    if result.scan.is_picture:
        from PIL import Image

        Image.fromarray(result.array.astype(np.uint8)).save(folder / "labels.png")
        return "labels.png"
    from medvit.io import write_labels

    write_labels(folder / "labels.nii.gz", result.array, result.scan, result.requested_labels)
    return "labels.nii.gz"
