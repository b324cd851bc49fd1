"""Settings of the model libraries in child processes that train or serve on the CPU."""

from __future__ import annotations

import os

__all__ = ["configure"]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    # Spinning threads starve other threads, including the one that answers liveness probes.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",  # progress bars clutter logs
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def configure() -> None:
    """Set the variables that aren't set yet. Call this before importing torch, transformers or mlflow, which read them on import."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
