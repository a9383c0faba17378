"""How a network is run on a window: as it is, compiled, as an OpenVINO graph or as a CUDA graph.

One check chooses a backend and explains a refusal; what was chosen, and why, travels with the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from medvit.bundles import WEIGHTS_ATTRIBUTE
from medvit.errors import BackendError
from medvit.settings import BACKENDS, PRECISIONS, check_names

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "BackendRequest",
    "SelectedBackend",
    "check_names",
    "devices",
    "may_need_conversion",
    "select_backend",
    "unsupported_reason",
]

_WORTH_CONVERTING = 4
"""Windows that an image must have before "auto" thinks of a graph, which takes seconds to load and longer to make."""

_LARGE = 10**6
"""Parameters that a network must have for the same reason."""


@dataclass(frozen=True)
class BackendRequest:
    """What a caller asks for.

    Attributes:
        backend: one of ``BACKENDS``.
        precision: "fp32" or "bf16".
        windows: how many windows the image at hand needs.
        arguments: whether the network takes more than the window.
    """

    backend: str = "auto"
    precision: str = "fp32"
    windows: int = 1
    arguments: bool = False


@dataclass(frozen=True)
class SelectedBackend:
    """What is run, and why.

    Attributes:
        backend: never "auto".
        precision: in which the network computes.
        reason: why, in plain words, for the record.
        run: windows (window, channel, *roi) to logits. A graph may use its output's memory again in the next call.
    """

    backend: str
    precision: str
    reason: str
    run: Callable[..., Tensor]


def unsupported_reason(backend: str, network: object, batch: Tensor, wanted: BackendRequest) -> str | None:
    """Why a backend cannot run a network on windows such as these, or None if it can; chooses and explains alike."""
    if backend == "eager":
        return None
    if not isinstance(network, nn.Module):
        return f"the network is a {type(network).__name__}, not a torch.nn.Module"
    if network.training:
        return "the network is in training mode; call .eval() on it"
    if wanted.arguments:
        return "the network takes more than the window"
    if backend == "cuda":
        from medvit.inference.backends.cuda_graph import unsupported_reason as of_cuda

        return of_cuda(batch)
    if backend == "compiled":
        from medvit.inference.backends.torch_compile import unsupported_reason as of_compiled

        return of_compiled()
    from medvit.inference.backends.openvino import unsupported_reason as of_openvino

    return of_openvino(batch, wanted.precision)


def select_backend(network: Callable[..., Tensor], batch: Tensor, wanted: BackendRequest) -> SelectedBackend:
    """The backend that is asked for made ready, or the one that suits.

    Args:
        network: takes (window, channel, *roi), gives (window, class, *roi).
        batch: windows as they will come; only its size, type and device count.
        wanted: what is asked for.

    Raises:
        BackendError: an unknown backend or precision, or one that cannot run; the message says why and what to do.
    """
    check_names(wanted.backend, wanted.precision)
    if wanted.backend == "auto":
        return _automatic(network, batch, wanted)
    reason = unsupported_reason(wanted.backend, network, batch, wanted)
    if reason:
        raise BackendError(
            f"The {wanted.backend!r} inference backend cannot run: {reason}. Or use backend='eager', which always can, or 'auto'."
        )
    return SelectedBackend(
        wanted.backend, wanted.precision, "asked for", _ready(wanted.backend, network, batch, wanted)
    )


def may_need_conversion(network: object, wanted: BackendRequest) -> bool:
    """Whether ``select_backend`` may take seconds."""
    return wanted.backend not in ("auto", "eager") or (wanted.backend == "auto" and hasattr(network, WEIGHTS_ATTRIBUTE))


def _ready(
    backend: str, network: Callable[..., Tensor], batch: Tensor, wanted: BackendRequest
) -> Callable[..., Tensor]:
    if backend == "eager":
        return network
    assert isinstance(network, nn.Module)
    if backend == "compiled":
        from medvit.inference.backends.torch_compile import compiled

        return compiled(network)
    if backend == "cuda":
        from medvit.inference.backends.cuda_graph import captured

        return captured(network, batch, wanted.precision)
    from medvit.inference.backends.openvino import graph_of

    return graph_of(network, batch, wanted.precision)


def _automatic(network: Callable[..., Tensor], batch: Tensor, wanted: BackendRequest) -> SelectedBackend:
    if wanted.precision == "bf16":
        kind = "cuda" if batch.device.type == "cuda" else "openvino"
        chosen = select_backend(network, batch, BackendRequest(kind, "bf16", wanted.windows, wanted.arguments))
        return SelectedBackend(kind, "bf16", f"bf16 runs by {kind} on {batch.device.type}", chosen.run)
    reason = _eager_because(network, batch, wanted)
    if reason is None:
        from medvit.inference.backends.openvino import faster_graph_of

        assert isinstance(network, nn.Module)
        graph, reason = faster_graph_of(network, batch)
        if graph is not None:
            return SelectedBackend("openvino", "fp32", reason, graph)
    return SelectedBackend("eager", "fp32", reason, network)


def _eager_because(network: object, batch: Tensor, wanted: BackendRequest) -> str | None:
    """Why "auto" runs the network as it is, without having looked at a graph; None if one may be better."""
    if batch.device.type != "cpu":
        return f"the network lies on {batch.device.type}"
    if not hasattr(network, WEIGHTS_ATTRIBUTE):
        return "only a bundle's network is converted without being asked"
    if wanted.windows < _WORTH_CONVERTING:
        return f"{wanted.windows} windows are too few for a graph to pay"
    assert isinstance(network, nn.Module)
    if sum(parameter.numel() for parameter in network.parameters()) < _LARGE:
        return "the network is too small for a graph to pay"
    if find_spec("openvino") is None:
        return "OpenVINO, which is faster on most CPUs, is not installed (pip install 'medvit[openvino]')"
    return unsupported_reason("openvino", network, batch, wanted)


def devices() -> str:
    """For people: what each backend would do here, in one line."""
    example = torch.zeros(1, 1, 2, 2, 2)
    network = nn.Identity().eval()
    states = []
    for name in BACKENDS[1:]:
        reason = unsupported_reason(name, network, example, BackendRequest(name))
        states.append(f"{name} {'yes' if reason is None else f'no ({reason})'}")
    return ", ".join(states)
