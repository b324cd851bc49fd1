"""Pull requests: an endpoint of their own, which is deleted at the end whatever happens, and one comment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mlops.cloud.tags import EXPIRES, MARK, OWNER, PIPELINE, RUN, TARGET
from mlops.cloud.workspace import Workspace
from mlops.emulator import github_api
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness, Result
from tests.support.workflows.signals import cancel_step, wait_until
from tests.support.workflows.trees import REPOSITORY

NUMBER = 12


def bodies(emulator: Emulator, number: int = NUMBER) -> list[str]:
    return [comment["body"] for comment in github_api.comments(emulator.azure, number)]


@pytest.fixture(scope="module")
def opened(repository: Harness, emulator: Emulator) -> Result:
    """The first run of pull request 12. Before it, a person quoted our marker in a comment."""
    quoted = "> <!-- azureml-chat-mlops: the pipeline's comment -->\nWhat is this?"
    person = {"login": "somebody", "id": 7, "type": "User"}
    emulator.azure.store.put("github-comment", "1", {"id": 1, "issue": NUMBER, "body": quoted, "edits": 0, "user": person})
    return repository.pull_request(NUMBER)


def test_a_pull_request_runs_on_an_endpoint_that_is_deleted_at_the_end(opened: Result, repository: Harness) -> None:
    assert opened.code == 0, opened.trouble
    assert opened.jobs["promote"] == opened.jobs["teardown"] == opened.jobs["comment"] == "success"
    assert "offline" not in opened.jobs
    assert "endpoint ultrachat-pr-12" in opened.log
    assert repository.endpoints() == {}


def test_it_gets_one_comment_with_verdict_metrics_samples_cost_and_links(opened: Result, emulator: Emulator) -> None:
    quoted, comment = bodies(emulator)
    assert quoted.startswith("> "), "a person's comment stays as it is"
    for part in ("PROMOTE", "target.nll", "Sample answers", "before (base)", "Estimated cost: 0.37 USD", "/actions/runs/", "ml.azure.com"):
        assert part in comment, part
    assert comment.strip() in opened.summary


def test_a_failed_deployment_leaves_nothing_and_the_comment_says_why(opened: Result, repository: Harness, emulator: Emulator) -> None:
    emulator.azure.faults.add("deployment-unhealthy x1")
    failed = repository.pull_request(NUMBER, "synchronize", inline=True)
    assert failed.code == 1
    assert (failed.jobs["deploy"], failed.jobs["teardown"], failed.jobs["comment"]) == ("failure", "success", "success"), failed.trouble
    assert "promote" not in failed.jobs
    assert repository.endpoints() == {}
    assert len(bodies(emulator)) == 2, "the comment is edited in place"
    assert "deploy failed" in bodies(emulator)[1]


def test_a_failed_smoke_test_leaves_nothing(opened: Result, repository: Harness, emulator: Emulator) -> None:
    emulator.azure.faults.add("scoring-424 x1")
    failed = repository.pull_request(NUMBER, "synchronize", inline=True)
    assert (failed.jobs["deploy"], failed.jobs["smoke-test"], failed.jobs["teardown"]) == ("success", "failure", "success")
    assert "promote" not in failed.jobs
    assert repository.endpoints() == {}
    assert "smoke-test failed" in bodies(emulator)[1]


def test_a_canceled_run_leaves_nothing(opened: Result, repository: Harness, emulator: Emulator) -> None:
    """GitHub signals the process of the running step, and still runs the jobs with always()."""
    tags: dict[str, str] = {}

    def cancel(_result: Result) -> None:
        if wait_until(lambda: any(repository.endpoints().values())):
            tags.update(emulator.azure.store.list("endpoint")[0][1]["tags"])
            cancel_step(repository.artifacts, "-m mlops run --from deploy")

    cancelled = repository.pull_request(NUMBER, "synchronize", during=cancel)
    assert (tags[TARGET], tags[OWNER], tags[RUN]) == ("pr", "octocat", f"{REPOSITORY}/{cancelled.run_id}")
    assert timedelta(hours=5) < datetime.fromisoformat(tags[EXPIRES]) - datetime.now(UTC) <= timedelta(hours=6), "for the reaper"
    assert (cancelled.jobs["deploy"], cancelled.jobs["teardown"]) == ("failure", "success"), cancelled.trouble
    assert "Interrupted" in cancelled.log
    assert repository.endpoints() == {}


def test_a_canceled_run_cancels_its_training(opened: Result, repository: Harness) -> None:
    repository.configure((r"^learning_rate = .*", "learning_rate = 0.03"))
    before = set(repository.jobs())

    def cancel(_result: Result) -> None:
        if wait_until(lambda: "Running" in [status for job, status in repository.jobs().items() if job not in before]):
            cancel_step(repository.artifacts, "-m mlops run --from train")

    cancelled = repository.pull_request(NUMBER, "synchronize", during=cancel)
    assert (cancelled.jobs["train"], cancelled.jobs["teardown"]) == ("failure", "success"), cancelled.trouble
    repository.configure()
    (job,) = set(repository.jobs()) - before
    assert wait_until(lambda: repository.jobs()[job] == "Canceled"), repository.jobs()
    # The stage itself cancels it, within the 7.5 s before the runner sends SIGTERM; teardown does not.
    assert f"canceling job {job}" in cancelled.log
    assert f"canceled job {job}" not in cancelled.log


def test_closing_a_pull_request_tears_down_its_endpoint(opened: Result, repository: Harness, workspace: Workspace) -> None:
    """A runner was lost while it deployed, and the pull request is closed: its endpoint is deleted, another pull request's stays."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    tags = {PIPELINE: MARK, TARGET: "pr", RUN: f"{REPOSITORY}/7"}
    for name in (f"ultrachat-pr-{NUMBER}", "ultrachat-pr-13"):
        workspace.session.ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key", tags=tags)).result()
    closed = repository.pull_request(NUMBER, "closed")
    assert closed.jobs == {"validate": "success", "teardown": "success"}, closed.trouble
    assert set(repository.endpoints()) == {"ultrachat-pr-13"}
    workspace.endpoints.delete("ultrachat-pr-13")
