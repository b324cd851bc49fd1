"""Settings that the fine-tuning step refuses, with the component's own texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.emulator.component.failures import UserError
from mlops.emulator.component.settings import Settings
from mlops.emulator.component.step import Step


def settings(model_type: str = "llama", **values: str) -> Settings:
    return Settings.from_step(Step(values, {}), 100, model_type)


STAGE3 = {"apply_deepspeed": "true", "deepspeed_stage": "3"}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"learning_rate": "0"}, "Invalid learning rate. Learning rate should be greater than 0."),
        ({"learning_rate": "-1e-5"}, "Invalid learning rate. Learning rate should be greater than 0."),
        (
            {"apply_early_stopping": "true", "evaluation_strategy": "disable"},
            "Set evaluation_strategy to one of steps or epoch when apply_early_stopping is True.",
        ),
        ({"optim": "sgd"}, "Invalid optimiser name 'sgd'. Please select one of: adamw_torch, adafactor."),
        (
            {"apply_deepspeed": "true", "auto_find_batch_size": "true"},
            "Invalid settings found. Deep Speed cannot be coupled with auto_find_batch_size.",
        ),
        (STAGE3 | {"apply_ort": "true"}, "Invalid settings found. Deep Speed stage3 doesn't work with {'apply_ort': 'true'}."),
        (
            STAGE3 | {"model_type": "mixformer-sequential"},
            "Invalid settings found. Deep Speed stage3 doesn't work with {'model_type': 'mixformer-sequential'}.",
        ),
        ({"num_train_epochs": "0"}, "num_train_epochs should be at least 1, not 0."),
        ({"lora_r": "0", "apply_lora": "true"}, "lora_r should be at least 1, not 0."),
        ({"evaluation_steps_interval": "1.5"}, "evaluation_steps_interval should be within (0, 1], not 1.5."),
        ({"evaluation_strategy": "steps", "eval_steps": "0"}, "eval_steps should be at least 1, not 0."),
        ({"apply_lora": "yes"}, "Input apply_lora: 'yes' is not one of true, false."),
        ({"learning_rate": "fast"}, "Input learning_rate: 'fast' is not a number."),
    ],
)
def test_invalid_settings_are_refused(values: dict[str, str], text: str) -> None:
    with pytest.raises(UserError) as failure:
        settings(**values)
    assert failure.value.message.startswith(text)


@pytest.mark.parametrize(
    "values",
    [STAGE3, STAGE3 | {"apply_lora": "true"}, {"apply_deepspeed": "true", "apply_ort": "true"}, {"auto_find_batch_size": "true"}],
)
def test_valid_settings_are_accepted(values: dict[str, str]) -> None:
    settings(**values)


@pytest.mark.parametrize(
    ("zero", "refused"),
    [
        ({"stage": 3}, True),
        ({"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}, False),
        ({"stage": 2}, False),
    ],
)
def test_a_custom_deepspeed_file_decides_the_stage(zero: dict[str, object], refused: bool, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": zero}))
    if not refused:
        # The file's stage counts, not deepspeed_stage.
        settings(**STAGE3, deepspeed=str(path))
        return
    with pytest.raises(UserError, match="stage3_gather_16bit_weights_on_model_save"):
        settings(apply_deepspeed="true", deepspeed=str(path))


@pytest.mark.parametrize(
    ("values", "per_epoch", "updates"),
    [
        ({}, 100, 100),
        ({"num_train_epochs": "3"}, 100, 300),
        ({"per_device_train_batch_size": "8"}, 13, 13),
        ({"per_device_train_batch_size": "4", "gradient_accumulation_steps": "4", "num_train_epochs": "2"}, 7, 14),
        ({"max_steps": "5", "num_train_epochs": "2"}, 100, 5),
    ],
)
def test_the_number_of_updates(values: dict[str, str], per_epoch: int, updates: int) -> None:
    read = settings(**values)
    assert (read.updates_per_epoch(100), read.updates(100)) == (per_epoch, updates)


@pytest.mark.parametrize(("interval", "steps"), [("0.5", 50), ("0.25", 25), ("0.001", 1), ("1", 100)])
def test_the_evaluation_interval_is_a_fraction_of_an_epoch_and_wins(interval: str, steps: int) -> None:
    read = settings(evaluation_steps_interval=interval, eval_steps="7", evaluation_strategy="epoch")
    assert (read.evaluation_strategy, read.eval_steps) == ("steps", steps)
