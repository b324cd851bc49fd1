"""The files of a base model that all stand-ins write in the same way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["wrap_tokenizer", "write_generation_config"]


def wrap_tokenizer(tokenizer: Any, template: str, context: int, **names: Any) -> Any:
    """Make a tokenizer of transformers from one of tokenizers, a chat template, the context in tokens, and the names of special tokens."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, model_max_length=context, clean_up_tokenization_spaces=False, **names
    )


def write_generation_config(target: Path, configuration: dict[str, Any], **settings: Any) -> None:
    """Save where answers end, greedy decoding as the default, and further settings of transformers' ``GenerationConfig``."""
    ids = {name: configuration[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (target / "generation_config.json").write_text(json.dumps({**ids, "do_sample": False, **settings}, indent=2), encoding="utf-8")
