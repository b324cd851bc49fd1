"""Finds, loads and identifies a model in any layout: output of the training component, registry model, plain Hugging Face folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LoadedModel", "ModelFolder", "find_model", "load_model", "weights_digest"]

_FULL = ("model*.safetensors", "pytorch_model*.bin")
_ADAPTER = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class ModelFolder:
    """The locations of a model's parts under one root. MLflow separates them (``data/model``, ``data/tokenizer``); others don't."""

    weights: Path | None
    adapter: Path | None
    tokenizer: Path | None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for inference."""

    model: Any
    tokenizer: Any
    digest: str


def find_model(root: Path) -> ModelFolder:
    """Look for full weights, a LoRA adapter and a tokenizer under a folder.

    The shallowest match wins, because a trainer's ``checkpoint-*`` folders are deeper. Two matches at the same depth are an error.

    Raises:
        ValueError: there are neither weights nor an adapter, or the choice is ambiguous.
    """
    weights = _shallowest(root, [path.parent for path in root.rglob("config.json") if _contains_any(path.parent, _FULL)], "weights")
    adapter = _shallowest(
        root, [path.parent for path in root.rglob("adapter_config.json") if _contains_any(path.parent, _ADAPTER)], "adapters"
    )
    if weights is None and adapter is None:
        files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        raise ValueError(f"{root} contains no model: no config.json or adapter_config.json next to weights; it contains {files[:20]}")
    if weights == adapter:
        raise ValueError(f"{weights} contains both full weights and an adapter: can't tell whether the adapter is already merged")
    tokenizer_folders = [
        folder for folder in (weights, adapter) if folder is not None and _contains_any(folder, ("tokenizer*.json", "tokenizer.model"))
    ]
    tokenizers = [path.parent for path in root.rglob("tokenizer_config.json")]
    return ModelFolder(weights, adapter, tokenizer_folders[0] if tokenizer_folders else _shallowest(root, tokenizers, "tokenizers"))


def load_model(root: Path, base: Path | None, precision: str, device: str, *, trust_remote_code: bool = False) -> LoadedModel:
    """Load a model for scoring; merge its adapter if it has one.

    Args:
        root: the folder to search.
        base: the folder of the base model, used for an adapter without its weights and for a missing tokenizer.
        precision: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cuda`` or ``cpu``.
        trust_remote_code: whether Python code in the model's folder may run. Without it, transformers' own classes load the model.

    Raises:
        ValueError: the folder contains no model, or an adapter without its base, or a model that only its own code can load.
    """
    import torch
    from transformers import AutoTokenizer

    parts = find_model(root)
    base_folder = find_model(base) if base is not None else None
    weights = parts.weights or (base_folder.weights if base_folder else None)
    if weights is None:
        raise ValueError(f"{root} contains only an adapter, and the weights of its base model are missing")
    tokenizer_folder = parts.tokenizer or (base_folder.tokenizer if base_folder else None)
    if tokenizer_folder is None:
        raise ValueError(f"{root} contains no tokenizer")
    with _explain_refused_code(tokenizer_folder, trust_remote_code):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True, trust_remote_code=trust_remote_code)
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer in {tokenizer_folder} has no chat template: this is not a chat model")

    with _explain_refused_code(weights, trust_remote_code):
        model = _load_weights(weights, getattr(torch, precision), trust_remote_code)
    if parts.adapter is not None:
        model = _merge_adapter(model, parts.adapter)
    model.eval()
    return LoadedModel(model.to(device), tokenizer, weights_digest(model))


def weights_digest(model: Any) -> str:
    """Hash names, shapes and values of all weights with sha256. Equal models have equal digests, however they were saved."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # numpy has no bfloat16, so hash the raw bytes.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _explain_refused_code(folder: Path, trust_remote_code: bool) -> Iterator[None]:
    """Explain why a model with code of its own can't be loaded, by the setting that allows it."""
    try:
        yield
    except (ValueError, ImportError, KeyError) as problem:
        classes = _own_classes(folder)
        if trust_remote_code or not classes:
            raise
        raise ValueError(
            f"The model in {folder} contains Python code of its own ({', '.join(classes)}), which must run to load it. If you trust it,"
            " set evaluation.trust_remote_code = true in pipeline.toml"
        ) from problem


def _own_classes(folder: Path) -> list[str]:
    """Return the classes that a folder's configuration files name in ``auto_map``, e.g. ``modeling_phi3.Phi3ForCausalLM``."""
    files = [path for name in ("config.json", "tokenizer_config.json") if (path := folder / name).is_file()]
    maps = [json.loads(path.read_text(encoding="utf-8")).get("auto_map") or {} for path in files]
    values = [value for each in maps for value in each.values()]
    return sorted({str(name) for value in values for name in (value if isinstance(value, list) else [value]) if name})


def _load_weights(folder: Path, dtype: Any, trust_remote_code: bool) -> Any:
    import transformers

    # transformers 5 renamed the argument.
    name = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, local_files_only=True, trust_remote_code=trust_remote_code, **{name: dtype}
    )


def _merge_adapter(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, adapter, is_trainable=False).merge_and_unload()


def _contains_any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(any(folder.glob(pattern)) for pattern in patterns)


def _shallowest(root: Path, folders: list[Path], what: str) -> Path | None:
    if not folders:
        return None
    depth = min(len(folder.relative_to(root).parts) for folder in folders)
    nearest = sorted({folder for folder in folders if len(folder.relative_to(root).parts) == depth})
    if len(nearest) > 1:
        raise ValueError(f"{root} contains several {what}; can't tell which one to use: {', '.join(str(folder) for folder in nearest)}")
    return nearest[0]
