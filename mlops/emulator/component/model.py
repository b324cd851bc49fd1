"""The model that is trained: loading, adapters, and what is saved of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.component.chat import IGNORED
from mlops.emulator.component.failures import UserError
from mlops.emulator.component.settings import Lora, Settings

__all__ = ["Row", "load", "load_trained", "pack", "row_losses", "save_final", "save_trained"]

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids and labels of one conversation."""

PACK = 512
"""Tokens that run at once: enough for a CPU's matrix units, and a bound on memory (2.6 GB for 135 M weights)."""

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


def pack(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows in their order, as many together as fit into :data:`PACK` tokens; a longer row stands alone."""
    together: list[Row] = []
    tokens = 0
    for row in rows:
        if together and tokens + len(row[0]) > PACK:
            yield together
            together, tokens = [], 0
        together.append(row)
        tokens += len(row[0])
    if together:
        yield together


def row_losses(model: Any, rows: Sequence[Row]) -> tuple[Any, list[int]]:
    """Negative log-likelihood of each row, summed over its labelled tokens, in nats; and how many tokens those are.

    The rows run as one sequence in which each sees itself alone: no padding, and large matrices from short rows. The head, which is
    most of the work in a small model, runs on the positions before labelled tokens only.
    """
    import torch

    counts = [sum(label != IGNORED for label in labels[1:]) for _, labels in rows]
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids = torch.tensor([token for row, _ in rows for token in row])
    # A row's first token is predicted from nothing: no label of its own, and none for the last token of the row before it.
    targets = torch.tensor([label for _, labels in rows for label in (IGNORED, *labels[1:])])
    places = (targets != IGNORED).nonzero()[:, 0]
    inputs = {}
    if len(rows) > 1:
        owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        inputs["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
        seen = (owner[:, None] == owner[None, :]).tril()
        inputs["attention_mask"] = torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]
    logits = model(input_ids=ids[None], logits_to_keep=places - 1, use_cache=False, **inputs).logits[0]
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[places], reduction="none")
    return torch.stack([part.sum() for part in losses.split(counts)]), counts


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
