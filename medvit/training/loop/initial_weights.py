"""Initial weights of a training run from a checkpoint, a bundle or a published file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from medvit.bundles import extract_tensors, open_bundle, read_checkpoint
from medvit.errors import CheckpointError
from medvit.training.loop.adapters import is_adapter, merge_adapters

__all__ = ["Started", "read_weights", "start_from"]


@dataclass(frozen=True)
class Started:
    """Facts about the initial weights of a run.

    Attributes:
        said: one line for the user.
        whole: True if all learnt tensors were loaded.
    """

    said: str
    whole: bool

    def __str__(self) -> str:
        return self.said


def start_from(network: nn.Module, given: str) -> Started:
    """Copy into the network, in place, each given tensor whose name and shape equal those of a tensor of the network.

    Tensors of another shape (such as a head for other labels) keep their random values. Adapters in the given weights
    are merged first; those of the network are unchanged.

    Args:
        network: the network.
        given: a file of weights, a run's checkpoint (its averaged weights are used), or a bundle's name.

    Raises:
        CheckpointError: no tensor matches, or, with adapters, a frozen tensor is missing.
        BundleError: the bundle is unknown or not trained.
    """
    stored = read_weights(given)
    own = network.state_dict()
    fitting = {k: v.to(own[k].dtype) for k, v in stored.items() if k in own and own[k].shape == v.shape}
    learnt = [k for k, v in own.items() if v.is_floating_point() and not is_adapter(k)]
    if not set(fitting).intersection(learnt):
        raise CheckpointError(
            f"no tensor in {given} that fits {type(network).__name__} (it holds {', '.join(sorted(stored)[:3])}, …)",
            "weights of the same architecture are needed",
            "Published layouts are read by medvit.load_published.",
        )
    network.load_state_dict(fitting, strict=False)
    new = [k for k in learnt if k not in fitting]
    _refuse_frozen(network, given, new)
    left = f"; newly drawn: {', '.join(new[:4])}{', …' if len(new) > 4 else ''}" if new else ""
    return Started(f"Starting from {given}: {len(learnt) - len(new)} of {len(learnt)} tensors{left}.", not new)


def _refuse_frozen(network: nn.Module, given: str, new: list[str]) -> None:
    """Refuse frozen tensors with random values: adapters would only learn to undo them."""
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}.intersection(new)
    if frozen and any(is_adapter(name) for name in network.state_dict()):
        raise CheckpointError(
            f"no {min(frozen)} in {given} that fits, and with adapters it would keep its random values",
            "weights of the same architecture and labels are needed",
            "Leave out {adapters} to train all weights.",
            option="adapters",
        )


def read_weights(given: str) -> Mapping[str, Tensor]:
    """Read the tensors of a weights file, a checkpoint (averaged, with adapters merged) or a bundle, by name.

    Raises:
        CheckpointError: the file has no tensors.
        BundleError: the bundle is unknown or not trained.
    """
    path = Path(given)
    if not path.is_file():
        bundle = open_bundle(given)
        bundle.require_trained()
        bundle.verify()
        path = bundle.weights
    content = read_checkpoint(path)
    average = content.get("average")
    return merge_adapters(average if isinstance(average, Mapping) else extract_tensors(content))
