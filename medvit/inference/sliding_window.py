"""Sliding-window inference: MONAI's windows and blending, without running a constant window twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from monai.inferers import Inferer
from torch import Tensor

from medvit.errors import BackendError, ShapeError
from medvit.inference.tiling import Tiling, tile
from medvit.kernels.occupied_windows import constant_groups, occupied_windows
from medvit.kernels.overlap_add import Blend, LabelStream, argmax_of, sigmoid_above
from medvit.progress import Progress

__all__ = ["SlidingWindow"]

_PADDING = ("constant", "reflect", "replicate", "circular")
_NOT_HERE = {
    "progress": "pass progress=Progress(...) when calling the inferer",
    "cache_roi_weight_map": "leave it out: the weights are always kept",
    "cpu_thresh": "give device='cpu' to blend on the CPU",
    "buffer_steps": "leave it out, or call labels(), whose memory does not grow with the volume",
    "buffer_dim": "leave it out, or call labels(), whose memory does not grow with the volume",
    "with_coord": "use monai.inferers.SlidingWindowInferer for networks that want to know where a window lies",
    "condition": "concatenate it to the image's channels",
}
"""What MONAI's inferer takes and ours does not, with what to do."""


class SlidingWindow(Inferer):  # type: ignore[misc]
    """A MONAI inferer: windows of ``roi_size`` blended over the image.

    Equal to ``monai.inferers.SlidingWindowInferer`` at equal settings. Windows that hold one value a channel, as the air
    around a patient, go through the network once for each such value and their logits are used again. So the network has
    to be a function of its window alone. One that is in training mode (dropout) runs every window; so does
    ``reuse_constant=False``.

    Args:
        roi_size: window in voxels along each spatial axis; smaller images are padded; an axis of None takes the image's.
        overlap: share of a window that the next one covers, in [0, 1); for all axes or for each.
        mode: "gaussian" or "constant" blending.
        sw_batch_size: windows per call of the network.
        backend: "auto" or "eager": the network as it is.
        precision: "fp32".
        sigma_scale: the Gaussian's standard deviation as a share of the window.
        padding_mode: "constant", "reflect", "replicate" or "circular", for images smaller than a window.
        cval: the value of constant padding.
        sw_device: where windows go through the network; None for the image's device.
        device: where logits are blended and returned; None for the image's device.
        reuse_constant: run equal constant windows once.

    Raises:
        ShapeError: an overlap outside [0, 1), a window size, batch size or Gaussian that means nothing.
        BackendError: a backend, precision, mode or option that is not there.
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float = 0.5,
        mode: str = "gaussian",
        sw_batch_size: int = 1,
        backend: str = "auto",
        precision: str = "fp32",
        *,
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        reuse_constant: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        _refuse(options)
        if not all(0 <= share < 1 for share in (overlap if isinstance(overlap, Sequence) else [overlap])):
            raise ShapeError(f"Found an overlap of {overlap}; it must be at least 0 and below 1. 0.5 is usual.")
        if sw_batch_size < 1 or not all(
            s > 0 for s in (sigma_scale if isinstance(sigma_scale, Sequence) else [sigma_scale])
        ):
            raise ShapeError(
                f"Found sw_batch_size {sw_batch_size} and sigma_scale {sigma_scale}; at least one window per call and a Gaussian "
                "wider than 0 are needed. 1 and 0.125 are usual."
            )
        if backend not in ("auto", "eager"):
            raise BackendError(f"Found inference backend {backend!r}; only 'eager' is there. Use backend='auto'.")
        if precision != "fp32":
            raise BackendError(f"Found precision {precision!r}; only 'fp32' is there. Leave it out.")
        if mode not in ("gaussian", "constant") or padding_mode not in _PADDING:
            raise BackendError(
                f"Found mode {str(mode)!r} and padding_mode {str(padding_mode)!r}; mode is 'gaussian' or 'constant', padding_mode "
                f"one of {', '.join(_PADDING)}. Use one of these."
            )
        self.roi_size = roi_size
        self.overlap = overlap
        self.mode = str(mode)
        self.sw_batch_size = sw_batch_size
        self.backend = backend
        self.precision = precision
        self.sigma_scale = sigma_scale
        self.padding_mode = str(padding_mode)
        self.cval = cval
        self.sw_device = sw_device
        self.device = device
        self.reuse_constant = reuse_constant

    def windows(self, spatial: Sequence[int]) -> int:
        """How many windows cover an image of this size."""
        return len(self._tile(spatial).origins)

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Logits (batch, class, *spatial) for inputs (batch, channel, *spatial).

        Args:
            inputs: floating-point; a MetaTensor gives a MetaTensor.
            network: takes (window, channel, *roi) and gives (window, class, *roi).
            args: further arguments of the network.
            progress: told how many calls are done; can cancel between them.
            kwargs: further arguments of the network.

        Raises:
            ShapeError: an image that is not (batch, channel, *spatial) of floating-point numbers, or a network whose output
                is not one tensor as large as its window.
            Cancelled: if asked for.
        """
        image, tiling = self._prepared(inputs, kwargs)
        device = torch.device(self.device) if self.device is not None else image.device
        weight = self._weight(tiling, image)
        blend: Blend | None = None
        for at, window, logits in self._logits(image, tiling, network, progress, args, kwargs):
            blend = blend or Blend(tiling.padded, len(logits), weight, len(image), device)
            blend.add(logits, tiling.origins[window].tolist(), at)
        assert blend is not None
        result = tiling.crop(blend.mean()).to(image.dtype)
        return MetaTensor(result).copy_meta_from(inputs, copy_attr=False) if isinstance(inputs, MetaTensor) else result

    def labels(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        threshold: float | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """What the logits of ``__call__`` come to, without ever holding them: memory does not grow with the first axis.

        Voxels are decided from sums of weighted logits, which saves a division; where two classes differ by the last digit
        only, dividing first may round them to a tie.

        Args:
            inputs: as for ``__call__``, and so are network, args, progress and kwargs.
            threshold: None for the class with the largest logit; a number in (0, 1) for a mask of each channel, where its
                sigmoid is above.

        Returns:
            (batch, 1, *spatial), or (batch, class, *spatial) with a threshold: uint8, int16 above 256 classes.

        Raises:
            ShapeError: as ``__call__``; one channel and no threshold.
        """
        choice = argmax_of if threshold is None else sigmoid_above(threshold)
        image, tiling = self._prepared(inputs, kwargs)
        weight = self._weight(tiling, image)
        streams: list[LabelStream] = []
        found: list[Tensor] = []
        for at, window, logits in self._logits(image, tiling, network, progress, args, kwargs):
            if threshold is None and len(logits) == 1:
                raise ShapeError(
                    "Found a network with one channel, whose largest logit is always the first; give labels() a threshold, as 0.5."
                )
            if at == len(found) + len(streams):
                found += [stream.labels() for stream in streams]
                streams = [
                    LabelStream(tiling.padded, len(logits), weight, choice, 1 if threshold is None else len(logits))
                ]
            streams[0].add(logits, tiling.origins[window].tolist())
        found.append(streams[0].labels())
        result = tiling.crop(found[0][None] if len(found) == 1 else torch.stack(found)).to(self.device or image.device)
        return MetaTensor(result).copy_meta_from(inputs, copy_attr=False) if isinstance(inputs, MetaTensor) else result

    def _tile(self, spatial: Sequence[int]) -> Tiling:
        return tile(spatial, self.roi_size, self.overlap)

    def _prepared(self, inputs: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tiling]:
        """The padded image and its windows."""
        _refuse({name: kwargs[name] for name in (*_NOT_HERE, "device") if name in kwargs})
        if inputs.ndim < 3 or 0 in inputs.shape or not inputs.is_floating_point():
            raise ShapeError(
                f"Found an image of {tuple(inputs.shape)}, {inputs.dtype}; (batch, channel, *spatial) floating-point with at least "
                "one voxel is needed. Add the missing axes, or convert with .float()."
            )
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        tiling = self._tile(image.shape[2:])
        return tiling.pad(image, self.padding_mode, self.cval), tiling

    def _weight(self, tiling: Tiling, image: Tensor) -> Tensor:
        """How much each voxel of a window counts, (*roi), in the type in which sums are kept: single precision at least."""
        sigma = tuple(self.sigma_scale) if isinstance(self.sigma_scale, Sequence) else self.sigma_scale
        dtype = torch.promote_types(image.dtype, torch.float32)
        return _importance(tiling.roi, self.mode, sigma).to(torch.device(self.sw_device or image.device), dtype)

    def _logits(
        self,
        image: Tensor,
        tiling: Tiling,
        network: Callable[..., Tensor],
        progress: Progress | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Number in the batch, window and logits (class, *roi) of every window, image by image in the windows' order.

        A window that is due goes through the network in a batch with the next ones that are; a constant window of a
        value seen before is not due. Its logits are kept until their last use.
        """
        groups = self._groups(image, tiling, network)
        windows = len(tiling.origins)
        left = Counter(groups)
        firsts = {group: n for n, group in reversed(list(enumerate(groups)))}
        due = [n for n, group in enumerate(groups) if group < 0 or firsts[group] == n]
        calls = [due[first : first + self.sw_batch_size] for first in range(0, len(due), self.sw_batch_size)]
        kept: dict[int, Tensor] = {}
        for done, call in enumerate(calls):
            if progress is not None:
                progress.report("infer", done, len(calls))
            boxes = [(slice(n // windows, n // windows + 1), slice(None), *tiling.box(n % windows)) for n in call]
            batch = torch.cat([image[box] for box in boxes]).to(self.sw_device or image.device)
            fresh = dict(zip(call, _checked(network(batch, *args, **kwargs), batch), strict=True))
            until = calls[done + 1][0] if done + 1 < len(calls) else len(groups)
            for n in range(call[0], until):
                group = groups[n]
                left[group] -= 1
                logits = fresh[n] if n in fresh else kept[group]
                if group >= 0 and n in fresh and left[group]:
                    kept[group] = logits = logits.clone()  # a network may use its output's memory again
                elif group >= 0 and not left[group]:
                    kept.pop(group, None)
                yield n // windows, n % windows, logits
        if progress is not None:
            progress.report("infer", len(calls), len(calls))

    def _groups(self, image: Tensor, tiling: Tiling, network: object) -> list[int]:
        """For each window of each image: -1 if it has to run, else a number that equal constant windows share."""
        if not self.reuse_constant or getattr(network, "training", False):
            return [-1] * (len(image) * len(tiling.origins))
        occupied = occupied_windows(image, tiling.roi, tiling.origins)
        return constant_groups(image, tiling.origins, occupied).flatten().tolist()


@lru_cache(maxsize=8)
def _importance(roi: tuple[int, ...], mode: str, sigma: tuple[float, ...] | float) -> Tensor:
    weight: Tensor = compute_importance_map(roi, mode=mode, sigma_scale=sigma)
    return weight


def _refuse(options: dict[str, Any]) -> None:
    for name in options:
        step = _NOT_HERE.get(name, "give device to the constructor" if name == "device" else "leave it out")
        raise BackendError(f"Found option {name!r}, which SlidingWindow does not take here. Instead, {step}.")


def _checked(logits: object, batch: Tensor) -> Tensor:
    """The network's output if it is one tensor of logits as large as the windows."""
    if not isinstance(logits, Tensor):
        raise ShapeError(
            f"Found a network that returns {type(logits).__name__}; one tensor is needed. Wrap it so that it returns its logits."
        )
    if logits.ndim != batch.ndim or len(logits) != len(batch) or logits.shape[2:] != batch.shape[2:]:
        raise ShapeError(
            f"Found a network that makes {tuple(logits.shape)} of windows {tuple(batch.shape)}; (window, class, *roi) of the "
            f"windows' size {tuple(batch.shape[2:])} is needed. Resize inside the network, or use MONAI's SlidingWindowInferer."
        )
    return logits.as_tensor() if isinstance(logits, MetaTensor) else logits
