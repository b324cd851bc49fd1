"""Step 2, ``chat_completion_model_import``: find the base model's weights and copy them for the later steps.

``output_dir`` then contains ``model/`` (a Hugging Face folder: config, tokenizer, safetensors) and ``finetune_args.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

from mlops.core import console
from mlops.emulator.component.failures import UserError
from mlops.emulator.component.folders import copy_folder, find_model
from mlops.emulator.component.step import Step

__all__ = ["METADATA", "MODEL", "run"]

MODEL = "model"
METADATA = "finetune_args.json"


def run(step: Step) -> None:
    """Import a model; ``pytorch_model_path`` wins over ``mlflow_model_path``, and both over ``huggingface_id``.

    Raises:
        UserError: there is no model, or it has no weights, or the fine-tuning configuration is not a JSON object.
    """
    source = step.path("pytorch_model_path") or step.path("mlflow_model_path")
    hub_id = step.inputs.get("huggingface_id", "")
    if source is None and hub_id:
        raise UserError(
            f"The model {hub_id!r} can't be downloaded: the emulator can't reach a model hub. Set mlflow_model_path or pytorch_model_path."
        )
    if source is None:
        raise UserError("There is no model. Set one of mlflow_model_path, pytorch_model_path, huggingface_id.")
    weights = find_model(source)
    configuration = _read_finetune_config(step.path("finetune_config_path"))
    output = step.output("output_dir")
    copy_folder(weights, output / MODEL)
    model_type = json.loads((weights / "config.json").read_text(encoding="utf-8")).get("model_type", "")
    metadata = {"task_name": "ChatCompletion", "model_name": source.name, "model_type": model_type, "finetune_config": configuration}
    (output / METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")
    console.info(f"imported {model_type} model from {weights}")


def _read_finetune_config(path: Path | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(f"finetune_config_path: {path.name} is not JSON: {problem}") from problem
    if not isinstance(configuration, dict):
        raise UserError(f"finetune_config_path: {path.name} is not a JSON object.")
    return configuration
