"""A small project for a workspace that may be real, and a model that starts fast there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlops.__main__ import main
from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from tests.support.deployments import ANSWERING, MLMODEL
from tests.support.rows import write_rows

__all__ = ["SIZE", "LiveProject"]

SIZE = "Standard_DS3_v2"
"""A small VM without a GPU, of which most subscriptions have quota."""
TOML = """
[targets.live.data]
dataset = "conversations"
percent = 100.0

[targets.live.evaluation]
retention_suite = "retention.jsonl"
target_rows = 60

[targets.live.gate.rules.target-better-than-base]
metric = "target.nll"
direction = "lower"
baseline = "base"
test = "paired_bootstrap"
min_rows = 40

[targets.live.gate.rules.retention]
metric = "retention.nll"
direction = "lower"
baseline = "base"
margin = 0.4
margin_kind = "absolute"

[targets.live.endpoint]
name = "{endpoint}"
ephemeral = true
expires_after_hours = 2.0
"""
CONDA = "name: model\ndependencies: [python=3.11, pip, {pip: [mlflow, azureml-inference-server-http]}]\n"


class LiveProject:
    """A folder with settings, data and a model.

    Args:
        folder: where it is.
        endpoint: name of the endpoint and the model that the tests create; nobody else has it.
    """

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.folder, self.endpoint = folder, endpoint
        (folder / "pipeline.toml").write_text(TOML.format(endpoint=endpoint))
        for split, count in {"train_sft": 60, "test_sft": 70, "train_gen": 4, "test_gen": 6}.items():
            write_rows(folder / "conversations" / f"{split}.jsonl", [_row(number, split) for number in range(count)])
        write_rows(folder / "retention.jsonl", [_row(number, "kept") | {"kind": "counting"} for number in range(12)])

    def mlops(self, *arguments: str) -> int:
        """Run one command as in a shell and return its exit code."""
        command, *rest = arguments
        return main([command, "--target", "live", *rest])

    def write_model(self) -> Path:
        """Write an MLflow model that always gives the same answer."""
        model = self.folder / "model"
        (model / "code").mkdir(parents=True, exist_ok=True)
        (model / "code" / "answering.py").write_text(ANSWERING)
        (model / "MLmodel").write_text(MLMODEL.replace("    python_version", "    env: conda.yaml\n    python_version"))
        (model / "conda.yaml").write_text(CONDA)
        return model

    def clean_up(self) -> None:
        """Delete the endpoint if a test has left it."""
        workspace = Workspace.open(load(self.folder / "pipeline.toml", "live"))
        if workspace.endpoints.find(self.endpoint) is not None:
            workspace.endpoints.delete(self.endpoint)


def _row(number: int, split: str) -> dict[str, Any]:
    question = f"{split}: what comes after {number}?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"After {number} comes {number + 1}, as ever."}]
    return {"prompt": question, "prompt_id": f"{split}-{number}", "messages": messages}
