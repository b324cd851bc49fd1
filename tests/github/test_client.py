from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlops.core.errors import UsageError
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.github.client import Approval, GitHubRefused, Protection, Repository

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


def test_the_comment_is_found_again_behind_many_others(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 1)
    mine = repository(pull_requests="write")
    first = mine.update_comment(1, MARKER, f"{MARKER} one")
    for number in range(35):
        octo.azure.store.put("github-comment", str(number), {"id": number, "issue": 1, "body": "+1", "edits": 0, "user": {"type": "User"}})
    assert mine.update_comment(1, MARKER, f"{MARKER} two") == first
    kept = [comment for comment in github_api.comments(octo.azure, 1) if MARKER in comment["body"]]
    assert [(comment["body"], comment["edits"]) for comment in kept] == [(f"{MARKER} two", 1)]
    mine.update_comment(1, MARKER, f"{MARKER} two")
    assert github_api.comments(octo.azure, 1)[-1]["edits"] == 1, "nobody is notified of what has not changed"


def test_a_persons_comment_is_never_changed(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 2)
    person = {"login": "somebody", "id": 1, "type": "User"}
    octo.azure.store.put("github-comment", "500", {"id": 500, "issue": 2, "body": f"> {MARKER}", "edits": 0, "user": person})
    repository(pull_requests="write").update_comment(2, MARKER, MARKER)
    assert [(comment["body"], comment["edits"]) for comment in github_api.comments(octo.azure, 2)] == [(f"> {MARKER}", 0), (MARKER, 0)]


def test_a_token_that_may_only_read_is_told_what_is_missing(octo: Emulator, repository: Open) -> None:
    github_api.open_pull_request(octo.azure, 3)
    with pytest.raises(GitHubRefused, match="403: Resource not accessible by integration") as raised:
        repository(pull_requests="read").update_comment(3, MARKER, MARKER)
    assert "`permissions: pull-requests: write`" in raised.value.fix


def test_dispatch_and_runs(octo: Emulator, repository: Open) -> None:
    mine = repository(actions="write")
    mine.dispatch("dispatch.yml", "main", {"action": "run"})
    assert github_api.dispatches(octo.azure) == [{"workflow": "dispatch.yml", "ref": "main", "inputs": {"action": "run"}}]
    github_api.add_workflow_run(octo.azure, "5", "completed", "cancelled")
    github_api.add_workflow_run(octo.azure, "6", "in_progress", None)
    assert (mine.workflow_run(5), mine.workflow_run(6)) == (("completed", "cancelled"), ("in_progress", ""))
    with pytest.raises(GitHubRefused) as raised:
        repository(actions="read").dispatch("dispatch.yml", "main", {})
    assert "actions: write" in raised.value.fix


def test_an_environments_reviewers_and_who_of_them_let_a_run_in(octo: Emulator, repository: Open) -> None:
    github_api.add_environment(octo.azure, "gate-override", ["lead", "second"])
    github_api.add_environment(octo.azure, "open")
    github_api.add_workflow_run(octo.azure, "9", "in_progress", None)
    github_api.approve(octo.azure, "9", "gate-override", "lead", "ship it")
    mine = repository(actions="read")
    assert mine.protection("gate-override") == Protection(("lead", "second"))
    assert mine.protection("open") == Protection(())
    assert mine.protection("nowhere") is None
    assert mine.approvals(9) == [Approval("gate-override", "lead", "ship it")]
    stranger = repository(contents="read")
    with pytest.raises(GitHubRefused) as raised:
        stranger.protection("open")
    assert "actions: read" in raised.value.fix
    with pytest.raises(GitHubRefused):
        stranger.approvals(9)


def test_without_a_token_it_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    with pytest.raises(UsageError, match="GITHUB_TOKEN"):
        Repository()
