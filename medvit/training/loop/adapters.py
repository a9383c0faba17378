"""Low-rank adapters for fine-tuning (LoRA: E. Hu et al., arXiv 2106.09685).

During training a linear layer with weights W computes with W + B A, where B has ``rank`` columns and A ``rank`` rows. W
is frozen and B starts at zero, so adapters do not change the output at first. ``merge_adapters`` adds B A to W, so
published weights have the usual tensors. The paper's factor alpha / r is 1 here, so that a checkpoint has all data
needed for the merge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from medvit.errors import BundleError

__all__ = ["Adapted", "AdapterSettings", "adapt", "is_adapter", "merge_adapters"]

_DOWN, _UP = ".adapter_down", ".adapter_up"
_HEADS = ("out", "output", "head")
"""Names of the last layer in medvit's networks."""


@dataclass(frozen=True)
class AdapterSettings:
    """Settings of adapters.

    Attributes:
        rank: rank of each adapter, limited by the layer's numbers of inputs and outputs.
        rest: also train norms and the last layer, 0.1 to 0.3 % of the network's parameters; norms adapt to another
            scanner, the head to another annotator.

    Raises:
        BundleError: the rank is below 1.
    """

    rank: int = 8
    rest: bool = True

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BundleError(
                f"adapters of rank {self.rank}", "a whole number of at least 1 is needed", "8 is a good first one."
            )


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Facts about the adapters of a network, for the record.

    Attributes:
        rank: rank of the adapters.
        layers: number of linear layers with an adapter.
        norms_and_head: True if norms and head are trained as well.
        trained_parameters: number of trained parameters.
        parameters: number of parameters of the network without adapters.
    """

    rank: int
    layers: int
    norms_and_head: bool
    trained_parameters: int
    parameters: int

    def __str__(self) -> str:
        beside = "norms and head trained beside them" if self.norms_and_head else "norms and head frozen"
        share = 100 * self.trained_parameters / self.parameters
        return (
            f"Adapters of rank {self.rank} on {self.layers} linear layers, {beside}: {self.trained_parameters:,} parameters are "
            f"trained, {share:.1f} % of the network's {self.parameters:,}."
        )

    def record(self) -> dict[str, Any]:
        """Return the facts as written to ``docs/training.json``."""
        return asdict(self)


class _Adapter(nn.Linear):
    """Linear layer that computes with W + B A; its other parameters keep their names."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight + self.adapter_up @ self.adapter_down, self.bias)


class _StillNorm(nn.Module):
    """Mixin for a frozen norm, whose running statistics do not change in training."""

    def train(self, mode: bool = True) -> _StillNorm:
        return super().train(False)


def adapt(objective: nn.Module, settings: AdapterSettings, seed: int = 0) -> Adapted:
    """Freeze an objective's network, in place, and add an adapter to each of its linear layers.

    Args:
        objective: objective with the network as ``network``; its other parameters are frozen too.
        settings: settings of the adapters.
        seed: seed of the initial numbers of A.

    Raises:
        BundleError: the network has no linear layers.
    """
    network: nn.Module = objective.network  # type: ignore[assignment]
    parameters = sum(p.numel() for p in network.parameters())
    layers = [module for module in network.modules() if type(module) is nn.Linear]
    if not layers:
        raise BundleError(
            f"no linear layer in {type(network).__name__}",
            "adapters are added to those",
            "Leave out {adapters} to train all weights.",
            option="adapters",
        )
    rest = _rest(network) if settings.rest else []
    objective.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        _add(layer, settings.rank, generator)
    for parameter in rest:
        parameter.requires_grad_(True)
    if not settings.rest:
        _hold_still(network)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Adapted(
        rank=settings.rank,
        layers=len(layers),
        norms_and_head=settings.rest,
        trained_parameters=trained,
        parameters=parameters,
    )


def _add(layer: nn.Linear, rank: int, generator: torch.Generator) -> None:
    outputs, inputs = layer.weight.shape
    thin = min(rank, outputs, inputs)
    down = torch.randn(thin, inputs, generator=generator) / math.sqrt(inputs)
    layer.__class__ = _Adapter
    layer.adapter_down = nn.Parameter(down.to(layer.weight))
    layer.adapter_up = nn.Parameter(layer.weight.new_zeros(outputs, thin))


def _rest(network: nn.Module) -> list[nn.Parameter]:
    """List the parameters of norms and of the last layer, except those that the recipe does not train."""
    modules: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | _NormBase)]
    modules += [child for name, child in network.named_children() if name in _HEADS]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _hold_still(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.__class__ = type(f"Still{type(module).__name__}", (_StillNorm, type(module)), {})
            module.eval()


def is_adapter(name: str) -> bool:
    """Return True if a tensor name belongs to an adapter."""
    return name.endswith((_DOWN, _UP))


def merge_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which each adapter is added to its weights; without adapters it is unchanged."""
    found = {name: value for name, value in state.items() if not is_adapter(name)}
    for name, down in state.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            found[f"{layer}.weight"] = state[f"{layer}.weight"] + state[layer + _UP] @ down
    return found
