"""The model in training: loading, adapters, losses, saving."""

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
"""Maximum number of tokens in one forward pass: enough for a CPU's matrix units, with bounded memory (2.6 GB for 135 M weights)."""

ADAPTER = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"


def load(folder: Path, settings: Settings) -> Any:
    """Load the base model in 32 bits, with adapters if the settings say so; trainable weights require gradients.

    Raises:
        UserError: the weights don't match config.json, and the settings don't allow that.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, ignore_mismatched_sizes=settings.ignore_mismatched_sizes)
    except (RuntimeError, ValueError) as problem:
        raise UserError(f"The base model can't be loaded: {problem}") from problem
    return _add_adapters(model, settings.lora) if settings.lora else model


def _add_adapters(model: Any, lora: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    configuration = LoraConfig(
        task_type="CAUSAL_LM", target_modules="all-linear", r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout
    )
    return get_peft_model(model, configuration)


def pack(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Group the rows in order, as many as fit into :data:`PACK` tokens; a longer row is a group of its own."""
    group: list[Row] = []
    tokens = 0
    for row in rows:
        if group and tokens + len(row[0]) > PACK:
            yield group
            group, tokens = [], 0
        group.append(row)
        tokens += len(row[0])
    if group:
        yield group


def row_losses(model: Any, rows: Sequence[Row]) -> tuple[Any, list[int]]:
    """Return the negative log-likelihood of each row, summed over its labeled tokens, in nats; and the number of these tokens.

    The rows run as one sequence in which each attends only to itself: no padding, and large matrices from short rows. The head, which is
    most of the work in a small model, runs only on the positions before labeled tokens.
    """
    import torch

    counts = [sum(label != IGNORED for label in labels[1:]) for _, labels in rows]
    lengths = torch.tensor([len(ids) for ids, _ in rows])
    ids = torch.tensor([token for row, _ in rows for token in row])
    # A row's first token has no context to be predicted from, so it has no label.
    targets = torch.tensor([label for _, labels in rows for label in (IGNORED, *labels[1:])])
    positions = (targets != IGNORED).nonzero()[:, 0]
    inputs = {}
    if len(rows) > 1:
        owner = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        inputs["position_ids"] = torch.cat([torch.arange(length) for length in lengths])[None]
        is_visible = (owner[:, None] == owner[None, :]).tril()
        inputs["attention_mask"] = torch.where(is_visible, 0.0, torch.finfo(torch.float32).min)[None, None]
    logits = model(input_ids=ids[None], logits_to_keep=positions - 1, use_cache=False, **inputs).logits[0]
    losses = torch.nn.functional.cross_entropy(logits.float(), targets[positions], reduction="none")
    return torch.stack([part.sum() for part in losses.split(counts)]), counts


def save_trained(model: Any, folder: Path) -> None:
    """Save the trainable weights: only the adapters, or all weights."""
    if _has_adapters(model):
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        model.save_pretrained(folder)


def load_trained(model: Any, folder: Path) -> None:
    """Load what :func:`save_trained` saved."""
    from safetensors.torch import load_file, load_model

    if _has_adapters(model):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model, load_file(folder / ADAPTER))
    else:
        load_model(model, folder / WEIGHTS)


def save_final(model: Any, folder: Path, lora: Lora | None) -> None:
    """Save the model as a self-contained Hugging Face folder.

    Merged adapters become part of the weights. Unmerged ones are stored next to the base weights, where transformers finds them.
    """
    if lora is None:
        final = model
    elif lora.merge:
        final = model.merge_and_unload()
    else:
        # The base model is in the same folder, wherever that is moved to.
        model.peft_config["default"].base_model_name_or_path = "."
        model.save_pretrained(folder, save_embedding_layers=False)
        final = model.unload()
    final.save_pretrained(folder)


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "peft_config")
