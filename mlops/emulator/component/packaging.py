"""Packaging a Hugging Face folder as an MLflow model: ``artifacts/model/`` with the weights, and the code that generates text.

No pickles and no signature; the weights' digest is in MLmodel's metadata. Needs no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlops.emulator.component.folders import copy_folder, weights_digest

__all__ = ["save_mlflow_model"]

_REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors")


def save_mlflow_model(weights: Path, target: Path, metadata: Mapping[str, Any]) -> str:
    """Package a model and return the digest of its weights.

    Args:
        weights: a folder with config, tokenizer and safetensors, optionally with an unmerged adapter.
        target: the MLflow model's folder; replaced if it exists.
        metadata: stored in MLmodel, next to ``weights_digest``.

    Returns:
        The digest of the weights, see :func:`mlops.emulator.component.folders.weights_digest`.
    """
    import mlflow.pyfunc

    digest = weights_digest(weights)
    adapter = (weights / "adapter_config.json").is_file()
    requirements = [_pin(name) for name in (*_REQUIREMENTS, *(["peft"] if adapter else []))]
    if target.exists():
        shutil.rmtree(target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".packaging-") as temporary:
        # MLflow names the artifact's folder after this one.
        staged = Path(temporary, "model")
        copy_folder(weights, staged)
        mlflow.pyfunc.save_model(
            path=str(target),
            python_model=str(Path(__file__).with_name("chat_model.py")),
            artifacts={"model": str(staged)},
            pip_requirements=requirements,
            metadata={**metadata, "weights_digest": digest, "model_type": _model_type(weights)},
        )
    return digest


def _model_type(weights: Path) -> str:
    return str(json.loads((weights / "config.json").read_text(encoding="utf-8")).get("model_type", ""))


def _pin(name: str) -> str:
    # Without the local part (+cpu): no index has a release of that name.
    return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
