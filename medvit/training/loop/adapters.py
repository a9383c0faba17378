"""Fine-tuning a few numbers for each linear layer in place of all weights (LoRA: E. Hu et al., arXiv 2106.09685).

A linear layer of weights W computes with W + B A while it trains, B and A thin: ``rank`` numbers for each of its inputs and
outputs. W stays as it is, B begins at zero, so a network with adapters starts as the one without. ``merge_adapters`` adds them up:
what is published has the tensors that it always had, and nothing that runs it need know. The paper's factor alpha / r is 1
here, so that a checkpoint says all that a merge needs.
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
"""What the layer that ends a network is called in ours."""


@dataclass(frozen=True)
class AdapterSettings:
    """What is trained in place of all weights.

    Attributes:
        rank: numbers for each input and output of a linear layer; no more than it has of either.
        rest: whether norms and the network's last layer, one to three thousandths of its numbers, are trained whole beside them; norms
            carry what another scanner changes, and a head what another annotator means.

    Raises:
        BundleError: a rank below 1.
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
    """What ``adapt`` did, for the record.

    Attributes:
        rank: of the adapters.
        layers: linear layers that have one.
        norms_and_head: whether those are trained as well.
        trained_parameters: numbers that are trained.
        parameters: numbers of the network without adapters.
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
        """The same as ``docs/training.json`` has it."""
        return asdict(self)


class _Adapter(nn.Linear):
    """A linear layer that computes with W + B A; its other parameters keep their names."""

    adapter_down: nn.Parameter
    adapter_up: nn.Parameter

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight + self.adapter_up @ self.adapter_down, self.bias)


class _StillNorm(nn.Module):
    """Mixed into a frozen norm that keeps running means: training does not move them."""

    def train(self, mode: bool = True) -> _StillNorm:
        return super().train(False)


def adapt(objective: nn.Module, settings: AdapterSettings, seed: int = 0) -> Adapted:
    """Freeze an objective's network, in place, and give each of its linear layers an adapter to train.

    Args:
        objective: holds the network as ``network``; what else it holds is frozen too.
        settings: what is trained.
        seed: of the numbers that A begins with.

    Raises:
        BundleError: a network without linear layers.
    """
    network: nn.Module = objective.network  # type: ignore[assignment]
    parameters = sum(p.numel() for p in network.parameters())
    layers = [module for module in network.modules() if type(module) is nn.Linear]
    if not layers:
        raise BundleError(
            f"no linear layer in {type(network).__name__}",
            "adapters sit on those",
            "Leave out --adapters to train all weights.",
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
    """Parameters of norms and of the last layer; those that no recipe trains are not among them."""
    modules: list[nn.Module] = [m for m in network.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm | _NormBase)]
    modules += [child for name, child in network.named_children() if name in _HEADS]
    return [p for module in modules for p in module.parameters() if p.requires_grad]


def _hold_still(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.__class__ = type(f"Still{type(module).__name__}", (_StillNorm, type(module)), {})
            module.eval()


def is_adapter(name: str) -> bool:
    """Whether a tensor of this name is part of an adapter."""
    return name.endswith((_DOWN, _UP))


def merge_adapters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without adapters, each added to the weights it belongs to; one that has none is as it was."""
    found = {name: value for name, value in state.items() if not is_adapter(name)}
    for name, down in state.items():
        if name.endswith(_DOWN):
            layer = name.removesuffix(_DOWN)
            found[f"{layer}.weight"] = state[f"{layer}.weight"] + state[layer + _UP] @ down
    return found
