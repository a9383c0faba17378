"""Loading of a bundle's weights into its network, with checks of checksum and completeness."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.bundles.bundle import Bundle, _checked
from medvit.errors import BundleError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["WEIGHTS_ATTRIBUTE", "load_weights"]


WEIGHTS_ATTRIBUTE = "medvit_weights"
"""Attribute of a network whose weights were read from a bundle. Such weights do not change, so a compiled graph can be
cached.
"""


def load_weights(network: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """Load a bundle's safetensors strictly into its network, after checking them against the bundle's checksum.

    Stored fp16 values are converted to the network's dtype. This is the ``network`` of every bundle's configs, so that
    ``python -m monai.bundle run`` makes the same checks as ``medvit``.

    Args:
        network: the network, on its device.
        path: ``models/model.safetensors`` inside the bundle.

    Returns:
        The network in evaluation mode.

    Raises:
        BundleError: there are no weights, the file is not safetensors (a pickle could run code), or its tensors do not
            fit.
        ChecksumError: the checksum differs from the one in the metadata.

    Examples:
        >>> from medvit.bundles import load_weights, open_bundle
        >>> from medvit.segmentation import BarlowSwin
        >>> bundle = open_bundle("nuclei_barlow_swin")
        >>> sizes = {name: value for name, value in bundle.config["network_def"].items() if name != "_target_"}
        >>> load_weights(BarlowSwin(**sizes), bundle.weights).training
        False
    """
    from safetensors.torch import load

    from medvit.bundles.pointwise_weight_storage import widened

    path = Path(path).resolve()
    bundle = Bundle(path.parents[1])
    bundle.require_trained()
    if path == bundle.own_weights:
        path = bundle.weights  # fetched weights are in the store, not at the path in the config
    content = path.read_bytes()
    # safetensors begin with the length of their JSON header, which may equal a pickle's first byte
    if content[8:9] != b"{" and (content[:2] == b"PK" or content[:1] == b"\x80"):
        raise BundleError(
            f"a pickle in {path.name}, where safetensors is expected",
            "a pickle can run code",
            "Convert it: see CONTRIBUTING.md.",
        )
    _checked(path, bundle.weights_sha256)
    try:
        state = widened(load(content), content)
    except Exception as error:
        raise BundleError(
            f"{path.name}, not a safetensors file ({error})", "one is needed", "Install the bundle again."
        ) from error
    wanted = network.state_dict()
    # weights files omit integer tensors: index tables follow from the network, step counters are not used
    state |= {k: v for k, v in wanted.items() if k not in state and not v.is_floating_point()}
    wrong = sorted(wanted.keys() ^ state.keys()) or [k for k in wanted if wanted[k].shape != state[k].shape]
    if wrong:
        raise BundleError(
            f"weights of another network: {len(wrong)} tensors do not fit, the first is {wrong[0]}",
            remedy="Check network_def in inference.json.",
        )
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in state.items()})
    setattr(network, WEIGHTS_ATTRIBUTE, bundle.weights_sha256)
    return network.eval()
