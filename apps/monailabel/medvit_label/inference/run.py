"""Inference of a bundle on one image of the project through ``medvit.run``; it writes the same files as ``medvit
segment``.
"""

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
from pydantic import BaseModel, ConfigDict, Field
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
from medvit_label.images.source import LabelImage
from medvit_label.inference.radiographs import (
    OWN_GRID_NOTE,
    ForViews,
    reconstruct_bones,
    require_lateral,
    view_geometries,
    write_reconstruction,
)
from medvit_label.inference.strokes import has_points
from medvit_label.request_params import json_object, read_flag, read_settings

__all__ = [
    "AnswerCache",
    "InferenceFiles",
    "Params",
    "asks_correction",
    "asks_restart",
    "centroids",
    "convert_file",
    "infer",
    "read_params",
]

_KEPT = 4
"""Number of answers that are held in memory."""


class Params(BaseModel):
    """Settings of an inference that a client may change; other keys that it sends are ignored."""

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
    """Read a client's ``params``; return the settings of an inference, and all keys.

    Raises:
        RequestError: the text is not a JSON object, or a value is not allowed.
    """
    content = json_object(text)
    return read_settings(Params, content), content


def asks_correction(content: dict[str, Any], bundle: Bundle) -> bool:
    """Return whether a client's ``params`` ask for corrections, new or stored."""
    return has_points(content, bundle) or read_flag(content, "resume") or content.get("roi") not in (None, [])


def asks_restart(content: dict[str, Any]) -> bool:
    """Return whether a client asks to drop its corrections; ``fresh`` is the key of earlier versions."""
    return read_flag(content, "restart") or read_flag(content, "fresh")


@dataclass(frozen=True, eq=False)
class InferenceFiles:
    """Files and JSON answer of an inference.

    Attributes:
        folder: folder of the files; the caller removes it.
        file: the label map or restored image.
        params: the JSON answer.
        result: result of the run.
    """

    folder: Path
    file: Path
    params: dict[str, Any]
    result: Result | Restored | Reconstructed


class AnswerCache:
    """Last plain answers in memory by annotator, model and image, as the basis of corrections."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, str, str], tuple[str, Result]] = OrderedDict()
        self._lock = Lock()

    def keep(self, key: tuple[str, str, str], state: str, result: Result) -> None:
        """Store an answer for an image in a certain state (``LabelImage.state``); drop the least recently used one.

        A dropped answer can be computed again; corrections on top of it are stored elsewhere
        (``CorrectionRepository``).
        """
        with self._lock:
            self._held[key] = (state, result)
            self._held.move_to_end(key)
            while len(self._held) > _KEPT:
                self._held.popitem(last=False)

    def forget(self, model: str) -> None:
        """Drop a model's answers, since another version of it serves from now on."""
        with self._lock:
            for key in [key for key in self._held if key[1] == model]:
                del self._held[key]

    def get(self, key: tuple[str, str, str], state: str) -> Result | None:
        """Return an answer from memory; None if there is none, or if the image has changed."""
        with self._lock:
            before, result = self._held.get(key, ("", None))
            if result is None or before != state:
                return None
            self._held.move_to_end(key)
            return result


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """One inference: bundle, image, settings, device, ``seg`` (True to write a DICOM SEG), and a reconstruction's
    lateral view.
    """

    bundle: Bundle
    image: LabelImage
    params: Params
    device: str
    seg: bool = False
    lateral: LabelImage | None = None


def infer(request: InferenceRequest, scratch: Path, progress: Progress) -> InferenceFiles:
    """Run an inference and write the files for the client.

    Raises:
        MedvitError: the image cannot be run on; see ``medvit.run``.
    """
    started = time.perf_counter()
    params = request.params
    if params.device is not None and choose_device(params.device) != choose_device(request.device):
        raise BackendError(
            f"device {params.device!r} in the request, while this server runs on {choose_device(request.device)}",
            "a request cannot change the device",
            "Leave it out, or start the server with {device=...}.",
            option="device",
        )
    result = _run(request, progress)
    folder = Path(tempfile.mkdtemp(prefix="infer-", dir=scratch))
    try:
        file, answer = _write(result, folder, request)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    answer["latencies"] = stage_seconds(progress) | {"total": round(time.perf_counter() - started, 3)}
    answer["notes"] = [*result.notes, *([OWN_GRID_NOTE] if isinstance(result, Reconstructed) else [])]
    return InferenceFiles(folder, file, answer, result)


def _run(request: InferenceRequest, progress: Progress) -> Result | Restored | Reconstructed:
    params, image = request.params, request.image
    if request.bundle.facts.task == "reconstruction":
        views = image, require_lateral(request.bundle, image, request.lateral)
        settings = ReconstructionSettings(request.device, params.force)
        return reconstruct_bones(request.bundle, views, view_geometries(params), settings, progress)
    return medvit.run(
        request.bundle,
        image.path,
        medvit.RunSettings(
            device=request.device,
            force=params.force,
            roi_subset=tuple(params.roi_subset),
            series=image.series,
            on_irregular=params.on_irregular,
            quality_map=params.quality_map,
            geometry=image.geometry,
        ),
        progress,
    )


def _write(
    result: Result | Restored | Reconstructed, folder: Path, request: InferenceRequest
) -> tuple[Path, dict[str, Any]]:
    facts = request.bundle.facts
    answer: dict[str, Any] = {"bundle": f"{request.bundle.name} {request.bundle.version}", "quality": result.quality()}
    if isinstance(result, Reconstructed):
        file, more = write_reconstruction(result, folder)
        return convert_file(file, request.params), answer | more
    if isinstance(result, Restored):
        answer["set_aside"] = list(result.save(folder, ("nifti",), overwrite=True).not_written)
        return convert_file(folder / "restored.nii.gz", request.params), answer
    types = ("png",) if result.scan.is_picture else ("nifti", "dicom-seg") if request.seg else ("nifti",)
    saved = result.save(folder, types, overwrite=True)
    answer["label_names"] = {label.name: label.id for label in facts.labels}
    answer["statistics"] = [{"name": row.name, "voxels": row.voxels} for row in result.statistics()]
    answer["centroids"] = centroids(result.array)
    answer["entropy_bits"] = result.entropy()
    answer["set_aside"] = list(saved.not_written)
    return convert_file(folder / ("labels.png" if result.scan.is_picture else "labels.nii.gz"), request.params), answer


def centroids(ids: NDArray[np.integer]) -> dict[str, list[int]]:
    """Return the centroid of each label in voxels, as ``{"label_3": [3, i, j, k]}``, which early versions of OHIF's
    extension need.
    """
    boxes = ndimage.find_objects(ids)
    found = {}
    for number, box in enumerate(boxes, 1):
        if box is not None:
            places = np.nonzero(ids[box] == number)
            middle = [int(side.start + axis.mean()) for side, axis in zip(box, places, strict=True)]
            found[f"label_{number}"] = [number, *middle]
    return found


def convert_file(file: Path, params: Params) -> Path:
    """Convert a file to the format and number type that a client asks for; return it unchanged if the client asks for
    none.
    """
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
