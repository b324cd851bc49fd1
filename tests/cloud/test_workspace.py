from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cloud.errors import NotFound
from mlops.cloud.session import Session, _check_cloud
from mlops.cloud.tags import MARK, OWNER, PIPELINE, RUN, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core.errors import ConfigError, CredentialError
from mlops.core.settings import Config
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Start = Callable[..., Emulator]


def test_a_session_opens_the_workspace(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    emulator = start_emulator()
    workspace = open_workspace(settings())
    assert workspace.session.location == "eastus"
    assert workspace.session.tracking_uri.startswith("azureml://")
    assert workspace.session.arm_id.lower() == str(workspace.session.entity.id).lower()
    # No other host was contacted: telemetry, metadata services and metrics send nothing.
    assert all(emulator.contacted_hosts.values()), emulator.contacted_hosts


def test_missing_coordinates_are_an_error_that_names_the_variables(
    settings: Settings, open_workspace: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        open_workspace(settings(environment={}))
    for name in ("AZURE_SUBSCRIPTION_ID", "AZUREML_RESOURCE_GROUP", "AZUREML_WORKSPACE"):
        assert name in str(caught.value)


def test_incomplete_coordinates_are_an_error_that_names_the_missing_ones(settings: Settings, open_workspace: Open) -> None:
    with pytest.raises(ConfigError, match="AZUREML_RESOURCE_GROUP, AZUREML_WORKSPACE not set"):
        open_workspace(settings(environment={"AZURE_SUBSCRIPTION_ID": "s"}))


def test_coordinates_come_from_config_json(
    start_emulator: Start, settings: Settings, open_workspace: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = start_emulator().environment()
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "subscription_id": environment["AZURE_SUBSCRIPTION_ID"],
                "resource_group": environment["AZUREML_RESOURCE_GROUP"],
                "workspace_name": environment["AZUREML_WORKSPACE"],
            }
        )
    )
    monkeypatch.chdir(tmp_path)
    assert open_workspace(settings(environment={})).session.location == "eastus"


def test_a_wrong_secret_is_an_error_that_lists_the_attempts(
    start_emulator: Start, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_emulator()
    config = settings()
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "not-the-secret")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(CredentialError, match=r"Tried: .*EnvironmentCredential") as caught:
        open_workspace(config)
    assert "AZURE_CLIENT_SECRET" in caught.value.fix
    # The library that signs in says the same of a tenant that does not exist and of a proxy that refuses.
    monkeypatch.setenv("AZURE_TENANT_ID", str(uuid.uuid4()))
    with pytest.raises(CredentialError, match="no configuration for the tenant") as caught:
        open_workspace(config)
    assert "AZURE_TENANT_ID" in caught.value.fix


def test_a_workspace_that_does_not_exist_is_not_found(
    start_emulator: Start, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_emulator()
    monkeypatch.setenv("AZUREML_WORKSPACE", "nowhere")
    workspace = open_workspace(settings())
    with pytest.raises(NotFound, match="looking up workspace nowhere"):
        _ = workspace.session.location


def test_tags_name_pipeline_target_owner_and_run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "octocat")
    monkeypatch.setenv("GITHUB_RUN_ID", "42")
    monkeypatch.setenv("GITHUB_REPOSITORY", "o/r")
    session = Session(settings("tags = { team = 'a' }", environment={}), None, {})
    assert session.tags == {"team": "a", PIPELINE: MARK, TARGET: "test", OWNER: "octocat", RUN: "o/r/42"}


def test_configured_tags_do_not_override_our_own(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="is reserved"):
        settings(f"tags = {{ '{PIPELINE}' = 'x' }}", environment={})
    config = settings(environment={}).model_copy(update={"tags": {PIPELINE: "x"}})
    session = Session(config, None, {})
    assert session.owns(session.tags)


@pytest.mark.parametrize(
    ("tags", "owned", "from_this_run"),
    [
        (None, False, False),
        ({}, False, False),
        ({PIPELINE: MARK}, False, False),
        ({PIPELINE: MARK, TARGET: "other"}, False, False),
        ({PIPELINE: "x", TARGET: "test"}, False, False),
        ({PIPELINE: MARK, TARGET: "test"}, True, False),
        ({PIPELINE: MARK, TARGET: "test", OWNER: "me", RUN: "another"}, True, False),
        ({PIPELINE: MARK, TARGET: "test", OWNER: "me", RUN: "r/1"}, True, True),
    ],
)
def test_which_resources_are_ours(
    tags: dict[str, str] | None, owned: bool, from_this_run: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "me")
    monkeypatch.setenv("GITHUB_RUN_ID", "1")
    monkeypatch.setenv("GITHUB_REPOSITORY", "r")
    session = Session(settings(environment={}), None, {})
    assert (session.owns(tags), session.is_from_this_run(tags)) == (owned, from_this_run)


def test_a_user_without_a_name_is_called_by_the_number(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTOR", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # a container's user without an entry in passwd
    assert Session(settings(), None, {}).tags[OWNER] == "uid 54321"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AZURE_CLOUD", "AzureUSGovernment"),
        ("AZUREML_CURRENT_CLOUD", "AzureChinaCloud"),
        ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.us"),
        ("ARM_CLOUD_METADATA_URL", "https://management.chinacloudapi.cn/metadata/endpoints?api-version=2019-05-01"),
    ],
)
def test_a_sovereign_cloud_is_refused_before_anything_is_sent(
    variable: str, value: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=rf"{variable} is '.*', but only Azure's public cloud is supported"):
        Workspace.open(settings())


@pytest.mark.parametrize(
    ("variable", "value"),
    [("AZURE_CLOUD", "AzureCloud"), ("AZURE_CLOUD", "AZURE_PUBLIC_CLOUD"), ("AZURE_AUTHORITY_HOST", "login.microsoftonline.com")],
)
def test_the_public_cloud_may_be_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    _check_cloud()
