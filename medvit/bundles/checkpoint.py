"""Readers of third-party weights files that never run code contained in them."""

from __future__ import annotations

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medvit.bundles.pointwise_weight_storage import widened
from medvit.errors import CheckpointError

__all__ = ["CheckpointTensors", "extract_tensors", "fill_index_tables", "read_checkpoint"]

_WRAPPERS = ("state_dict", "model", "model_state_dict", "params", "params_ema", "network")
"""Keys under which training code stores the weights, beside epoch, optimiser and the like."""

_HDF5 = b"\x89HDF"


class CheckpointTensors(dict[str, Tensor]):
    """Tensors by name, with the key of the checkpoint that contained them.

    Attributes:
        wrapper: the key, e.g. "state_dict"; None where the tensors were at the top level.

    Args:
        tensors: tensors by name.
        wrapper: the key.

    Examples:
        >>> import torch
        >>> from medvit.bundles import CheckpointTensors
        >>> tensors = CheckpointTensors({"weight": torch.ones(2)}, "state_dict")
        >>> tensors, tensors.wrapper
        ({'weight': tensor([1., 1.])}, 'state_dict')
    """

    def __init__(self, tensors: Mapping[str, Tensor], wrapper: str | None = None) -> None:
        super().__init__(tensors)
        self.wrapper = wrapper


def read_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a weights file: safetensors, .npz, or a PyTorch file, which is read with ``weights_only=True``.

    The first bytes decide the format, not the file name.

    Args:
        path: the file.

    Returns:
        The content: tensors or arrays by name, possibly nested as training code saved them.

    Raises:
        CheckpointError: the file does not exist, is damaged, has another format, or is a pickle that could run code.

    Examples:
        >>> import numpy as np
        >>> from medvit.bundles import read_checkpoint
        >>> np.savez("weights.npz", weight=np.ones(2))
        >>> read_checkpoint("weights.npz")
        {'weight': array([1., 1.])}
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "nothing"
        raise CheckpointError(
            f"{what} at {path.name}", "a file of weights (.safetensors, .pt, .pth or .npz) is needed", "Check the path."
        )
    with path.open("rb") as file:
        start = file.read(9)
    if start[:4] == _HDF5:
        raise _keras(path.name)
    if start[:2] == b"PK":
        return _read_zip(path)
    if start[8:9] == b"{":
        return _read_safetensors(path)
    return _read_pickle(path)


def _keras(name: str) -> CheckpointError:
    return CheckpointError(
        f"a Keras file ({name})",
        "its arrays are needed as a mapping from layer path to array",
        (
            "Where Keras runs, save them with numpy.savez('weights.npz', **{w.path: w.numpy() for w in model.weights}) "
            "and give that file."
        ),
    )


def _damaged(name: str, error: Exception) -> CheckpointError:
    first = (str(error).strip().splitlines() or ["no detail"])[0][:160]
    return CheckpointError(
        f"{name}, which is damaged or incomplete ({type(error).__name__}: {first})",
        "a whole file of weights is needed",
        "Download or copy it again and compare its size.",
    )


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        return widened(load(content), content)
    except Exception as error:
        raise _damaged(path.name, error) from error


def _read_zip(path: Path) -> Mapping[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise _damaged(path.name, error) from error
    if any(name.endswith(".weights.h5") for name in names):
        raise _keras(path.name)
    if not names or not all(name.endswith(".npy") for name in names):
        return _read_pickle(path)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:
        raise _damaged(path.name, error) from error


def _asks_for(refusal: str) -> str | None:
    """Return the name of the object that a pickle requested and PyTorch's restricted reader refused; None if the file
    is damaged.
    """
    named = re.search(r"GLOBAL ([\w.]+)", refusal)
    if named:
        return named[1]
    return "instructions that tensors do not need" if "Unsupported operand" in refusal else None


def _plain_numbers() -> list[Any]:
    """Return the types of numpy scalars, which PyTorch must accept: checkpoints store their best score as one, which is
    harmless data.
    """
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = [type(np.dtype(name)) for name in ("f4", "f8", "i4", "i8")]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals(_plain_numbers()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about pickle protocols, which are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = _asks_for(str(error))
        if asked is None:
            raise _damaged(path.name, error) from error
        raise CheckpointError(
            f"{path.name}, a pickle that asks for {asked}",
            "a file of weights may hold only tensors and numbers; this one could run code, so it was not loaded",
            "If you trust where it comes from, save its tensors as safetensors there.",
        ) from None
    except Exception as error:
        raise _damaged(path.name, error) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"a {type(content).__name__} in {path.name}",
            "a mapping from names to tensors is needed",
            "Save model.state_dict().",
        )
    return content


def extract_tensors(content: Mapping[str, Any]) -> CheckpointTensors:
    """Extract the tensors of a checkpoint from the structures that training code adds.

    Training code nests them under ``state_dict``, ``model`` and similar keys; data-parallel training adds the prefix
    ``module.``; reference files add ``sd/`` or ``w/`` to the names of weights and store other arrays beside them.

    Args:
        content: the content of a file, as ``read_checkpoint`` returns it.

    Returns:
        Tensors by name, without prefixes.

    Raises:
        CheckpointError: there are no tensors, or a value is not a tensor or not finite.

    Examples:
        >>> import torch
        >>> from medvit.bundles import extract_tensors
        >>> extract_tensors({"epoch": 3, "state_dict": {"module.weight": torch.ones(2)}})
        {'weight': tensor([1., 1.])}
    """
    wrapper = next((key for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
    inner = content if wrapper is None else content[wrapper]
    for prefix in ("sd/", "w/"):
        if any(str(name).startswith(prefix) for name in inner):
            inner = {name.removeprefix(prefix): value for name, value in inner.items() if name.startswith(prefix)}
    if inner and all(str(name).startswith("module.") for name in inner):
        inner = {name.removeprefix("module."): value for name, value in inner.items()}
    if not inner:
        raise CheckpointError("no tensors in the checkpoint", "its weights are needed", "Check which file was saved.")
    return CheckpointTensors({str(name): _tensor(str(name), value) for name, value in inner.items()}, wrapper)


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fiub":
        value = torch.from_numpy(np.array(value))
    if not isinstance(value, Tensor):
        raise CheckpointError(
            f"a {type(value).__name__} under {name!r}, where a tensor is expected",
            "a mapping from names to tensors is needed",
            "Give model.state_dict() alone.",
        )
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        raise CheckpointError(
            f"NaN or infinite values in {name}",
            "weights must be finite",
            "The training that made the file diverged: take an earlier checkpoint.",
        )
    return value


def fill_index_tables(network: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Add the network's own index tables to a state dict that lacks them.

    They follow from the window size, so bundles do not store them; MONAI's export commands load a bundle's file
    strictly.

    Args:
        network: the network.
        state: the state dict; changed in place.
        prefix: prefix of the names in ``state``.

    Examples:
        >>> import torch
        >>> from medvit.bundles import fill_index_tables
        >>> network, state = torch.nn.Module(), {}
        >>> network.register_buffer("relative_position_index", torch.arange(4))
        >>> fill_index_tables(network, state, "network.")
        >>> state
        {'network.relative_position_index': tensor([0, 1, 2, 3])}
    """
    for name, table in network.named_buffers():
        if name.endswith("relative_position_index"):
            state.setdefault(prefix + name, table)
