"""The registry through the real SDK, in both catalogs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import Options
from mlops.emulator.component import spec
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.registry import catalog, registry
from mlops.emulator.server import Emulator

REGISTRY = (
    "https://eastus.api.azureml.ms/mferp/managementfrontend/subscriptions/s/resourceGroups/g"
    "/providers/Microsoft.MachineLearningServices/registries/azureml"
)


@pytest.fixture(scope="module")
def options(weights_cache: Path) -> Options:
    return Options(catalog="tutorial", weights="tiny-llama", cache=weights_cache)


def get(emulator: Emulator, path: str, **query: str) -> requests.Response:
    return requests.get(
        REGISTRY + path,
        params={"api-version": "2021-10-01-dataplanepreview"} | query,
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        timeout=30,
    )


def test_the_address_of_the_registry_has_all_its_fields(emulator: Emulator, environment: object) -> None:
    url = "https://eastus.api.azureml.ms/registrymanagement/v1.0/registries/azureml/discovery"
    found = requests.get(url, headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}, timeout=30).json()
    assert found.keys() == {
        "registryId", "registryName", "tenantId", "primaryRegion", "regions", "subscriptionId", "resourceGroup", "workspaceName",
        "primaryRegionResourceProviderUri", "registryFqdns", "intellectualPropertyPublisher",
    }  # fmt: skip
    assert found["registryFqdns"].keys() == set(found["regions"])


def test_latest_model_of_the_tutorial(azureml: Any) -> None:
    model = azureml.models.get("Phi-3-mini-4k-instruct", label="latest")
    assert model.id == "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15"
    assert model.type == "mlflow_model"
    # Parsed as in the tutorial.
    assert "Standard_NC24ads_A100_v4" in ast.literal_eval(model.tags["finetune_compute_allow_list"])
    defaults = json.loads(model.tags["model_specific_defaults"])
    assert (defaults["apply_lora"], defaults["deepspeed_stage"], defaults["learning_rate"]) == ("true", 2, "5e-6")
    assert "learning_rate_min" not in defaults
    assert model.tags["emulator.standin"] == "tiny-llama"


def test_latest_is_the_newest(azureml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [catalog.Model("m", version, False, {}, {}, {}, "tiny-llama") for version in ("9", "10", "2")]
    monkeypatch.setitem(catalog.CATALOGS, "tutorial", lambda _: models)
    assert azureml.models.get("m", label="latest").version == "2"
    assert [model.version for model in azureml.models.list("m", list_view_type="ActiveOnly")] == ["9", "10", "2"]


def test_the_component_is_the_one_the_steps_check(azureml: Any) -> None:
    component = azureml.components.get("chat_completion_pipeline", label="latest")
    assert component.version == "0.0.81", "the tutorial is older than 0.0.82"
    assert set(component.inputs) == set(spec.INPUTS) - {"finetune_config_path", "trust_remote_code"}
    assert component.inputs["deepspeed_stage"].enum == ["2", "3"]
    assert set(component.outputs) == {"pytorch_model_folder", "mlflow_model_folder"}
    assert azureml.components.get("chat_completion_pipeline", version="0.0.81").id == component.id


def test_environment_of_the_nodes(azureml: Any) -> None:
    assert azureml.environments.get("acft-hf-nlp-gpu", label="latest").id == spec.RELEASES[spec.VERSION].environment


def test_names(azureml: Any) -> None:
    assert [model.name for model in azureml.models.list(list_view_type="ActiveOnly")] == ["Phi-3-mini-4k-instruct"]
    assert [component.name for component in azureml.components.list()] == ["chat_completion_pipeline"]


def test_unknown_version_of_a_model(azureml: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    message = "Could not find asset with ID: azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/99"
    with pytest.raises(ResourceNotFoundError, match=message) as raised:
        azureml.models.get("Phi-3-mini-4k-instruct", version="99")
    more = {entry["type"]: entry["info"]["value"] for entry in raised.value.response.json()["error"]["additionalInfo"]}
    assert more["InnerError"]["code"] == "NotFoundError"


def test_unknown_component(azureml: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="Not found component bogus"):
        azureml.components.get("bogus", version="1")


def test_unknown_model_names_its_container(emulator: Emulator, environment: object) -> None:
    answer = get(emulator, "/models/bogus/versions")
    assert answer.status_code == 404
    assert answer.json()["error"]["details"] == [
        {"code": "ModelNotFound", "message": "Model container with name: bogus not found."},
    ]


def test_another_registry_is_not_allowed(credential: Any) -> None:
    from azure.ai.ml import MLClient
    from azure.core.exceptions import ClientAuthenticationError

    with pytest.raises(ClientAuthenticationError, match="not allowed to access registry bogus"):
        MLClient(credential, registry_name="bogus").models.get("x", version="1")


@pytest.mark.parametrize("query", [{"$orderBy": "name"}, {"$top": "0"}, {"$top": "x"}, {"listViewType": "Some"}])
def test_an_invalid_query_is_refused(emulator: Emulator, environment: object, query: dict[str, str]) -> None:
    assert get(emulator, "/models/Phi-3-mini-4k-instruct/versions", **query).status_code == 400


def test_an_unsupported_filter_is_named(emulator: Emulator, environment: object) -> None:
    answer = get(emulator, "/models/Phi-3-mini-4k-instruct/versions", tags="a=b")
    assert (answer.status_code, "tags" in answer.json()["error"]["message"]) == (501, True)


class TestCurrent:
    """The current registry."""

    @pytest.fixture(scope="class")
    @classmethod
    def emulator(cls, tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Any:
        with Emulator(tmp_path_factory.mktemp("current"), Options(weights="tiny-phi4", cache=weights_cache)) as running:
            yield running

    def test_an_archived_model_is_found_only_by_version(self, emulator: Emulator, azureml: Any) -> None:
        from azure.ai.ml.exceptions import ValidationException

        with pytest.raises(ValidationException, match="does not exist in registry"):
            azureml.models.get("Phi-3-mini-4k-instruct", label="latest")
        model = azureml.models.get("Phi-3-mini-4k-instruct", version="15")
        assert json.loads(model.tags["model_specific_defaults"])["learning_rate_max"] == "5e-5"
        assert "finetune_compute_allow_list" not in model.tags

    def test_allow_lists_are_in_system_metadata(self, emulator: Emulator, environment: object) -> None:
        old = get(emulator, "/models/Phi-3-mini-4k-instruct/versions/15").json()["properties"]
        new = get(emulator, "/models/Phi-4/versions/8").json()["properties"]
        assert (old["isArchived"], new["isArchived"]) == (True, False)
        assert old["systemMetadata"]["deprecation"]["finetuneRetirementDate"].startswith("2025-08-30")
        assert "Standard_ND96isr_H100_v5" in new["systemMetadata"]["supportedComputes"]["finetuneComputes"]
        assert len(new["systemMetadata"]["supportedComputes"]["finetuneComputes"]) == 8

    def test_archived_models_are_listed_on_request(self, emulator: Emulator, azureml: Any) -> None:
        # As text: the SDK sends its own ListViewType as "ListViewType.ALL", which the service does not accept.
        assert [model.name for model in azureml.models.list(list_view_type="ActiveOnly")] == ["Phi-4"]
        assert [model.name for model in azureml.models.list(list_view_type="ArchivedOnly")] == ["Phi-3-mini-4k-instruct"]
        assert len(list(azureml.models.list(list_view_type="All"))) == 2

    def test_phi4_has_another_deepspeed_stage(self, emulator: Emulator, azureml: Any) -> None:
        model = azureml.models.get("Phi-4", label="latest")
        defaults = json.loads(model.tags["model_specific_defaults"])
        assert (model.version, defaults["deepspeed_stage"]) == ("8", 3)
        assert "learning_rate_max" not in defaults


def test_tags_on_the_wire_are_strings() -> None:
    model = catalog.Model("m", "1", False, {"map": {"a": "b"}, "list": ["c"], "number": 5}, {}, {}, "tiny-llama")
    assert model.wire_tags() == {"map": '{"a": "b"}', "list": "['c']", "number": "5"}


def test_base_model_is_found_by_version(emulator: Emulator) -> None:
    model = registry.find_base_model(emulator.azure, "Phi-3-mini-4k-instruct", "15")
    assert model is not None
    assert registry.model_id(model).endswith("/models/Phi-3-mini-4k-instruct/versions/15")
    assert registry.find_base_model(emulator.azure, "Phi-3-mini-4k-instruct", "latest") is None
