"""Code snapshots and environments, through the real SDK where it sends what is tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.base.azure import BLOB_SUFFIX, arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs

Send = Callable[..., requests.Response]
IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04"


@pytest.fixture
def send(emulator: Emulator, environment: object) -> Send:
    def send(method: str, *path: str, properties: dict[str, Any] | None = None, **query: str) -> requests.Response:
        return requests.request(
            method,
            MANAGEMENT + arm_id(emulator.azure, *path),
            params={"api-version": "2023-04-01"} | query,
            headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
            json=None if properties is None else {"properties": properties},
            timeout=30,
        )

    return send


def environment_of(**change: Any) -> Any:
    from azure.ai.ml.entities import Environment

    return Environment(**{"name": "e", "image": IMAGE} | change)


class TestEnvironments:
    """Environments that users make, and those that exist in every workspace."""

    def test_without_a_version_each_gets_the_next_one(self, ml: Any) -> None:
        versions = [ml.environments.create_or_update(environment_of(name="counted", image=f"{IMAGE}:{n}")).version for n in range(3)]
        assert versions == ["1", "2", "3"]
        assert ml.environments.get("counted", label="latest").version == "3"
        assert "counted" in [environment.name for environment in ml.environments.list()]

    def test_a_version_that_is_sent_again_is_created_again(self, send: Send) -> None:
        first, second = (send("PUT", "environments", "again", "versions", "1", properties={"image": IMAGE}) for _ in range(2))
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json()["properties"]["condaFile"] == ""
        assert second.headers["Location"].endswith("/environments/again/versions/1?api-version=2023-04-01")
        changed = send("PUT", "environments", "again", "versions", "1", properties={"image": "another"})
        assert (changed.status_code, "cannot be changed" in changed.text) == (409, True)

    def test_a_conda_file_is_stored_as_json(self, ml: Any, send: Send) -> None:
        conda = {"name": "x", "dependencies": ["python=3.10", {"pip": ["pandas"]}]}
        created = ml.environments.create_or_update(environment_of(name="conda", version="1", conda_file=conda))
        assert created.conda_file == conda
        properties = send("GET", "environments", "conda", "versions", "1").json()["properties"]
        assert json.loads(properties["condaFile"]) == conda
        assert (properties["environmentType"], properties["osType"], properties["stage"]) == ("UserCreated", "Linux", "Development")

    @pytest.mark.parametrize(("field", "value"), [("condaFile", "a: [b"), ("condaFile", "text"), ("image", 1), ("imagine", "x")])
    def test_an_invalid_environment_is_refused(self, send: Send, field: str, value: Any) -> None:
        assert send("PUT", "environments", "bad", "versions", "1", properties={field: value}).status_code == 400

    @pytest.mark.parametrize(
        ("pin", "status"),
        [("=3.7.6", 400), ("==3.6.2", 400), ("=3.6", 400), ("=2.7", 400), ("=3.7.10", 201), ("=3.7", 201), ("=3.8", 201), (">=3.6", 201)],
    )
    def test_an_old_python_is_refused(self, send: Send, pin: str, status: int) -> None:
        conda = f"dependencies: [pip, 'python{pin}', {{pip: [pandas]}}]"
        response = send("PUT", "environments", f"old{status}", "versions", pin.strip("=>"), properties={"image": IMAGE, "condaFile": conda})
        assert response.status_code == status, response.text
        if status == 400:
            (inner,) = [info["info"]["value"] for info in response.json()["error"]["additionalInfo"] if info["type"] == "InnerError"]
            assert inner["code"] == "NewRecommendedPythonVersions"
            assert f"the specification {pin.strip('=')} have reached" in response.text

    def test_null_tags_are_kept(self, ml: Any) -> None:
        assert ml.environments.create_or_update(environment_of(name="null", version="1", tags={"a": None})).tags == {"a": None}

    def test_curated_environments_exist(self, ml: Any) -> None:
        latest = ml.environments.get("AzureML-sklearn-1.0-ubuntu20.04-py38-cpu", label="latest")
        assert int(latest.version) >= 33
        assert ml.environments.get(latest.name, version="33").version == "33"
        with pytest.raises(ResourceNotFoundError, match="No environment exists for name: AzureML-own, version: 1"):
            ml.environments.get("AzureML-own", version="1")
        assert ml.environments.get("AzureML-ACPT-pytorch-1.12-py39-cuda11.6-gpu", version="8").version == "8"

    def test_archived_environments_are_found_but_not_listed(self, ml: Any) -> None:
        for version in ("1", "2"):
            ml.environments.create_or_update(environment_of(name="aging", version=version))

        def versions() -> list[str]:
            return [environment.version for environment in ml.environments.list("aging")]

        ml.environments.archive("aging", version="1")
        assert versions() == ["2"]
        assert [each.version for each in ml.environments.list("aging", list_view_type="ArchivedOnly")] == ["1"]
        ml.environments.archive("aging")
        assert versions() == []
        assert "aging" not in [environment.name for environment in ml.environments.list()]
        assert ml.environments.get("aging", version="2").version == "2"
        ml.environments.restore("aging")
        assert versions() == ["2", "1"]

    def test_a_deleted_asset_is_not_found(self, ml: Any, send: Send) -> None:
        for version in ("1", "2"):
            ml.environments.create_or_update(environment_of(name="gone", version=version))
        paths = (("environments", "gone", "versions", "1"), ("environments", "gone"))
        assert [send("DELETE", *path).status_code for path in (*paths, *paths)] == [200, 200, 204, 204]
        assert send("GET", "environments", "gone").status_code == 404
        assert send("PUT", "environments", "gone", properties={"isArchived": True}).status_code == 404
        send("PUT", "data", "gone", "versions", "1", properties={"dataUri": "azureml://datastores/x/paths/y"})
        assert [send("DELETE", "data", "gone").status_code for _ in range(2)] == [200, 204]

    def test_curated_environments_are_listed_after_ones_own(self, ml: Any) -> None:
        ml.environments.create_or_update(environment_of(name="listed", version="1"))
        names = [environment.name for environment in ml.environments.list()]
        assert names.index("listed") < names.index("AzureML-sklearn-1.5")
        assert len(names) == len(set(names))


class TestCode:
    """Code snapshots."""

    def container_url(self, emulator: Emulator, name: str) -> str:
        return f"https://{emulator.azure.identity.account}.{BLOB_SUFFIX}/{name}"

    def test_a_snapshot_is_found_by_its_hash_under_any_name(self, emulator: Emulator, send: Send) -> None:
        properties = {"codeUri": self.container_url(emulator, "snapshots"), "properties": {"hash_sha256": "abc"}, "isAnonymous": True}
        created = send("PUT", "codes", "first", "versions", "1", properties=properties)
        assert (created.status_code, created.json()["properties"]["isAnonymous"]) == (201, False)
        (found,) = send("GET", "codes", "other", "versions", hash="abc", hashVersion="202208").json()["value"]
        assert found["id"].endswith("/codes/first/versions/1")
        assert found["properties"]["provisioningState"] == "Succeeded"

    def test_a_version_stays_as_it_is(self, emulator: Emulator, send: Send) -> None:
        urls = [self.container_url(emulator, name) for name in ("one", "two")]
        answers = [send("PUT", "codes", "fixed", "versions", "1", properties={"codeUri": url}) for url in urls]
        assert [answer.status_code for answer in answers] == [201, 201]
        assert [answer.json()["properties"]["codeUri"] for answer in answers] == [urls[0], urls[0]]

    def test_only_a_new_asset_has_its_address_in_the_answer(self, emulator: Emulator, send: Send) -> None:
        default = self.container_url(emulator, blobs.datastore_container(emulator.azure))
        answers = [
            send("PUT", "codes", "addressed", "versions", "1", properties={"codeUri": self.container_url(emulator, "addressed")}),
            send("PUT", "codes", "stored", "versions", "1", properties={"codeUri": f"{default}/stored"}),
            *(
                send("PUT", "data", "addressed", "versions", "1", properties={"dataUri": "azureml://datastores/x/paths/y"})
                for _ in range(2)
            ),
        ]
        assert [(answer.status_code, "Location" in answer.headers) for answer in answers] == [(201, True), (200, False)] * 2

    def test_code_in_the_default_datastore_is_updated(self, emulator: Emulator, send: Send) -> None:
        url = self.container_url(emulator, f"{blobs.datastore_container(emulator.azure)}/LocalUpload/x")
        assert send("PUT", "codes", "local", "versions", "1", properties={"codeUri": url}).status_code == 200

    def test_a_second_upload_goes_to_the_same_place(self, emulator: Emulator, send: Send) -> None:
        path = ("codes", "uploaded", "versions", "1")
        first = send("POST", *path, "startPendingUpload").json()
        send("PUT", *path, properties={"codeUri": first["blobReferenceForConsumption"]["blobUri"]})
        second = send("POST", *path, "startPendingUpload").json()
        assert (first["pendingUploadType"], second["pendingUploadType"]) == ("TemporaryBlobReference", "None")
        assert first["blobReferenceForConsumption"]["blobUri"] == second["blobReferenceForConsumption"]["blobUri"]

    def test_code_elsewhere_is_refused(self, send: Send) -> None:
        answer = send("PUT", "codes", "foreign", "versions", "1", properties={"codeUri": "https://elsewhere.blob.core.windows.net/c"})
        assert (answer.status_code, "not in the workspace's storage" in answer.text) == (400, True)


def test_an_absent_version_is_not_found(ml: Any) -> None:
    with pytest.raises(HttpResponseError, match="No environment exists for name: nothing, version: 1"):
        ml.environments.get("nothing", version="1")


def test_a_table_is_answered_with_null_for_what_is_unknown(send: Send) -> None:
    unknown = {"autoDeleteSetting", "stage", "intellectualProperty", "referencedUris"}
    for kind, missing in (("mltable", unknown), ("uri_file", unknown - {"referencedUris"})):
        uri = {"dataUri": "azureml://datastores/workspaceblobstore/paths/x", "dataType": kind}
        created = send("PUT", "data", f"null-{kind}", "versions", "1", properties=uri).json()["properties"]
        assert {name for name, value in created.items() if value is None} == missing | {"description"}
        container = send("GET", "data", f"null-{kind}").json()["properties"]
        assert (container["tags"], container["properties"], container["dataType"]) == (None, None, kind)


class TestComponents:
    """Specifications of components, as the service stores and shows them."""

    def stored_spec(self, send: Send, name: str, spec: dict[str, Any]) -> Any:
        answer = send("PUT", "components", name, "versions", "1", properties={"componentSpec": spec | {"_source": "YAML.COMPONENT"}})
        assert answer.status_code == 201, answer.text
        return answer.json()["properties"]["componentSpec"]

    def test_defaults_are_filled_and_numbers_are_text(self, send: Send) -> None:
        spec = {
            "type": "spark",
            "inputs": {"data": {"type": "uri_file", "mode": "direct"}},
            "distribution": {"type": "pytorch", "count": 1},
        }
        assert self.stored_spec(send, "filled", spec) == {
            "name": "filled",
            "version": "1",
            "type": "spark",
            "is_deterministic": "True",
            "inputs": {"data": {"type": "uri_file", "optional": "False"}},
            "distribution": {"type": "Pytorch", "count": "1"},
        }

    def test_a_parallel_component_is_retried_and_logged(self, send: Send) -> None:
        task = {"entry_script": "score.py", "environment": "azureml:AzureML-sklearn-1.0-ubuntu20.04-py38-cpu:33"}
        spec = self.stored_spec(send, "parallel", {"type": "parallel", "error_threshold": 5, "task": task})
        assert (spec["error_threshold"], spec["logging_level"]) == ("5", "INFO")
        assert spec["retry_settings"] == {"max_retries": "3", "timeout": "60"}
        environment = "azureml://registries/azureml/environments/AzureML-sklearn-1.0-ubuntu20.04-py38-cpu/versions/33"
        assert spec["task"] == {"entry_script": "score.py", "environment": environment}
        answer = send("PUT", "components", "p", "versions", "1", properties={"componentSpec": {"type": "parallel", "task": {}}})
        assert (answer.status_code, "no entry_script" in answer.text) == (400, True)

    @pytest.mark.parametrize(
        ("kind", "given", "expected"),
        [
            ("CommandComponent", {"type": "string"}, {"type": "String"}),
            ("ParallelComponent", {"type": "path"}, {"type": "path", "datastore_mode": "Mount"}),
            ("HDInsightComponent", {"type": "path"}, {"type": "path"}),
            ("ScopeComponent", {"type": ["AnyFile", "AnyDirectory"]}, {"type": ["AnyFile", "AnyDirectory"], "is_resource": "False"}),
            ("AE365ExePoolComponent", {"type": "enum", "default": ""}, {"type": "Enum"}),
            ("ae365exepool", {"type": "enum", "default": ""}, {"type": "enum"}),
            ("spark", {"type": "path", "datastore_mode": "hdfs"}, {"type": "path"}),
            ("command", {"type": "string", "default": "", "mode": "direct"}, {"type": "string", "default": ""}),
        ],
    )
    def test_inputs_of_each_type(self, send: Send, kind: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
        task = {"command": "x", "environment": "azureml://registries/azureml/environments/e/versions/1"} if kind == "command" else {}
        spec = self.stored_spec(send, f"inputs-{kind}", {"type": kind, "inputs": {"in": given}} | task)
        assert spec["inputs"]["in"] == expected | {"optional": "False"}

    def test_outputs_and_additions_of_internal_types(self, send: Send) -> None:
        for kind, outputs, added in (
            ("CommandComponent", {"datastore_mode": "Upload"}, {"successful_return_code": "Zero"}),
            ("DataTransferComponent", {}, {"datatransfer": {"allow_overwrite": "True"}}),
        ):
            spec = self.stored_spec(send, f"outputs-{kind}", {"type": kind, "outputs": {"out": {"type": "path", "mode": "upload"}}})
            assert spec["outputs"]["out"] == outputs | {"type": "path"}
            assert spec | added == spec

    def test_the_nodes_of_a_pipeline_are_not_shown(self, send: Send) -> None:
        spec: dict[str, Any] = {"type": "pipeline", "jobs": {"a": {"type": "command"}}, "outputs": {"out": {}}, "sourceJobId": None}
        assert self.stored_spec(send, "graph", spec) == {
            "name": "graph",
            "version": "1",
            "type": "pipeline",
            "is_deterministic": "False",
            "outputs": {"out": {"type": "uri_folder"}},
        }
