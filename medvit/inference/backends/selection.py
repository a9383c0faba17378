"""Selection of a network's backend: eager, compiled, OpenVINO graph or CUDA graph.

The same check chooses a backend and explains a refusal; the choice and its reason are recorded with the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from medvit.bundles import WEIGHTS_ATTRIBUTE
from medvit.errors import BackendError
from medvit.inference.backends.deferred_network import DeferredNetwork, built
from medvit.progress import Progress
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
"""Smallest number of windows in an image for which "auto" considers a graph, which takes seconds to load or convert."""

_WORTH_MEASURING = 8
"""Smallest number of windows in an image for which the number of windows at once is measured."""

_LARGE = 10**6
"""Smallest number of parameters of a network for which "auto" considers a graph."""


@dataclass(frozen=True, kw_only=True)
class BackendRequest:
    """A request for a backend.

    Attributes:
        backend: one of ``BACKENDS``.
        precision: "fp32", "bf16" or "int8".
        windows: number of windows of the image.
        arguments: True if the network takes arguments beside the windows.
        streams: number of windows that an OpenVINO graph may run at once; None for the number measured fastest here.
        few_parameters: True if a graph pays even for few parameters, since they are applied at full resolution.
        ranges: file of the ranges of a bundle's layers, for int8.
    """

    backend: str = "auto"
    precision: str = "fp32"
    windows: int = 1
    arguments: bool = False
    streams: int | None = 1
    few_parameters: bool = False
    ranges: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SelectedBackend:
    """The selected backend, with the reason for the choice.

    Attributes:
        backend: name of the backend; never "auto".
        precision: precision of the computation.
        reason: reason for the choice, in plain words, for the run record.
        run: function from windows (window, channel, *roi) to logits. A graph may reuse the memory of its output in the
            next call.
        streams: number of windows that the backend runs at once, if a batch has as many.
    """

    backend: str
    precision: str
    reason: str
    run: Callable[..., Tensor]
    streams: int = 1


def unsupported_reason(backend: str, network: object, batch: Tensor, wanted: BackendRequest) -> str | None:
    """Return why a backend cannot run a network on such windows, or None; used for the choice and for the message."""
    if backend == "eager":
        return None
    if not isinstance(network, nn.Module | DeferredNetwork):
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

    if wanted.precision == "int8" and wanted.ranges is None:
        return "int8 needs the ranges of a bundle's layers; leave the precision out"
    return of_openvino(batch, wanted.precision)


def select_backend(
    network: Callable[..., Tensor], batch: Tensor, wanted: BackendRequest, progress: Progress | None = None
) -> SelectedBackend:
    """Prepare the requested backend, or choose one for "auto".

    Args:
        network: takes (window, channel, *roi), returns (window, class, *roi).
        batch: example windows; only their size, type and device matter.
        wanted: the request.
        progress: told before a network is prepared for this machine, see ``Progress.announce``.

    Raises:
        BackendError: the backend or precision is unknown or cannot run; the message says why and what to do.
    """
    check_names(wanted.backend, wanted.precision)
    if wanted.backend == "auto":
        return _automatic(network, batch, wanted, progress)
    reason = unsupported_reason(wanted.backend, network, batch, wanted)
    if reason:
        raise BackendError(
            f"that the {wanted.backend!r} inference backend cannot run: {reason}",
            remedy="Use {backend=eager}, which always can, or {backend=auto}.",
            option="backend",
        )
    return _selected(wanted.backend, wanted.precision, "asked for", _ready(wanted, network, batch, progress))


def _selected(backend: str, precision: str, reason: str, run: Callable[..., Tensor]) -> SelectedBackend:
    streams = int(getattr(run, "streams", 1))
    if streams > 1:
        reason += f"; {streams} windows at once, which was measured to be fastest on this machine"
    return SelectedBackend(backend=backend, precision=precision, reason=reason, run=run, streams=streams)


def may_need_conversion(network: object, wanted: BackendRequest) -> bool:
    """Return True if ``select_backend`` may take seconds."""
    return wanted.backend not in ("auto", "eager") or (wanted.backend == "auto" and hasattr(network, WEIGHTS_ATTRIBUTE))


def _ready(
    wanted: BackendRequest, network: Callable[..., Tensor], batch: Tensor, progress: Progress | None
) -> Callable[..., Tensor]:
    if wanted.backend == "eager":
        return _callable(network)
    if wanted.backend == "compiled":
        from medvit.inference.backends.torch_compile import compiled

        return compiled(built(network))
    if wanted.backend == "cuda":
        from medvit.inference.backends.cuda_graph import captured

        return captured(built(network), batch, wanted.precision)
    from medvit.inference.backends.openvino import graph_of

    assert isinstance(network, nn.Module | DeferredNetwork)
    return graph_of(network, batch, wanted.precision, _streams(wanted), progress, wanted.ranges)


def _streams(wanted: BackendRequest) -> int | None:
    """Return the number of windows to run at once; None if it is to be measured, which few windows do not pay."""
    return 1 if wanted.streams is None and wanted.windows < _WORTH_MEASURING else wanted.streams


def _automatic(
    network: Callable[..., Tensor], batch: Tensor, wanted: BackendRequest, progress: Progress | None
) -> SelectedBackend:
    if wanted.precision != "fp32":
        kind = "cuda" if wanted.precision == "bf16" and batch.device.type == "cuda" else "openvino"
        chosen = select_backend(network, batch, replace(wanted, backend=kind), progress)
        runs = f"{wanted.precision} runs by {kind} on {batch.device.type}"
        return _selected(kind, wanted.precision, runs, chosen.run)
    reason = _eager_because(network, batch, wanted)
    if reason is None:
        from medvit.inference.backends.openvino import faster_graph_of

        assert isinstance(network, nn.Module | DeferredNetwork)
        graph, reason = faster_graph_of(network, batch, _streams(wanted), progress)
        if graph is not None:
            return _selected("openvino", "fp32", reason, graph)
    return SelectedBackend(backend="eager", precision="fp32", reason=reason, run=_callable(network))


def _callable(network: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the network itself, built if it is a ``DeferredNetwork``."""
    made: Callable[..., Tensor] = built(network)
    return made


def _eager_because(network: object, batch: Tensor, wanted: BackendRequest) -> str | None:
    """Return why "auto" runs the network in eager mode without trying a graph; None if a graph may be faster."""
    if batch.device.type != "cpu":
        return f"the network lies on {batch.device.type}"
    if not hasattr(network, WEIGHTS_ATTRIBUTE):
        return "only a bundle's network is converted without being asked"
    if wanted.windows < _WORTH_CONVERTING:
        return f"{wanted.windows} windows are too few for a graph to pay"
    assert isinstance(network, nn.Module | DeferredNetwork)
    if not wanted.few_parameters and _parameters(network) < _LARGE:
        return "the network is too small for a graph to pay"
    if find_spec("openvino") is None:
        return "OpenVINO, which is faster on most CPUs, is not installed (pip install openvino)"
    return unsupported_reason("openvino", network, batch, wanted)


def _parameters(network: nn.Module | DeferredNetwork) -> int:
    if isinstance(network, DeferredNetwork):
        return network.parameters()
    return sum(parameter.numel() for parameter in network.parameters())


def devices() -> str:
    """Describe in one line, for people, which backends can run here."""
    example = torch.zeros(1, 1, 2, 2, 2)
    network = nn.Identity().eval()
    states = []
    for name in BACKENDS[1:]:
        reason = unsupported_reason(name, network, example, BackendRequest(backend=name))
        states.append(f"{name} {'yes' if reason is None else f'no ({reason})'}")
    return ", ".join(states)
