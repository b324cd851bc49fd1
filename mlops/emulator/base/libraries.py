"""How the model libraries are set in a child process that trains or serves on the CPU."""

from __future__ import annotations

import os

__all__ = ["configure"]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "2",
    # Spinning threads starve their neighbours, the thread that answers liveness probes among them.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",  # bars are for terminals, not for logs
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def configure() -> None:
    """Set what is not set yet. Call it before torch, transformers or mlflow are imported: they read it then."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
