"""Step 5, ``ft_nlp_model_converter``: the fine-tuned weights as an MLflow model."""

from __future__ import annotations

from mlops.core import console
from mlops.emulator.component.folders import find_model
from mlops.emulator.component.packaging import save_mlflow_model
from mlops.emulator.component.step import Step

__all__ = ["run"]


def run(step: Step) -> None:
    """Convert the output of the fine-tuning step, without its checkpoints.

    Raises:
        UserError: the output contains no model.
    """
    weights = find_model(step.required_path("model_path"))
    target = step.output("mlflow_model_folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = save_mlflow_model(weights, target, {"task": "chat-completion", "transformers_version": step.transformers})
    console.info(f"MLflow model in {target}, weights sha256 {digest}")
