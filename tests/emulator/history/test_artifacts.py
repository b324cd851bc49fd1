"""Run artifacts through mlflow and azureml-mlflow: their bytes are blobs, which the MLflow page shows too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.history import artifacts, mlflow_api, runstore
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs


@pytest.fixture
def run(mlflow_client: Any) -> str:
    """A new run."""
    run_id: str = mlflow_client.create_run("0").info.run_id
    return run_id


def blob(emulator: Emulator, run: str, path: str) -> Path:
    return blobs.path(emulator.azure, "azureml", f"ExperimentRun/dcid.{run}/{path}")


def test_an_artifact_is_a_blob(emulator: Emulator, mlflow_client: Any, run: str, tmp_path: Path) -> None:
    mlflow_client.log_text(run, "noted", "docs/note.txt")
    assert blob(emulator, run, "docs/note.txt").read_text() == "noted"
    assert [(file.path, file.is_dir) for file in mlflow_client.list_artifacts(run)] == [("docs", True)]
    # MLflow 3 also searches the run's logged models, which Azure does not have; a download ignores that, a list does not.
    with pytest.raises(Exception, match="logged-models/search failed with error code 404"):
        mlflow_client.list_artifacts(run, "docs")
    assert Path(mlflow_client.download_artifacts(run, "docs/note.txt", str(tmp_path))).read_text() == "noted"


def test_a_folder_is_listed_page_by_page(
    emulator: Emulator, mlflow_client: Any, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "PAGE", 4)
    folder = tmp_path / "many"
    (folder / "deep").mkdir(parents=True)
    for number in range(9):
        (folder / "deep" / f"{number}.txt").write_text(str(number))
    (folder / "top.txt").write_text("top")
    mlflow_client.log_artifacts(run, str(folder), "all")
    downloaded = Path(mlflow_client.download_artifacts(run, "all", str(tmp_path / "downloaded")))
    assert sorted(file.read_text() for file in downloaded.rglob("*.txt")) == [*map(str, range(9)), "top"]


def test_an_artifact_cannot_be_overwritten(emulator: Emulator, mlflow_client: Any, run: str) -> None:
    mlflow_client.log_text(run, "first", "note.txt")
    with pytest.raises(Exception, match=rf"Resource Conflict: ArtifactId ExperimentRun/dcid\.{run}/note\.txt already exists"):
        mlflow_client.log_text(run, "second", "note.txt")
    assert blob(emulator, run, "note.txt").read_text() == "first"


def test_a_missing_artifact_is_not_downloaded(mlflow_client: Any, run: str, tmp_path: Path) -> None:
    mlflow_client.log_text(run, "here", "here.txt")
    with pytest.raises(Exception, match=r"Failed to download artifacts from path 'absent\.txt'"):
        mlflow_client.download_artifacts(run, "absent.txt", str(tmp_path))


def test_the_mlflow_page_shows_the_artifacts(emulator: Emulator, mlflow_client: Any, run: str) -> None:
    mlflow_client.log_text(run, "noted", "docs/note.txt")
    session = requests.Session()
    session.trust_env = False
    page, uuid = mlflow_api.get_url(emulator.azure), runstore.get(emulator.azure, run)["uuid"]  # type: ignore[index]
    listed = session.get(f"{page}/ajax-api/2.0/mlflow/artifacts/list", params={"run_id": uuid, "path": "docs"}, timeout=30).json()
    assert [file["path"] for file in listed["files"]] == ["docs/note.txt"]
    assert session.get(f"{page}/get-artifact", params={"run_uuid": uuid, "path": "docs/note.txt"}, timeout=30).text == "noted"


@pytest.mark.parametrize("path", ["../escaped.txt", "a/../../escaped.txt", "", "/etc/passwd"])
def test_a_path_cannot_leave_the_run(emulator: Emulator, credential: Any, mlflow_client: Any, run: str, path: str) -> None:
    token = credential.get_token("https://management.azure.com/.default").token
    url = f"https://eastus.api.azureml.ms/history/v1.0{emulator.azure.workspace_id}/experiments/Default/runs/{run}/artifacts"
    headers = {"Authorization": f"Bearer {token}"}
    created = requests.post(f"{url}/batch/metadata", json={"paths": [{"path": path}]}, headers=headers, timeout=30)
    assert (created.status_code, "Invalid artifact path" in created.text) == (400, True)
    read = requests.get(f"{url}/contentinfo", params={"path": path}, headers=headers, timeout=30)
    assert read.status_code == 404
