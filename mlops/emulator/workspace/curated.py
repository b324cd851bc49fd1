"""Curated environments: those that Microsoft maintains and that exist in every workspace, under names that begin with ``AzureML-``.

Names from azureml-examples and from "Curated environments" on learn.microsoft.com. Every version up to the latest exists, as on Azure,
where versions of a curated environment are numbered and kept.
"""

from __future__ import annotations

from mlops.emulator.base.store import Document

__all__ = ["LATEST", "document", "find_latest", "has"]

CREATED = "2026-07-01T00:00:00+00:00"
LATEST = {
    "AzureML-ACPT-pytorch-1.11-py38-cuda11.3-gpu": 12,
    "AzureML-ACPT-pytorch-1.12-py38-cuda11.6-gpu": 12,
    "AzureML-ACPT-pytorch-1.12-py39-cuda11.6-gpu": 8,
    "AzureML-ACPT-pytorch-1.13-py38-cuda11.7-gpu": 22,
    "AzureML-acpt-pytorch-2.2-cuda12.1": 30,
    "AzureML-ai-ml-automl": 22,
    "AzureML-ACPT-pytorch-1.11-py38-cuda11.5-gpu": 12,
    "AzureML-Minimal": 150,
    "AzureML-Tutorial": 120,
    "AzureML-PySpark-MmlSpark-0.15": 90,
    "AzureML-XGBoost-0.9-Inference-CPU": 60,
    "AzureML-xgboost-0.9-ubuntu18.04-py37-cpu-inference": 60,
    "AzureML-lightgbm-3.3": 20,
    "AzureML-onnxruntime-1.6-ubuntu18.04-py37-cpu-inference": 60,
    "AzureML-pytorch-1.7-ubuntu18.04-py37-cpu-inference": 60,
    "AzureML-tensorflow-1.15-ubuntu18.04-py37-cpu-inference": 60,
    "AzureML-tensorflow-2.4-ubuntu18.04-py37-cpu-inference": 60,
    "AzureML-tensorflow-2.5-ubuntu20.04-py38-cuda11-gpu": 60,
    "AzureML-tensorflow-2.6-ubuntu20.04-py38-cuda11-gpu": 60,
    "AzureML-tensorflow-2.8-ubuntu20.04-py38-cuda11-gpu": 40,
    "AzureML-triton-22.01-ubuntu20.04-py38-cuda11.6-gpu-inference": 10,
    "AzureML-lightgbm-3.2-ubuntu18.04-py37-cpu": 61,
    "AzureML-minimal-ubuntu18.04-py37-cpu-inference": 90,
    "AzureML-minimal-ubuntu20.04-py38-cpu-inference": 40,
    "AzureML-mlflow-ubuntu20.04-py38-cpu-inference": 40,
    "AzureML-pytorch-1.7-ubuntu18.04-py37-cuda11-gpu": 62,
    "AzureML-pytorch-1.8-ubuntu18.04-py37-cuda11-gpu": 60,
    "AzureML-pytorch-1.9-ubuntu18.04-py37-cuda11-gpu": 60,
    "AzureML-pytorch-1.10-ubuntu18.04-py38-cuda11-gpu": 45,
    "AzureML-responsibleai-0.20-ubuntu20.04-py38-cpu": 21,
    "AzureML-sklearn-0.24-ubuntu18.04-py37-cpu": 60,
    "AzureML-sklearn-1.0-ubuntu20.04-py38-cpu": 65,
    "AzureML-sklearn-1.5": 20,
    "AzureML-tensorflow-2.4-ubuntu18.04-py37-cuda11-gpu": 60,
    "AzureML-tensorflow-2.7-ubuntu20.04-py38-cuda11-gpu": 40,
    "AzureML-tensorflow-2.12-cuda11": 25,
    "AzureML-tensorflow-2.16-cuda12": 15,
    "AzureML-Triton": 20,
}
"""Name → latest version."""


def find_latest(name: str) -> str | None:
    """Return the latest version of a curated environment, or None if there is none of this name."""
    return str(LATEST[name]) if name in LATEST else None


def has(name: str, version: str) -> bool:
    """Return whether this version of a curated environment exists."""
    return name in LATEST and version.isdecimal() and 1 <= int(version) <= LATEST[name]


def document(name: str, version: str) -> Document:
    """Return the environment as the store would hold it."""
    author = {"by": "Microsoft", "at": CREATED}
    properties = {"environmentType": "Curated", "image": f"mcr.microsoft.com/azureml/curated/{name.removeprefix('AzureML-')}:{version}"}
    return {"properties": properties, "created": author, "modified": author}
