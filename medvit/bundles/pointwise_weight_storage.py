"""Compact storage of convolution kernels that are zero except at their centre: only the centre is stored.

The file's header lists these tensors and their original sizes, so that kernels of size 1 by design are not widened. All
readers of weights use ``widened``.
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
"""Largest side of a kernel; a header that states more would only fill memory."""


def centre(kernels: Tensor) -> Tensor:
    """Return the centre of convolution kernels, as a view.

    Args:
        kernels: (out, in, *sides) with odd sides.

    Returns:
        (out, in, 1, ...), a view of the input.

    Examples:
        >>> import torch
        >>> from medvit.bundles import centre
        >>> centre(torch.zeros(8, 4, 3, 3, 3)).shape
        torch.Size([8, 4, 1, 1, 1])
    """
    for axis in range(2, kernels.ndim):
        kernels = kernels.narrow(axis, kernels.shape[axis] // 2, 1)
    return kernels


def has_surroundings(sides: Sequence[int]) -> bool:
    """Return True if a kernel of these sides has a centre and other elements.

    Args:
        sides: the kernel's sides in voxels.

    Returns:
        True for odd sides, of which at least one is above 1.

    Examples:
        >>> from medvit.bundles import has_surroundings
        >>> has_surroundings((3, 3, 3)), has_surroundings((1, 1, 1))
        (True, False)
    """
    return prod(sides) > 1 and all(side % 2 for side in sides)


def narrowed(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the compact form of a state dict, with header entries for reading it back.

    Args:
        state: tensors by name; kernels are (out, in, *sides) with odd sides.

    Returns:
        Tensors by name, kernels that are zero off their centre reduced to it; and the entries for the file's header.

    Examples:
        >>> import torch
        >>> from medvit.bundles import narrowed
        >>> kernels = torch.zeros(8, 4, 3, 3, 3)
        >>> kernels[:, :, 1, 1, 1] = 0.5
        >>> tensors, header = narrowed({"conv.weight": kernels})
        >>> tensors["conv.weight"].shape, header
        (torch.Size([8, 4, 1, 1, 1]), {'kernels_stored_as_their_centre': '{"conv.weight": [3, 3, 3]}'})
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
    """Restore the state dict that was narrowed.

    Args:
        state: tensors as a safetensors file contains them.
        content: the bytes of the file, whose header lists the narrowed tensors.

    Raises:
        CheckpointError: the header does not match the tensors.
    """
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(_KEY, "{}")
    whole = dict(state)
    try:
        for name, sides in json.loads(told).items():
            whole[name] = _wide(state[name], [int(side) for side in sides])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise CheckpointError(
            f"a header whose list of kernels does not fit the file's tensors ({told[:60]})",
            "it must list names of tensors with odd sides",
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
