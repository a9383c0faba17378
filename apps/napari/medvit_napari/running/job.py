"""A run in the background: what is asked for, where it stands, how to stop it, and the layers it gives. No Qt in here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle, bundle_folders, open_bundle
from medvit.errors import SelectionError
from medvit.progress import Cancelled, Progress
from medvit.settings import RunSettings
from medvit_napari.reading.layer_info import place_of, scan_of
from medvit_napari.reading.layers import LayerTuple, inherit, restored_layers, result_layers, surface_layers

__all__ = [
    "Job",
    "Request",
    "State",
    "card",
    "cards",
    "fetch_weights",
    "load_triton",
    "preload",
    "region_corners",
    "roi_box",
    "run_request",
    "was_cancelled",
]


@dataclass(frozen=True, eq=False)
class Request:
    """What to run.

    Attributes:
        layer: the image layer.
        bundle: its name or folder.
        settings: as every door takes them.
        axes: for a layer that medvit did not open, where its axes run, for example "IPL".
        surfaces: also a surface of each label.
        region: corners of a box drawn on the image, (corner, 3) in napari's world, or None.
    """

    layer: Any
    bundle: str
    settings: RunSettings = field(default_factory=RunSettings)
    axes: str = ""
    surfaces: bool = False
    region: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class State:
    """Where a run stands: its stage, the share of it that is done, and the seconds left, if they can be told.

    ``in_one`` is a stage that is done in one step, of which nothing tells how far it is.
    """

    stage: str
    share: float
    seconds_left: float | None = None
    in_one: bool = False

    @property
    def words(self) -> str:
        """What a person reads."""
        return _STAGES.get(self.stage, self.stage.capitalize())

    @property
    def line(self) -> str:
        """The same with the time left, where it can be told."""
        if self.seconds_left is None:
            return self.words
        left = self.seconds_left
        return f"{self.words}, about {f'{left:.0f} s' if left < 90 else f'{left / 60:.0f} min'} left"


_STAGES = {
    "prepare": "Getting the network ready; before its first run on this machine it is converted for it, which takes up to minutes",
    "load": "Loading the network",
    "waiting": "Waiting for the server",
}
"""Stages whose name says too little."""


def cards() -> list[Bundle]:
    """The bundles for scans and pictures; those that take two X-rays have a view of their own."""
    return [b for b in map(open_bundle, bundle_folders()) if b.facts.task in ("segmentation", "restoration")]


def card(bundle: Bundle) -> str:
    """What a person should know before running a bundle, as a few lines of rich text."""
    from html import escape

    facts, data = bundle.facts, bundle.metadata
    scores = [f"{k.replace('_', ' ')} {v:.3f}" for k, v in data.get("eval_metrics", {}).items() if isinstance(v, float)]
    rows = {
        "For": f"{facts.task} of {' or '.join(facts.modalities)}, {facts.dimensions}-D",
        "Intended use": bundle.intended_use,
        "Weights": bundle.state,
        "Scores": "; ".join(scores[:4]) or "none stated",
        "Licence": facts.licence,
        "Labels": ", ".join(label.title for label in facts.labels) or "none: it gives an image",
    }
    lines = [f"<b>{escape(bundle.name)} {escape(bundle.version)}</b>", escape(str(data["description"]))]
    return "<br>".join(lines + [f"<b>{name}:</b> {escape(text)}" for name, text in rows.items()])


def region_corners(shapes: Any) -> NDArray[np.float64] | None:
    """Return the corners of a shapes layer's first shape in napari's world, (corner, axis); None of an empty layer."""
    if not len(shapes.data):
        return None
    return np.array([shapes.data_to_world(corner) for corner in shapes.data[0]])


def roi_box(corners: NDArray[np.float64], layer: Any) -> str:
    """A box drawn in napari as ``RunSettings.roi_crop`` takes it, in the source's own voxels.

    A rectangle drawn on a slice has no depth; it stands for all slices.

    Args:
        corners: (corner, 3) in napari's world.
        layer: the image it was drawn on.

    Raises:
        SelectionError: the box misses the image, or the layer is no volume of ours.
    """
    place = place_of(layer)
    if place is None or place.grid is None:
        raise SelectionError(
            f"Found a box for the layer {layer.name!r}, which is no volume that medvit opened. Open its file with medvit, or leave the box out."
        )
    grid = place.grid
    index = grid.stored_index(np.asarray(corners, dtype=np.float64))
    flat = np.ptp(np.asarray(corners), axis=0) < 1e-6
    low = np.maximum(np.floor(index.min(0) + 0.5), 0).astype(int)
    high = np.minimum(np.ceil(index.max(0) + 0.5), grid.shape).astype(int)
    for shown, stored in enumerate(grid.order):
        if flat[shown]:
            low[stored], high[stored] = 0, grid.shape[stored]
    if (low >= high).any():
        raise SelectionError("Found a box outside of the image; it must touch it. Draw it on the image again.")
    return ",".join(f"{a}:{b}" for a, b in zip(low, high, strict=True))


def run_request(request: Request, progress: Progress) -> list[LayerTuple]:
    """Run a bundle as every door does, and give what comes of it as layers.

    Raises:
        MedvitError: why it cannot be; Cancelled if it was stopped.
    """
    bundle = open_bundle(request.bundle)
    bundle.require_trained()  # said at once, before torch is loaded
    with progress.stage("read"):
        scan = scan_of(request.layer, request.axes)
    settings = request.settings
    if request.region is not None:
        settings = replace(settings, roi_crop=roi_box(request.region, request.layer))
    load_triton()
    from medvit import run
    from medvit.restoration import Restored, with_irregular_policy
    from medvit.segmentation import Result

    if bundle.facts.task == "restoration":
        settings = with_irregular_policy(bundle, settings, None)
    result = run(bundle, scan, settings, progress)
    if isinstance(result, Restored):
        limits = tuple(float(v) for v in request.layer.contrast_limits)
        return inherit(restored_layers(result, (limits[0], limits[1])), place_of(request.layer))
    assert isinstance(result, Result)  # of a bundle for segmentation
    layers = result_layers(result)
    if request.surfaces and not scan.is_picture:
        progress.check()
        layers += surface_layers(result.array, scan, result.requested_labels)
    progress.check()
    return inherit(layers, place_of(request.layer))


def preload() -> None:
    """Load beside the window what the first run needs, seconds' worth, while a person chooses image and bundle.

    The thread is one that Python waits for at its end: a library half loaded must not be pulled away.
    """
    threading.Thread(target=_load, name="medvit-load").start()


def _load() -> None:
    load_triton()


def load_triton() -> None:
    """Load Triton so that it finds its own LLVM first.

    A software renderer (Mesa's llvmpipe) has brought another LLVM into the process by the time a window is open; where
    Triton's calls land in that one, Python ends with a segmentation fault.
    """
    import os
    import sys
    from importlib.util import find_spec

    if "triton" in sys.modules or not hasattr(os, "RTLD_DEEPBIND") or find_spec("triton") is None:
        return
    before = sys.getdlopenflags()
    sys.setdlopenflags(before | os.RTLD_DEEPBIND)
    try:
        import triton  # noqa: F401
    finally:
        sys.setdlopenflags(before)


def fetch_weights(name: str, progress: Progress) -> str:
    """Fetch a bundle's weights, to whose licence a person has agreed, as ``medvit bundles fetch`` does; returns the state.

    Raises:
        FetchError and the like: not to be had, or not what was published.
    """
    from contextlib import nullcontext

    from medvit.bundles.remote import FetchRequest as Wanted
    from medvit.bundles.remote import fetch

    return fetch(Wanted(name), lambda shown: True, lambda: nullcontext(progress)).bundle.state


class Job:
    """Work in a thread of its own, with progress, time left and a cancel that takes effect at the next window.

    Args:
        work: given the ``Progress``; its answer goes to ``done``.
        done, failed, told: called from the thread. After ``cancel`` only ``failed`` is, with ``Cancelled``.
    """

    def __init__(
        self,
        work: Callable[[Progress], Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        told: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._work, self._done, self._failed, self._told = work, done, failed, told
        self.progress = Progress(self._show)
        self.is_cancelled = False
        self._began: dict[str, tuple[float, int]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="medvit-run")

    def start(self) -> Job:
        """Begin; return self."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Stop at the next window, slice or file."""
        self.is_cancelled = True
        self.progress.cancel()

    def join(self, seconds: float | None = None) -> bool:
        """Wait; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._thread.is_alive()

    def _show(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(stage, (now, done))
        steps = done - first
        left = (now - began) / steps * (total - done) if steps > 0 and total > 1 else None
        self._told(State(stage, done / max(total, 1), left, total <= 1 and done < total))

    def _run(self) -> None:
        try:
            made = self._work(self.progress)
            self.progress.check()
        except BaseException as error:  # a thread has nowhere to raise to
            self._failed(error)
        else:
            self._done(made)


def was_cancelled(error: BaseException) -> bool:
    """Whether it is the user's own decision."""
    return isinstance(error, Cancelled)
