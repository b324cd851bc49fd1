"""The model that is trained: loading, adapters, and what is saved of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.component.chat import IGNORED
from mlops.emulator.component.failures import UserError
from mlops.emulator.component.settings import Lora, Settings

__all__ = ["Row", "load", "load_trained", "row_loss", "save_final", "save_trained"]

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one conversation."""

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"


def load(folder: Path, settings: Settings) -> Any:
    """The base model in 32 bits, with adapters if they are asked for; what is to be trained requires gradients.

    Raises:
        UserError: the weights don't fit config.json, and that is not allowed.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, ignore_mismatched_sizes=settings.ignore_mismatched_sizes)
    except (RuntimeError, ValueError) as problem:
        raise UserError(f"The base model can't be loaded: {problem}") from problem
    return _with_adapters(model, settings.lora) if settings.lora else model


def _with_adapters(model: Any, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    configuration = LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout
    )
    return get_peft_model(model, configuration)


def row_loss(model: Any, row: Row) -> tuple[Any, int]:
    """Negative log-likelihood summed over a row's labelled tokens, in nats, and how many those are.

    The head, which is most of the work in a small model, runs on the positions before labelled tokens only.
    """
    import torch

    ids, labels = torch.tensor([row[0]]), torch.tensor(row[1])
    positions = (labels[1:] != IGNORED).nonzero()[:, 0]
    logits = model(input_ids=ids, logits_to_keep=positions, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), labels[positions + 1], reduction="sum"), len(positions)


def save_trained(model: Any, folder: Path) -> None:
    """What is trained: the adapters alone, or all weights."""
    if _has_adapters(model):
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)


def load_trained(model: Any, folder: Path) -> None:
    """Put back what :func:`save_trained` saved."""
    from safetensors.torch import load_file, load_model

    if _has_adapters(model):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(folder / ADAPTER))
    else:
        load_model(model, folder / WEIGHTS)


def save_final(model: Any, folder: Path, lora: Lora | None) -> None:
    """The model as a Hugging Face folder that loads by itself.

    Merged adapters vanish into the weights. Unmerged ones lie beside the base weights in the same folder, where transformers finds them.
    """
    if lora is None:
        final = model
    elif lora.merge:
        final = model.merge_and_unload()
    else:
        # "." for the base: the folder itself, wherever it is moved to.
        model.peft_config["default"].base_model_name_or_path = "."
        model.save_pretrained(folder, save_embedding_layers=False)
        final = model.unload()
    final.save_pretrained(folder)


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "peft_config")
