"""What a network is trained for: an objective holds the network, takes a batch and gives back its loss.

One loop trains them all. Several processes wrap the objective, not the network, so every loss may use the network's
parts as it likes (stages of the decoder, single views) and gradients are still shared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import BundleError, ShapeError
from medvit.training.losses import bce_dice, focal_tversky_ce, weighted_dice_ce
from medvit.training.restoration_losses import charbonnier, l1, ssim_loss
from medvit.training.xray_losses import view_losses

__all__ = ["Objective", "OrganObjective", "PictureObjective", "RestorationObjective", "ViewObjective"]


class Objective(nn.Module):
    """A network and its loss.

    Attributes:
        network: what is averaged, scored and published.
        step: the optimiser step that the next batch belongs to; the loop sets it, schedules read it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.step = 0

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

    def finish(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """What follows from the averaged weights and must be computed anew; by default nothing."""
        return average


def _one_of(name: str, known: Sequence[str]) -> str:
    if name not in known:
        raise BundleError(f"Found the loss {name!r}; it must be one of {', '.join(known)}. Correct train.json.")
    return name


_ORGANS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
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
    ) -> None:
        super().__init__(network)
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

    def background(self) -> float:
        """Cross-entropy weight of background at this step."""
        return [weight for first, weight in self.background_weights if first <= self.step][-1]

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of images (batch, channel, i, j, k) and labels (batch, 1, i, j, k) at all three resolutions."""
        image, labels = batch
        total = self._loss(self.network(image), labels)
        for name, factor in (("decoder2", 2), ("decoder3", 4)):
            coarse = F.interpolate(labels.float(), scale_factor=1 / factor, mode="nearest").long()
            logits = self.heads[name](self._taps.pop(name))
            if logits.shape[2:] != coarse.shape[2:]:
                raise ShapeError(
                    f"Found patches of {tuple(labels.shape[2:])} voxels, which the network pads inside; the stages of its decoder are "
                    "supervised, so sides must be multiples of 32, one of them at least 64. Correct roi_size in train.json."
                )
            total = total + self.deep_supervision / (factor / 2) * self._loss(logits, coarse)
        return total

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits.float(), labels, self.background())


class PictureObjective(Objective):
    """A network on pictures.

    One logit a pixel: half cross-entropy, half Dice (Barlow-Swin, arXiv 2509.06885). Several: one for each class,
    background first, cross-entropy plus the Dice of the classes present.
    """

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
}


class RestorationObjective(Objective):
    """A restored image against the clean one.

    Args:
        network: image to image.
        loss: "l1", "charbonnier" or "l1+ssim".

    Raises:
        BundleError: another loss.
    """

    def __init__(self, network: nn.Module, loss: str = "charbonnier") -> None:
        super().__init__(network)
        self.loss = _RESTORATION[_one_of(loss, list(_RESTORATION))]

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of degraded and clean images, (batch, channel, i, j) each."""
        degraded, clean = batch
        return self.loss(self.network(degraded).float(), clean)

    def finish(self, average: dict[str, Tensor]) -> dict[str, Tensor]:
        """Kernels fused from several are not averages of fused kernels; they are computed anew."""
        refresh = getattr(self.network, "refresh", None)
        if refresh is None:
            return average
        self.network.load_state_dict(average)
        return {k: v.detach().clone() for k, v in refresh().state_dict().items()}


class ViewObjective(Objective):
    """Two X-rays to labels: each view learns them, and the two learn to agree (Swin-X2S, arXiv 2501.05961)."""

    def forward(self, *batch: Tensor) -> Tensor:
        """Loss of stacked views (batch, 2, side, z) and labels (batch, 1, x, y, z)."""
        views, labels = batch
        both = self.network.each_view(views)  # type: ignore[operator]
        return view_losses([view.float() for view in both], labels).total
