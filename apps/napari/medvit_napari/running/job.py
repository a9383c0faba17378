"""Background runs: request, progress, cancel and the resulting layers. They need no Qt."""

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


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """Request to run a bundle on a layer.

    Attributes:
        layer: the image layer.
        bundle: name or folder of the bundle.
        settings: settings of the run.
        axes: directions of the axes, for example "IPL", for a layer that medvit did not open.
        surfaces: True to make a surface of each label too.
        region: corners of a box drawn on the image, (corner, 3) in napari's world coordinates; None for the whole
            image.
    """

    layer: Any
    bundle: str
    settings: RunSettings = field(default_factory=RunSettings)
    axes: str = ""
    surfaces: bool = False
    region: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class State:
    """Progress of a job: stage, share done, and seconds left if they can be estimated.

    ``in_one`` is True for a stage of a single step, which reports no progress. ``announced`` is the line for the user
    about this stage, such as why it takes long and for how long.
    """

    stage: str
    share: float
    seconds_left: float | None = None
    in_one: bool = False
    announced: str = field(default="", kw_only=True)

    @property
    def words(self) -> str:
        """Name of the stage for people, or what was announced about it."""
        return self.announced or _STAGES.get(self.stage, self.stage.capitalize())

    @property
    def line(self) -> str:
        """Name of the stage, with the time left if it can be estimated."""
        if self.seconds_left is None:
            return self.words
        left = self.seconds_left
        return f"{self.words}, about {f'{left:.0f} s' if left < 90 else f'{left / 60:.0f} min'} left"


_STAGES = {
    "prepare": "Preparing the network",
    "load": "Loading the network",
    "waiting": "Waiting for the server",
}
"""Names of stages for people, where the stage's own name is not enough."""


def cards() -> list[Bundle]:
    """Return the bundles for scans and pictures; those for two X-rays have a widget of their own."""
    return [b for b in map(open_bundle, bundle_folders()) if b.facts.task in ("segmentation", "restoration")]


def card(bundle: Bundle) -> str:
    """Describe a bundle in a few lines of rich text for the user."""
    from html import escape

    facts, data = bundle.facts, bundle.metadata
    scores = [f"{k.replace('_', ' ')} {v:.3f}" for k, v in data.get("eval_metrics", {}).items() if isinstance(v, float)]
    rows = {
        "For": f"{facts.task} of {' or '.join(facts.modalities)}, {facts.dimensions}-D",
        "Intended use": bundle.intended_use,
        "Weights": bundle.state,
        "Scores": "; ".join(scores[:4]) or "none stated",
        "Licence": facts.licence,
        "Labels": ", ".join(label.title for label in facts.labels) or "none; the result is an image",
    }
    lines = [f"<b>{escape(bundle.name)} {escape(bundle.version)}</b>", escape(str(data["description"]))]
    return "<br>".join(lines + [f"<b>{name}:</b> {escape(text)}" for name, text in rows.items()])


def region_corners(shapes: Any) -> NDArray[np.float64] | None:
    """Return the corners of a shapes layer's first shape in napari's world coordinates, (corner, axis); None for an
    empty layer.
    """
    if not len(shapes.data):
        return None
    return np.array([shapes.data_to_world(corner) for corner in shapes.data[0]])


def roi_box(corners: NDArray[np.float64], layer: Any) -> str:
    """Convert a box drawn in napari to the form of ``RunSettings.roi_crop``, in voxels of the source.

    A rectangle drawn on a slice has no depth, so it covers all slices.

    Args:
        corners: (corner, 3) in napari's world coordinates.
        layer: the image on which it was drawn.
    """
    place = place_of(layer)
    if place is None or place.grid is None:
        raise SelectionError(
            f"a box for the layer {layer.name!r}, which is no volume that medvit opened",
            remedy="Open its file with medvit, or leave the box out.",
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
        raise SelectionError(
            "a box outside of the image", "the box must overlap the image", "Draw it on the image again."
        )
    return ",".join(f"{a}:{b}" for a, b in zip(low, high, strict=True))


def run_request(request: Request, progress: Progress) -> list[LayerTuple]:
    """Run a bundle and return the result as layers.

    Raises:
        MedvitError: the bundle cannot be run. Cancelled: the run was stopped.
    """
    bundle = open_bundle(request.bundle)
    bundle.require_trained()  # raises at once, before torch is imported
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
    assert isinstance(result, Result)  # a bundle for segmentation returns nothing else
    layers = result_layers(result)
    if request.surfaces and not scan.is_picture:
        progress.check()
        layers += surface_layers(result.array, scan, result.requested_labels)
    progress.check()
    return inherit(layers, place_of(request.layer))


def preload() -> None:
    """Load libraries for the first run in a thread, while the user chooses image and bundle.

    The thread is not a daemon: Python waits for it at exit, since a library must not be unloaded half-way through its
    import.
    """
    threading.Thread(target=_load, name="medvit-load").start()


def _load() -> None:
    load_triton()


def load_triton() -> None:
    """Import Triton so that it resolves symbols in its own LLVM first.

    A software renderer (Mesa's llvmpipe) loads another LLVM into the process when a window opens; if Triton's calls
    reached that one, Python would end with a segmentation fault.
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
    """Fetch a bundle's weights, whose licence the user has accepted, as ``medvit bundles fetch`` does; return the
    bundle's state.

    Raises:
        FetchError and others: the weights are not available, or differ from those published.
    """
    from contextlib import nullcontext

    from medvit.bundles.remote import FetchRequest as Wanted
    from medvit.bundles.remote import fetch

    return fetch(Wanted(name), lambda shown: True, lambda: nullcontext(progress)).bundle.state


class Job:
    """Job in a separate thread, with progress, estimated time left, and a cancel that takes effect at the next window.

    Args:
        work: function that takes the ``Progress``; its result is passed to ``done``.
        done, failed, told: callbacks, called in the job's thread. After ``cancel``, only ``failed`` is called, with
            ``Cancelled``.
    """

    def __init__(
        self,
        work: Callable[[Progress], Any],
        done: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        told: Callable[[State], None] = lambda state: None,
    ) -> None:
        self._work, self._done, self._failed, self._told = work, done, failed, told
        self.progress = Progress(self._show, self._announce)
        self.is_cancelled = False
        self._began: dict[str, tuple[float, int]] = {}
        self._state = State("", 0.0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="medvit-run")

    def start(self) -> Job:
        """Start the job; return self."""
        self._thread.start()
        return self

    def cancel(self) -> None:
        """Cancel the job at its next window, slice or file."""
        self.is_cancelled = True
        self.progress.cancel()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the job; return True if it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _show(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._began.setdefault(stage, (now, done))
        steps = done - first
        left = (now - began) / steps * (total - done) if steps > 0 and total > 1 else None
        self._state = State(stage, done / max(total, 1), left, total <= 1 and done < total)
        self._told(self._state)

    def _announce(self, text: str) -> None:
        self._told(replace(self._state, announced=text))

    def _run(self) -> None:
        try:
            made = self._work(self.progress)
            self.progress.check()
        except BaseException as error:  # an error in a thread would be lost
            self._failed(error)
        else:
            self._done(made)


def was_cancelled(error: BaseException) -> bool:
    """Return True if the user cancelled the job."""
    return isinstance(error, Cancelled)
