"""Sliding-window inference with MONAI's windows and blending; identical constant windows run once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.inference.backends import BackendRequest, SelectedBackend, may_need_conversion, select_backend
from medvit.inference.checks import (
    UNSUPPORTED_OPTIONS,
    call_network,
    check_fits,
    check_image,
    check_settings,
    refuse_options,
)
from medvit.inference.flip_averaging import FlipAveraging
from medvit.inference.monai_inferer import register_inferer, with_meta_of
from medvit.inference.tiling import Tiling, tile
from medvit.inference.window_plan import (
    OCCUPIED,
    UNTOUCHED,
    InferenceRun,
    PlaneSink,
    background_logits,
    background_outside,
    importance_map,
    window_groups,
)
from medvit.io import plain_tensor
from medvit.kernels.overlap_add.blend import Blend
from medvit.kernels.overlap_add.label_stream import LabelStream, argmax_of, sigmoid_above
from medvit.progress import Progress
from medvit.settings import check_names

__all__ = ["SlidingWindow"]

PlaneConsumer = Callable[[Tensor], None]
"""Function that takes finished planes of logits, (class, plane, *rest), in order along the first axis."""

OnBackend = Callable[[SelectedBackend], object]
"""Function that is called with the selected backend."""


@register_inferer
class SlidingWindow:
    """A MONAI inferer that runs a network on overlapping windows and blends the logits.

    The result equals that of ``monai.inferers.SlidingWindowInferer`` with the same settings. Constant windows (one
    value per channel, such as the air around a patient) run once for each value, and their logits are reused. So the
    network must be a function of its window alone. A network in training mode (dropout) runs on every window, as with
    ``reuse_constant=False``.

    Args:
        roi_size: window size in voxels along each spatial axis; smaller images are padded; None takes the image's size.
        overlap: share of a window that the next one covers, in [0, 1); for all axes or for each.
        mode: "gaussian" or "constant" blending.
        sw_batch_size: number of windows per call of the network.
        backend: "eager", "compiled" (torch.compile), "openvino" (a graph on the CPU, converted once and cached),
            "cuda" (a CUDA graph), or "auto": the OpenVINO graph for a bundle's network on the CPU if it was measured to
            be faster, else eager. ``on_backend`` of a call receives the choice.
        precision: "fp32", "bf16" with openvino or cuda, or "int8" with openvino.
        sigma_scale: standard deviation of the Gaussian as a share of the window.
        padding_mode: "constant", "reflect", "replicate" or "circular", for images smaller than a window.
        cval: value of constant padding.
        sw_device: device of the network; None for the image's device.
        device: device on which logits are blended and returned; None for the image's device.
        reuse_constant: run identical constant windows once.
        mirrored: also run each window's mirror image and average, see ``FlipAveraging``.
        streams: number of windows that OpenVINO runs at once, each on a part of the cores; None for the number that was
            measured fastest, once for each machine and network, from 4 threads and 8 windows on. The result is blended
            in the order of the windows.
        ranges: file of the ranges of a bundle's layers, for int8.

    Raises:
        ShapeError: an overlap outside [0, 1), or an invalid window size, batch size or Gaussian.
        BackendError: an unknown backend, precision, mode or option. A backend that cannot run is refused when called.

    Examples:
        >>> import torch
        >>> from medvit.inference import SlidingWindow
        >>> inferer = SlidingWindow(roi_size=(4, 4, 4), overlap=0.5)
        >>> image = torch.rand(1, 1, 6, 6, 6)
        >>> logits = inferer(image, lambda windows: torch.cat([windows, -windows], 1))
        >>> logits.shape
        torch.Size([1, 2, 6, 6, 6])
    """

    few_parameters = False
    """True in a class of windows whose networks gain from a graph even with few parameters."""

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        overlap: Sequence[float] | float = 0.5,
        *,
        mode: str = "gaussian",
        sw_batch_size: int = 1,
        backend: str = "auto",
        precision: str = "fp32",
        sigma_scale: Sequence[float] | float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        reuse_constant: bool = True,
        mirrored: FlipAveraging | None = None,
        streams: int | None = None,
        ranges: Path | None = None,
        **options: Any,
    ) -> None:
        refuse_options(options)
        check_settings(overlap, sw_batch_size, sigma_scale, mode, padding_mode)
        check_names(backend, precision)
        if streams is not None and streams < 1:
            raise ShapeError(f"streams {streams}", "at least one window must run", "Leave it out to have it measured.")
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
        self.mirrored = mirrored
        self.streams = streams
        self.ranges = ranges

    def windows(self, spatial: Sequence[int]) -> int:
        """Return the number of windows that cover an image of this size."""
        return len(self._tile(spatial).origins)

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        where: Tensor | None = None,
        on_backend: OnBackend | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Compute logits (batch, class, *spatial) of an image (batch, channel, *spatial).

        Args:
            inputs: floating-point image; for a MetaTensor the result is a MetaTensor.
            network: takes (window, channel, *roi) and returns (window, class, *roi).
            args: further arguments of the network.
            progress: receives the number of finished calls; can cancel between them.
            where: (batch, 1, *spatial) bool: only windows that overlap this mask run. Inside the mask the result is
                unchanged; outside, the first class, background, has the largest logit.
            on_backend: called once with the selected backend.
            kwargs: further arguments of the network.

        Raises:
            ShapeError: the image is not (batch, channel, *spatial) of floating-point numbers, the network cannot take
                its windows, or its output is not one tensor as large as its window.
            ImageError: NaN or infinite values.
            BackendError: the backend cannot run, or the network has another device or type than the image.
            MemoryShortError: there is too little memory; the message says what to lower.
            Cancelled: the run was cancelled by ``progress``.
        """
        image, tiling = self._prepared(inputs, kwargs)
        device = torch.device(self.device) if self.device is not None else image.device
        weight = self._weight(tiling, image)
        blend: Blend | None = None
        work = InferenceRun(
            network=network, progress=progress, where=where, args=args, kwargs=kwargs, on_backend=on_backend
        )
        for at, window, logits in self._logits(image, tiling, work):
            blend = blend or Blend(tiling.padded, len(logits), weight, len(image), device)
            blend.add(logits, tiling.origins[window].tolist(), at)
        assert blend is not None
        result = background_outside(tiling.crop(blend.mean()), where).to(image.dtype)
        return with_meta_of(inputs, result)

    def labels(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        *args: Any,
        progress: Progress | None = None,
        threshold: float | None = None,
        where: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Compute the labels of ``__call__``'s logits without holding the logits: memory does not grow with the first
        axis.

        Labels are decided from sums of weighted logits, without a division. Where two classes differ only in the last
        digit, a division first may round them to a tie.

        Args:
            inputs: as for ``__call__``, like network, args, progress, where and kwargs.
            threshold: None for the class with the largest logit; a number in (0, 1) for a mask of each channel, set
                where the sigmoid is above the threshold.

        Returns:
            (batch, 1, *spatial), or (batch, class, *spatial) with a threshold: uint8, or int16 above 256 classes.

        Raises:
            ShapeError: as for ``__call__``; also for one channel without a threshold.
        """
        choice = argmax_of if threshold is None else sigmoid_above(threshold)
        image, tiling = self._prepared(inputs, kwargs)
        work = InferenceRun(network=network, progress=progress, where=where, args=args, kwargs=kwargs)
        result = tiling.crop(self._decided(image, tiling, work, choice, threshold is not None))
        result = (result if where is None else result * where.to(result.device)).to(self.device or image.device)
        return with_meta_of(inputs, result)

    def stream(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor],
        add_planes: PlaneConsumer,
        progress: Progress | None = None,
        where: Tensor | None = None,
        on_backend: OnBackend | None = None,
    ) -> Tensor:
        """Pass the logits of ``__call__`` to a function, a few finished planes at a time; return the labels.

        Args:
            inputs: (1, channel, *spatial); network, progress, where and on_backend as for ``__call__``.
            add_planes: called with (class, plane, *rest) until all planes along the first axis have been passed.

        Returns:
            (1, 1, *spatial), the class with the largest logit.
        """
        image, tiling = self._prepared(inputs, {})
        planes = PlaneSink(tiling, add_planes, where)
        work = InferenceRun(network=network, progress=progress, where=where, on_backend=on_backend)
        labels = tiling.crop(self._decided(image, tiling, work, planes, False))
        return labels if where is None else labels * where.to(labels.device)

    def _decided(
        self, image: Tensor, tiling: Tiling, work: InferenceRun, choice: Callable[[Tensor, Tensor], Tensor], masks: bool
    ) -> Tensor:
        """Compute labels (batch, 1 or class, *padded) from the weighted sums of each image by ``choice``."""
        weight = self._weight(tiling, image)
        streams: list[LabelStream] = []
        found: list[Tensor] = []
        for at, window, logits in self._logits(image, tiling, work):
            if not masks and len(logits) == 1:
                raise ShapeError(
                    "a network with one channel, whose largest logit is always the first",
                    "give labels() a threshold, as 0.5",
                )
            if at == len(found) + len(streams):
                found += [stream.labels() for stream in streams]
                streams = [LabelStream(tiling.padded, len(logits), weight, choice, len(logits) if masks else 1)]
            streams[0].add(logits, tiling.origins[window].tolist())
        found.append(streams[0].labels())
        return found[0][None] if len(found) == 1 else torch.stack(found)

    def _tile(self, spatial: Sequence[int]) -> Tiling:
        return tile(spatial, self.roi_size, self.overlap)

    def _prepared(self, inputs: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, Tiling]:
        """Check the arguments; return the padded image and its windows."""
        refuse_options({name: kwargs[name] for name in (*UNSUPPORTED_OPTIONS, "device") if name in kwargs})
        check_image(inputs)
        image = plain_tensor(inputs)
        tiling = self._tile(image.shape[2:])
        return tiling.pad(image, self.padding_mode, self.cval), tiling

    def _weight(self, tiling: Tiling, image: Tensor) -> Tensor:
        """Return the weight of each voxel of a window, (*roi), in the type of the sums: single precision at least."""
        sigma = tuple(self.sigma_scale) if isinstance(self.sigma_scale, Sequence) else self.sigma_scale
        dtype = torch.promote_types(image.dtype, torch.float32)
        return importance_map(tiling.roi, self.mode, sigma).to(torch.device(self.sw_device or image.device), dtype)

    def _logits(self, image: Tensor, tiling: Tiling, work: InferenceRun) -> Iterator[tuple[int, int, Tensor]]:
        """Yield image number, window number and logits (class, *roi) of every window, image by image in the order of
        the windows.

        Windows run in batches. A constant window whose value has already run is skipped, and so is a window outside the
        mask. Logits of constant windows are kept until their last use.
        """
        reuse = self.reuse_constant and not getattr(work.network, "training", False)
        groups = window_groups(image, tiling, work, reuse)
        windows = len(tiling.origins)
        left = Counter(groups)
        firsts = {group: n for n, group in reversed(list(enumerate(groups)))}
        due = [n for n, group in enumerate(groups) if group == OCCUPIED or (group >= 0 and firsts[group] == n)]

        def gathered(call: list[int]) -> Tensor:
            boxes = [(slice(n // windows, n // windows + 1), slice(None), *tiling.box(n % windows)) for n in call]
            return torch.cat([image[box] for box in boxes]).to(self.sw_device or image.device, non_blocking=True)

        run, size = self._ready(work, gathered(due[: self.sw_batch_size]), len(due))
        calls = [due[first : first + size] for first in range(0, len(due), size)]
        batch = gathered(calls[0])
        kept: dict[int, Tensor] = {}
        for done, call in enumerate(calls):
            if work.progress is not None:
                work.progress.report("infer", done, len(calls))
            fresh = dict(zip(call, call_network(run, batch, work.args, work.kwargs), strict=True))
            last = done + 1 == len(calls)
            if not last:
                batch = gathered(calls[done + 1])  # gathered while the GPU computes
            for n in range(call[0] if done else 0, len(groups) if last else calls[done + 1][0]):
                group = groups[n]
                left[group] -= 1
                if group == UNTOUCHED:
                    yield n // windows, n % windows, background_logits(fresh[call[0]])
                    continue
                logits = fresh[n] if n in fresh else kept[group]
                if group >= 0 and n in fresh and left[group]:
                    kept[group] = logits = logits.clone()  # a graph may reuse the memory of its output
                elif group >= 0 and not left[group]:
                    kept.pop(group, None)
                yield n // windows, n % windows, logits
        if work.progress is not None:
            work.progress.report("infer", len(calls), len(calls))

    def _ready(self, work: InferenceRun, batch: Tensor, windows: int) -> tuple[Callable[..., Tensor], int]:
        """Return the network as run by the selected backend and the number of windows of a call; pass the selection to
        ``on_backend``.
        """
        check_fits(work.network, batch)
        windows = windows if self.mirrored is None else 2 * windows
        wanted = BackendRequest(
            backend=self.backend,
            precision=self.precision,
            windows=windows,
            arguments=bool(work.args or work.kwargs),
            streams=self.streams,
            few_parameters=self.few_parameters,
            ranges=self.ranges,
        )
        with self._preparing(work, wanted):
            chosen = select_backend(work.network, batch, wanted, work.progress)
        if work.on_backend is not None:
            work.on_backend(chosen)
        size = max(self.sw_batch_size, chosen.streams)
        return (chosen.run if self.mirrored is None else self.mirrored.both(chosen.run)), size

    def _preparing(self, work: InferenceRun, wanted: BackendRequest) -> AbstractContextManager[None]:
        """Return the progress stage in which a network is converted; an empty context if it is not."""
        if work.progress is None or not may_need_conversion(work.network, wanted):
            return nullcontext()
        return work.progress.stage("prepare")
