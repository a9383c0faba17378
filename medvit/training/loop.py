"""The training loop: constant rate, moving average, deep supervision, safe to kill and resume."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.training.losses import weighted_dice_ce

__all__ = ["LoopSettings", "Sampler", "TrainingLoop"]


class Sampler(Protocol):
    """What the loop draws batches from."""

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Images and labels, (batch, channel, *spatial) each."""
        ...

    def reseed(self, seed: int) -> None:
        """Start a new stream."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps in all.
        cooldown_steps: the last steps, over which the learning rate falls linearly to zero. The rate is
            constant before them, so a run can be resumed and lengthened without a schedule to redo.
        batch_size: patches per step.
        learning_rate: AdamW's constant rate after 100 warm-up steps.
        weight_decay: AdamW's decoupled decay.
        background_weights: (first step, cross-entropy weight of background) pairs in order. Light at first, so that
            small organs are found at all; heavier later, so that their outlines tighten.
        ema_decay: decay of the moving average of weights, which is what is kept in the end.
        deep_supervision: weight of the loss at half and quarter resolution.
        checkpoint_every: steps between checkpoints.
        seed: seeds patches and initial weights.
    """

    steps: int
    cooldown_steps: int = 1000
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    background_weights: Sequence[tuple[int, float]] = ((0, 0.1), (1500, 0.3), (4100, 1.0))
    ema_decay: float = 0.998
    deep_supervision: float = 0.3
    checkpoint_every: int = 100
    seed: int = 0


class TrainingLoop:
    """Trains one Swin UNETR from a sampler of patches and keeps everything needed to go on in ``folder``."""

    def __init__(
        self,
        network: nn.Module,
        sampler: Sampler,
        settings: LoopSettings,
        folder: Path,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        validate_every: int = 1000,
    ) -> None:
        self.network = network
        self.sampler = sampler
        self.settings = settings
        self.folder = folder
        self.validate = validate
        self.validate_every = validate_every
        self.step = 0
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.taps: dict[str, Tensor] = {}
        self.heads = self._supervise(network)
        self.optimizer = torch.optim.AdamW(
            [*network.parameters(), *self.heads.parameters()],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )

    @property
    def checkpoint(self) -> Path:
        """Where the newest state lies."""
        return self.folder / "checkpoint.pt"

    def _supervise(self, network: Any) -> nn.ModuleDict:
        heads: dict[str, nn.Module] = {}
        classes = network.out.conv.conv.out_channels
        for name in ("decoder2", "decoder3"):
            stage = getattr(network, name)
            stage.register_forward_hook(lambda _m, _i, out, name=name: self.taps.__setitem__(name, out))
            heads[name] = nn.Conv3d(stage.conv_block.conv3.conv.out_channels, classes, 1)
        return nn.ModuleDict(heads)

    def rate(self, step: int) -> float:
        """Learning rate at a step: 100 steps of warm-up, constant, linear to zero at the end."""
        s = self.settings
        left = (s.steps - step) / max(1, s.cooldown_steps)
        return s.learning_rate * min(1.0, (step + 1) / 100, max(0.0, left))

    def background(self, step: int) -> float:
        """Cross-entropy weight of background at a step."""
        return [weight for first, weight in self.settings.background_weights if first <= step][-1]

    def loss(self, image: Tensor, labels: Tensor) -> Tensor:
        """Loss at full resolution plus the supervised stages."""
        s, background = self.settings, self.background(self.step)
        total = weighted_dice_ce(self.network(image), labels, background)
        for name, factor in (("decoder2", 2), ("decoder3", 4)):
            logits = self.heads[name](self.taps[name])
            coarse = F.interpolate(labels.float(), scale_factor=1 / factor, mode="nearest").long()
            total = total + s.deep_supervision / (factor / 2) * weighted_dice_ce(logits, coarse, background)
        return total

    def run(self) -> dict[str, Tensor]:
        """Train to the last step and return the averaged weights."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        mean, start = 0.0, time.perf_counter()
        self.network.train()
        while self.step < self.settings.steps:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(self.step)
            image, labels = self.sampler.batch(self.settings.batch_size)
            loss = self.loss(image, labels)
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(
                    f"The loss became {loss.item()} at step {self.step}; the last good weights are in {self.checkpoint}."
                )
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.step += 1
            self._track()
            mean = loss.item() if mean == 0.0 else 0.98 * mean + 0.02 * loss.item()
            if self.step % 20 == 0:
                self._log(
                    {
                        "step": self.step,
                        "loss": round(mean, 4),
                        "rate": self.rate(self.step),
                        "seconds_per_step": round((time.perf_counter() - start) / 20, 2),
                    }
                )
                start = time.perf_counter()
            if self.step % self.settings.checkpoint_every == 0:
                self.save()
            if self.validate and self.step % self.validate_every == 0:
                self._score()
                start = time.perf_counter()
        self.save()
        return self.average

    def _track(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.network.state_dict().items():
            kept = self.average[key]
            if value.dtype.is_floating_point:
                kept.lerp_(value.detach(), 1 - decay)
            else:
                kept.copy_(value)

    def _score(self) -> None:
        assert self.validate is not None
        now = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        with torch.inference_mode():
            scores = self.validate(self.network)
        self.network.load_state_dict(now)
        self.network.train()
        self._log({"step": self.step, **{k: round(v, 3) for k, v in scores.items()}}, "scores.csv")

    def _log(self, row: dict[str, Any], name: str = "curve.csv") -> None:
        path = self.folder / name
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)

    def save(self) -> None:
        """Write the whole state under a temporary name, then rename it."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "heads": self.heads.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def resume(self) -> None:
        """Go on from the newest checkpoint of the folder, if there is one."""
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        # patches drawn before the stop must not come again in the same order
        self.sampler.reseed(self.settings.seed + self.step)
