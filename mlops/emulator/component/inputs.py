"""The 69 inputs of ``chat_completion_pipeline`` 0.0.82, and the effect of each on a laptop's CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

__all__ = ["INPUTS", "PATH_TYPES", "Input"]

PATH_TYPES = frozenset({"uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model"})
"""Input types whose value is an asset rather than a literal."""


@dataclass(frozen=True)
class Input:
    """One input of the component.

    Attributes:
        type: ``string``, ``integer``, ``number`` or an asset type.
        default: as the service writes it, or None.
        enum: the allowed literals; empty for any.
        minimum: inclusive, or None.
        mode: how an asset is mounted, or empty.
        optional: whether it may be left out.
        has_effect: whether it changes what the emulator does. If not, it is checked and recorded, and ``effect`` says why.
        effect: what it does in the emulator, or why it does nothing, in a few words.
    """

    name: str
    type: str
    default: str | None
    effect: str
    has_effect: bool = True
    enum: tuple[str, ...] = ()
    minimum: int | None = None
    mode: str = ""
    optional: bool = True


_BOOLEAN = ("true", "false")


def _flag(name: str, default: str, effect: str, has_effect: bool = True) -> Input:
    return Input(name, "string", default, effect, has_effect, enum=_BOOLEAN)


def _count(name: str, default: str, effect: str, has_effect: bool = True, minimum: int | None = None) -> Input:
    return Input(name, "integer", default, effect, has_effect, minimum=minimum)


def _asset(name: str, kind: str, effect: str, has_effect: bool = True, mode: str = "rw_mount") -> Input:
    return Input(name, kind, None, effect, has_effect, mode=mode)


def _compute_inputs() -> Iterator[Input]:
    """Yield the inputs of the compute."""
    sku = "names the SKU of serverless compute; steps run on this machine"
    compute = "names the compute; steps run on this machine"
    ignored = "accepted and ignored, by Azure's component too: it no longer evaluates"
    for step in ("model_import", "preprocess"):
        yield Input(f"instance_type_{step}", "string", "Standard_d12_v2", sku, has_effect=False)
    yield Input("instance_type_finetune", "string", "Standard_nc24rs_v3", sku, has_effect=False)
    yield Input("instance_type_model_evaluation", "string", "Standard_nc24rs_v3", ignored, has_effect=False)
    yield Input("shm_size_finetune", "string", "5g", "one process needs no shared memory", has_effect=False)
    yield _count("num_nodes_finetune", "1", "one machine stands for all nodes; the batch is not multiplied", False, minimum=1)
    yield _count("number_of_gpu_to_use_finetuning", "1", "one CPU process stands for all GPUs; the batch is not multiplied", False, 1)
    for step in ("model_import", "preprocess", "finetune"):
        yield Input(f"compute_{step}", "string", "serverless", compute, has_effect=False)
    yield Input("compute_model_evaluation", "string", "serverless", ignored, has_effect=False)


def _model_inputs() -> Iterator[Input]:
    """Yield the inputs of the base model."""
    yield Input("huggingface_id", "string", None, "refused unless there is also a model path: the emulator can't reach a hub")
    yield _asset("pytorch_model_path", "custom_model", "a Hugging Face model folder; takes precedence over mlflow_model_path")
    yield _asset("mlflow_model_path", "mlflow_model", "the base model")
    yield _asset("finetune_config_path", "uri_file", "must be a JSON object; stored beside the model, but not used", False, "ro_mount")
    yield _flag("trust_remote_code", "false", "the emulator's models have no code of their own", False)
    yield _flag("ignore_mismatched_sizes", "false", "weights whose size differs from config.json are reinitialized; otherwise an error")


def _data_inputs() -> Iterator[Input]:
    """Yield the inputs of data and preprocessing."""
    yield Input("task_name", "string", "ChatCompletion", "has only one value", has_effect=False, enum=("ChatCompletion",), optional=False)
    yield _count("batch_size", "1000", "rows are tokenized one by one", False, minimum=1)
    yield _flag("pad_to_max_length", "false", "rows run unpadded: padding carries no loss and changes no result", False)
    yield _count("max_seq_length", "-1", "rows are cut after this many tokens; -1: the model's own limit")
    yield _asset("train_file_path", "uri_file", "training conversations")
    yield _asset("validation_file_path", "uri_file", "validation conversations; without it, part of the training data")
    yield _asset("test_file_path", "uri_file", "test conversations: preprocessed, not scored; without it, part of the training data")
    yield _asset("train_mltable_path", "mltable", "training conversations; takes precedence over the file", mode="")
    yield _asset("validation_mltable_path", "mltable", "validation conversations; takes precedence over the file", mode="")
    yield _asset("test_mltable_path", "mltable", "test conversations; takes precedence over the file", mode="")


def _adapter_inputs() -> Iterator[Input]:
    """Yield the inputs of LoRA."""
    yield _flag("apply_lora", "false", "trains low-rank adapters on all linear layers instead of all weights")
    yield _flag("merge_lora_weights", "true", "merges the adapters into the weights; otherwise both are stored side by side")
    yield _count("lora_alpha", "128", "scales the adapters by lora_alpha / lora_r")
    yield _count("lora_r", "8", "rank of the adapters")
    yield Input("lora_dropout", "number", "0.0", "dropout before the adapters")


def _training_inputs() -> Iterator[Input]:
    """Yield the inputs of training."""
    yield _count("num_train_epochs", "1", "passes over the data", minimum=1)
    yield _count("max_steps", "-1", "total updates, if positive; takes precedence over num_train_epochs")
    yield _count("per_device_train_batch_size", "1", "rows per batch, of which a few hundred tokens run at once, unpadded", minimum=1)
    yield _count(
        "per_device_eval_batch_size", "1", "rows per batch; eval_loss is averaged over the tokens of a batch, then over batches", minimum=1
    )
    yield _flag("auto_find_batch_size", "false", "a few hundred tokens run at once, so a batch can't exhaust memory", False)
    yield Input("optim", "string", "adamw_torch", "the optimizer", enum=("adamw_torch", "adafactor"))
    yield Input("learning_rate", "number", "2e-05", "peak learning rate; must be greater than 0")
    yield _count("warmup_steps", "0", "updates over which the learning rate rises")
    yield Input("weight_decay", "number", "0.0", "applies to weight matrices, not to biases and norms")
    yield Input("adam_beta1", "number", "0.9", "of AdamW")
    yield Input("adam_beta2", "number", "0.999", "of AdamW")
    yield Input("adam_epsilon", "number", "1e-08", "of AdamW")
    yield _count("gradient_accumulation_steps", "1", "batches per update")
    yield _count("eval_accumulation_steps", "-1", "losses are never kept on a device", False)
    schedules = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
    yield Input("lr_scheduler_type", "string", "linear", "how the learning rate changes", enum=schedules)
    yield Input("precision", "string", "32", "a CPU trains in 32 bits; 16 is slower here", has_effect=False, enum=("32", "16"))
    yield _count("seed", "42", "for the adapters, the order of rows, and dropout")
    yield _flag("enable_full_determinism", "false", "deterministic kernels only")
    yield _count("dataloader_num_workers", "0", "rows are in memory", False)
    yield Input("max_grad_norm", "number", "1.0", "gradients are scaled down to this norm; 0: never")


def _schedule_inputs() -> Iterator[Input]:
    """Yield the inputs that decide when the training evaluates, logs, saves and stops."""
    yield Input(
        "evaluation_strategy", "string", "epoch", "when eval_loss is computed and a checkpoint saved", enum=("epoch", "steps", "disable")
    )
    yield Input(
        "evaluation_steps_interval",
        "number",
        "0.0",
        "interval of evaluations as a fraction of an epoch; takes precedence over eval_steps if not 0",
    )
    yield _count("eval_steps", "500", "updates between evaluations, with evaluation_strategy steps")
    yield Input("logging_strategy", "string", "steps", "when the training loss is logged", enum=("epoch", "steps"))
    yield _count("logging_steps", "10", "updates between logs, with logging_strategy steps")
    best = "selects the checkpoint to keep; only loss is computed, so other metrics fail"
    yield Input("metric_for_best_model", "string", "loss", best, enum=("loss", "f1", "exact"))
    yield _flag("resume_from_checkpoint", "false", "resumes from the newest checkpoint in the output folder")
    yield _count("save_total_limit", "-1", "number of checkpoints to keep, always including the best; -1: all")
    yield _flag("apply_early_stopping", "false", "stops when eval_loss no longer falls")
    yield _count("early_stopping_patience", "1", "evaluations without improvement before it stops")
    yield Input("early_stopping_threshold", "number", "0.0", "an improvement must be larger than this")


def _accelerator_inputs() -> Iterator[Input]:
    """Yield the inputs that have no use on a CPU."""
    yield _flag("apply_deepspeed", "false", "nothing to shard over; forbidden combinations are still refused", False)
    yield _asset("deepspeed", "uri_file", "nothing to shard over; a stage 3 file that can't save weights is still refused", False)
    stage = "nothing to shard over; forbidden combinations are still refused"
    yield Input("deepspeed_stage", "string", "2", stage, has_effect=False, enum=("2", "3"))
    yield _flag("apply_ort", "false", "plain PyTorch trains; forbidden combinations are still refused", False)
    ignored = "accepted and ignored, by Azure's component too: it no longer evaluates"
    yield _asset("evaluation_config", "uri_file", ignored, False, mode="")
    yield Input("evaluation_config_params", "string", None, ignored, has_effect=False)


GROUPS = (_compute_inputs, _model_inputs, _data_inputs, _adapter_inputs, _training_inputs, _schedule_inputs, _accelerator_inputs)

INPUTS: Mapping[str, Input] = {item.name: item for group in GROUPS for item in group()}
"""Every input by name."""
