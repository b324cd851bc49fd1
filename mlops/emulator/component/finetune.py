"""Step 4, ``chat_completion_finetune``: train, and save the best model.

``pytorch_model_folder`` becomes a self-contained Hugging Face folder with ``checkpoint-N/`` below it. ``properties.json`` in the working
folder has the properties that Azure's component sets on its run and on the root run at the end.
"""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path

from mlops.core import console
from mlops.emulator.component.checkpoints import Progress
from mlops.emulator.component.metrics import Metrics
from mlops.emulator.component.model import Row, load, save_final
from mlops.emulator.component.model_import import METADATA, MODEL
from mlops.emulator.component.preprocess import ARGUMENTS
from mlops.emulator.component.settings import Settings
from mlops.emulator.component.spec import INPUTS
from mlops.emulator.component.step import Step
from mlops.emulator.component.training import Training

__all__ = ["run"]


def run(step: Step) -> None:
    """Fine-tune.

    Raises:
        UserError: the inputs contradict each other.
        SystemFailure: training failed.
    """
    imported, preprocessed = step.required_path("model_selector_output"), step.required_path("preprocess_output")
    metadata = json.loads((imported / METADATA).read_text(encoding="utf-8"))
    rows = _read_rows(preprocessed / "train.jsonl"), _read_rows(preprocessed / "validation.jsonl")
    settings = Settings.from_step(step, len(rows[0]), metadata["model_type"])
    _log_inputs_without_effect(step)

    import torch
    from transformers import AutoTokenizer, set_seed

    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(settings.full_determinism)
    set_seed(settings.seed)
    output = step.output("pytorch_model_folder")
    output.mkdir(parents=True, exist_ok=True)
    model = load(imported / MODEL, settings)
    tokenizer = AutoTokenizer.from_pretrained(preprocessed)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    training = Training(model, tokenizer, rows, settings, output, Metrics.from_environment(settings.logging_strategy == "epoch").log)
    console.info(
        f"{metadata['model_type']}: {trainable:,} weights to train, {len(rows[0])} rows, {training.updates} updates of up to "
        f"{settings.batch_rows} rows, {threads} threads, 32 bits"
    )
    progress = training.run()
    tokenizer.save_pretrained(output)
    save_final(model, output, settings.lora)
    _write_properties(progress, metadata["model_name"], settings, preprocessed)
    console.info(f"model in {output}; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def _read_rows(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [(row["input_ids"], row["labels"]) for row in map(json.loads, file)]


def _log_inputs_without_effect(step: Step) -> None:
    for name, value in step.inputs.items():
        item = INPUTS.get(name)
        if item and not item.has_effect and value != (item.default or value):
            console.info(f"{name}={value} is recorded only: {item.effect}")


def _write_properties(progress: Progress, model_name: str, settings: Settings, preprocessed: Path) -> None:
    counts = json.loads((preprocessed / ARGUMENTS).read_text(encoding="utf-8"))["splits"]
    properties = {
        "score": "" if progress.best_loss is None else str(progress.best_loss),
        "run_algorithm": model_name,
        "model_name": model_name,
        "training_tokens": str(progress.tokens),
        "train_tokens": str(counts["train"]["tokens"]),
        "validation_tokens": str(counts["validation"]["tokens"]),
        "fine_tuning": "full" if settings.lora is None else "lora",
    }
    Path("properties.json").write_text(json.dumps(properties, indent=2), encoding="utf-8")
