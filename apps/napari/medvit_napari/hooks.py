"""Hooks for napari: reader, sample data and writer. They call functions that work without a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from medvit_napari.looking.alignment import align
from medvit_napari.reading.layers import LayerTuple
from medvit_napari.reading.open import is_ours, open_layers

__all__ = ["get_reader", "sample_ct", "sample_nuclei"]


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerTuple]] | None:
    """Return the reader for a path; None if another plugin should read it."""
    paths = [path] if isinstance(path, str) else list(path)
    return read if paths and all(is_ours(Path(p)) for p in paths) else None


def read(path: str | Sequence[str]) -> list[LayerTuple]:
    """Return the layers of one or several paths; with a window, a dialog asks if there is a choice."""
    paths = [path] if isinstance(path, str) else list(path)
    viewer = _viewer()
    ask = None
    if viewer is not None and getattr(viewer, "window", None) is not None:
        from medvit_napari.widgets.dialogs import ask_which

        ask = ask_which
    if viewer is not None:
        align(viewer)  # puts layers that napari adds into the display frame, and shows their remarks
    layers: list[LayerTuple] = []
    for one in paths:
        layers += open_layers(Path(one), ask, list(viewer.layers) if viewer is not None else [], behind=ask is not None)
    if viewer is not None and ask is not None:
        from medvit_napari.widgets.dialogs import follow

        follow([layer[0] for layer in layers], viewer)
    return layers


def _viewer() -> Any:
    from napari import current_viewer

    return current_viewer()


def _sample(name: str) -> Path:
    """Return the path of a sample file, in a checkout or in the installed package."""
    here = Path(__file__).resolve()
    for place in (here.parent / "samples", *(p / "examples" for p in here.parents[:4])):
        if (place / name).exists():
            return place / name
    from medvit.errors import SourceError

    raise SourceError(
        f"no sample {name} beside {resources.files('medvit_napari')}", "it comes with medvit", "Install medvit again."
    )


def sample_ct() -> list[LayerTuple]:
    """Return the layers of a real CT of head and neck, a DICOM series in a zip; see examples/ATTRIBUTION.md."""
    return read(str(_sample("headneck_ct_dicom.zip")))


def sample_nuclei() -> list[LayerTuple]:
    """Return the layer of a microscopy picture of nuclei."""
    return open_layers(_sample("nuclei.png"))
