"""Reconstruction of bones from two radiographs of the project, with the geometry that the client states for the views."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from medvit.bundles import Bundle
from medvit.pipeline import run
from medvit.progress import Progress
from medvit.reconstruction import Reconstructed, ReconstructionSettings, ViewInput
from medvit.reconstruction.views import ViewGeometry
from medvit_label.errors import RequestError
from medvit_label.images.source import LabelImage

__all__ = ["CONFIG", "ForViews", "reconstruct_bones", "require_lateral", "view_geometries", "write_reconstruction"]

CONFIG = {
    "lateral": "", "pixel_spacing": "", "magnification": "", "source_to_detector": "", "source_to_patient": "", "invert": False,
}  # fmt: skip
"""Settings of a reconstruction model in ``GET /info/``, named like the options of ``medvit reconstruct``."""

OWN_GRID_NOTE = "The labels lie on a grid of the network's own around the middle of the views, not on the picture: open them as a volume."


def _listed(value: Any) -> Any:
    """Convert ``"0.15,0.2"``, a pair, or one number for both views to two values; return None for an empty value."""
    if value is None or value == "":
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return (parts[0], parts[-1]) if len(parts) in (1, 2) else parts


ForViews = Annotated[tuple[float, float] | None, BeforeValidator(_listed)]
"""A number for the AP view and one for the lateral view."""


def view_geometries(params: Any) -> tuple[ViewGeometry, ViewGeometry]:
    """Return the geometry that a client states for the AP and the lateral view.

    Args:
        params: ``medvit_label.inference.run.Params``.

    Raises:
        GeometryError: an impossible size.
    """
    given = (params.pixel_spacing, params.magnification, params.source_to_detector, params.source_to_patient)
    pixel, larger, far, near = ((None, None) if pair is None else pair for pair in given)
    made = [
        ViewGeometry(
            pixel_spacing_mm=pixel[n],
            magnification=larger[n],
            source_to_detector_mm=far[n],
            source_to_patient_mm=near[n],
            invert=params.invert,
        )
        for n in (0, 1)
    ]
    return made[0], made[1]


def require_lateral(bundle: Bundle, image: LabelImage, lateral: LabelImage | None) -> LabelImage:
    """Return the lateral view; refuse a request without a valid one.

    Raises:
        RequestError: the request names no lateral view, or names the AP view again.
    """
    if lateral is None:
        raise RequestError(
            f"one radiograph for {bundle.name}, which reconstructs from two",
            "the image is the AP view, and the lateral view is needed too",
            'Name it: params={"lateral": IMAGE_ID}.',
        )
    if lateral.id == image.id:
        raise RequestError(
            "the same image as AP and as lateral view",
            "two radiographs from different sides are needed",
            "Name the other one in params.lateral.",
        )
    return lateral


def reconstruct_bones(
    bundle: Bundle, views: tuple[LabelImage, LabelImage], flags: tuple[ViewGeometry, ViewGeometry], settings: ReconstructionSettings, progress: Progress
) -> Reconstructed:  # fmt: skip
    """Reconstruct bones from two images, AP first, as ``medvit reconstruct`` does.

    Raises:
        MedvitError: the views cannot be run on; see ``medvit.reconstruct``.
    """
    inputs = {
        name: ViewInput(source=image.path, series=image.series, geometry=geometry)
        for name, image, geometry in zip(("ap", "lat"), views, flags, strict=True)
    }
    result = run(bundle, inputs, settings, progress)
    assert isinstance(result, Reconstructed)  # a bundle that reconstructs returns nothing else
    return result


def write_reconstruction(result: Reconstructed, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Write the labels as NIfTI on the network's grid; return the file and its JSON answer."""
    result.save(folder, ("nifti",), overwrite=True)
    answer = {
        "label_names": {label.name: label.id for label in result.requested_labels},
        "statistics": [{"name": row.name, "voxels": row.voxels} for row in result.statistics()],
        "entropy_bits": result.entropy(),
        "consistency": result.consistency(),
        "set_aside": ["the labels of a reconstruction lie on no DICOM slices"],
    }
    return folder / "labels.nii.gz", answer
