"""Choice of the device of a run."""

from __future__ import annotations

import torch

from medvit.errors import BackendError

__all__ = ["choose_device"]


def choose_device(name: str) -> torch.device:
    """Return the device with a name; another device is never used instead.

    Args:
        name: "auto" (a GPU if there is one, else the CPU), "cpu", "gpu", "gpu:N" or "mps".

    Returns:
        The device.

    Raises:
        BackendError: the name is not a device name, or the device is not on this machine.

    Examples:
        >>> from medvit.inference import choose_device
        >>> choose_device("cpu")
        device(type='cpu')
    """
    wanted = name.lower().replace("gpu", "cuda")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise BackendError(
            f"device {name!r}", "it must be auto, cpu, gpu, gpu:N or mps", "Leave it out to choose automatically."
        )
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise BackendError(f"device {name!r}, which is not a device name", "use cpu, gpu, gpu:N or mps") from error
    count = torch.cuda.device_count() if kind == "cuda" else 0
    absent = (kind == "cuda" and (device.index or 0) >= count) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise BackendError(
            f"no device {name!r} on this machine ({count} CUDA device(s))",
            "no other device is used instead",
            "Use {device=cpu}.",
            option="device",
        )
    return device
