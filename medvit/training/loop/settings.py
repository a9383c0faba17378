"""How long and how fast a training loop runs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoopSettings"]


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how fast to train; a bundle's train.json says it.

    Attributes:
        steps: optimiser steps in all.
        cooldown_steps: the last steps, over which the learning rate falls linearly to zero. The rate is
            constant before them, so a run can be resumed and lengthened without a schedule to redo.
        warmup_steps: the first steps, over which the rate rises linearly.
        batch_size: samples per step and process.
        learning_rate: AdamW's constant rate.
        weight_decay: AdamW's decoupled decay.
        clip_norm: the gradient is shortened to this length where it is longer.
        ema_decay: decay of the moving average of weights, which is what is kept in the end.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between scores on the validation split, the last step being scored too; 0 for none. Where there
            are scores, the average with the best one is what is kept in the end.
        patience: stop after so many scores without a better one; 0 never stops early.
        seed: seeds samples, dropout and initial weights.
        log_every: steps between rows of the curve.
    """

    steps: int
    cooldown_steps: int = 1000
    warmup_steps: int = 100
    batch_size: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    checkpoint_every: int = 100
    validate_every: int = 0
    patience: int = 0
    seed: int = 0
    log_every: int = 20

    def rate(self, step: int) -> float:
        """Learning rate at a step: rising, constant, linear to zero at the end."""
        left = (self.steps - step) / max(1, self.cooldown_steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps), max(0.0, left))
