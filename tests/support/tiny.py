"""Chat models with a few thousand weights, created on the fly, and small suites for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OTHER_TEMPLATE = TEMPLATE.replace("'\n'", "' : '")
"""A template of another model family, which gives different tokens for the same conversation."""
TEXT = "the cat sat on a mat and said that rain in spain stays mainly on the plain while seven small birds sing of summer"
WORDS = TEXT.split()


def conversation(number: int, turns: int = 1, kind: str = "") -> dict[str, Any]:
    """Return a row of a suite that is unique to its number."""
    messages = []
    for turn in range(turns):
        start = number * 7 + turn * 3
        question = " ".join(WORDS[(start + i) % len(WORDS)] for i in range(2 + number % 4))
        answer = " ".join(WORDS[(start * 2 + i) % len(WORDS)] for i in range(1 + (number * 5) % 9))
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    row = {"prompt": messages[0]["content"], "prompt_id": f"row-{number:03d}", "messages": messages}
    return row | ({"kind": kind} if kind else {})


def write_suite(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_tokenizer(template: str = TEMPLATE) -> Any:
    """Train a byte-level BPE on a few sentences. Its padding token is its end token, as in many chat models."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, "user\nassistant\nsystem\n"] * 3, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>", bos_token="<|im_start|>")
    fast.chat_template = template
    return fast


def make_model(tokenizer: Any, seed: int, vocab_size: int | None = None) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size or len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config).eval()


def save(folder: Path, model: Any, tokenizer: Any, layout: str = "plain") -> Path:
    """Save a model as a Hugging Face folder (``plain``) or with MLflow's ``data/model`` and ``data/tokenizer`` (``mlflow``)."""
    model_folder = folder if layout == "plain" else folder / "data" / "model"
    tokenizer_folder = folder if layout == "plain" else folder / "data" / "tokenizer"
    model.save_pretrained(model_folder)
    tokenizer.save_pretrained(tokenizer_folder)
    if layout == "mlflow":
        (folder / "MLmodel").write_text("flavors: {}\n", encoding="utf-8")
    return folder
