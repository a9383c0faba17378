"""Convolution kernels that are zero off their centre, stored as their centre.

The file says in its header which tensors are meant and how wide they were, so that nothing is widened that only happens to be
narrow. Whoever reads weights reads them through ``widened``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from medvit.errors import CheckpointError

__all__ = ["centre", "has_surroundings", "narrowed", "widened"]

_KEY = "kernels_stored_as_their_centre"
_WIDEST = 31
"""Sides beyond this are no kernel's; a header that asks for them would only fill memory."""


def centre(kernels: Tensor) -> Tensor:
    """The centre of kernels (out, in, *sides) of odd sides, as a view of sides 1."""
    for axis in range(2, kernels.ndim):
        kernels = kernels.narrow(axis, kernels.shape[axis] // 2, 1)
    return kernels


def has_surroundings(sides: Sequence[int]) -> bool:
    """Whether a kernel of these sides has a centre, and more than that."""
    return prod(sides) > 1 and all(side % 2 for side in sides)


def narrowed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What to store of a state dict, and the header's entries that tell how to read it back.

    Args:
        state: tensors by name; kernels are (out, in, *sides) with odd sides.
    """
    kept, sides = dict(state), {}
    for name, tensor in state.items():
        shape = tensor.shape[2:]
        if tensor.ndim < 4 or not has_surroundings(shape):
            continue
        if torch.count_nonzero(tensor) == torch.count_nonzero(centre(tensor)):
            kept[name], sides[name] = centre(tensor).contiguous(), list(shape)
    return kept, {_KEY: json.dumps(sides, sort_keys=True)} if sides else {}


def widened(state: Mapping[str, Tensor], content: bytes) -> dict[str, Tensor]:
    """The state dict that was narrowed.

    Args:
        state: tensors as a safetensors file holds them.
        content: the file, whose header says what is to be widened.

    Raises:
        CheckpointError: a header that does not fit its tensors.
    """
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(_KEY, "{}")
    whole = dict(state)
    try:
        for name, sides in json.loads(told).items():
            whole[name] = _wide(state[name], [int(side) for side in sides])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(
            f"a header that tells of kernels the file does not hold ({told[:60]})",
            "names with odd sides are needed",
            "Install the bundle again.",
        ) from None
    return whole


def _wide(stored: Tensor, sides: list[int]) -> Tensor:
    if (
        len(sides) != stored.ndim - 2
        or prod(stored.shape[2:]) != 1
        or not all(s % 2 and 0 < s <= _WIDEST for s in sides)
    ):
        raise ValueError
    kernels = stored.new_zeros((*stored.shape[:2], *sides))
    centre(kernels).copy_(stored)
    return kernels
