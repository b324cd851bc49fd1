"""Models in the layouts that the component, the registry and Hugging Face produce."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.remote.models import find_model, load_model, weights_digest
from tests.support.tiny import make_model, make_tokenizer, save

# peft 0.21 uses a name that transformers 5.23 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def save_adapter(folder: Path, base: Any, seed: int = 3) -> Any:
    """Save a LoRA adapter that changes the model, and return the merged model."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    tuned = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"))
    tuned.save_pretrained(folder)
    return tuned.merge_and_unload()


@pytest.mark.parametrize("layout", ["plain", "mlflow"])
def test_every_layout_is_loaded(tmp_path: Path, tokenizer: Any, layout: str) -> None:
    model = make_model(tokenizer, seed=1)
    loaded = load_model(save(tmp_path, model, tokenizer, layout), None, "float32", "cpu")
    assert loaded.digest == weights_digest(model)
    assert loaded.tokenizer.chat_template == tokenizer.chat_template
    assert not loaded.model.training


@pytest.mark.parametrize("own_base", [True, False], ids=["with its base", "alone"])
def test_an_adapter_is_merged(tmp_path: Path, tokenizer: Any, own_base: bool) -> None:
    import torch

    base = save(tmp_path / "base", make_model(tokenizer, seed=1), tokenizer)
    folder = tmp_path / "tuned"
    if own_base:
        save(folder, make_model(tokenizer, seed=1), tokenizer, "mlflow")
    merged = save_adapter(folder / "data" / "adapter", make_model(tokenizer, seed=1))
    loaded = load_model(folder, base, "float32", "cpu")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, merged(ids).logits, atol=1e-4)
        assert not torch.allclose(loaded.model(ids).logits, make_model(tokenizer, seed=1)(ids).logits, atol=1e-1)
    assert loaded.tokenizer.chat_template == tokenizer.chat_template


def test_an_adapter_needs_its_base(tmp_path: Path, tokenizer: Any) -> None:
    save_adapter(tmp_path, make_model(tokenizer, seed=1))
    with pytest.raises(ValueError, match="contains only an adapter"):
        load_model(tmp_path, None, "float32", "cpu")


def test_the_outermost_model_is_used(tmp_path: Path, tokenizer: Any) -> None:
    model = make_model(tokenizer, seed=1)
    save(tmp_path, model, tokenizer)
    save(tmp_path / "checkpoint-10", make_model(tokenizer, seed=2), tokenizer)
    assert load_model(tmp_path, None, "float32", "cpu").digest == weights_digest(model)


def test_two_models_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    for number in (1, 2):
        save(tmp_path / f"model-{number}", make_model(tokenizer, seed=number), tokenizer)
    with pytest.raises(ValueError, match="several weights; can't tell which one to use"):
        find_model(tmp_path)


def test_weights_and_adapter_in_one_folder_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    save_adapter(save(tmp_path, make_model(tokenizer, seed=1), tokenizer), make_model(tokenizer, seed=1))
    with pytest.raises(ValueError, match="can't tell whether the adapter is already merged"):
        find_model(tmp_path)


def test_the_error_for_a_folder_without_a_model_lists_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"contains no model.*\['config.json'\]"):
        find_model(tmp_path)


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="this is not a chat model"):
        load_model(save(tmp_path, make_model(tokenizer, seed=1), tokenizer), None, "float32", "cpu")


def test_the_digest_depends_on_values_and_not_on_files(tmp_path: Path, tokenizer: Any) -> None:
    import torch

    model = make_model(tokenizer, seed=1)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    tokenizer.save_pretrained(tmp_path / "sharded")
    assert load_model(tmp_path / "sharded", None, "float32", "cpu").digest == weights_digest(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 5] += 1e-3
    assert load_model(tmp_path / "sharded", None, "float32", "cpu").digest != weights_digest(model)


def test_weights_have_the_requested_precision(tmp_path: Path, tokenizer: Any) -> None:
    import torch

    folder = save(tmp_path, make_model(tokenizer, seed=1), tokenizer)
    assert load_model(folder, None, "bfloat16", "cpu").model.dtype is torch.bfloat16


CONFIGURATION = """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.fixture
def model_with_code(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of an architecture that transformers doesn't know, with the code for it, as some models on the hub are."""
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*sys.path])
    folder = save(tmp_path / "model", make_model(tokenizer, seed=1), tokenizer)
    (folder / "configuration_own.py").write_text(CONFIGURATION)
    (folder / "modeling_own.py").write_text(MODELING)
    change_config(
        folder,
        model_type="own",
        auto_map={"AutoConfig": "configuration_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},
    )
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_code_of_a_model_runs_only_if_it_is_trusted(model_with_code: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"evaluation\.trust_remote_code = true") as caught:
        load_model(model_with_code, None, "float32", "cpu")
    assert "(configuration_own.OwnConfig, modeling_own.OwnForCausalLM)" in str(caught.value)
    loaded = load_model(model_with_code, None, "float32", "cpu", trust_remote_code=True)
    assert type(loaded.model).__name__ == "OwnForCausalLM"
    assert loaded.digest == weights_digest(make_model(tokenizer, seed=1))


def test_code_that_transformers_does_not_need_is_ignored(model_with_code: Path) -> None:
    """Phi-3's checkpoints carry code that newer versions of transformers have themselves."""
    change_config(model_with_code, model_type="llama")
    (model_with_code / "modeling_own.py").write_text("raise RuntimeError('must not run')")
    assert type(load_model(model_with_code, None, "float32", "cpu").model).__name__ == "LlamaForCausalLM"


def test_another_error_of_a_model_without_code_stays_as_it_is(tmp_path: Path, tokenizer: Any) -> None:
    folder = save(tmp_path, make_model(tokenizer, seed=1), tokenizer)
    change_config(folder, model_type="nobody-knows")
    with pytest.raises(ValueError, match="nobody-knows"):
        load_model(folder, None, "float32", "cpu")
