"""Workspace models, through the real SDK and, for requests that it never sends, directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import Output, command
from azure.ai.ml.entities import Model
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator

pytestmark = [
    # The SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

MLMODEL = "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_version: 3.11.7\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "trained"
    path.mkdir()
    (path / "MLmodel").write_text(MLMODEL)
    (path / "weights.bin").write_bytes(b"12345")
    return path


@pytest.fixture
def send_request(emulator: Emulator, environment: Mapping[str, str]) -> Callable[..., requests.Response]:
    """Send a request below ``…/models`` without the SDK."""
    token = issue(emulator.azure, MANAGEMENT)

    def send(method: str, path: str, body: Any = None, version: str = "2023-08-01-preview") -> requests.Response:
        url = f"https://management.azure.com{emulator.azure.workspace_id}/models/{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, params={"api-version": version}, json=body, headers=headers, timeout=60)

    return send


def register(ml: Any, name: str, version: str, path: Path | str, **more: Any) -> Model:
    return ml.models.create_or_update(Model(name=name, version=version, path=str(path), **{"type": "mlflow_model", **more}))


@pytest.mark.filterwarnings("ignore:The use of a 'BlobProperties' instance:DeprecationWarning")  # how azure-ai-ml uses azure-storage-blob
@pytest.mark.filterwarnings("ignore:content_as_bytes is deprecated:DeprecationWarning")
def test_a_folder_is_registered_where_it_was_uploaded(ml: Any, folder: Path, tmp_path: Path) -> None:
    model = register(ml, "uploaded", "1", folder, tags={"stage": "dev"}, description="ours")
    assert (model.name, model.version, model.type, model.description) == ("uploaded", "1", "mlflow_model", "ours")
    assert model.path.startswith("azureml://subscriptions/")
    assert model.path.endswith("/trained")
    assert model.flavors == {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_version": "3.11.7"}}
    assert ml.models.get("uploaded", version="1").tags == {"stage": "dev"}
    assert [model.version for model in ml.models.list("uploaded", stage="Development")] == ["1"]
    ml.models.download("uploaded", "1", download_path=str(tmp_path / "again"))
    assert [file.read_bytes() for file in (tmp_path / "again").rglob("weights.bin")] == [b"12345"]


def test_the_latest_version_is_the_newest(ml: Any, folder: Path) -> None:
    for version in ("2", "10", "3"):
        register(ml, "several", version, folder)
    assert ml.models.get("several", label="latest").version == "3"
    assert [model.version for model in ml.models.list("several")] == ["3", "10", "2"]
    register(ml, "several", "2", folder, tags={"changed": "yes"})
    assert ml.models.get("several", label="latest").version == "3", "changing a version doesn't make it newer"
    automatic = ml.models.create_or_update(Model(name="several", path=str(folder), type="mlflow_model"))
    assert automatic.version == "11"


def test_versions_are_found_by_tag_and_stage(ml: Any, folder: Path, send_request: Callable[..., requests.Response]) -> None:
    register(ml, "tagged", "1", folder, tags={"verdict": "PROMOTE", "run": "a"}, stage="Production")
    register(ml, "tagged", "2", folder, tags={"verdict": "REJECT"}, stage="Development")

    def versions(query: str) -> list[str]:
        answer = send_request("GET", f"tagged/versions?{query}")
        assert answer.status_code == 200, answer.text
        return [item["name"] for item in answer.json()["value"]]

    assert versions("tags=verdict=PROMOTE") == ["1"]
    assert versions("tags=verdict") == ["2", "1"]
    assert versions("tags=verdict,run") == ["1"]
    assert versions("$orderBy=createdtime asc") == ["1", "2"]
    assert versions("$top=1") == ["2"]
    assert versions("$top=1&offset=1") == ["1"]
    assert [model.version for model in ml.models.list("tagged", stage="Development")] == ["2"]
    for wrong in ("$orderBy=name desc", "$top=all", "listViewType=Some"):
        assert send_request("GET", f"tagged/versions?{wrong}").status_code == 400
    assert send_request("GET", "tagged/versions?color=red").status_code == 501


def test_archived_models_are_found_but_not_listed(ml: Any, folder: Path) -> None:
    register(ml, "old", "1", folder)
    register(ml, "old", "2", folder)
    ml.models.archive("old", version="2")
    assert [model.version for model in ml.models.list("old")] == ["1"]
    assert ml.models.get("old", label="latest").version == "1"
    assert ml.models.get("old", version="2").path
    ml.models.restore("old", version="2")
    ml.models.archive("old")
    assert "old" not in [model.name for model in ml.models.list()]
    ml.models.restore("old")
    assert "old" in [model.name for model in ml.models.list()]


def test_a_missing_model_is_404_with_azures_message(ml: Any, folder: Path) -> None:
    with pytest.raises(ResourceNotFoundError, match="Model container with name: nobody not found"):
        ml.models.get("nobody", version="1")
    register(ml, "somebody", "1", folder)
    with pytest.raises(ResourceNotFoundError, match="The specified resource was not found"):
        ml.models.get("somebody", version="2")


def test_a_version_keeps_its_path_and_its_type(
    ml: Any, folder: Path, tmp_path: Path, send_request: Callable[..., requests.Response]
) -> None:
    model = register(ml, "fixed", "1", folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "MLmodel").write_text(MLMODEL + "run_id: other\n")
    with pytest.raises(HttpResponseError, match="Asset paths cannot be updated"):
        register(ml, "fixed", "1", other)
    with pytest.raises(HttpResponseError, match="can't be changed from mlflow_model to custom_model"):
        register(ml, "fixed", "1", model.path, type="custom_model")
    again = register(ml, "fixed", "1", model.path, tags={"new": "tag"})
    assert (again.path, again.tags) == (model.path, {"new": "tag"})
    body = {"properties": {"modelUri": model.path, "modelType": "mlflow_model"}}
    old, new = (send_request("PUT", f"fixed/versions/{number}", body) for number in (1, 2))
    assert (old.status_code, new.status_code) == (200, 201)
    assert "Location" not in old.headers
    assert new.headers["Location"].endswith("/models/fixed/versions/2?api-version=2023-08-01-preview")


def test_a_path_without_files_cannot_be_registered(ml: Any, tmp_path: Path) -> None:
    with pytest.raises(HttpResponseError, match="has no files") as empty:
        register(ml, "empty", "1", "azureml://datastores/workspaceblobstore/paths/nowhere/")
    assert empty.value.status_code == 400
    with pytest.raises(HttpResponseError, match="Could not find datastore: nostore"):
        register(ml, "empty", "1", "azureml://datastores/nostore/paths/nowhere/")
    with pytest.raises(HttpResponseError, match="Job nobody not found"):
        register(ml, "empty", "1", "azureml://jobs/nobody/outputs/trained_model")
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "weights.bin").write_bytes(b"12345")
    with pytest.raises(HttpResponseError, match="there is no file MLmodel"):
        register(ml, "empty", "1", plain)
    assert register(ml, "custom", "1", plain, type="custom_model").type == "custom_model"
    with pytest.raises(ResourceNotFoundError):
        ml.models.get("empty", version="1")


def test_unknown_fields_and_values_are_refused(send_request: Callable[..., requests.Response]) -> None:
    uri = "azureml://datastores/workspaceblobstore/paths/x"
    for properties, named in (
        ({"modelUri": uri, "color": "red"}, "properties.color"),
        ({"modelUri": uri, "modelType": "pickle"}, "properties.modelType"),
        ({"modelUri": 5}, "properties.modelUri"),
        ({}, "modelUri"),
    ):
        answer = send_request("PUT", "strict/versions/1", {"properties": properties})
        assert answer.status_code == 400
        assert named in answer.json()["error"]["message"]
    assert send_request("PUT", "not a name/versions/1", {"properties": {"modelUri": uri}}).status_code == 400
    assert send_request("GET", "strict/versions", version="2021-01-02").json()["error"]["code"] == "InvalidApiVersionParameter"


@pytest.mark.parametrize("version", ["20260922103000-01234567", "1.0", "blue", "0", "-1", "01", "1e3", "4294967296"])
def test_the_version_of_a_model_is_a_positive_integer(version: str, ml: Any, folder: Path) -> None:
    with pytest.raises(HttpResponseError, match="must be a positive integer") as refused:
        register(ml, "numbered", version, folder)
    assert refused.value.status_code == 400
    with pytest.raises(ResourceNotFoundError):
        ml.models.get("numbered", version=version)


def test_the_limits_on_tags_are_enforced(ml: Any, folder: Path) -> None:
    model = register(ml, "tagged-much", "1", folder, tags={f"t{number}": "x" * 1000 for number in range(50)})
    for tags, text in (
        ({f"t{number}": "" for number in range(51)}, "FieldName=Tags, Limit=50, Size=51"),
        ({"k" * 513: ""}, "FieldName=Tags.Key, Limit=512, Size=513"),
        ({"t": "x" * 1001}, "FieldName=Tags.Value, Limit=1000, Size=1001"),
    ):
        with pytest.raises(HttpResponseError, match=text) as refused:
            register(ml, "tagged-much", "1", model.path, tags=tags)
        assert refused.value.status_code == 400
    assert len(ml.models.get("tagged-much", version="1").tags) == 50


def test_a_deleted_version_is_not_found(ml: Any, folder: Path, send_request: Callable[..., requests.Response]) -> None:
    register(ml, "doomed", "1", folder)
    assert [send_request("DELETE", "doomed/versions/1").status_code for _ in range(2)] == [200, 204]
    with pytest.raises(ResourceNotFoundError):
        ml.models.get("doomed", version="1")
    assert [send_request("DELETE", "doomed").status_code for _ in range(2)] == [200, 204]


def run(ml: Any, script: str) -> str:
    """Run a job that may write a model, and return its name once it has ended."""
    job = ml.jobs.create_or_update(
        command(
            command=f"python -c '{script}' ${{{{outputs.model}}}}",
            environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
            outputs={"model": Output(type="mlflow_model")},
            compute="serverless",
        )
    )
    while ml.jobs.get(job.name).status not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.2)
    return str(job.name)


def test_a_jobs_output_becomes_a_path_that_remembers_its_job(ml: Any) -> None:
    script = f'import sys,pathlib; p=pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True,parents=True); (p/"MLmodel").write_text({MLMODEL!r})'
    job = run(ml, script.replace("'", '"'))
    model = register(ml, "trained", "1", f"azureml://jobs/{job}/outputs/model")
    assert model.job_name == job
    assert model.path.endswith(f"/datastores/workspaceblobstore/paths/azureml/{job}/model")
    with pytest.raises(HttpResponseError, match="Output nothing of job"):
        register(ml, "trained", "2", f"azureml://jobs/{job}/outputs/nothing")


def test_the_missing_output_of_a_failed_job_is_refused(ml: Any) -> None:
    job = run(ml, "raise SystemExit(3)")
    assert ml.jobs.get(job).status == "Failed"
    with pytest.raises(HttpResponseError, match="has no files"):
        register(ml, "untrained", "1", f"azureml://jobs/{job}/outputs/model")
