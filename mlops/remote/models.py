"""Find, load and identify a model: what the training component produces, a registry model, or a plain Hugging Face folder."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Folder", "Loaded", "find", "load", "weights_digest"]

_FULL = ("model*.safetensors", "pytorch_model*.bin")
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Folder:
    """Where a model's parts lie under one root. MLflow puts them apart (``data/model``, ``data/tokenizer``), others together."""

    weights: Path | None
    adapter: Path | None
    tokenizer: Path | None


@dataclass(frozen=True)
class Loaded:
    """A model ready to be asked."""

    model: Any
    tokenizer: Any
    digest: str


def find(root: Path) -> Folder:
    """Look for full weights, a LoRA adapter and a tokenizer under a folder.

    The shallowest place wins (a trainer's ``checkpoint-*`` folders lie deeper); two places equally deep are an error.

    Raises:
        ValueError: neither weights nor an adapter, or it can't be told which.
    """
    weights = _shallowest(root, [path.parent for path in root.rglob("config.json") if _has(path.parent, _FULL)], "weights")
    adapter = _shallowest(root, [path.parent for path in root.rglob("adapter_config.json") if _has(path.parent, _ADAPTER)], "adapters")
    if weights is None and adapter is None:
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        raise ValueError(f"{root} holds no model: no config.json or adapter_config.json beside weights; it has {files[:20]}")
    if weights == adapter:
        raise ValueError(f"{weights} holds full weights and an adapter side by side: can't tell whether the adapter is merged already")
    beside = [folder for folder in (weights, adapter) if folder is not None and _has(folder, ("tokenizer*.json", "tokenizer.model"))]
    tokenizers = [path.parent for path in root.rglob("tokenizer_config.json")]
    return Folder(weights, adapter, beside[0] if beside else _shallowest(root, tokenizers, "tokenizers"))


def load(root: Path, base: Path | None, precision: str, device: str) -> Loaded:
    """Load a model for scoring, with its adapter merged where it has one.

    Args:
        root: the folder to look through.
        base: folder of the base model, for an adapter that comes without it and for a missing tokenizer.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cuda`` or ``cpu``.

    Raises:
        ValueError: the folder holds no model, or an adapter's base is not given.
    """
    import torch
    from transformers import AutoTokenizer

    found = find(root)
    below = find(base) if base is not None else None
    weights = found.weights or (below.weights if below else None)
    if weights is None:
        raise ValueError(f"{root} holds an adapter only, and the weights below it are not there")
    tokenizer_folder = found.tokenizer or (below.tokenizer if below else None)
    if tokenizer_folder is None:
        raise ValueError(f"{root} holds no tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer in {tokenizer_folder} has no chat template: this is not a chat model")

    model = _full(weights, getattr(torch, precision))
    if found.adapter is not None:
        model = _merged(model, found.adapter)
    model.eval()
    return Loaded(model.to(device), tokenizer, weights_digest(model))


def weights_digest(model: Any) -> str:
    """sha256 over names, shapes and values of all weights: equal for equal models however they were saved."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16, bytes it has.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _full(folder: Path, dtype: Any) -> Any:
    import transformers

    # transformers 5 renamed the argument.
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **{name: dtype})


def _merged(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=False).merge_and_unload()


def _has(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _shallowest(root: Path, folders: list[Path], what: str) -> Path | None:
    if not folders:
        return None
    depth = min(len(folder.relative_to(root).parts) for folder in folders)
    nearest = sorted({folder for folder in folders if len(folder.relative_to(root).parts) == depth})
    if len(nearest) > 1:
        raise ValueError(f"{root} holds several {what}, can't tell which one counts: {', '.join(str(folder) for folder in nearest)}")
    return nearest[0]
