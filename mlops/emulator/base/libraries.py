"""Settings of the model libraries in child processes that train or serve on the CPU."""

from __future__ import annotations

import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterable

from mlops.emulator.base.children import Preload, base_environment, package_environment

__all__ = ["configure", "hide_mlflow_plugin", "preload_for_job", "preload_for_package", "split_command"]

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

PACKAGE_IMPORTS = ("mlops.emulator.component.preloaded", "mlops.emulator.serving.container.app", "uvicorn")
JOB_IMPORTS = (
    "numpy", "pandas", "mlflow", "mlflow.tracking.fluent", "torch", "transformers.modeling_utils", "transformers.generation",
    "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama",
    "transformers.models.phi3.modeling_phi3", "peft",
)  # fmt: skip
"""The imports of a job that scores or trains a language model. None are of this package, because jobs bring their own code."""
READ_ON_IMPORT = re.compile(
    "PYTHON|LD_|MALLOC_|OMP_|MKL_|KMP_|GOMP_|OPENBLAS_|BLIS_|NUMEXPR_|TORCH|PYTORCH|CUDA|HF_|HUGGING|TRANSFORMERS|TOKENIZERS|TQDM|ACCELERATE|"
    "PEFT|SAFETENSORS|MLFLOW|AZUREML|PANDAS|ARROW|NPY_|NUMPY|USE_|LANG|LC_"
)
"""Beginnings of the names of variables that Python or the libraries read when they start."""
PLAIN = re.compile(r"""[\w@%+:,./'" =-]+""")
"""A command without a character that is special to a shell, other than quotes."""


def configure() -> None:
    """Set the variables that aren't set yet. Call this before importing torch, transformers or mlflow, which read them on import."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def hide_mlflow_plugin() -> None:
    """Make MLflow skip the plugin azureml-mlflow, whose import takes 0.6 s. The environment of a model doesn't have it on Azure either."""
    sys.modules["azureml.mlflow"] = None  # type: ignore[assignment]
    warnings.filterwarnings("ignore", "Failure attempting to register .*azureml")


def preload_for_package(variables: Iterable[str] = ()) -> Preload | None:
    """Return the preload of a process of this package; None if it sets a variable that libraries read on import."""
    return None if _are_read(variables) else Preload.of(PACKAGE_IMPORTS, package_environment() | ENVIRONMENT)


def preload_for_job(variables: Iterable[str]) -> Preload | None:
    """Return the preload of a job; None if it sets a variable that libraries read on import."""
    return None if _are_read(variables) else Preload.of(JOB_IMPORTS, base_environment() | {"MLFLOW_DISABLE_TELEMETRY": "true"})


def _are_read(variables: Iterable[str]) -> bool:
    return any(READ_ON_IMPORT.match(name.upper()) for name in variables)


def split_command(command: str, python: str) -> list[str] | None:
    """Return the words of ``python -m MODULE …``, with the interpreter in front; None if a shell might understand another command."""
    words = shlex.split(command) if PLAIN.fullmatch(command) and command.count("'") % 2 == command.count('"') % 2 == 0 else []
    if len(words) < 3 or words[0] not in ("python", "python3") or words[1] != "-m":
        return None
    return [python, *words[1:]]
