"""MLflow's model registry through mlflow and azureml-mlflow: what it registers are models of the workspace."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import Model

from mlops.emulator.server import Emulator

pytestmark = [
    # The SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
    # MLflow itself calls what it has deprecated.
    pytest.mark.filterwarnings("ignore:.*model registry stages.*:FutureWarning"),
]

MLMODEL = "flavors:\n  python_function:\n    loader_module: add_one\n    code: code\n    python_version: 3.11.7\n"
ADD_ONE = """
class AddOne:
    def predict(self, numbers):
        return [number + 1 for number in numbers]


def _load_pyfunc(_path):
    return AddOne()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model that MLflow can load: it adds one."""
    path = tmp_path / "adder"
    (path / "code").mkdir(parents=True)
    (path / "MLmodel").write_text(MLMODEL)
    (path / "code" / "add_one.py").write_text(ADD_ONE)
    return path


@pytest.fixture
def run(mlflow_client: Any, folder: Path) -> str:
    """A run with the model as its artifact ``model``."""
    run_id: str = mlflow_client.create_run("0").info.run_id
    mlflow_client.log_artifacts(run_id, str(folder), "model")
    return run_id


def predict(uri: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow about its own classes, when mlflow.pyfunc is imported
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(uri).predict([1, 2])


def refuse(call: Callable[[], Any]) -> tuple[str, str]:
    """Return MLflow's error code and the text of a request that is refused."""
    from mlflow.exceptions import RestException

    with pytest.raises(RestException) as refused:
        call()
    return refused.value.error_code, str(refused.value)


def register(mlflow_client: Any, run: str, name: str, **more: Any) -> Any:
    """Register the model of a run with the requests that ``mlflow.register_model("runs:/…")`` of MLflow 2 sends."""
    from mlflow.exceptions import RestException

    with contextlib.suppress(RestException):  # it exists already
        mlflow_client.create_registered_model(name)
    return mlflow_client.create_model_version(name, f"{mlflow_client.get_run(run).info.artifact_uri}/model", run, **more)


def test_a_model_of_a_run_is_registered_seen_by_the_sdk_and_loaded(mlflow_client: Any, run: str, ml: Any) -> None:
    for number in ("1", "2"):
        version = register(mlflow_client, run, "from-run", tags={"color": "blue"})
        assert (version.name, version.version, version.run_id, version.status) == ("from-run", number, run, "READY")
    assert mlflow_client.get_model_version("from-run", "2").tags == {"color": "blue"}
    model = ml.models.get("from-run", version="2")
    assert (model.type, model.tags, model.job_name) == ("mlflow_model", {"color": "blue"}, run)
    assert model.path.endswith(f"/datastores/workspaceartifactstore/paths/ExperimentRun/dcid.{run}/model")
    assert mlflow_client.get_model_version_download_uri("from-run", "1") == f"azureml://artifacts/ExperimentRun/dcid.{run}/model"
    assert predict("models:/from-run/1") == predict("models:/from-run/latest") == [2, 3]


def test_mlflow_3_fails_as_on_azure(mlflow_client: Any, run: str) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="logged-models/search failed with error code 404"):
        mlflow.register_model(f"runs:/{run}/model", "by-mlflow-3")
    code, text = refuse(lambda: mlflow_client.search_registered_models("name='by-mlflow-3'"))
    assert (code, "Currently unsupported filter string format" in text) == ("INVALID_PARAMETER_VALUE", True)
    artifact = f"azureml://artifacts/ExperimentRun/dcid.{run}/model"
    assert mlflow_client.create_model_version("by-mlflow-3", artifact, run).source == artifact


def test_a_local_folder_is_registered_and_loaded(mlflow_client: Any, folder: Path, ml: Any) -> None:
    import mlflow

    version = mlflow.register_model(f"file://{folder}", "from-folder")
    assert (version.version, version.run_id) == ("1", "")
    assert version.source.startswith("azureml://artifacts/LocalUpload/")
    assert "/workspaceartifactstore/paths/LocalUpload/" in ml.models.get("from-folder", version="1").path
    assert predict("models:/from-folder/1") == [2, 3]


def test_models_of_the_sdk_are_found(mlflow_client: Any, run: str, folder: Path, ml: Any) -> None:
    ml.models.create_or_update(Model(name="from-job", path=f"azureml://jobs/{run}/outputs/artifacts/paths/model", type="mlflow_model"))
    assert predict("models:/from-job/1") == [2, 3]
    ml.models.create_or_update(Model(name="from-sdk", path=str(folder), type="custom_model", description="ours", tags={"a": "b"}))
    version = mlflow_client.get_model_version("from-sdk", "1")
    assert (version.description, version.tags, version.current_stage) == ("ours", {"a": "b"}, "None")
    assert "/datastores/workspaceblobstore/paths/" in version.source
    _, text = refuse(lambda: mlflow_client.get_model_version_download_uri("from-sdk", "1"))
    assert "does not implement the download by MLflow of a model at azureml://" in text


def test_models_and_versions_are_searched_as_azure_documents_it(mlflow_client: Any, run: str, ml: Any) -> None:
    store = mlflow_client._get_registry_client().store  # as MLflow 2 uses it: MLflow 3 adds a filter that Azure refuses
    before = {model.name for model in store.search_registered_models()}
    for name in ("searched-b", "searched-a", "searched-c"):
        register(mlflow_client, run, name)
    register(mlflow_client, run, "searched-a")
    mlflow_client.create_registered_model("searched-d", tags={"k": "v"}, description="empty")
    ml.models.archive("searched-c")

    def search(**options: Any) -> list[str]:
        return [model.name for model in store.search_registered_models(**options) if model.name not in before]

    assert search() == ["searched-a", "searched-b", "searched-d"]
    assert search(order_by=["name DESC"]) == ["searched-d", "searched-b", "searched-a"]
    assert search(order_by=["creation_timestamp ASC"]) == ["searched-b", "searched-a", "searched-d"]
    assert search(filter_string="name = 'searched-d'") == ["searched-d"]
    first = store.search_registered_models(max_results=len(before) + 2)
    assert store.search_registered_models(max_results=1000, page_token=first.token)[-1].name not in {model.name for model in first}
    assert [version.version for version in mlflow_client.search_model_versions("name='searched-a'")] == ["2", "1"]
    assert [version.version for version in mlflow_client.search_model_versions("name='searched-a'", order_by=["version ASC"])] == ["1", "2"]
    assert [version.version for version in mlflow_client.get_registered_model("searched-a").latest_versions] == ["2"]
    empty = mlflow_client.get_registered_model("searched-d")
    assert (empty.tags, empty.description, empty.latest_versions) == ({"k": "v"}, "empty", [])
    for text in ("name LIKE 'searched%'", "tags.k = 'v'"):
        assert f"Provided filter string: {text}" in refuse(partial(store.search_registered_models, text))[1]
    assert "without the name of their model" in refuse(mlflow_client.search_model_versions)[1]
    assert refuse(lambda: store.search_registered_models(order_by=["tags.k"]))[0] == "INVALID_PARAMETER_VALUE"


def test_descriptions_and_tags_are_changed_in_both_views(mlflow_client: Any, run: str, ml: Any) -> None:
    register(mlflow_client, run, "edited", tags={"old": "1"})
    mlflow_client.update_model_version("edited", "1", description="a version")
    mlflow_client.set_model_version_tag("edited", "1", "new", "2")
    mlflow_client.delete_model_version_tag("edited", "1", "old")
    model = ml.models.get("edited", version="1")
    assert (model.description, model.tags) == ("a version", {"new": "2"})
    model.tags = {"by": "sdk"}
    ml.models.create_or_update(model)
    assert mlflow_client.get_model_version("edited", "1").tags == {"by": "sdk"}
    mlflow_client.update_registered_model("edited", "a model")
    mlflow_client.set_registered_model_tag("edited", "owner", "me")
    mlflow_client.set_registered_model_tag("edited", "gone", "soon")
    mlflow_client.delete_registered_model_tag("edited", "gone")
    registered = mlflow_client.get_registered_model("edited")
    assert (registered.description, registered.tags) == ("a model", {"owner": "me"})
    assert refuse(lambda: mlflow_client.set_model_version_tag("edited", "1", "long", "x" * 1001))[0] == "INVALID_PARAMETER_VALUE"
    mlflow_client.delete_model_version("edited", "1")
    assert mlflow_client.get_registered_model("edited").latest_versions == []
    assert refuse(lambda: mlflow_client.get_model_version("edited", "1"))[0] == "RESOURCE_DOES_NOT_EXIST"


def test_stages_are_mlflows_own(mlflow_client: Any, run: str, ml: Any) -> None:
    for _ in range(3):
        register(mlflow_client, run, "staged")
    assert mlflow_client.transition_model_version_stage("staged", "1", "Staging").current_stage == "Staging"
    mlflow_client.transition_model_version_stage("staged", "2", "Staging")
    assert [version.version for version in mlflow_client.get_latest_versions("staged", ["Staging"])] == ["2"]
    assert sorted(version.version for version in mlflow_client.get_latest_versions("staged")) == ["2", "3"]
    assert predict("models:/staged/Staging") == [2, 3]
    model = ml.models.get("staged", version="2")
    assert model.stage == "Development"
    ml.models.create_or_update(model)
    mlflow_client.transition_model_version_stage("staged", "3", "Staging", archive_existing_versions=True)
    assert [mlflow_client.get_model_version("staged", version).current_stage for version in "123"] == ["Archived", "Archived", "Staging"]
    code, text = refuse(lambda: mlflow_client.transition_model_version_stage("staged", "1", "staging"))
    assert (code, "None, Staging, Production, Archived" in text) == ("INVALID_PARAMETER_VALUE", True)


def test_missing_or_wrong_fields_are_refused_in_mlflows_words(mlflow_client: Any, run: str, emulator: Emulator) -> None:
    mlflow_client.create_registered_model("there")
    mlflow_client.log_text(run, "no model", "notes/a.txt")
    artifact = f"azureml://artifacts/ExperimentRun/dcid.{run}"
    assert refuse(lambda: mlflow_client.create_registered_model("there"))[0] == "RESOURCE_ALREADY_EXISTS"
    assert refuse(lambda: mlflow_client.create_registered_model("not there"))[0] == "INVALID_PARAMETER_VALUE"
    for missing in (
        lambda: mlflow_client.get_registered_model("nothing"),
        lambda: mlflow_client.get_latest_versions("nothing"),
        lambda: mlflow_client.get_model_version("there", "1"),
        lambda: mlflow_client.create_model_version("nothing", f"{artifact}/model"),
        lambda: mlflow_client.create_model_version("there", f"{artifact}/model", "no-run"),
        lambda: mlflow_client.delete_model_version("there", "1"),
        lambda: mlflow_client.set_model_version_tag("there", "1", "key", "value"),
    ):
        assert refuse(missing)[0] == "RESOURCE_DOES_NOT_EXIST"
    code, text = refuse(lambda: mlflow_client.create_model_version("there", "dummy-source"))
    assert (code, "azureml://artifacts/<origin>/<container>/<artifact_prefix>" in text) == ("INVALID_PARAMETER_VALUE", True)
    assert "holds no MLflow model" in refuse(lambda: mlflow_client.create_model_version("there", f"{artifact}/notes"))[1]
    assert "has no files" in refuse(lambda: mlflow_client.create_model_version("there", f"{artifact}/nothing"))[1]
    other = emulator.azure.tracking_uri.replace("/workspaces/", "/workspaces/other-") + "/experiments/0/runs/r/artifacts/model"
    assert "from another workspace" in refuse(lambda: mlflow_client.create_model_version("there", other))[1]


def test_features_that_azure_does_not_support_are_refused(mlflow_client: Any) -> None:
    mlflow_client.create_registered_model("immutable")
    for call in (
        lambda: mlflow_client.rename_registered_model("immutable", "elsewhere"),
        lambda: mlflow_client.delete_registered_model("immutable"),
        lambda: mlflow_client.set_registered_model_alias("immutable", "best", "1"),
        lambda: mlflow_client.get_model_version_by_alias("immutable", "best"),
        lambda: mlflow_client.delete_registered_model_alias("immutable", "best"),
    ):
        assert "does not implement" in refuse(call)[1]
