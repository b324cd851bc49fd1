from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlops.core.errors import GitHubRefused, UsageError
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.github.client import Approval, Protection, Repository

MARKER = "<!-- marker -->"
Open = Callable[..., Repository]


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("github"), Options(github="octo/chat")) as running:
        yield running


@pytest.fixture
def repository(octo: Emulator, monkeypatch: pytest.MonkeyPatch) -> Open:
    """The repository as a job with these permissions sees it."""

    def enter(**permissions: str) -> Repository:
        token = github_api.issue_token(octo.azure, {name.replace("_", "-"): level for name, level in permissions.items()})
        for name, value in (octo.environment() | {"GITHUB_REPOSITORY": "octo/chat", "GITHUB_TOKEN": token}).items():
            monkeypatch.setenv(name, value)
        return Repository()

    return enter


def test_the_comment_is_updated_even_after_many_others(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 1)
    own = repository(pull_requests="write")
    first = own.update_comment(1, MARKER, f"{MARKER} one")
    for number in range(35):
        octo.azure.store.put("github-comment", str(number), {"id": number, "issue": 1, "body": "+1", "edits": 0, "user": {"type": "User"}})
    assert own.update_comment(1, MARKER, f"{MARKER} two") == first
    marked = [comment for comment in github_api.comments(octo.azure, 1) if MARKER in comment["body"]]
    assert [(comment["body"], comment["edits"]) for comment in marked] == [(f"{MARKER} two", 1)]
    own.update_comment(1, MARKER, f"{MARKER} two")
    assert github_api.comments(octo.azure, 1)[-1]["edits"] == 1, "an unchanged comment notifies nobody"


def test_a_persons_comment_is_never_changed(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 2)
    person = {"login": "somebody", "id": 1, "type": "User"}
    octo.azure.store.put("github-comment", "500", {"id": 500, "issue": 2, "body": f"> {MARKER}", "edits": 0, "user": person})
    repository(pull_requests="write").update_comment(2, MARKER, MARKER)
    assert [(comment["body"], comment["edits"]) for comment in github_api.comments(octo.azure, 2)] == [(f"> {MARKER}", 0), (MARKER, 0)]


def test_the_missing_permission_is_named(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 3)
    with pytest.raises(GitHubRefused, match="403: Resource not accessible by integration") as raised:
        repository(pull_requests="read").update_comment(3, MARKER, MARKER)
    assert "`permissions: pull-requests: write`" in raised.value.fix


def test_dispatch_and_runs(octo: Emulator, repository: Open) -> None:
    own = repository(actions="write")
    own.dispatch("dispatch.yml", "main", {"action": "run"})
    assert github_api.dispatches(octo.azure) == [{"workflow": "dispatch.yml", "ref": "main", "inputs": {"action": "run"}}]
    github_api.add_workflow_run(octo.azure, "5", "completed", "cancelled")
    github_api.add_workflow_run(octo.azure, "6", "in_progress", None)
    assert (own.workflow_run(5), own.workflow_run(6)) == (("completed", "cancelled"), ("in_progress", ""))
    with pytest.raises(GitHubRefused) as raised:
        repository(actions="read").dispatch("dispatch.yml", "main", {})
    assert "actions: write" in raised.value.fix


def test_which_commits_a_commit_contains(octo: Emulator, repository: Open) -> None:
    for history in (("a",), ("b", "a"), ("c", "a"), ("merged", "b", "c"), ("alone",)):
        github_api.add_commit(octo.azure, *history)
    own = repository(contents="read")
    assert [own.contains("merged", sha) for sha in ("merged", "a", "b", "c", "alone", "missing")] == [True] * 4 + [False] * 2
    assert [own.contains("b", sha) for sha in ("b", "a", "c", "merged")] == [True, True, False, False]
    with pytest.raises(GitHubRefused) as raised:
        repository(actions="read").contains("b", "a")
    assert "contents: read" in raised.value.fix


def test_an_environments_reviewers_and_approvals(octo: Emulator, repository: Open) -> None:
    github_api.add_environment(octo.azure, "gate-override", ["lead", "second"])
    github_api.add_environment(octo.azure, "open")
    github_api.add_workflow_run(octo.azure, "9", "in_progress", None)
    github_api.approve(octo.azure, "9", "gate-override", "lead", "ship it")
    own = repository(actions="read")
    assert own.protection("gate-override") == Protection(("lead", "second"))
    assert own.protection("open") == Protection(())
    assert own.protection("nowhere") is None
    assert own.approvals(9) == [Approval("gate-override", "lead", "ship it")]
    stranger = repository(contents="read")
    with pytest.raises(GitHubRefused) as raised:
        stranger.protection("open")
    assert "actions: read" in raised.value.fix
    with pytest.raises(GitHubRefused):
        stranger.approvals(9)


def test_a_missing_token_is_reported_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    with pytest.raises(UsageError, match="GITHUB_TOKEN"):
        Repository()
