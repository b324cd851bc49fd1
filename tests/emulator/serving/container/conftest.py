"""A tiny model for the tests of the inference server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

# Read when torch is imported: tiny models gain nothing from a second thread.
os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            # A warning of mlflow about its own classes, when mlflow.pyfunc is imported.
            item.add_marker(pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType.*:UserWarning"))


@pytest.fixture(scope="session")
def tiny(weights_cache: Path) -> Path:
    """tiny-llama as an MLflow model."""
    from mlops.emulator.registry.weights import ensure_standin

    return ensure_standin("tiny-llama", weights_cache)
