"""The fine-tuning step: inputs have an effect exactly if they are declared to, and its output can be loaded on its own."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import spec
from mlops.emulator.component.failures import StepError
from mlops.emulator.component.folders import weights_digest
from mlops.emulator.component.metrics import Metrics

LORA = {"apply_lora": "true"}
STEPS = {"evaluation_strategy": "steps", "eval_steps": "3"}
OTHER_NODES = {"preprocess_output", "model_selector_output"}

# Input → a value other than the default, and the setting in which it matters.
EFFECTIVE: dict[str, tuple[str, dict[str, str]]] = {
    "apply_lora": ("true", {}),
    "merge_lora_weights": ("false", LORA),
    "lora_alpha": ("16", LORA),
    "lora_r": ("4", LORA),
    "lora_dropout": ("0.5", LORA),
    "num_train_epochs": ("2", {}),
    "max_steps": ("3", {}),
    "per_device_train_batch_size": ("2", {}),
    "per_device_eval_batch_size": ("2", {}),
    "optim": ("adafactor", {}),
    "learning_rate": ("0.001", {}),
    "warmup_steps": ("4", {}),
    "weight_decay": ("0.5", {}),
    "adam_beta1": ("0.5", {}),
    "adam_beta2": ("0.9", {}),
    "adam_epsilon": ("0.1", {}),
    "gradient_accumulation_steps": ("4", {}),
    "lr_scheduler_type": ("cosine", {}),
    "seed": ("7", {}),
    "enable_full_determinism": ("true", {}),
    "ignore_mismatched_sizes": ("true", {}),
    "max_grad_norm": ("0.01", {}),
    "evaluation_strategy": ("disable", {}),
    "evaluation_steps_interval": ("0.5", {}),
    "eval_steps": ("2", STEPS),
    "logging_strategy": ("epoch", {}),
    "logging_steps": ("3", {}),
    "metric_for_best_model": ("f1", {}),
    "resume_from_checkpoint": ("true", {}),
    "save_total_limit": ("1", STEPS),
    "apply_early_stopping": ("true", STEPS | {"early_stopping_threshold": "100"}),
    "early_stopping_patience": ("2", STEPS | {"apply_early_stopping": "true", "early_stopping_threshold": "100"}),
    "early_stopping_threshold": ("100", STEPS | {"apply_early_stopping": "true"}),
}

RECORDED = {
    "auto_find_batch_size": "true",
    "eval_accumulation_steps": "2",
    "precision": "16",
    "dataloader_num_workers": "2",
    "apply_deepspeed": "true",
    "deepspeed_stage": "3",
    "deepspeed": "{}",
    "apply_ort": "true",
}


@pytest.fixture
def observe(finetune: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Any, ...]]:
    """Run fine-tuning and return its observable result: weights, checkpoints, metrics without times, kernels, or its error."""

    def observe_run(before: Callable[[Path], None], **values: str) -> tuple[Any, ...]:
        import torch

        logged: list[tuple[int, str, float]] = []

        def log(self: Metrics, row: dict[str, float], step: int) -> None:
            logged.extend((step, name, value) for name, value in row.items() if "per_second" not in name and "runtime" not in name)

        monkeypatch.setattr(Metrics, "log", log)
        output = Path("out")
        shutil.rmtree(output, ignore_errors=True)
        before(output)
        try:
            finetune(**values)
        except StepError as failure:
            return (failure.message,)
        files = sorted(path.name for path in output.iterdir())
        deterministic = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        stepless = values.get("logging_strategy") == "epoch"
        return weights_digest(output), files, logged, deterministic, stepless

    return observe_run


def nothing(output: Path) -> None:
    pass


def test_the_tables_are_complete() -> None:
    names = {name for name in spec.NODES[3].inputs if name not in OTHER_NODES}
    assert set(EFFECTIVE) == {name for name in names if spec.INPUTS[name].has_effect}
    assert set(RECORDED) == {name for name in names if not spec.INPUTS[name].has_effect}


@pytest.mark.parametrize("name", EFFECTIVE)
def test_an_effective_input_changes_the_result(name: str, observe: Callable[..., tuple[Any, ...]], finetune: Any, prepare: Any) -> None:
    value, setting = EFFECTIVE[name]
    before = nothing
    if name == "resume_from_checkpoint":

        def before(output: Path) -> None:
            finetune("earlier", max_steps="2")
            shutil.copytree("earlier", output)

    if name == "ignore_mismatched_sizes":
        config = Path(prepare("tiny-llama")["model_selector_output"], "model", "config.json")
        original = config.read_text()
        config.write_text(json.dumps(json.loads(original) | {"intermediate_size": 96}))
    try:
        assert observe(before, **setting) != observe(before, **setting | {name: value})
    finally:
        if name == "ignore_mismatched_sizes":
            config.write_text(original)


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_input_changes_nothing_and_the_log_says_so(
    name: str, observe: Callable[..., tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = RECORDED[name]
    if value == "{}":
        (tmp_path / "deepspeed.json").write_text(value)
        value = str(tmp_path / "deepspeed.json")
    assert observe(nothing) == observe(nothing, **{name: value})
    is_logged = f"{name}={value} is recorded only: {spec.INPUTS[name].effect}" in capsys.readouterr().out
    assert is_logged or spec.INPUTS[name].default is None


def test_equal_runs_are_equal(observe: Callable[..., tuple[Any, ...]]) -> None:
    assert observe(nothing, **LORA, lora_dropout="0.3") == observe(nothing, **LORA, lora_dropout="0.3")


@pytest.mark.parametrize("kind", ["tiny-llama", "tiny-phi4"])
def test_merged_and_unmerged_adapters_are_the_same_model(kind: str, finetune: Callable[..., Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = torch.arange(4, 60)[None]
    logits = {}
    for merge in ("true", "false"):
        folder = finetune(merge, kind=kind, merge_lora_weights=merge, learning_rate="0.01", **LORA)
        with torch.inference_mode():
            logits[merge] = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits
    base = AutoModelForCausalLM.from_pretrained(finetune("untrained", kind=kind, learning_rate="1e-12", **LORA), dtype=torch.float32)
    with torch.inference_mode():
        assert (base(ids).logits - logits["true"]).abs().max() > 0.1
    assert (logits["false"] - logits["true"]).abs().max() < 1e-4
    names = {merge: {path.name for path in Path(merge).glob("*.safetensors")} for merge in logits}
    assert names == {"true": {"model.safetensors"}, "false": {"model.safetensors", "adapter_model.safetensors"}}


def test_training_lowers_the_loss_of_both_classes(finetune: Callable[..., Path]) -> None:
    for kind in ("tiny-llama", "tiny-phi4"):
        folder = finetune(kind, kind=kind, num_train_epochs="6")
        state = json.loads(
            max(folder.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime).joinpath("trainer_state.json").read_text()
        )
        losses = [row["eval_loss"] for row in state["history"] if "eval_loss" in row]
        assert losses[0] < math.log(512)
        assert losses[-1] < losses[0] - 1


def test_the_properties_are_those_of_azures_component(finetune: Callable[..., Path]) -> None:
    finetune()
    properties = json.loads(Path("properties.json").read_text())
    assert float(properties["score"]) > 0
    assert properties["run_algorithm"].startswith("tiny-llama")
    assert int(properties["training_tokens"]) == int(properties["train_tokens"]) > 0


def test_the_digest_covers_all_weight_files(tmp_path: Path) -> None:
    (tmp_path / "b.safetensors").write_bytes(b"2")
    (tmp_path / "a.safetensors").write_bytes(b"1")
    text = "".join(
        f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in (("a.safetensors", b"1"), ("b.safetensors", b"2"))
    )
    assert weights_digest(tmp_path) == hashlib.sha256(text.encode()).hexdigest()
