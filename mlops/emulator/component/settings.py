"""The fine-tuning step's inputs as typed settings, with the component's own checks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

from mlops.emulator.component.failures import UserError
from mlops.emulator.component.step import Step

__all__ = ["Lora", "Settings"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on all linear layers."""

    r: int
    alpha: int
    dropout: float
    merge: bool


@dataclass(frozen=True)
class Settings:
    """Settings of the training. Names are the component's inputs; lengths are in updates (optimizer steps) unless stated otherwise."""

    lora: Lora | None
    num_train_epochs: int
    max_steps: int
    device_rows: int
    accumulation: int
    eval_batch_rows: int
    optim: str
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    adam_betas: tuple[float, float]
    adam_epsilon: float
    lr_scheduler_type: str
    seed: int
    full_determinism: bool
    ignore_mismatched_sizes: bool
    max_grad_norm: float
    evaluation_strategy: str
    eval_steps: int
    logging_strategy: str
    logging_steps: int
    metric_for_best_model: str
    resume: bool
    save_total_limit: int
    patience: int | None
    threshold: float

    @classmethod
    def from_step(cls, step: Step, rows: int, model_type: str) -> Settings:
        """Read and check a step's inputs.

        Args:
            step: the fine-tuning step.
            rows: rows of the training set, which determine the updates in an epoch.
            model_type: of the base model's configuration.

        Raises:
            UserError: with the component's own text where it has one.
        """
        _check_accelerators(step, model_type)
        device_rows = _positive_integer(step, "per_device_train_batch_size")
        accumulation = _positive_integer(step, "gradient_accumulation_steps")
        strategy, eval_steps = step.text("evaluation_strategy"), step.integer("eval_steps")
        if fraction := step.number("evaluation_steps_interval"):
            if not 0 < fraction <= 1:
                raise UserError(f"evaluation_steps_interval should be within (0, 1], not {fraction}.")
            strategy, eval_steps = "steps", max(1, math.floor(math.ceil(rows / (device_rows * accumulation)) * fraction))
        if step.number("learning_rate") <= 0:
            raise UserError("Invalid learning rate. Learning rate should be greater than 0.")
        if step.flag("apply_early_stopping") and strategy not in ("steps", "epoch"):
            raise UserError(
                "Set evaluation_strategy to one of steps or epoch when apply_early_stopping is True. Nothing is evaluated otherwise."
            )
        if step.text("optim") not in ("adamw_torch", "adafactor"):
            raise UserError(f"Invalid optimiser name '{step.text('optim')}'. Please select one of: adamw_torch, adafactor.")
        if strategy == "steps" and eval_steps < 1:
            raise UserError(f"eval_steps should be at least 1, not {eval_steps}.")
        lora = None
        if step.flag("apply_lora"):
            r, alpha, dropout = _positive_integer(step, "lora_r"), step.integer("lora_alpha"), step.number("lora_dropout")
            lora = Lora(r, alpha, dropout, step.flag("merge_lora_weights"))
        return cls(
            lora=lora,
            num_train_epochs=_positive_integer(step, "num_train_epochs"),
            max_steps=step.integer("max_steps"),
            device_rows=device_rows,
            accumulation=accumulation,
            eval_batch_rows=_positive_integer(step, "per_device_eval_batch_size"),
            optim=step.text("optim"),
            learning_rate=step.number("learning_rate"),
            warmup_steps=step.integer("warmup_steps"),
            weight_decay=step.number("weight_decay"),
            adam_betas=(step.number("adam_beta1"), step.number("adam_beta2")),
            adam_epsilon=step.number("adam_epsilon"),
            lr_scheduler_type=step.text("lr_scheduler_type"),
            seed=step.integer("seed"),
            full_determinism=step.flag("enable_full_determinism"),
            ignore_mismatched_sizes=step.flag("ignore_mismatched_sizes"),
            max_grad_norm=step.number("max_grad_norm"),
            evaluation_strategy=strategy,
            eval_steps=eval_steps,
            logging_strategy=step.text("logging_strategy"),
            logging_steps=_positive_integer(step, "logging_steps"),
            metric_for_best_model=step.text("metric_for_best_model"),
            resume=step.flag("resume_from_checkpoint"),
            save_total_limit=step.integer("save_total_limit"),
            patience=_positive_integer(step, "early_stopping_patience") if step.flag("apply_early_stopping") else None,
            threshold=step.number("early_stopping_threshold"),
        )

    @property
    def batch_rows(self) -> int:
        """Rows in an update."""
        return self.device_rows * self.accumulation

    def epochs(self, step: int, rows: int) -> float:
        """Return the epochs after an update, counted in batches as HF Trainer does: an epoch's last update may have fewer batches."""
        whole, rest = divmod(step, self.updates_per_epoch(rows))
        batches = math.ceil(rows / self.device_rows)
        return whole + min(rest * self.accumulation, batches) / batches

    def updates_per_epoch(self, rows: int) -> int:
        """Return the updates in an epoch; the last one may have fewer rows."""
        return math.ceil(rows / self.batch_rows)

    def updates(self, rows: int) -> int:
        """Return the total number of updates."""
        return self.max_steps if self.max_steps > 0 else self.num_train_epochs * self.updates_per_epoch(rows)


def _positive_integer(step: Step, name: str) -> int:
    value = step.integer(name)
    if value < 1:
        raise UserError(f"{name} should be at least 1, not {value}.")
    return value


def _check_accelerators(step: Step, model_type: str) -> None:
    """Refuse the combinations that the component refuses, although none of this runs on a CPU."""
    if not step.flag("apply_deepspeed"):
        return
    if step.flag("auto_find_batch_size"):
        raise UserError("Invalid settings found. Deep Speed cannot be coupled with auto_find_batch_size. Switch one of them off.")
    custom = step.path("deepspeed")
    stage = step.text("deepspeed_stage")
    optimization: dict[str, object] = {}
    if custom is not None:
        try:
            optimization = json.loads(custom.read_text(encoding="utf-8")).get("zero_optimization", {})
            stage = str(optimization.get("stage", "0"))
        except (ValueError, AttributeError) as problem:
            raise UserError(f"The DeepSpeed configuration {custom.name} is not a JSON object: {problem}") from problem
    if stage != "3":
        return
    conflicting = (
        {"apply_ort": "true"} if step.flag("apply_ort") else {"model_type": model_type} if model_type == "mixformer-sequential" else {}
    )
    if conflicting:
        raise UserError(f"Invalid settings found. Deep Speed stage3 doesn't work with {conflicting}.")
    if custom is not None and not optimization.get("stage3_gather_16bit_weights_on_model_save"):
        raise UserError("Invalid DeepSpeed configuration: stage 3 needs stage3_gather_16bit_weights_on_model_save to be true.")
