"""The training loop.

HF Trainer's semantics (loss averaged over all labeled tokens of an update, its schedulers, decay groups, clipping, early stopping, log
names and steps) in a plain loop, because on a CPU it is up to twice as fast with a third of the memory: rows run side by side without
padding, a few hundred tokens at a time whatever the batch size, and the head runs on labeled positions only. A test compares the loop
with HF Trainer, update by update.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.core import console
from mlops.emulator.component import checkpoints
from mlops.emulator.component.checkpoints import Progress
from mlops.emulator.component.failures import SystemFailure
from mlops.emulator.component.model import Row, load_trained, pack, row_losses
from mlops.emulator.component.settings import Settings

__all__ = ["Training", "make_optimizer", "make_scheduler"]

PROGRESS_INTERVAL_S = 5.0
"""Seconds between progress lines."""


def make_optimizer(model: Any, settings: Settings) -> Any:
    """Create AdamW or Adafactor as HF Trainer does: weight decay on matrices, not on biases and norms."""
    import torch
    from transformers.optimization import Adafactor

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trainable if parameter.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optim == "adafactor":
        return Adafactor(groups, lr=settings.learning_rate, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.adam_betas, eps=settings.adam_epsilon)


def make_scheduler(optimizer: Any, settings: Settings, updates: int) -> Any:
    """Create Hugging Face's own schedule of that name."""
    from transformers import get_scheduler

    return get_scheduler(settings.lr_scheduler_type, optimizer, num_warmup_steps=settings.warmup_steps, num_training_steps=updates)


class Training:
    """One fine-tuning run.

    Args:
        model: trainable weights require gradients.
        tokenizer: saved with every checkpoint.
        rows: train and validation.
        settings: see :class:`Settings`.
        output: folder of the checkpoints.
        log: called with metrics and the step.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: tuple[Sequence[Row], Sequence[Row]],
        settings: Settings,
        output: Path,
        log: Callable[[Mapping[str, float], int], None],
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.train_rows, self.validation_rows = rows
        self.settings = settings
        self.output = output
        self.updates = settings.updates(len(self.train_rows))
        self.per_epoch = settings.updates_per_epoch(len(self.train_rows))
        self.optimizer = make_optimizer(model, settings)
        self.scheduler = make_scheduler(self.optimizer, settings, self.updates)
        self.progress = Progress()
        self._log = log
        self._grad_norm = self._learning_rate = 0.0
        self._start = self._reported = time.monotonic()
        self._start_step = self._start_tokens = 0
        self._evaluation_seconds = 0.0

    def run(self) -> Progress:
        """Train to the end. The model then has the best weights, or without evaluations the last.

        Raises:
            SystemFailure: the loss is not finite, or metric_for_best_model is never computed.
        """
        if self.settings.resume:
            self._resume()
        if self.settings.metric_for_best_model != "loss" and self.settings.evaluation_strategy != "disable":
            metric = f"eval_{self.settings.metric_for_best_model}"
            raise SystemFailure(
                f"The `metric_for_best_model` training argument is set to '{metric}', which is not found in the evaluation metrics.",
                "KeyError",
            )
        self._start = self._reported = time.monotonic()
        self.model.train()
        for epoch in range(self.progress.step // self.per_epoch, math.ceil(self.updates / self.per_epoch)):
            if self.progress.is_stopped or self.progress.step >= self.updates:
                break
            self._run_epoch(epoch)
        self._finish()
        return self.progress

    # ---- one epoch, one update

    def _run_epoch(self, epoch: int) -> None:
        for batch in self._batches(epoch):
            self._update(batch)
            step = self.progress.step
            if self.settings.logging_strategy == "steps" and step % self.settings.logging_steps == 0:
                self._log_loss()
            due = step % self.settings.eval_steps == 0 or step == self.updates
            if self.settings.evaluation_strategy == "steps" and due:
                self._evaluate_and_save()
            if step == self.updates or self.progress.is_stopped:
                break
        if self.settings.logging_strategy == "epoch":
            self._log_loss()
        if self.settings.evaluation_strategy == "epoch":
            self._evaluate_and_save()

    def _batches(self, epoch: int) -> Iterator[list[Row]]:
        """Yield the rows of each remaining update, in an order that depends only on seed and epoch."""
        import torch

        order = torch.randperm(len(self.train_rows), generator=torch.Generator().manual_seed(self.settings.seed + epoch)).tolist()
        size = self.settings.batch_rows
        done = max(0, self.progress.step - epoch * self.per_epoch)
        for start in range(done * size, len(order), size):
            yield [self.train_rows[index] for index in order[start : start + size]]

    def _update(self, batch: Sequence[Row]) -> None:
        import torch

        labeled = sum(sum(label >= 0 for label in labels[1:]) for _, labels in batch)
        loss = 0.0
        for rows in pack(batch):
            losses, _ = row_losses(self.model, rows)
            (losses.sum() / labeled).backward()
            loss += losses.sum().item() / labeled
        if not math.isfinite(loss):
            raise SystemFailure(f"The loss is {loss} at step {self.progress.step + 1}. Lower learning_rate.", "ArithmeticError")
        limit = self.settings.max_grad_norm
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._grad_norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf).item()
        self._learning_rate = self.scheduler.get_last_lr()[0]
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        self.progress.step += 1
        self.progress.running_loss += loss
        self.progress.tokens += sum(len(ids) for ids, _ in batch)
        self._report_progress(loss)

    # ---- logs

    def _log_loss(self) -> None:
        progress = self.progress
        if progress.step == progress.logged_step:
            return
        mean = progress.running_loss / (progress.step - progress.logged_step)
        progress.total_loss += progress.running_loss
        progress.running_loss, progress.logged_step = 0.0, progress.step
        self._record({"loss": mean, "grad_norm": self._grad_norm, "learning_rate": self._learning_rate})

    def _record(self, values: Mapping[str, float]) -> None:
        values = {**values, "epoch": self.settings.epochs(self.progress.step, len(self.train_rows))}
        self.progress.history.append({**values, "step": self.progress.step})
        self._log(values, self.progress.step)

    def _report_progress(self, loss: float) -> None:
        now = time.monotonic()
        step = self.progress.step
        if now - self._reported < PROGRESS_INTERVAL_S and step not in (1, self.updates):
            return
        self._reported = now
        seconds = now - self._start - self._evaluation_seconds
        speed = (self.progress.tokens - self._start_tokens) / max(seconds, 1e-9)
        left = (self.updates - step) * seconds / max(step - self._start_step, 1)
        console.info(f"step {step}/{self.updates}  loss {loss:.4f}  {speed:,.0f} tok/s  {left:.0f} s left")

    # ---- evaluation and checkpoints

    def evaluate(self) -> float:
        """Return eval_loss as HF Trainer computes it: the mean over rows of their batch's mean loss, so it depends on the batch size."""
        import torch

        self.model.eval()
        losses: list[float] = []
        counts: list[int] = []
        with torch.inference_mode():
            for rows in pack(self.validation_rows):
                packed_losses, packed_counts = row_losses(self.model, rows)
                losses += packed_losses.tolist()
                counts += packed_counts
        self.model.train()
        size, total = self.settings.eval_batch_rows, 0.0
        for start in range(0, len(losses), size):
            batch = losses[start : start + size]
            total += sum(batch) / sum(counts[start : start + size]) * len(batch)
        return total / len(losses)

    def _evaluate_and_save(self) -> None:
        start = time.monotonic()
        loss = self.evaluate()
        seconds = time.monotonic() - start
        self._evaluation_seconds += seconds
        rows, batches = len(self.validation_rows), math.ceil(len(self.validation_rows) / self.settings.eval_batch_rows)
        self._record(
            {
                "eval_loss": loss,
                "eval_runtime": seconds,
                "eval_samples_per_second": rows / seconds,
                "eval_steps_per_second": batches / seconds,
            }
        )
        console.info(f"step {self.progress.step}/{self.updates}  eval_loss {loss:.4f} over {rows} rows in {seconds:.1f} s")
        self._update_best(loss)
        checkpoints.save(self.output, self.model, self.tokenizer, self.optimizer, self.scheduler, self.progress)
        self._log({"checkpoint_save_step": self.progress.step}, self.progress.step)
        checkpoints.delete_old(self.output, self.settings.save_total_limit, self.progress.best_step)

    def _update_best(self, loss: float) -> None:
        """Compare a loss with the best so far: for early stopping, and to remember the best step."""
        progress, best = self.progress, self.progress.best_loss
        improved = best is None or (loss < best and best - loss > self.settings.threshold)
        progress.not_improved = 0 if improved else progress.not_improved + 1
        if best is None or loss < best:
            progress.best_loss, progress.best_step = loss, progress.step
        if self.settings.patience is not None and progress.not_improved >= self.settings.patience:
            progress.is_stopped = True
            console.info(f"early stopping: {progress.not_improved} evaluations without improvement")

    def _resume(self) -> None:
        checkpoint = checkpoints.find_newest(self.output)
        if checkpoint is None:
            console.info("resume_from_checkpoint: no checkpoint in the output folder; training starts at the beginning")
            return
        self.progress = checkpoints.restore(checkpoint, self.model, self.optimizer, self.scheduler)
        self._start_step, self._start_tokens = self.progress.step, self.progress.tokens
        self._log({"checkpoint_load_step": self.progress.step}, self.progress.step)
        console.info(f"resumed from {checkpoint.name}")

    def _finish(self) -> None:
        progress = self.progress
        seconds = time.monotonic() - self._start
        steps = progress.step - self._start_step
        progress.total_loss += progress.running_loss
        progress.running_loss = 0.0
        self._record(
            {
                "train_runtime": seconds,
                "train_samples_per_second": self.settings.batch_rows * steps / seconds,
                "train_steps_per_second": steps / seconds,
                "total_flos": 6.0 * progress.tokens * _count_weights(self.model),
                "train_loss": progress.total_loss / max(progress.step, 1),
            }
        )
        if progress.best_step is not None:
            # A run that resumes from its own end has the best weights only on disk, so they are always loaded.
            load_trained(self.model, checkpoints.checkpoint_folder(self.output, progress.best_step))
            checkpoints.delete_old(self.output, self.settings.save_total_limit, progress.best_step, is_finished=True)
            console.info(f"best model: step {progress.best_step}, eval_loss {progress.best_loss:.4f}")


def _count_weights(model: Any) -> int:
    """Return the number of weights without embeddings, as HF Trainer counts them for total_flos."""
    return int(model.num_parameters(exclude_embeddings=True))
