"""nnU-Net's checkpoints: pickles of tensors and settings, read by an allow-list of types; nothing in them runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvit.errors import BundleError, CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["FoldCheckpoint", "fit", "read_fold"]

_WEIGHTS = "network_weights"


@dataclass(frozen=True, kw_only=True, eq=False)
class FoldCheckpoint:
    """The weights of one fold, with the facts of its training that inference needs.

    Attributes:
        tensors: each tensor once, by its shortest published name.
        configuration: configuration of the plans with which it was trained.
        trainer: name of the trainer class.
        mirror_axes: axes along which inference may mirror; empty without mirroring.
        epochs: number of finished epochs; None where it is not stated.
    """

    tensors: Mapping[str, Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]
    epochs: int | None


def read_fold(path: Path) -> FoldCheckpoint:
    """Read ``checkpoint_final.pth`` or ``checkpoint_best.pth``.

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is damaged, a pickle that asks for a type beside tensors and numbers, or no checkpoint
            of nnU-Net.
    """
    from medvit.bundles import read_checkpoint

    content = read_checkpoint(path)
    settings = content.get("init_args")
    if not isinstance(content.get(_WEIGHTS), Mapping) or not isinstance(settings, Mapping):
        raise CheckpointError(
            f"{path.parent.name}/{path.name}, which holds no 'network_weights' and 'init_args'",
            "a checkpoint that nnunetv2 wrote is needed",
            "Check which file it is.",
        )
    mirror = content.get("inference_allowed_mirroring_axes")
    epochs = content.get("current_epoch")
    return FoldCheckpoint(
        tensors=_once(content[_WEIGHTS], f"{path.parent.name}/{path.name}"),
        configuration=str(settings.get("configuration", "")),
        trainer=str(content.get("trainer_name", "not stated")),
        mirror_axes=tuple(int(axis) for axis in mirror or ()),
        epochs=int(epochs) if isinstance(epochs, int) else None,
    )


def _once(weights: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """Keep each tensor once: the modules of a convolution, and the encoder below the decoder, are stored twice."""
    import torch

    kept: dict[str, Tensor] = {}
    copies: list[tuple[str, str]] = []
    plain = {str(name).removeprefix("module.").removeprefix("_orig_mod."): value for name, value in weights.items()}
    for name, value in plain.items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"a {type(value).__name__} under {name!r} in {where}", "tensors are needed")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise CheckpointError(
                f"NaN or infinite values in {name} of {where}", "weights must be finite", "Take another checkpoint."
            )
        short = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        if ".all_modules." in short or short != name:
            copies.append((name, short))
        else:
            kept[name] = value
    for name, short in copies:
        original = next((kept[one] for one in _originals(short) if one in kept), None)
        if original is None or original.shape != plain[name].shape or not torch.equal(original, plain[name]):
            raise CheckpointError(
                f"{name} in {where}, which differs from the tensor that it repeats",
                "both must be equal, since nnU-Net shares them",
                "The file was changed; take the original one.",
            )
    return kept


def _originals(name: str) -> list[str]:
    """Return the names that a tensor of ``all_modules`` may repeat: that of the convolution or of its norm."""
    before, mark, after = name.partition(".all_modules.")
    if not mark:
        return [name]
    number, _, rest = after.partition(".")
    return [f"{before}.conv.{rest}"] if number == "0" else [f"{before}.norm.{rest}"]


def fit(network: nn.Module, fold: FoldCheckpoint, where: str) -> None:
    """Check that the tensors of a fold are exactly those of the network that the plans describe.

    Args:
        network: one ``NnunetNetwork``.
        fold: the checkpoint.
        where: name of the fold for the message.

    Raises:
        BundleError: a tensor is missing, unknown, or has another shape.
    """
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in fold.tensors.items()}
    wrong = sorted(wanted.keys() ^ found.keys()) or [name for name in wanted if wanted[name] != found[name]]
    if not wrong:
        return
    first = wrong[0]
    raise BundleError(
        f"weights of {where} that do not fit the plans: {len(wrong)} tensors, the first is {first} "
        f"({found.get(first, 'missing')} in the checkpoint, {wanted.get(first, 'none')} in the network of the plans)",
        f"every tensor must fit (trainer {fold.trainer})",
        "Take the plans.json with which the model was trained; a trainer that changes the network cannot be imported.",
    )
