"""Tiny models with random weights, each of the class, and with the chat template, of the models that it stands for. Answers are noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.emulator.registry.model_files import wrap_tokenizer, write_generation_config

__all__ = ["CONTEXT", "SEED", "TINY", "Tiny", "initialize"]

SEED = 7
CONTEXT = 1024
"""Context length, in tokens."""


@dataclass(frozen=True)
class Tiny:
    """The properties that a tiny stand-in shares with the models that it stands for.

    Args:
        family: the models' name.
        model_type: their class in transformers.
        template: their chat template.
        special: their special tokens, in the order of the ids.
        bos, eos, pad: the special tokens with these roles.
        key_heads: of 4 attention heads.
        tied: whether the output layer shares the embeddings.
    """

    family: str
    model_type: str
    template: str
    special: tuple[str, ...]
    bos: str
    eos: str
    pad: str
    key_heads: int = 2
    tied: bool = True

    @property
    def configuration(self) -> dict[str, Any]:
        """The configuration of transformers, without the ids of tokens."""
        return {
            "model_type": self.model_type,
            "vocab_size": 512,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": self.key_heads,
            "max_position_embeddings": CONTEXT,
            "original_max_position_embeddings": CONTEXT,
            "initializer_range": 0.05,
            "tie_word_embeddings": self.tied,
        }

    @property
    def parameters(self) -> int:
        """The number of weights."""
        shape = self.configuration
        hidden, inner = shape["hidden_size"], shape["intermediate_size"]
        keys = hidden * self.key_heads // shape["num_attention_heads"]
        layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * inner + 2 * hidden
        embeddings = shape["vocab_size"] * hidden * (1 if self.tied else 2)
        return int(embeddings + shape["num_hidden_layers"] * layer + hidden)


TINY = {
    "tiny-llama": Tiny(
        family="Llama",
        model_type="llama",
        template="{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos="<|im_start|>",
        eos="<|im_end|>",
        pad="<|im_end|>",
    ),
    "tiny-phi3": Tiny(
        family="Phi-3",
        model_type="phi3",
        template="{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        special=("<|endoftext|>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"),
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
    ),
    # Phi-4 is of class phi3 in transformers. It has 10 key heads for 40 attention heads.
    "tiny-phi4": Tiny(
        family="Phi-4",
        model_type="phi3",
        template="{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        special=("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|dummy_85|>"),
        bos="<|endoftext|>",
        eos="<|im_end|>",
        pad="<|dummy_85|>",
        key_heads=1,
        tied=False,
    ),
}


def initialize(tiny: Tiny, target: Path) -> None:
    """Save random weights from a fixed seed, and a tokenizer trained on generated text."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = _tiny_tokenizer(tiny)
    configuration = tiny.configuration | {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    # Leave the caller's random state alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**configuration))
    model.save_pretrained(target)
    # Which token random weights favor depends on how the processor rounds. No answer is to be blank on one machine but not on another.
    write_generation_config(target, configuration, begin_suppress_tokens=[tokenizer.eos_token_id], suppress_tokens=_blank_tokens(tokenizer))
    tokenizer.save_pretrained(target)


def _blank_tokens(tokenizer: Any) -> list[int]:
    """Return the tokens that a reader doesn't see, without the one that ends an answer."""
    blank = [token for token in range(len(tokenizer)) if not tokenizer.decode([token], skip_special_tokens=True).strip()]
    return [token for token in blank if token != tokenizer.eos_token_id]


def _tiny_tokenizer(tiny: Tiny) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.configuration["vocab_size"],
        special_tokens=list(tiny.special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    names = {"bos_token": tiny.bos, "eos_token": tiny.eos, "pad_token": tiny.pad}
    return wrap_tokenizer(tokenizer, tiny.template, CONTEXT, additional_special_tokens=list(tiny.special), **names)


def _sentences() -> Iterator[str]:
    """Generate simple English, enough for a few hundred merges."""
    subjects = (
        "I",
        "you",
        "we",
        "they",
        "the teacher",
        "my friend",
        "a good answer",
        "the question",
        "somebody",
        "her brother",
        "everyone",
    )
    verbs = (
        "think about", "would like", "can help with", "did not know", "want to hear", "is talking to", "remember", "was asking for",
        "should never forget", "has already seen", "could not believe", "will always need", "started looking at",
    )  # fmt: skip
    objects = (
        "the weather today", "some music", "what to eat for dinner", "a new story", "the other people", "how it works", "your name",
        "a long journey", "this little village", "which book is best", "my favourite animal", "their first computer",
        "something different", "the morning newspaper", "those green mountains", "several cheap tickets", "an empty kitchen",
    )  # fmt: skip
    endings = (
        "because it is late.", "and that is fine!", "when the sun is shining.", "if you have time?", "but there is no hurry.",
        "before school begins.", "although nobody agreed.", "since yesterday evening.", "while waiting outside.", "just for fun!",
    )  # fmt: skip
    for index in range(len(subjects) * len(verbs) * len(objects)):
        # The lengths have no common factor, so every part is combined with every other.
        yield " ".join(part[index % len(part)] for part in (subjects, verbs, objects, endings))
