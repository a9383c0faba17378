"""Restoration task: from a scan to intensities with less noise or blur, on its grid or a finer one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from medvit import inference, restoration
from medvit.bundles import Bundle
from medvit.errors import GeometryError, ImageError
from medvit.io import GridImage, Scan, axis_codes, flip_lps_ras, plain_tensor
from medvit.io.dicom import resample_to_grid
from medvit.progress import Progress
from medvit.restoration.preconditions import reasons_to_refuse, require_regular
from medvit.restoration.result import Restored
from medvit.settings import RunSettings
from medvit.tasks import PreparedScan, ScanTask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from medvit.inference import LoadedBundle, Prediction

__all__ = ["RestorationTask"]


class RestorationTask(ScanTask):
    """Steps of a bundle that restores intensities; see ``medvit.tasks.Task``.

    Examples:
        >>> from medvit.restoration import RestorationTask
        >>> RestorationTask().name
        'restoration'
    """

    name: ClassVar[str] = "restoration"

    def prepare(self, opened: Mapping[str, Scan], bundle: Bundle, settings: RunSettings) -> PreparedScan:
        """Check that the scan suits the bundle and is an original image.

        Raises:
            ImageError: the source is a picture, or an image that was restored before or reduced to 8 bits.
        """
        prepared = super().prepare(opened, bundle, settings)
        if prepared.scan.is_picture:
            raise ImageError(
                f"a picture for {bundle.name}",
                "restoration takes volumes, a single slice as a volume one voxel thick",
                "Save it as a volume.",
            )
        reasons = reasons_to_refuse(prepared.scan, bundle)
        if reasons and not settings.force:
            raise ImageError(
                reasons[0], remedy="Give the original series, or run all the same with {force=True}.", option="force"
            )
        return replace(prepared, forced=(*prepared.forced, *(f"Forced: {reason}." for reason in reasons)))

    def predict(
        self, loaded: LoadedBundle, prepared: PreparedScan, settings: RunSettings, progress: Progress
    ) -> Prediction:
        """Restore the scan; for a tilted or uneven stack, restore its own slices.

        Raises:
            GeometryError: the stack is irregular and the network does not take single slices.
        """
        scan = prepared.scan
        if restoration.upsampling_factor(loaded) > 1:
            require_regular(scan)
        if scan.original is None:
            return inference.apply(loaded, prepared.data, progress)
        return inference.apply(loaded, {"image": _own_slices(scan, loaded).grid_image()}, progress)

    def result(
        self,
        loaded: LoadedBundle,
        prepared: PreparedScan,
        prediction: Prediction,
        settings: RunSettings,
        progress: Progress,
    ) -> Restored:
        """Return the intensities on the scan's grid or the finer one, with sources, notes and the record of the run."""
        source, factor = prepared.scan, restoration.upsampling_factor(loaded)
        scan = restoration.upsampled_scan(source, factor) if factor > 1 else source
        values, slices = _values(prediction.output), None
        if scan.original is not None:
            slices = values[0]
            values = resample_to_grid(slices, scan.original.grid)
            values = np.where(scan.original.covered, values, scan.array[0])[None]
        finer = factor > 1
        return Restored(
            image=_image(values, scan),
            slices=slices,
            scan=scan,
            bundle=loaded.bundle,
            settings={
                **_record(loaded, prepared, prediction, settings),
                **({"in_plane_factor": factor} if finer else {}),
            },
            notes=(
                *prepared.notes,
                *prepared.forced,
                *prepared.repaired,
                *loaded.notes,
                *([_finer(source, scan, factor)] if finer else []),
            ),
            progress=progress,
            calibration=loaded.calibration,
            source_scan=source if finer else None,
            validation=loaded.validation,
        )


def _finer(source: Scan, scan: Scan, factor: int) -> str:
    was, now = source.spacing_mm, scan.spacing_mm
    return (
        f"Pixels are {factor} times finer in the slices' plane: {now[0]:.4g} x {now[1]:.4g} mm where the source has "
        f"{was[0]:.4g} x {was[1]:.4g} mm; the distance between slices is the source's."
    )


def _image(values: NDArray[np.float32], scan: Scan) -> GridImage:
    import torch

    affine = torch.from_numpy(np.array(scan.affine))
    return GridImage(values=torch.from_numpy(values), affine=affine, meta={"space": "RAS"})


def _record(
    loaded: LoadedBundle, prepared: PreparedScan, prediction: Prediction, settings: RunSettings
) -> dict[str, Any]:
    import torch

    return {
        "device": str(loaded.device),
        "device_asked": settings.device,
        "precision": prediction.precision,
        "fast": loaded.fast,
        "forced": bool(prepared.forced),
        "repaired": list(prepared.repaired),
        "on_irregular": settings.on_irregular,
        "geometry": settings.geometry,
        "threads": torch.get_num_threads(),
    }


def _values(made: GridImage | Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = plain_tensor(made).float().numpy()
    return values


def _own_slices(scan: Scan, loaded: LoadedBundle) -> Scan:
    """Return the slices of a tilted or uneven stack, (column, row, slice), as if they were a regular stack.

    The positions of the slices do not matter to a network that takes single slices, so nothing is resampled before it.
    A network that also takes neighbours gets those of the stack, although they are slightly shifted or farther away.
    """
    original, inferer = scan.original, loaded.inferer
    assert original is not None
    # the stack must be sliced along the patient axis for which the network was trained
    across = axis_codes(flip_lps_ras(original.grid.affine))[2]
    if not isinstance(inferer, inference.SliceWise) or across not in ("RL", "PA", "SI")[inferer.axis]:
        raise GeometryError(
            f"an irregular stack for {loaded.bundle.name}, which does not restore it slice by slice",
            "values between the slices would have to be made up",
            "Use {on_irregular=split}, which takes the longest regular part.",
            option="on_irregular",
        )
    return replace(scan, array=original.values[None], affine=flip_lps_ras(original.grid.affine), original=None)
