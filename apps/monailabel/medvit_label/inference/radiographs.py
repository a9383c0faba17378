"""Reconstruction of bones from two radiographs of the project, with the client's statements on the views."""

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
"""What ``GET /info/`` lists as the model's settings: the names of ``medvit reconstruct``'s options."""

OWN_GRID_NOTE = "The labels lie on a grid of the network's own around the middle of the views, not on the picture: open them as a volume."


def _listed(value: Any) -> Any:
    """Split ``"0.15,0.2"`` (as the command line takes it), one number for both views, or one for each; None for an empty value."""
    if value is None or value == "":
        return None
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return (parts[0], parts[-1]) if len(parts) in (1, 2) else parts


ForViews = Annotated[tuple[float, float] | None, BeforeValidator(_listed)]
"""A number for the AP and one for the lateral view."""


def view_geometries(params: Any) -> tuple[ViewGeometry, ViewGeometry]:
    """Return what a client states of the AP and the lateral view.

    Args:
        params: ``medvit_label.inference.run.Params``.

    Raises:
        GeometryError: a size is not possible.
    """
    given = (params.pixel_spacing, params.magnification, params.source_to_detector, params.source_to_patient)
    pixel, larger, far, near = ((None, None) if pair is None else pair for pair in given)
    made = [ViewGeometry(pixel[n], larger[n], far[n], near[n], params.invert) for n in (0, 1)]
    return made[0], made[1]


def require_lateral(bundle: Bundle, image: LabelImage, lateral: LabelImage | None) -> LabelImage:
    """Return the lateral view.

    Raises:
        RequestError: the request names none, or the AP view again.
    """
    if lateral is None:
        raise RequestError(
            f"Found one radiograph for {bundle.name}, which reconstructs from two; the image is the AP view, and the lateral view is "
            'needed too. Name it: params={"lateral": IMAGE_ID}.'
        )
    if lateral.id == image.id:
        raise RequestError(
            "Found the same image as AP and as lateral view; two radiographs from different sides are needed. "
            "Name the other one in params.lateral."
        )
    return lateral


def reconstruct_bones(
    bundle: Bundle, views: tuple[LabelImage, LabelImage], flags: tuple[ViewGeometry, ViewGeometry], settings: ReconstructionSettings, progress: Progress
) -> Reconstructed:  # fmt: skip
    """Reconstruct bones from two images, AP first, as ``medvit reconstruct`` does.

    Raises:
        MedvitError: why it cannot be run, as ``medvit.reconstruct`` says it.
    """
    inputs = {
        name: ViewInput(source=image.path, series=image.series, geometry=geometry)
        for name, image, geometry in zip(("ap", "lat"), views, flags, strict=True)
    }
    result = run(bundle, inputs, settings, progress)
    assert isinstance(result, Reconstructed)  # of a bundle that reconstructs
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
