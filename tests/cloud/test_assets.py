from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlops.cloud.assets import _input, _mapping, _names
from mlops.cloud.errors import NotFound
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError
from mlops.core.settings import Config
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Start = Callable[..., Emulator]
PHI = "Phi-3-mini-4k-instruct"


def test_the_tutorial_model_has_its_allow_lists_in_tags(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(catalog="tutorial")
    model = open_workspace(settings()).assets.get_base_model("azureml", PHI, "15")
    assert model.id == f"azureml://registries/azureml/models/{PHI}/versions/15"
    assert (model.archived, model.retired_on) == (False, None)
    assert model.finetune_skus is not None
    assert "Standard_NC24ads_A100_v4" in model.finetune_skus
    assert model.inference_skus is not None
    assert "Standard_NC6s_v3" in model.inference_skus
    assert model.defaults["apply_deepspeed"] == "true"


def test_the_current_model_is_archived_and_has_its_allow_lists_in_the_system_metadata(
    start_emulator: Start, settings: Settings, open_workspace: Open
) -> None:
    start_emulator()
    model = open_workspace(settings()).assets.get_base_model("azureml", PHI, "15")
    assert "finetune_compute_allow_list" not in model.tags
    assert model.archived
    assert str(model.retired_on).startswith("2025-08-30")
    assert model.finetune_skus is not None
    assert len(model.finetune_skus) == 5
    assert "learning_rate_min" in model.defaults


def test_the_successors_of_an_archived_model_are_not_archived(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    assets = open_workspace(settings()).assets
    successors = assets.find_successors("azureml", PHI)
    assert any("/models/Phi-4/versions/" in model for model in successors)
    assert not any(PHI in model for model in successors)


def test_latest_is_resolved_to_a_version(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(catalog="tutorial")
    assets = open_workspace(settings()).assets
    assert assets.get_base_model("azureml", PHI, "latest").version == "15"
    assert assets.get_component("azureml", "chat_completion_pipeline", "latest").version == "0.0.81"


def test_a_component_has_the_rules_that_the_sdk_does_not_check(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(catalog="current")
    component = open_workspace(settings()).assets.get_component("azureml", "chat_completion_pipeline", "0.0.82")
    assert len(component.inputs) == 69
    assert component.outputs == {"pytorch_model_folder": "uri_folder", "mlflow_model_folder": "mlflow_model"}
    epochs, scheduler, task = (component.inputs[name] for name in ("num_train_epochs", "lr_scheduler_type", "task_name"))
    assert (epochs.type, epochs.default, epochs.min, epochs.optional) == ("integer", "1", 1.0, True)
    assert "cosine" in scheduler.enum
    assert not task.optional


@pytest.mark.parametrize(("name", "version"), [("nothing-here", "1"), (PHI, "999"), ("nothing-here", "latest")])
def test_missing_models_and_components_are_not_found(
    name: str, version: str, start_emulator: Start, settings: Settings, open_workspace: Open
) -> None:
    start_emulator()
    assets = open_workspace(settings()).assets
    with pytest.raises(NotFound):
        assets.get_base_model("azureml", name, version)
    with pytest.raises(NotFound):
        assets.get_component("azureml", name, version)


def test_an_unregistered_model_gives_none(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    assets = open_workspace(settings()).assets
    assert assets.find_model("never", {}) is None
    with pytest.raises(NotFound):
        assets.get_model("never", "1")


@pytest.mark.parametrize(
    ("tag", "metadata", "expected"),
    [
        ("['Standard_A', 'Standard_B']", None, ("Standard_A", "Standard_B")),
        ('["Standard_A"]', None, ("Standard_A",)),
        (None, ["Standard_C"], ("Standard_C",)),
        ("['Standard_A']", ["Standard_C"], ("Standard_C",)),
        (None, None, None),
        ("", [], None),
        ("[]", None, None),
    ],
)
def test_allow_lists_are_read_from_tags_and_metadata(tag: str | None, metadata: Any, expected: tuple[str, ...] | None) -> None:
    assert _names(tag, metadata) == expected


def test_defaults_are_parsed_as_json_or_python() -> None:
    assert _mapping('{"learning_rate": "5e-6"}') == {"learning_rate": "5e-6"}
    assert _mapping("{'apply_lora': 'true', 'precision': 16}") == {"apply_lora": "true", "precision": 16}
    assert _mapping(None) == {}


def test_an_unreadable_tag_is_an_error_rather_than_an_empty_list() -> None:
    with pytest.raises(AzureError, match="neither JSON nor a Python literal"):
        _names("Standard_A, Standard_B", None)


def test_an_input_with_scalars_as_text_is_converted() -> None:
    class Entity:
        type = "integer"
        optional = "True"
        default = 10
        enum = None
        min = "1"
        max = None

    result = _input("x", Entity())
    assert (result.optional, result.default, result.min, result.max, result.enum) == (True, "10", 1.0, None, ())
