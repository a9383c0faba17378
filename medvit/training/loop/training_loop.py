"""Training loop for all networks; a run can be killed and resumed at any step, on one process or several.

A step depends only on its number and on the weights before it: crops, noise and dropout are seeded by (seed, step,
rank). So a run that was killed and resumed ends with exactly the weights of an uninterrupted run.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medvit.bundles import read_checkpoint
from medvit.errors import CheckpointError, DivergedError, StoppedError
from medvit.training.data import Sampler, StepDataset
from medvit.training.loop.checkpoint_io import store_state
from medvit.training.loop.curves import Log
from medvit.training.loop.machine import Machine
from medvit.training.loop.settings import LoopSettings
from medvit.training.objectives import Objective

__all__ = ["TrainingLoop"]


class TrainingLoop:
    """Training of an objective on the batches of a sampler, with all files for resuming in ``folder``.

    Args:
        objective: the network and its loss, on the CPU; moved to the machine's device.
        sampler: source of batches.
        settings: duration and learning rate.
        folder: folder for ``checkpoint.pt``, ``best.pt``, ``curve.csv``, ``scores.csv`` and TensorBoard's files; an
            existing checkpoint is resumed.
        machine: device, precision, workers.
        score: function from a network to scores, higher is better, of which the first counts; None for no scores.
    """

    def __init__(
        self,
        objective: Objective,
        sampler: Sampler,
        settings: LoopSettings,
        folder: Path,
        machine: Machine | None = None,
        score: Callable[[nn.Module], dict[str, float]] | None = None,
    ) -> None:
        self.settings, self.sampler, self.folder, self.score = settings, sampler, folder, score
        self.machine = machine or Machine()
        self.step, self.best = 0, -math.inf
        self.fine_tuning = False
        self.objective, self.network = self.machine.prepare_objective(objective), objective.network
        self.restart_average()
        rate, decay = settings.learning_rate, settings.weight_decay
        self.optimizer = torch.optim.AdamW(objective.groups(), rate, weight_decay=decay)
        self.scaler = torch.amp.GradScaler(self.machine.device.type, enabled=self.machine.scaled)
        self.stopping = self._early_stopping()
        self.first = idist.get_rank() == 0
        self.log = Log(folder, self.first)
        self._wrapped: nn.Module = objective
        self._mean = math.nan

    @property
    def checkpoint(self) -> Path:
        """File of the newest state."""
        return self.folder / "checkpoint.pt"

    def restart_average(self) -> None:
        """Set the average to the network's current trained weights."""
        self.average = {k: v.detach().clone() for k, v in self.objective.trained().items()}

    def fine_tuning_mode(self) -> None:
        """Disable aids for training from scratch, now and after a resume."""
        self.fine_tuning = True
        self.objective.fine_tuning_mode()

    def run(self) -> dict[str, Tensor]:
        """Train to the last step, or until scores stop rising; return the averaged weights to keep, on the CPU.

        Raises:
            DivergedError: a loss or gradient is not finite.
            StoppedError, CheckpointError, OutputError: the run was interrupted; see ``resume`` and ``save``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.resume()
        if self.step < self.settings.steps and not 0 < self.settings.patience <= self.stopping.counter:
            if idist.get_world_size() > 1:
                # some objectives do not use all parameters in every step
                self._wrapped = idist.auto_model(self.objective, find_unused_parameters=True)
            try:
                self._engine().run(self._loader(), max_epochs=1)
            except KeyboardInterrupt:
                raise StoppedError(
                    f"Stopped at step {self.step} of {self.settings.steps}; the newest checkpoint is in {self.folder}. Give the same "
                    "command again to continue from it."
                ) from None
        self.log.close()
        return self.objective.finish({k: v.cpu() for k, v in self._kept().items()})

    def _loader(self) -> DataLoader[tuple[Tensor, ...]]:
        s = self.settings
        return DataLoader(
            StepDataset(self.sampler, s.batch_size, s.seed, idist.get_rank()),
            batch_size=None,
            sampler=range(self.step, s.steps),
            num_workers=self.machine.workers,
            pin_memory=self.machine.device.type == "cuda",
        )

    def _engine(self) -> Engine:
        """Make the engine with its handlers, attached in the order in which they run."""
        s = self.settings
        engine = Engine(self._train_one)
        engine.logger.setLevel(logging.CRITICAL)  # errors are printed once, by the caller
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._track)
        engine.add_event_handler(self._every(s.log_every), self._log_metrics)
        if self.score is not None and s.validate_every:
            engine.add_event_handler(self._every(s.validate_every, s.steps), self._validate)
        engine.add_event_handler(self._every(s.checkpoint_every), self.save)
        engine.add_event_handler(Events.COMPLETED, self.save)
        self.stopping.trainer = engine
        self.objective.train()
        self._since, self._from = time.perf_counter(), self.step
        return engine

    def _every(self, steps: int, also: int = 0) -> Any:
        return Events.ITERATION_COMPLETED(
            event_filter=lambda _engine, _event: self.step % steps == 0 or self.step == also
        )

    def _train_one(self, _: Engine, batch: tuple[Tensor, ...]) -> None:
        s, m = self.settings, self.machine
        torch.manual_seed(hash((s.seed, self.step, idist.get_rank())) & 0x7FFFFFFF)
        for group in self.optimizer.param_groups:
            group["lr"] = s.rate(self.step) * group.get("rate", 1.0)
        self.objective.step = self.step
        moved = [t.to(m.device, non_blocking=True) for t in batch]
        with m.autocast():
            loss = self._wrapped(*moved)
        value = float(loss.detach())
        self._require_finite("a loss of", value)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        length = nn.utils.clip_grad_norm_(self.objective.parameters(), s.clip_norm)
        if not m.scaled:  # a scaled loss may overflow; the scaler skips such a step
            self._require_finite("a gradient of length", float(length))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        self._mean = value if math.isnan(self._mean) else 0.98 * self._mean + 0.02 * value

    def _require_finite(self, what: str, value: float) -> None:
        """Stop before weights are changed, so that a checkpoint never has NaN or infinite weights."""
        if not math.isfinite(value):
            good = (
                f"the last good weights are in {self.checkpoint}" if self.checkpoint.exists() else "none are kept yet"
            )
            raise DivergedError(
                f"{what} {value} at step {self.step}",
                f"{good}",
                "Lower learning_rate in train.json and give the same command again.",
            )

    def _track(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for key, value in self.objective.trained().items():
            kept = self.average[key]
            if value.dtype.is_floating_point:
                kept.lerp_(value.detach(), 1 - decay)
            else:
                kept.copy_(value)

    def _log_metrics(self) -> None:
        seconds = (time.perf_counter() - self._since) / max(1, self.step - self._from)
        row = {
            "loss": float(f"{self._mean:.4g}"),  # significant digits, since the loss of a restoration is about 1e-6
            "rate": self.settings.rate(self.step),
            "seconds_per_step": round(seconds, 2),
        }
        minutes = seconds * (self.settings.steps - self.step) / 60
        self.log.write("curve", self.step, row, f"  (about {minutes:.0f} min left)")
        self._since, self._from = time.perf_counter(), self.step

    def _early_stopping(self) -> EarlyStopping:
        return EarlyStopping(
            patience=self.settings.patience or 1_000_000,
            score_function=lambda _: self._latest,
            trainer=Engine(lambda *_: None),  # replaced by the engine of the run
        )

    def _validate(self, engine: Engine) -> None:
        assert self.score is not None
        scores: dict[str, float] = {}
        if self.first:
            now = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
            self.network.load_state_dict(self.average)
            self.network.eval()
            with torch.inference_mode():
                scores = self.score(self.network)
            self.network.load_state_dict(now)
            self.network.train()
            self.log.write("scores", self.step, {k: round(v, 4) for k, v in scores.items()})
        # the score is shared, so that every process makes the same decision
        self._latest = float(idist.broadcast(next(iter(scores.values()), math.nan), src=0))
        if self._latest > self.best:
            self.best = self._latest
            self._store(self.folder / "best.pt", {"step": self.step, "score": self.best, "average": self.average})
        self.stopping(engine)
        self._since, self._from = time.perf_counter(), self.step

    def _kept(self) -> dict[str, Tensor]:
        """Return the average with the best score if there are scores, else the last average."""
        if self.best == -math.inf:
            return self.average
        found: dict[str, Tensor] = torch.load(self.folder / "best.pt", weights_only=True, map_location="cpu")["average"]
        return found

    def save(self) -> None:
        """Write the whole state; raises OutputError if it cannot be written."""
        state = {
            "step": self.step,
            "best": self.best,
            "objective": self.objective.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "stopping": dict(self.stopping.state_dict()),
            "mean": self._mean,
            "settled": self.fine_tuning,
        }
        self._store(self.checkpoint, state)

    def _store(self, path: Path, state: dict[str, Any]) -> None:
        if self.first:
            store_state(path, state)
        idist.barrier()

    def resume(self) -> None:
        """Resume from the newest checkpoint of the folder, if there is one.

        Raises:
            CheckpointError: it is damaged, or of another network, recipe or version.
        """
        if not self.checkpoint.exists():
            return
        state = read_checkpoint(self.checkpoint)
        try:
            self.objective.load_state_dict(state["objective"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.stopping.load_state_dict(state["stopping"])
            self.step, self.best, self._mean = state["step"], state["best"], state["mean"]
            self.average = {k: v.to(self.machine.device) for k, v in state["average"].items()}
        except (KeyError, RuntimeError, ValueError) as error:
            first = str(error).splitlines()[0]
            raise CheckpointError(
                f"a checkpoint of another run in {self.folder} ({first})",
                "one of this recipe and version is needed to go on",
                "Give another {output}; to start from its weights, use {start}.",
                option=("output", "start"),
            ) from error
        if state.get("settled", False):
            self.fine_tuning_mode()
        self.log.cut(self.step)
