"""What a network is trained for: an objective holds the network, takes a batch and gives back its loss.

One loop trains them all. Several processes wrap the objective, not the network, so every loss may use the network's
parts as it likes (stages of the decoder, single views) and gradients are still shared.
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
    """Swin UNETR on labels, its decoder supervised at half and quarter resolution too.

    Args:
        network: a ``SwinUNETR``.
        background_weights: (first step, cross-entropy weight of background) pairs in order. Light at first, so that
            small organs are found at all; heavier later, so that their outlines tighten.
        deep_supervision: weight of the loss at half resolution, and twice that of quarter resolution.
        light: the classes that weigh so: background, and what is as large.
        loss: "dice_ce" (cross-entropy and Dice) or "focal_tversky_ce", which weighs missed voxels of small organs more.

    Raises:
        BundleError: another loss.
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
        """Background weighs what it does in the end; heads drawn anew, whose first gradients mean nothing, have no say."""
        self.background_weights = ((0, self.background_weights[-1][1]),)
        self.deep_supervision = 0.0

    def background(self) -> float:
        """Cross-entropy weight of background at this step."""
        return [weight for first, weight in self.background_weights if first <= self.step][-1]

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss at all three resolutions.

        Args:
            batch: images (batch, channel, i, j, k), labels (batch, 1, i, j, k) and, where cases are partly labelled, the
                classes annotated in each sample, (batch, class), bool.
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

    One logit a pixel: half cross-entropy, half Dice (Barlow-Swin, arXiv 2509.06885). Several: one for each class,
    background first, cross-entropy plus the Dice of the classes present.

    Args:
        network: pictures to logits.
        head_start: gain and offset at which the batch norm behind a new network's logits starts; None leaves 1 and 0.
            At 1 no probability is far from a half, and both move by no more than the learning rate a step, so a short
            run spends its steps on them. Weights that a run starts from or goes on from are loaded later and stay.

    Raises:
        BundleError: a ``head_start`` for a network whose head does not end on a batch norm.
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
                "one as BarlowSwin's is needed",
                "Leave head_start out of train.json.",
            )
        nn.init.constant_(norm.weight, head_start[0])
        nn.init.constant_(norm.bias, head_start[1])

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of pictures (batch, channel, row, column) and masks of class ids (batch, 1, row, column), float."""
        picture, mask = batch
        logits = self.network(picture).float()
        if logits.shape[1] == 1:
            return bce_dice(logits, mask)
        return weighted_dice_ce(logits, mask.long(), background_weight=1.0)


_RESTORATION: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": l1,
    "charbonnier": charbonnier,
    "l1+ssim": lambda restored, clean: l1(restored, clean) + 0.1 * ssim_loss(restored, clean),
    # squared up to a hundredth of the range: what is learned is a mean, not a median, which skewed noise would bias
    "charbonnier_wide": lambda restored, clean: charbonnier(restored, clean, epsilon=1e-2),
    # squared up to a tenth: for what is missing beside every edge, not noise, and judged by its square
    "charbonnier_widest": lambda restored, clean: charbonnier(restored, clean, epsilon=1e-1),
    # squared everywhere, as steep near 0 as the one before, so that a run may go from one to the other
    "squared": lambda restored, clean: 5 * F.mse_loss(restored, clean),
}


class RestorationObjective(Objective):
    """A restored image against the clean one.

    Args:
        network: image to image.
        loss: "l1", "charbonnier", "charbonnier_wide", "charbonnier_widest", "squared" or "l1+ssim".
        identity_start: let a new network begin as the one that changes nothing: its last convolution starts at zero,
            and the input, which the network adds, passes. Drawn at random it first has to unlearn a change fifty times
            the noise. Weights that a run starts from or goes on from are loaded later and stay as they are.
        output_rate: share of the learning rate that the last convolution gets. It sums hundreds of features into a change
            of a hundredth of the range; at the full rate one step of Adam moves its result by more than the noise.
        contrast_start: (centre, gain): the first convolution of a new network sees ``gain * (image - centre)``. The layer
            norms behind it take the image's own level for signal, of which noise is a hundredth; with soft tissue in the
            middle and stretched, noise is what they see.
        window: (low, high): intensities whose differences count in full, both images clipped to it; None for all alike. Bone
            and metal else outweigh the soft tissue beside them.
        outside: what differences count that are not clipped, beside a window, between 0 and 1.
        held: whose means are held to the clean one (``MeanConstraint``), one constraint each.

    Raises:
        BundleError: another loss, or a start that the network has no convolution named ``output`` or ``patch_embed`` for.
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
        """The last convolution apart where it learns at another rate."""
        if self.output_rate == 1:
            return super().groups()
        last = list(self.network.output.parameters())  # type: ignore[union-attr]
        apart = {id(p) for p in last}
        rest = [p for p in self.parameters() if id(p) not in apart]
        return [{"params": rest, "rate": 1.0}, {"params": last, "rate": self.output_rate}]

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of degraded and clean images, (batch, channel, i, j) each."""
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
        """Kernels fused from several are not averages of fused kernels; they are computed anew."""
        refresh = getattr(self.network, "refresh", None)
        if refresh is None:
            return average
        self.network.load_state_dict(average)
        return {k: v.detach().clone() for k, v in refresh().state_dict().items()}


@torch.no_grad()
def _stretch(convolution: nn.Conv2d, centre: float, gain: float) -> None:
    # W (gain (x - centre)) + b = (gain W) x + (b - gain centre sum W); borders see zeros, as they did
    convolution.weight.mul_(gain)
    if convolution.bias is not None:
        convolution.bias.sub_(centre * convolution.weight.sum((1, 2, 3)))


class ViewObjective(Objective):
    """Two X-rays to labels: each view learns them, and the two learn to agree (Swin-X2S, arXiv 2501.05961)."""

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of stacked views (batch, 2, side, z) and labels (batch, 1, x, y, z)."""
        views, labels = batch
        both = self.network.each_view(views)  # type: ignore[operator]
        return view_losses([view.float() for view in both], labels).total
