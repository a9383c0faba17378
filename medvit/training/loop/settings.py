"""Settings of the training loop."""

from __future__ import annotations

from medvit.training.checked_settings import Count, NotNegative, Positive, Share, WholeNumber, checked_settings

__all__ = ["LoopSettings"]


@checked_settings
class LoopSettings:
    """Duration and learning rate of a training run, from a bundle's train.json.

    Attributes:
        steps: total number of optimiser steps.
        cooldown_steps: number of last steps, over which the learning rate falls linearly to zero. The rate is constant
            before them, so that a run can be resumed and lengthened.
        warmup_steps: number of first steps, over which the rate rises linearly.
        batch_size: number of samples per step and process.
        learning_rate: constant rate of AdamW.
        weight_decay: decoupled weight decay of AdamW.
        clip_norm: largest norm of the gradient; a longer gradient is scaled down.
        ema_decay: decay of the moving average of weights, which is kept at the end.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between scores on the validation split (the last step is also scored); 0 for none. With
            scores, the average with the best score is kept at the end.
        patience: stop after this number of scores without a better one; 0 never stops early.
        seed: seed of samples, dropout and initial weights.
        log_every: steps between rows of the curve.
    """

    steps: Count
    cooldown_steps: WholeNumber = 1000
    warmup_steps: WholeNumber = 100
    batch_size: Count = 1
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-2
    clip_norm: Positive = 1.0
    ema_decay: Share = 0.998
    checkpoint_every: Count = 100
    validate_every: WholeNumber = 0
    patience: WholeNumber = 0
    seed: WholeNumber = 0
    log_every: Count = 20

    def rate(self, step: int) -> float:
        """Return the learning rate at a step: rising, constant, then linear to zero."""
        left = (self.steps - step) / max(1, self.cooldown_steps)
        return self.learning_rate * min(1.0, (step + 1) / max(1, self.warmup_steps), max(0.0, left))
