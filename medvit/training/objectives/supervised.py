"""Supervised objectives: each has a network and computes the loss of a batch.

The same loop trains all of them. With several processes the objective is wrapped, not the network, so a loss can use
parts of the network (decoder stages, single views) and gradients are still shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import BundleError, ShapeError
from medvit.training.objectives.base import Objective
from medvit.training.objectives.mean_constraint import MeanConstraint, MeanConstraintSettings
from medvit.training.objectives.restoration_losses import charbonnier, l1, ssim_loss
from medvit.training.objectives.segmentation_losses import bce_dice, focal_tversky_ce, weighted_dice_ce
from medvit.training.objectives.two_view_losses import view_losses

__all__ = ["OrganObjective", "PictureObjective", "RestorationObjective", "ViewObjective"]


def _one_of(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise BundleError(f"the loss {name!r}", f"it must be one of {', '.join(known)}", "Correct train.json.")
    return name


_ORGANS: dict[str, Callable[..., Tensor]] = {
    "dice_ce": weighted_dice_ce,
    "focal_tversky_ce": focal_tversky_ce,
}


class OrganObjective(Objective):
    """Swin UNETR on labels, with deep supervision of its decoder at half and quarter resolution.

    Args:
        network: a ``SwinUNETR``.
        background_weights: (first step, cross-entropy weight of background) pairs in order. A low weight at first lets
            the network find small organs; a higher one later makes their outlines accurate.
        deep_supervision: weight of the loss at half resolution; quarter resolution has half of it.
        light: classes with this weight: background, and classes of similar size.
        loss: "dice_ce" (cross-entropy and Dice) or "focal_tversky_ce", which weights missed voxels of small organs
            more.

    Raises:
        BundleError: the loss is unknown.
    """

    def __init__(
        self,
        network: nn.Module,
        background_weights: Sequence[tuple[int, float]] = ((0, 0.1), (1500, 0.3), (4100, 1.0)),
        deep_supervision: float = 0.3,
        loss: str = "dice_ce",
        light: Sequence[int] = (0,),
    ) -> None:
        super().__init__(network)
        self.light = light
        self.loss = _ORGANS[_one_of(loss, list(_ORGANS))]
        self.background_weights = background_weights
        self.deep_supervision = deep_supervision
        self._taps: dict[str, Tensor] = {}
        self.heads = self._supervise(network)

    def _supervise(self, network: Any) -> nn.ModuleDict:
        heads: dict[str, nn.Module] = {}
        classes = network.out.conv.conv.out_channels
        for name in ("decoder2", "decoder3"):
            stage = getattr(network, name)
            stage.register_forward_hook(lambda _m, _i, out, name=name: self._taps.__setitem__(name, out))
            heads[name] = nn.Conv3d(stage.conv_block.conv3.conv.out_channels, classes, 1)
        return nn.ModuleDict(heads)

    def fine_tuning_mode(self) -> None:
        """Use the final background weight and no deep supervision, since its heads are random."""
        self.background_weights = ((0, self.background_weights[-1][1]),)
        self.deep_supervision = 0.0

    def background(self) -> float:
        """Return the cross-entropy weight of background at this step."""
        return [weight for first, weight in self.background_weights if first <= self.step][-1]

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss at all three resolutions.

        Args:
            batch: images (batch, channel, i, j, k), labels (batch, 1, i, j, k) and, where cases are partly labelled,
                the classes annotated in each sample, (batch, class), bool.
        """
        image, labels, *partial = batch
        annotated = None if not partial or bool(partial[0].all()) else partial[0]
        total = self._loss(self.network(image), labels, annotated)
        for name, factor in (("decoder2", 2), ("decoder3", 4)):
            tap = self._taps.pop(name)
            if not self.deep_supervision:
                continue
            coarse = F.interpolate(labels.float(), scale_factor=1 / factor, mode="nearest").long()
            logits = self.heads[name](tap)
            if logits.shape[2:] != coarse.shape[2:]:
                raise ShapeError(
                    f"patches of {tuple(labels.shape[2:])} voxels, which the network pads inside",
                    (
                        "the stages of its decoder are supervised, so sides must be multiples of 32, one of them at "
                        "least 64"
                    ),
                    "Correct roi_size in train.json.",
                )
            total = total + self.deep_supervision / (factor / 2) * self._loss(logits, coarse, annotated)
        return total

    def _loss(self, logits: Tensor, labels: Tensor, annotated: Tensor | None) -> Tensor:
        return self.loss(logits.float(), labels, self.background(), light=self.light, annotated=annotated)


class PictureObjective(Objective):
    """A network on pictures.

    One logit per pixel: half cross-entropy, half Dice (Barlow-Swin, arXiv 2509.06885). Several logits: one for each
    class, background first, cross-entropy plus the Dice of the classes present.

    Args:
        network: network from pictures to logits.
        head_start: initial gain and offset of the batch norm before a new network's logits; None for 1 and 0. With gain
            1 all probabilities start near a half, and both numbers change by at most the learning rate per step, so a
            short run spends its steps on them. Loaded weights of a start or resume override them.

    Raises:
        BundleError: ``head_start`` is given for a network whose head does not end with a batch norm.
    """

    def __init__(self, network: nn.Module, head_start: tuple[float, float] | None = None) -> None:
        super().__init__(network)
        if head_start is None:
            return
        head = getattr(network, "head", None)
        norm = head[-1] if isinstance(head, nn.Sequential) else None
        if not isinstance(norm, nn.BatchNorm2d):
            raise BundleError(
                f"head_start for {type(network).__name__}, whose head does not end on a batch norm",
                "a head like BarlowSwin's is needed",
                "Leave head_start out of train.json.",
            )
        nn.init.constant_(norm.weight, head_start[0])
        nn.init.constant_(norm.bias, head_start[1])

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of pictures (batch, channel, row, column) and masks of class ids (batch, 1, row, column),
        float."""
        picture, mask = batch
        logits = self.network(picture).float()
        if logits.shape[1] == 1:
            return bce_dice(logits, mask)
        return weighted_dice_ce(logits, mask.long(), background_weight=1.0)


_RESTORATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "charbonnier": charbonnier,
    "l1+ssim": lambda restored, clean: l1(restored, clean) + 0.1 * ssim_loss(restored, clean),
    # quadratic up to 1 % of the range, which learns a mean rather than a median; skewed noise would bias a median
    "charbonnier_wide": lambda restored, clean: charbonnier(restored, clean, epsilon=1e-2),
    # quadratic up to 10 % of the range, for detail missing at edges, which is evaluated by its squared error
    "charbonnier_widest": lambda restored, clean: charbonnier(restored, clean, epsilon=1e-1),
    # quadratic everywhere, with the slope of the previous loss near 0, so that a run can switch between them
    "squared": lambda restored, clean: 5 * F.mse_loss(restored, clean),
}


class RestorationObjective(Objective):
    """Loss between a restored and a clean image.

    Args:
        network: network from image to image.
        loss: "l1", "charbonnier", "charbonnier_wide", "charbonnier_widest", "squared" or "l1+ssim".
        identity_start: start a new network as the identity: its last convolution is zero, and the network adds its
            input. With random values it would first have to unlearn a change fifty times the noise. Loaded weights of a
            start or resume override this.
        output_rate: factor on the learning rate of the last convolution. It sums hundreds of features to a change of 1
            % of the range; at the full rate one step of Adam changes its result by more than the noise.
        contrast_start: (centre, gain): the first convolution of a new network sees ``gain * (image - centre)``. The
            layer norms after it are dominated by the image's level, of which noise is 1 %; with soft tissue centred and
            stretched they respond to the noise.
        window: (low, high): intensities whose differences count in full, with both images clipped to it; None for all.
            Without it, bone and metal outweigh the soft tissue next to them.
        outside: weight of the unclipped differences if there is a window, between 0 and 1.
        held: mean constraints (``MeanConstraint``).

    Raises:
        BundleError: the loss is unknown, or the network has no convolution named ``output`` or ``patch_embed`` that is
            needed.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: str = "charbonnier",
        identity_start: bool = False,
        output_rate: float = 1.0,
        contrast_start: tuple[float, float] | None = None,
        window: tuple[float, float] | None = None,
        outside: float = 0.1,
        held: Sequence[MeanConstraintSettings] = (),
    ) -> None:
        super().__init__(network)
        self.window, self.outside = window, outside
        self.held = nn.ModuleList(MeanConstraint(settings) for settings in held)
        self.loss = _RESTORATION[_one_of(loss, list(_RESTORATION))]
        self.output_rate = output_rate
        if identity_start or output_rate != 1:
            last = self._convolution("output", "identity_start or output_rate")
            if identity_start:
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)
        if contrast_start is not None:
            _stretch(self._convolution("patch_embed", "contrast_start"), *contrast_start)

    def _convolution(self, name: str, asked: str) -> nn.Conv2d:
        found = getattr(self.network, name, None)
        if not isinstance(found, nn.Conv2d):
            raise BundleError(
                f"{asked} for {type(self.network).__name__}, which has no convolution named {name}",
                "a network that adds its input, as RestoreRWKV, is needed",
                "Leave it out of train.json.",
            )
        return found

    def groups(self) -> list[dict[str, Any]]:
        """Return the last convolution as a separate group if it has another rate."""
        if self.output_rate == 1:
            return super().groups()
        last = list(self.network.output.parameters())  # type: ignore[union-attr]
        apart = {id(p) for p in last}
        rest = [p for p in self.parameters() if id(p) not in apart]
        return [{"params": rest, "rate": 1.0}, {"params": last, "rate": self.output_rate}]

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of degraded and clean images, (batch, channel, i, j) each."""
        degraded, clean = batch
        restored = self.network(degraded).float()
        loss = self.loss(restored, clean)
        if self.window is not None:
            inside = self.loss(restored.clamp(*self.window), clean.clamp(*self.window))
            loss = (1 - self.outside) * inside + self.outside * loss
        for hold in self.held:
            loss = loss + hold(degraded, restored, clean)
        return loss

    def finish(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Recompute fused kernels from the averaged branches, since they are not averages of fused kernels."""
        refresh = getattr(self.network, "refresh", None)
        if refresh is None:
            return average
        self.network.load_state_dict(average)
        return {k: v.detach().clone() for k, v in refresh().state_dict().items()}


@torch.no_grad()
def _stretch(convolution: nn.Conv2d, centre: float, gain: float) -> None:
    # W (gain (x - centre)) + b = (gain W) x + (b - gain centre sum W); zero padding at borders is unchanged
    convolution.weight.mul_(gain)
    if convolution.bias is not None:
        convolution.bias.sub_(centre * convolution.weight.sum((1, 2, 3)))


class ViewObjective(Objective):
    """Loss of two X-rays against labels, with agreement between the views (Swin-X2S, arXiv 2501.05961)."""

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of stacked views (batch, 2, side, z) and labels (batch, 1, x, y, z)."""
        views, labels = batch
        both = self.network.each_view(views)  # type: ignore[operator]
        return view_losses([view.float() for view in both], labels).total
