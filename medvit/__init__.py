"""medvit segments, restores and reconstructs medical images: DICOM or NIfTI in, DICOM SEG, RTSTRUCT, SR, NIfTI and
reports out.

Importing the package loads neither torch nor Qt; each name below loads its dependencies on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medvit._version import __version__

if TYPE_CHECKING:
    from medvit.bundles import open_bundle
    from medvit.conversion import Converted, convert, save_labels
    from medvit.errors import MedvitError
    from medvit.interop import load_published
    from medvit.io import open_source
    from medvit.io.labels import read_labels
    from medvit.pipeline import Predictor, reconstruct, restore, run, run_many, segment
    from medvit.progress import Progress
    from medvit.reconstruction import Reconstructed
    from medvit.reconstruction.views import ViewGeometry
    from medvit.restoration import Restored
    from medvit.segmentation import Result
    from medvit.settings import RunSettings

__all__ = [
    "Converted",
    "MedvitError",
    "Predictor",
    "Progress",
    "Reconstructed",
    "Restored",
    "Result",
    "RunSettings",
    "ViewGeometry",
    "__version__",
    "convert",
    "load_published",
    "open_bundle",
    "open_source",
    "read_labels",
    "reconstruct",
    "restore",
    "run",
    "run_many",
    "save_labels",
    "segment",
]

_HOMES = {
    "Converted": "medvit.conversion",
    "MedvitError": "medvit.errors",
    "Predictor": "medvit.pipeline",
    "Progress": "medvit.progress",
    "Reconstructed": "medvit.reconstruction",
    "Restored": "medvit.restoration",
    "Result": "medvit.segmentation",
    "RunSettings": "medvit.settings",
    "ViewGeometry": "medvit.reconstruction.views",
    "convert": "medvit.conversion",
    "load_published": "medvit.interop",
    "open_bundle": "medvit.bundles",
    "open_source": "medvit.io",
    "read_labels": "medvit.io.labels",
    "reconstruct": "medvit.pipeline",
    "restore": "medvit.pipeline",
    "run": "medvit.pipeline",
    "run_many": "medvit.pipeline",
    "save_labels": "medvit.conversion",
    "segment": "medvit.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medvit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
