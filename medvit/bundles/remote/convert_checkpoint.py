"""Conversion of a published checkpoint to safetensors, without running code contained in it."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.bundles.bundle import Bundle
from medvit.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["convert"]

_WRAPPERS = ("state_dict", "model")
"""Keys under which training programs store the weights, beside epoch, score and optimizer."""

_DERIVED = "relative_position_index"
"""End of the names of index tables that follow from the window size; checkpoints contain them, medvit's files do not."""


def convert(bundle: Bundle, published: Path, target: Path) -> None:
    """Write the weights of a published file as safetensors, with values and dtypes unchanged.

    The same input always gives the same bytes.

    Args:
        bundle: the bundle whose network the tensors must fit.
        published: torch checkpoint or safetensors, with verified checksum.
        target: the file to write.

    Raises:
        BundleError: the file contains more than tensors, tensors of another network, or values that are not finite.
    """
    from safetensors.torch import save

    origin = bundle.facts.weights.origin
    name = origin.file if origin and published.suffix == ".part" else published.name
    kind = origin.format if origin else "safetensors"
    state = _fitting(_unwrapped(_read(published, kind, name), name), _network(bundle), name)
    with target.open("wb") as file:
        file.write(save({name: state[name].contiguous() for name in sorted(state)}))
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, kind: str, name: str) -> Any:
    import torch
    from safetensors.torch import load_file

    try:
        if kind == "safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about pickle protocols; unsafe files are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise BundleError(
            f"objects other than tensors in {name}: reading them would run code, or the file is not a checkpoint",
            remedy="It must hold tensors alone; nothing in it was run. Ask its publisher for safetensors.",
        ) from error
    except Exception as error:  # torch and safetensors raise many exception types
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BundleError(
            f"{name}, which is not a readable {kind} file ({first})", remedy="Get it again from its publisher."
        ) from error


def _unwrapped(content: Any, name: str) -> dict[str, Tensor]:
    """Return tensors by name, without the structures and prefixes of training code."""
    import torch

    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(v, torch.Tensor) for v in content.values())
    ):
        raise BundleError(
            f"no state dict in {name}",
            f"a mapping from names to tensors is needed, alone or under {' or '.join(_WRAPPERS)}",
            "Give the file that its publisher names.",
        )
    prefix = "module." if all(str(k).startswith("module.") for k in content) else ""
    return {str(k).removeprefix(prefix): v for k, v in content.items()}


def _network(bundle: Bundle) -> nn.Module:
    from monai.bundle import ConfigParser

    network: nn.Module = ConfigParser(dict(bundle.config)).get_parsed_content("network_def")
    return network


def _fitting(state: dict[str, Tensor], network: nn.Module, name: str) -> dict[str, Tensor]:
    """Return the learnt tensors; compare every name, shape and index table with the network's."""
    import torch

    wanted = network.state_dict()
    derived = {k for k in wanted if k.endswith(_DERIVED)}
    wrong = sorted((wanted.keys() ^ state.keys()) - (derived - state.keys()))
    wrong = wrong or [k for k in state if state[k].shape != wanted[k].shape]
    wrong = wrong or [k for k in derived & state.keys() if not torch.equal(state[k], wanted[k])]
    if wrong:
        raise BundleError(
            f"weights of another network in {name}: {len(wrong)} tensors do not fit, the first is {wrong[0]}",
            remedy="Every name and shape must be as in inference.json; give the file that its publisher names.",
        )
    learnt = {k: v for k, v in state.items() if k not in derived}
    broken = [k for k, v in learnt.items() if not bool(torch.isfinite(v).all())]
    if broken:
        raise BundleError(
            f"NaN or infinite values in {name}, first in {broken[0]}",
            "weights must be finite",
            "Get the file again from its publisher.",
        )
    return learnt
