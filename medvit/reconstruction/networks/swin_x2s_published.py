"""Strict conversion of published Swin-X2S checkpoints: every tensor is used, determined by the size, or named in an
error.

These tensors of a published checkpoint depend on its image size:

- ``attn_mask`` and ``relative_position_index`` are determined by the size and recomputed.
- ``expand_`` has a scale and an offset for each depth; they are interpolated linearly along the depth.
- ``position_embeddings`` of the cross-attention are on the bottleneck's grid; they are interpolated trilinearly.
- ``relative_position_bias_table`` of a stage with a single window lists the offsets within that window: an offset keeps
  its value; an offset outside the table takes the value of the farthest offset in the table along that axis.

At the checkpoint's own size all are used unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import BundleError
from medvit.reconstruction.networks.swin_encoder import bias_windows
from medvit.reconstruction.networks.swin_x2s_network import SwinX2S

__all__ = ["translate"]

_WRAPPINGS = ("state_dict", "model", "network", "net")
_PREFIX = "module."
_FOLLOWS = ("attn_mask", "relative_position_index")
_TABLE = "relative_position_bias_table"
_POSITIONS = "cross_atte6.position_embeddings"


def translate(state: Mapping[str, Any], model: SwinX2S) -> dict[str, Tensor]:
    """Convert a published checkpoint to the names and sizes of ``model``.

    Args:
        state: tensors by name, or a mapping that has one as ``state_dict`` or ``model``; names may begin with
            ``module.``.
        model: the network to load into; it is not changed.

    Returns:
        A state dict that ``model.load_state_dict`` takes strictly, each tensor in the model's type.

    Raises:
        BundleError: a tensor is missing, unknown, not a tensor, or of another size; the message names the first ones.
    """
    stored = _unwrap(state)
    wanted = model.state_dict()
    follow = {name for name in wanted if name.endswith(_FOLLOWS)}
    unknown = [k for k in stored if k not in wanted and not k.endswith(_FOLLOWS)]
    missing = [k for k in wanted if k not in stored and k not in follow]
    for names, what in ((missing, "lacks"), (unknown, "has beside those of the network")):
        if names:
            raise BundleError(
                f"a checkpoint that is not this Swin-X2S: it {what} {len(names)} tensor(s): {_some(names)}",
                remedy="Build the network with the checkpoint's depths and channels, or choose its own checkpoint.",
            )
    old_size = _size_of(stored, model)
    windows = _windows(old_size, model), _windows(model.img_size, model)
    found = {name: wanted[name] for name in follow}
    for name in wanted:
        if name not in follow:
            moved = _adapt(name, stored[name].float(), old_size, model, windows)
            found[name] = moved.to(wanted[name].dtype)
    wrong = [
        f"{k} {tuple(found[k].shape)} for {tuple(wanted[k].shape)}" for k in wanted if found[k].shape != wanted[k].shape
    ]
    if wrong:
        raise BundleError(
            f"{len(wrong)} tensor(s) of another Swin-X2S: {_some(wrong)}",
            remedy="Build the network with the checkpoint's feature_size, heads, channels and window.",
        )
    return found


def _some(names: list[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _unwrap(state: Mapping[str, Any]) -> dict[str, Tensor]:
    for key in _WRAPPINGS:
        if isinstance(state.get(key), Mapping):
            return _unwrap(state[key])
    plain = {name.removeprefix(_PREFIX): value for name, value in state.items()}
    others = [name for name, value in plain.items() if not isinstance(value, Tensor)]
    if others or not plain:
        raise BundleError(
            f"a checkpoint without a mapping of tensors ({_some(others) or 'it is empty'})",
            "Swin-X2S stores one, alone or as state_dict",
            "Give that file.",
        )
    return plain


def _size_of(stored: dict[str, Tensor], model: SwinX2S) -> tuple[int, int, int]:
    """Return the checkpoint's image size (x, y, z): x from the depths of ``expand_.0``, z from the bottleneck's
    positions."""
    side, positions = len(stored["expand_.0.weight"]), stored[_POSITIONS].shape[1]
    columns = (side // 32) ** 2
    if side % 32 or not columns or positions % columns:
        raise BundleError(
            f"{side} depths and {positions} bottleneck positions in the checkpoint",
            "a Swin-X2S has a multiple of 32 depths and whole columns of positions",
            "Choose an undamaged checkpoint.",
        )
    return side, side, 32 * (positions // columns)


def _windows(size: tuple[int, int, int], model: SwinX2S) -> list[tuple[int, int]]:
    return [window for window, _ in bias_windows((size[0], size[2]), model.window_size, len(model.swinViT.layers))]


def _adapt(
    name: str, tensor: Tensor, old: tuple[int, int, int], model: SwinX2S, windows: tuple[list[tuple[int, int]], ...]
) -> Tensor:
    new = model.img_size
    if old == new:
        return tensor
    if name.startswith("expand_."):
        depths = new[0] >> int(name.split(".")[1])
        return _interpolate(tensor.reshape(1, 1, -1), (depths,), "linear").reshape(depths, *tensor.shape[1:])
    if name == _POSITIONS:
        before, after = (tuple(n // 32 for n in size) for size in (old, new))
        grid = tensor[0].T.reshape(1, -1, *before)
        return _interpolate(grid, after, "trilinear").flatten(2).transpose(1, 2)
    if name.endswith(_TABLE):
        stage = int(name.split(".")[2])
        return _stretch_table(tensor, windows[0][stage], windows[1][stage], name)
    return tensor


def _interpolate(values: Tensor, size: tuple[int, ...], mode: str) -> Tensor:
    return F.interpolate(values, size=size, mode=mode, align_corners=False)


def _stretch_table(table: Tensor, old: tuple[int, int], new: tuple[int, int], name: str) -> Tensor:
    """Convert the bias table of one window to that of another; offsets are in tokens, which are equal in both."""
    if len(table) != (2 * old[0] - 1) * (2 * old[1] - 1):
        raise BundleError(
            f"{name} with {len(table)} rows",
            f"a window of {old} has {(2 * old[0] - 1) * (2 * old[1] - 1)}",
            "Build the network with the checkpoint's window_size.",
        )
    square = table.reshape(2 * old[0] - 1, 2 * old[1] - 1, -1)
    rows, columns = (
        torch.arange(1 - after, after).clamp(1 - before, before - 1) + before - 1
        for before, after in zip(old, new, strict=True)
    )
    return square[rows][:, columns].flatten(0, 1)
