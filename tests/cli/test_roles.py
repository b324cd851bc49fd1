"""`mlops roles`: role definitions, commands and files, in the form that their readers take."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.cli.run import STAGES
from mlops.cloud.permissions import ENVIRONMENTS, find_missing, needed_actions
from mlops.emulator.identity.roles import BUILTIN, load

WHERE = ("--subscription", "sub", "--resource-group", "group", "--workspace", "space", "--assignee", "client")
ML = "Microsoft.MachineLearningServices/workspaces"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_SUBSCRIPTION_ID", "AZUREML_RESOURCE_GROUP", "AZUREML_WORKSPACE", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["roles", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_a_role_definition_for_the_azure_cli(environment: str, capsys: pytest.CaptureFixture[str]) -> None:
    role = json.loads(printed(capsys, "--environment", environment, "--subscription", "sub", "--resource-group", "group"))
    fields = ["Name", "IsCustom", "Description", "Actions", "NotActions", "DataActions", "NotDataActions", "AssignableScopes"]
    assert list(role) == fields
    assert role["AssignableScopes"] == ["/subscriptions/sub/resourceGroups/group"]
    assert role["Actions"] == sorted(set(role["Actions"]))
    assert find_missing([{"actions": role["Actions"], "notActions": []}], environment) == {}
    # Nothing broader than what is needed, except where Azure knows no narrower name.
    assert [action for action in role["Actions"] if "*" in action] in ([], [f"{ML}/codes/versions/*"])
    assert not {f"{ML}/write", f"{ML}/delete", f"{ML}/listKeys/action"} & set(role["Actions"])


def test_environments_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"{ML}/jobs/write" in needed_actions("prod")
    assert f"{ML}/jobs/write" not in needed_actions("scheduled")
    assert f"{ML}/onlineEndpoints/delete" in needed_actions("scheduled")
    assert f"{ML}/jobs/cancel/action" in needed_actions("pr")
    # docs/first-run-on-azure.md: one identity can have the role of prod alone.
    assert needed_actions("prod").keys() >= needed_actions("pr").keys() | needed_actions("scheduled").keys()
    assert ENVIRONMENTS["pr"] == (*STAGES, "reap")


def test_the_subscriptions_role_only_reads(capsys: pytest.CaptureFixture[str]) -> None:
    role = json.loads(printed(capsys, "--scope", "subscription", "--subscription", "sub"))
    assert role["AssignableScopes"] == ["/subscriptions/sub"]
    assert all(action.startswith("Microsoft.MachineLearningServices/locations/") for action in role["Actions"])
    assert all(action.endswith("/read") for action in role["Actions"])


def test_the_commands_create_and_assign_both_roles(capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(printed(capsys, "--format", "commands", *WHERE), comments=True)
    starts = [index for index, word in enumerate(words) if word == "az"]
    commands = [words[start:end] for start, end in zip(starts, [*starts[1:], len(words)], strict=True)]
    assert [command[:4] for command in commands] == [["az", "role", kind, "create"] for kind in ("definition", "assignment")] * 2
    definitions = [json.loads(command[5]) for command in commands[::2]]
    group = "/subscriptions/sub/resourceGroups/group"
    scopes = [f"{group}/providers/Microsoft.MachineLearningServices/workspaces/space", "/subscriptions/sub"]
    for definition, assignment, scope in zip(definitions, commands[1::2], scopes, strict=True):
        assert assignment[4:] == ["--assignee", "client", "--role", definition["Name"], "--scope", scope]


def test_the_file_is_one_of_the_emulator(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "roles.json"
    path.write_text(printed(capsys, "--format", "file"))
    workspace, subscription = load(path)
    assert (workspace.scope, subscription.scope) == ("workspace", "subscription")
    assert workspace.role.allows(f"{ML}/jobs/write")


def test_defaults_come_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_SUBSCRIPTION_ID", "sub")
    monkeypatch.setenv("AZUREML_RESOURCE_GROUP", "group")
    assert json.loads(printed(capsys))["AssignableScopes"] == ["/subscriptions/sub/resourceGroups/group"]
    assert main(["roles", "--format", "commands"]) == 2
    assert "add --assignee, or set AZURE_CLIENT_ID" in capsys.readouterr().err


def test_the_documented_built_in_roles_suffice() -> None:
    """docs/azure.md names them as the simple alternative."""
    names = ("azureml data scientist", "azureml compute operator", "reader")
    granted: list[dict[str, Any]] = [{"actions": BUILTIN[name].actions, "notActions": BUILTIN[name].not_actions} for name in names]
    assert find_missing(granted, "prod") == {}
    assert find_missing(granted[:1], "prod").keys() == {"Microsoft.Authorization/permissions/read", f"{ML}/computes/write"}
