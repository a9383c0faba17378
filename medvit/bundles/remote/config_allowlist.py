"""Allow-list for configs of fetched bundles: MONAI executes configs, so they may contain only known classes and
expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvit.bundles.metadata import read_json
from medvit.bundles.search import shipped_folders
from medvit.errors import BundleError

__all__ = ["MEDVIT_NAMES", "check_configs", "strings_of"]

# a class by its public name; a longer path could lead through a module's own imports to os.system
_LIBRARIES = re.compile(
    r"(monai\.(transforms|networks\.nets|inferers|data|engines|handlers|losses|metrics)|torch\.(optim|nn))\.[A-Z]\w*"
)

MEDVIT_NAMES = frozenset(
    {
        "medvit.bundles.load_weights",
        "medvit.inference.FlipAveraging",
        "medvit.inference.SimpleInferer",
        "medvit.interop.nnunet.AxisMirroring",
        "medvit.interop.nnunet.FoldEnsemble",
        "medvit.interop.nnunet.NnunetLabelsd",
        "medvit.interop.nnunet.NnunetPreprocessd",
        "medvit.interop.nnunet.NnunetWindows",
        "medvit.inference.SliceWise",
        "medvit.inference.SlidingWindow",
        "medvit.inference.WholeImage",
        "medvit.reconstruction.StackedSwinX2S",
        "medvit.reconstruction.SwinX2S",
        "medvit.reconstruction.SwinX2SSize",
        "medvit.restoration.RestoreRWKV",
        "medvit.restoration.RestoreRWKVSize",
        "medvit.segmentation.BarlowSwin",
        "medvit.segmentation.LegacyPatchMerging",
        "medvit.segmentation.SwinUNETR",
        "medvit.transforms.ArgmaxOnSourceGridd",
        "medvit.transforms.AsDiscreted",
        "medvit.transforms.Compose",
        "medvit.transforms.CropToBodyd",
        "medvit.transforms.IntensityOnUpsampledGridd",
        "medvit.transforms.IntensityOnSourceGridd",
        "medvit.transforms.KeepLargestComponentLogitsd",
        "medvit.transforms.LabelsOnVolumeGridd",
        "medvit.transforms.OpenSourceImaged",
        "medvit.transforms.SaveImagePNGd",
        "medvit.transforms.ResampleToNetworkGridd",
        "medvit.transforms.ScaleIntensityRangePercentilesd",
        "medvit.transforms.ScaleIntensityRanged",
        "medvit.transforms.ScalePercentilesToUnitd",
        "medvit.transforms.ScaleToUnitRGBd",
        "medvit.transforms.ScaleRangeToUnitd",
        "medvit.transforms.StackViewsd",
        "medvit.transforms.AddCoordinateChannelsd",
        "medvit.transforms.ZeroFillUpsampled",
    }
)
"""Names of medvit that a fetched config may use as ``_target_``: networks, inferers, transforms and the loading of
weights.
"""


def check_configs(folder: Path) -> None:
    """Refuse configs that could do anything other than build a network and its transforms.

    Classes must be MONAI's, torch's or medvit's; expressions (``$...``) must also occur in a shipped bundle.

    Raises:
        BundleError: a config contains another class or expression; the message quotes it.
    """
    known = {text for root in shipped_folders().values() for _, text in _programs(root)}
    for where, text in _programs(folder):
        if text not in known:
            raise BundleError(
                f"{text[:100]!r} in {where} of a fetched bundle",
                "configs can run code, and no shipped bundle has this expression",
                "Read it, and if you trust it, unpack the archive yourself into a folder named in MEDVIT_BUNDLES.",
            )


def _programs(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every expression, macro and class that is not allowed in general, with its file."""
    for path in sorted((root / "configs").glob("*")):
        if path.name == "metadata.json":
            continue
        if path.suffix != ".json":
            # MONAI also reads YAML, which this check does not cover
            raise BundleError(f"configs/{path.name} in a bundle", "configs are JSON", "Convert it, or leave it out.")
        for key, text in strings_of(read_json(path)):
            if not (_is_allowed(text) if key == "_target_" else not text.lstrip().startswith(("$", "%"))):
                yield f"configs/{path.name}", text


def _is_allowed(target: str) -> bool:
    """Return True if a fetched config may use this class."""
    return target in MEDVIT_NAMES or _LIBRARIES.fullmatch(target) is not None


def strings_of(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a config with the key under which it stands."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from strings_of(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from strings_of(value, key)
    elif isinstance(node, str):
        yield key, node
