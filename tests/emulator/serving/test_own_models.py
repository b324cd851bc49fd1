"""Deployments of models that are no chat models: MLflow models, and scoring scripts of their own."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model
from azure.core.exceptions import HttpResponseError

from mlops.emulator.server import Emulator
from tests.support.project import open_sdk

pytestmark = [
    # The SDK does not close its connections.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

SCRIPT = """
import json
import os
from helper import shout

def init():
    global word
    print("loading the word")
    folder = os.getenv("AZUREML_MODEL_DIR")
    model = os.path.realpath(os.path.join(folder, "model"))
    assert model.startswith(os.path.realpath(folder)), "MLflow loads no model that is really elsewhere"
    with open(os.path.join(model, "word.txt")) as file:
        word = file.read()

def run(raw_data, request_headers):
    return shout(word, json.loads(raw_data)["times"])
"""
Score = Callable[[Any], requests.Response]


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[MLClient]:
    """A client of a workspace with an endpoint ``own``."""
    with pytest.MonkeyPatch.context() as patch:
        ml = open_sdk(emulator, patch)
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="own", auth_mode="key")).result()
        yield ml


def deploy(client: MLClient, name: str, **options: Any) -> Any:
    deployment = ManagedOnlineDeployment(name=name, endpoint_name="own", instance_type="Standard_DS3_v2", instance_count=1, **options)
    return client.online_deployments.begin_create_or_update(deployment).result()


def score(client: MLClient, deployment: str, payload: Any) -> requests.Response:
    key = client.online_endpoints.get_keys("own").primary_key
    headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": deployment}
    return requests.post("https://own.eastus.inference.ml.azure.com/score", json=payload, headers=headers, timeout=60)


def test_a_scikit_learn_model_is_served_with_tables_and_tensors(client: MLClient, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.sklearn
        import pandas
        from mlflow.models import infer_signature
        from sklearn.linear_model import LinearRegression

        table = pandas.DataFrame({"area": [1.0, 2.0, 3.0], "rooms": [1.0, 1.0, 2.0]})
        fitted = LinearRegression().fit(table, 10 * table["area"] + table["rooms"])
        # Without the requirements, MLflow loads each model in a process of its own to find them.
        requirements = {"pip_requirements": ["scikit-learn"]}
        mlflow.sklearn.save_model(fitted, tmp_path / "table", signature=infer_signature(table, fitted.predict(table)), **requirements)
        mlflow.sklearn.save_model(LinearRegression().fit(table.values, table["area"]), tmp_path / "tensor", **requirements)
    for name in ("table", "tensor"):
        model = client.models.create_or_update(Model(name=name, path=str(tmp_path / name), type="mlflow_model"))
        assert deploy(client, name, model=model.id).provisioning_state == "Succeeded"
    answer = score(client, "table", {"input_data": {"columns": ["area", "rooms"], "index": [0, 1], "data": [[4.0, 3.0], [5.0, 0.0]]}})
    assert (answer.status_code, answer.json()) == (200, pytest.approx([43.0, 50.0]))
    assert score(client, "tensor", {"input_data": [[7.0, 1.0]]}).json() == pytest.approx([7.0])
    # MLflow refuses a column that is missing in the signature's order; the script fails, not the payload.
    wrong = score(client, "table", {"input_data": {"columns": ["area"], "data": [[4.0]]}})
    assert (wrong.status_code, wrong.headers["ms-azureml-model-error-statuscode"]) == (424, "500")
    assert "rooms" in client.online_deployments.get_logs("table", "own", lines=500)
    chat = score(client, "table", {"messages": [{"role": "user", "content": "hi"}]})
    assert (chat.status_code, chat.headers["ms-azureml-model-error-statuscode"]) == (424, "400")
    assert "The payload (messages) is not accepted" in chat.json()["message"]


@pytest.fixture(scope="module")
def parts(client: MLClient, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model, an environment and a folder of code for it."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "model").mkdir()
    (folder / "model" / "word.txt").write_text("ho")
    (folder / "code").mkdir()
    (folder / "code" / "score.py").write_text(SCRIPT)
    (folder / "code" / "helper.py").write_text("def shout(word, times):\n    return {'said': word.upper() * times}\n")
    (folder / "code" / "broken.py").write_text("def init():\n    raise RuntimeError('no such word')\ndef run(data):\n    pass\n")
    model = client.models.create_or_update(Model(name="word", path=str(folder / "model"), type="custom_model"))
    environment = client.environments.create_or_update(Environment(name="plain", version="1", image="mcr.microsoft.com/azureml/minimal:1"))
    return {"model": model.id, "environment": environment.id, "code": str(folder / "code")}


def configuration(parts: dict[str, Any], script: str) -> dict[str, Any]:
    code = CodeConfiguration(code=parts["code"], scoring_script=script)
    return {"model": parts["model"], "environment": parts["environment"], "code_configuration": code}


def test_a_scoring_script_answers(client: MLClient, parts: dict[str, Any]) -> None:
    deployed = deploy(client, "script", **configuration(parts, "score.py"))
    assert deployed.code_configuration.scoring_script == "score.py"
    assert "/codes/" in deployed.code_configuration.code
    assert deployed.environment == parts["environment"]
    answer = score(client, "script", {"times": 3})
    assert (answer.status_code, answer.json()) == (200, {"said": "HOHOHO"})
    failed = score(client, "script", {"wrong": 1})
    assert (failed.status_code, failed.headers["ms-azureml-model-error-statuscode"]) == (424, "500")
    assert failed.json() == {"message": "An unexpected error occurred in scoring script. Check the logs for more info."}
    logs = client.online_deployments.get_logs("script", "own", lines=500)
    assert "loading the word" in logs
    assert "KeyError: 'times'" in logs


def test_a_script_whose_init_fails_never_becomes_healthy(client: MLClient, parts: dict[str, Any]) -> None:
    with pytest.raises(HttpResponseError, match="crashed or terminated with exit code 3"):
        deploy(client, "broken", **configuration(parts, "broken.py"))
    assert "RuntimeError: no such word" in client.online_deployments.get_logs("broken", "own", lines=500)
    client.online_deployments.begin_delete("broken", "own").result()


def test_resources_of_a_deployment_must_exist(client: MLClient, parts: dict[str, Any], emulator: Emulator) -> None:
    from mlops.emulator.identity.entra import MANAGEMENT, issue

    code = client.online_deployments.get("script", "own").code_configuration.code
    properties = {
        "endpointComputeType": "Managed",
        "instanceType": "Standard_DS3_v2",
        "model": parts["model"],
        "environmentId": parts["environment"],
    }
    for change, status, message in (
        ({"codeConfiguration": {"codeId": code, "scoringScript": "nothing.py"}}, 400, "The scoring script [nothing.py] does not exist"),
        ({"codeConfiguration": {"codeId": code, "scoringScript": "../../../etc/passwd"}}, 400, "does not exist in the code"),
        ({"codeConfiguration": {"codeId": code + "9", "scoringScript": "score.py"}}, 404, "Not found code"),
        (
            {"codeConfiguration": {"codeId": code, "scoringScript": "score.py"}, "environmentId": "azureml:nothing:1"},
            404,
            "Not found environment azureml:nothing:1",
        ),
    ):
        answer = requests.put(
            f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/own/deployments/refused",
            params={"api-version": "2023-04-01-preview"},
            json={"location": "eastus", "properties": properties | change},
            headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
            timeout=60,
        )
        assert answer.status_code == status
        assert message in json.dumps(answer.json())
