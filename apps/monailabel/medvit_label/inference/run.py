"""A bundle on one image of the project, through ``medvit.run``; what comes back is what ``medvit segment`` writes."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import ndimage

import medvit
from medvit.bundles import Bundle
from medvit.errors import BackendError
from medvit.inference import choose_device
from medvit.progress import Progress
from medvit.reconstruction import Reconstructed, ReconstructionSettings
from medvit.reports import stage_seconds
from medvit.restoration import Restored
from medvit.segmentation import Result
from medvit_label.errors import RequestError
from medvit_label.images.local import Image
from medvit_label.inference.radiographs import (
    OWN_GRID_NOTE,
    ForViews,
    flags_of,
    reconstructed,
    require_lateral,
    write_reconstruction,
)
from medvit_label.inference.strokes import has_points
from medvit_label.request_params import json_object, read_flag

__all__ = [
    "InferenceFiles",
    "Params",
    "Results",
    "asks_correction",
    "centroids",
    "convert_file",
    "infer",
    "read_params",
    "restarts",
]

_KEPT = 4
"""Results held in memory, for clicks on top of them."""


class Params(BaseModel):
    """What a client may ask of an inference; anything else it sends (its own settings) is passed over."""

    model_config = ConfigDict(extra="ignore")

    device: str | None = None
    force: bool = False
    roi_subset: list[str] = Field(default_factory=list)
    on_irregular: str = "fail"
    quality_map: bool = False
    result_extension: str = Field(default="", pattern=r"^(\.nii|\.nii\.gz|\.nrrd)?$")
    result_dtype: str = Field(default="", pattern=r"^(u?int(8|16|32))?$")
    result_compress: bool = True
    lateral: str = ""
    lateral_session: str = ""
    pixel_spacing: ForViews = None
    magnification: ForViews = None
    source_to_detector: ForViews = None
    source_to_patient: ForViews = None
    invert: bool = False


def read_params(text: str) -> tuple[Params, dict[str, Any]]:
    """A client's ``params``: those that mean something to an inference, and all of them.

    Raises:
        RequestError: no JSON object, or a value that cannot be.
    """
    content = json_object(text)
    try:
        return Params.model_validate(content), content
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"Found params.{first['loc'][0]}: {first['msg']}. Correct it or leave it out.") from None


def asks_correction(content: dict[str, Any], bundle: Bundle) -> bool:
    """Tell whether a client's ``params`` ask for corrections: new ones, or those kept."""
    return has_points(content, bundle) or read_flag(content, "resume") or content.get("roi") not in (None, [])


def restarts(content: dict[str, Any]) -> bool:
    """Return whether a client asks to drop its corrections; ``fresh`` is the key of earlier versions."""
    return read_flag(content, "restart") or read_flag(content, "fresh")


@dataclass(frozen=True, eq=False)
class InferenceFiles:
    """What an inference made.

    Attributes:
        folder: holds the files; the caller removes it.
        file: the label map or restored image in it.
        params: what clients are told beside it.
        result: the run's result.
    """

    folder: Path
    file: Path
    params: dict[str, Any]
    result: Result | Restored | Reconstructed


class Results:
    """The last plain answers, by annotator, model and image, for clicks on top of them; dropped with the image they were made of."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str, str], tuple[str, Result]] = OrderedDict()
        self._lock = Lock()

    def keep(self, key: tuple[str, str, str], state: str, result: Result) -> None:
        """Hold an answer of an image that was in a state (``Image.state``); the one unused for longest goes.

        It can be made again: corrections on top of it are kept elsewhere (``KeptCorrections``).
        """
        with self._lock:
            self._held[key] = (state, result)
            self._held.move_to_end(key)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)

    def forget(self, model: str) -> None:
        """Drop a model's answers: another version of it answers from now on."""
        with self._lock:
            for key in [key for key in self._held if key[1] == model]:
                del self._held[key]

    def get(self, key: tuple[str, str, str], state: str) -> Result | None:
        """Return a held answer; None where there is none, or where the image has changed."""
        with self._lock:
            before, result = self._held.get(key, ("", None))
            if result is None or before != state:
                return None
            self._held.move_to_end(key)
            return result


@dataclass(frozen=True)
class Asked:
    """One inference: a bundle, an image, how, whether a DICOM SEG is wanted too, and the lateral view for a reconstruction."""

    bundle: Bundle
    image: Image
    params: Params
    device: str
    seg: bool = False
    lateral: Image | None = None


def infer(asked: Asked, scratch: Path, progress: Progress) -> InferenceFiles:
    """Run it and write what a client may be sent.

    Raises:
        MedvitError: why it cannot be run, as ``medvit.run`` says it.
    """
    started = time.perf_counter()
    params = asked.params
    if params.device is not None and choose_device(params.device) != choose_device(asked.device):
        raise BackendError(
            f"Found device {params.device!r} asked for, where this server runs on {choose_device(asked.device)}; nothing else is used "
            "in its place. Leave it out, or start the server with --device."
        )
    result = _run(asked, progress)
    folder = Path(tempfile.mkdtemp(prefix="infer-", dir=scratch))
    try:
        file, said = _write(result, folder, asked)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    said["latencies"] = stage_seconds(progress) | {"total": round(time.perf_counter() - started, 3)}
    said["notes"] = [*result.notes, *([OWN_GRID_NOTE] if isinstance(result, Reconstructed) else [])]
    return InferenceFiles(folder, file, said, result)


def _run(asked: Asked, progress: Progress) -> Result | Restored | Reconstructed:
    params, image = asked.params, asked.image
    if asked.bundle.facts.task == "reconstruction":
        views = image, require_lateral(asked.bundle, image, asked.lateral)
        settings = ReconstructionSettings(asked.device, params.force)
        return reconstructed(asked.bundle, views, flags_of(params), settings, progress)
    return medvit.run(
        asked.bundle,
        image.path,
        medvit.RunSettings(
            device=asked.device,
            force=params.force,
            roi_subset=tuple(params.roi_subset),
            series=image.series,
            on_irregular=params.on_irregular,
            quality_map=params.quality_map,
            geometry=image.geometry,
        ),
        progress,
    )


def _write(result: Result | Restored | Reconstructed, folder: Path, asked: Asked) -> tuple[Path, dict[str, Any]]:
    facts = asked.bundle.facts
    said: dict[str, Any] = {"bundle": f"{asked.bundle.name} {asked.bundle.version}", "quality": result.quality()}
    if isinstance(result, Reconstructed):
        file, more = write_reconstruction(result, folder)
        return convert_file(file, asked.params), said | more
    if isinstance(result, Restored):
        said["set_aside"] = list(result.save(folder, ("nifti",), overwrite=True).not_written)
        return convert_file(folder / "restored.nii.gz", asked.params), said
    types = ("png",) if result.scan.is_picture else ("nifti", "dicom-seg") if asked.seg else ("nifti",)
    saved = result.save(folder, types, overwrite=True)
    said["label_names"] = {label.name: label.id for label in facts.labels}
    said["statistics"] = [{"name": row.name, "voxels": row.voxels} for row in result.statistics()]
    said["centroids"] = centroids(result.array)
    said["entropy_bits"] = result.entropy()
    said["set_aside"] = list(saved.not_written)
    return convert_file(folder / ("labels.png" if result.scan.is_picture else "labels.nii.gz"), asked.params), said


def centroids(ids: NDArray[np.integer]) -> dict[str, list[int]]:
    """``{"label_3": [3, i, j, k]}``: the middle of each label, in voxels. OHIF's first extensions draw nothing without it."""
    boxes = ndimage.find_objects(ids)
    found = {}
    for number, box in enumerate(boxes, 1):
        if box is not None:
            places = np.nonzero(ids[box] == number)
            middle = [int(side.start + axis.mean()) for side, axis in zip(box, places, strict=True)]
            found[f"label_{number}"] = [number, *middle]
    return found


def convert_file(file: Path, params: Params) -> Path:
    """The file in the format and number type a client asks for; the file itself where it asks for none."""
    wanted = params.result_extension or "".join(file.suffixes[-2:] if file.suffix == ".gz" else file.suffixes[-1:])
    if file.suffix == ".png" or (file.name.endswith(wanted) and not params.result_dtype and params.result_compress):
        return file
    import SimpleITK as sitk

    kinds = {"uint8": sitk.sitkUInt8, "int8": sitk.sitkInt8, "uint16": sitk.sitkUInt16, "int16": sitk.sitkInt16,
             "uint32": sitk.sitkUInt32, "int32": sitk.sitkInt32}  # fmt: skip
    image = sitk.ReadImage(str(file))
    if params.result_dtype:
        image = sitk.Cast(image, kinds[params.result_dtype])
    made = file.with_name(f"sent{wanted}")
    sitk.WriteImage(image, str(made), useCompression=params.result_compress)
    return made
