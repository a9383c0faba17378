"""Labels on the source grid from an nnU-Net's logits, plane by plane: logits at full resolution are never in memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.errors import ShapeError
from medvit.interop.nnunet.preprocessing import NnunetGrid
from medvit.interop.nnunet.resampling import Resampling, nearest_index, resample
from medvit.kernels.resample_argmax import resample_argmax

__all__ = ["NnunetLabelsd"]

_PLANES = 24
"""Number of planes resampled at a time: enough to make the overhead of a call small."""


class NnunetLabelsd:
    """Transform from logits on the network grid to labels on the source grid.

    Logits are interpolated linearly, along a coarse axis ("separate z") the nearest plane is taken; the first of equal
    classes is the label. Outside the nonzero box all is background.

    Args:
        keys: logits, (class, *spatial).
        image_key: the preprocessed image, whose meta stores the relation to the source grid.
        regions: for a network whose heads are regions, the label of each head; a head is set where its logit is above
            0, later heads over earlier ones.

    Attributes:
        takes_planes: True, since the steps can work plane by plane, see ``planes``.
    """

    takes_planes = True

    def __init__(self, keys: str, image_key: str = "image", regions: Sequence[int] | None = None) -> None:
        self.keys = (keys,)
        self.image_key = image_key
        self.regions = None if regions is None else tuple(int(number) for number in regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace logits by labels, MetaTensor (1, *spatial), with the source's affine."""
        out = dict(data)
        for key in self.keys:
            logits = out[key]
            planes = self.planes(out[self.image_key])
            planes.add_planes(logits.as_tensor() if isinstance(logits, MetaTensor) else logits)
            out[key] = planes.labels()
        return out

    def planes(self, image: Any) -> _PlaneLabels:
        """Return a consumer of planes of logits in sequence, which makes the labels for this preprocessed image."""
        return _PlaneLabels(image, self.regions)


class _PlaneLabels:
    """Labels from planes of logits in sequence, equal to those of all planes together."""

    def __init__(self, image: Any, regions: tuple[int, ...] | None) -> None:
        self._image = image
        self._grid = NnunetGrid.of(image)
        self._regions = regions
        self._held: list[Tensor] = []
        self._first = self._done = 0
        self._out = torch.zeros(self._grid.box, dtype=torch.uint8)
        long, out = self._grid.size[0], self._grid.box[0]
        if self._grid.coarse == 0:
            self._low = self._high = torch.from_numpy(nearest_index(long, out))
        else:
            place = ((torch.arange(out, dtype=torch.float64) + 0.5) * (long / out) - 0.5).clamp(0, long - 1)
            self._low = place.floor().long()
            self._high = (self._low + 1).clamp(max=long - 1)

    def add_planes(self, planes: Tensor) -> None:
        """Add the next planes, (class, plane, *rest)."""
        if planes.shape[2:] != self._grid.size[1:]:
            raise ShapeError(
                f"logits of {tuple(planes.shape)} for an image of {self._grid.size}",
                "they must match",
                "Check the inferer.",
            )
        if planes.dtype == torch.half:  # all planes, rounded as nnU-Net rounds them
            self._out = self._rounded(planes)
            return
        self._held.append(planes.cpu())
        held = sum(part.shape[1] for part in self._held)
        if held >= _PLANES or self._first + held == self._grid.size[0]:
            self._decide()

    def labels(self) -> MetaTensor:
        """Return the labels on the source grid, (1, *spatial), after all planes were added."""
        made = self._grid.to_source(self._out)[None]
        affine = torch.as_tensor(self._image.meta["original_affine"], dtype=torch.float64).reshape(4, 4)
        name = self._image.meta.get("filename_or_obj", "image")
        return MetaTensor(
            made, affine=affine, meta={"filename_or_obj": name, "original_affine": affine, "space": "RAS"}
        )

    def _rounded(self, logits: Tensor) -> Tensor:
        """Label the box from logits that are resampled in double precision and rounded to half precision."""
        coarse = None if self._grid.coarse < 0 else self._grid.coarse
        kind = torch.int16 if max(self._regions or (len(logits),)) > 255 else torch.uint8
        made = torch.zeros(self._grid.box, dtype=kind)
        best: Tensor | None = None
        for head, plane in enumerate(logits):  # head by head: all of them at full resolution would be large
            one = resample(plane[None].double(), self._grid.box, Resampling(order=1), coarse)[0].half().float()
            if self._regions is not None:
                made[one.sigmoid() > 0.5] = self._regions[head]
            elif best is None:
                best = one
            else:
                made[one > best] = head
                best = torch.maximum(best, one)
        return made

    def _decide(self) -> None:
        """Label the rows of the source whose planes are all there."""
        logits = torch.cat(self._held, 1).float()
        end = self._first + logits.shape[1]
        rows = torch.nonzero((self._low >= self._first) & (self._high < end) & ~self._labelled())[:, 0]
        for axis in (1, 2):
            if self._grid.coarse == axis:
                nearest = nearest_index(self._grid.size[axis], self._grid.box[axis])
                logits = logits.index_select(axis + 1, torch.from_numpy(nearest))
        if len(rows):
            low, high = int(rows[0]), int(rows[-1]) + 1
            if self._grid.coarse == 0:
                made = self._chosen(logits[:, self._low[low:high] - self._first], 0, None, high - low)
            else:
                made = self._chosen(logits, self._first, self._grid.size[0], self._grid.box[0])[low:high]
            self._out = self._out.to(torch.promote_types(self._out.dtype, made.dtype))
            self._out[low:high] = made
            self._done = high
        # the last plane is kept: a row between it and the next plane needs both
        self._held, self._first = [torch.cat(self._held, 1)[:, -1:].clone()], end - 1

    def _labelled(self) -> Tensor:
        return torch.arange(self._grid.box[0]) < self._done

    def _chosen(self, logits: Tensor, first: int, long: int | None, out: int) -> Tensor:
        """Label all rows of a slab of logits that starts at plane ``first`` of ``long`` planes."""
        about: dict[str, Any] = {
            "out_shape": (out, *self._grid.box[1:]),
            "grid_shape": (logits.shape[1] if long is None else long, *logits.shape[2:]),
            "start": (first, 0, 0),
        }
        if self._regions is None:
            return resample_argmax(logits, **about)
        kind = torch.uint8 if max(self._regions) < 256 else torch.int16
        made = torch.zeros(about["out_shape"], dtype=kind)
        for head, number in zip(logits, self._regions, strict=True):
            inside = resample_argmax(torch.stack([torch.zeros_like(head), head]), **about)
            made[inside.bool()] = number
        return made
