"""Push to main: promoted, stopped at the gate, held and overridden, left to itself and carried on, rolled back.

In this order, in one repository.
"""

from __future__ import annotations

import pytest

from mlops.cloud.workspace import Workspace
from mlops.emulator import github_api
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness, Result
from tests.support.workflows.signals import until
from tests.support.workflows.trees import commit, git

ENDPOINT = "chat-prod"
REASON = "The suite is new and small; two of us have read every answer"
JOBS = ["validate", "train", "evaluate-gate", "register", "deploy", "smoke-test", "promote", "teardown"]


def learning_rate(value: str) -> tuple[str, str]:
    return r"^learning_rate = .*", f"learning_rate = {value}"


@pytest.fixture(scope="module")
def first(repository: Harness, emulator: Emulator) -> Result:
    """The first push; GitHub hands out one token that has expired already, in the middle of it."""
    emulator.azure.faults.order("assertion-expired@*:environment:prod x1")
    return repository.push()


@pytest.fixture(scope="module")
def live(first: Result, repository: Harness) -> str:
    """The deployment that the first push made live."""
    assert first.code == 0, first.trouble
    (name,) = repository.endpoints()[ENDPOINT]
    return name


def test_a_push_is_trained_judged_and_promoted(first: Result, live: str, repository: Harness, emulator: Emulator) -> None:
    assert first.jobs == dict.fromkeys(JOBS, "success")
    assert list(first.jobs) == JOBS
    assert first.outputs["verdict"] == "PROMOTE"
    assert (first.outputs["state"], first.outputs["endpoint"]) == ("completed", ENDPOINT)
    assert repository.endpoints() == {ENDPOINT: {live: 100}}
    assert "## Gate: PROMOTE" in first.summary
    assert not emulator.azure.faults.pending(), "the expired token was never asked for"
    assert all(emulator.hosts_asked.values()), emulator.hosts_asked


def test_nothing_secret_is_printed(first: Result, emulator: Emulator) -> None:
    keys = [key for _, endpoint in emulator.azure.store.list("endpoint") for key in endpoint["keys"].values()]
    assert len(keys) == 2
    assert "ghs_" in (emulator.azure.store.list("github-token")[0][0])
    for line in first.log.splitlines():
        if "add-mask" not in line:
            # JSON Web Tokens, GitHub's own, shared access signatures, the endpoint's keys.
            assert not any(secret in line for secret in ("eyJ", "ghs_", "sig=", *keys)), line


def test_a_push_with_a_worse_model_stops_at_the_gate_and_has_no_override(live: str, repository: Harness) -> None:
    repository.configure(learning_rate("1e-9"))
    worse = repository.push()
    assert worse.code == 1
    assert worse.jobs == {"validate": "success", "train": "success", "evaluate-gate": "failure", "teardown": "success"}
    assert worse.outputs["verdict"] == "REJECT"
    assert repository.endpoints() == {ENDPOINT: {live: 100}}

    refused = override(repository, worse)
    assert refused.jobs == {"validate": "failure"}, refused.trouble  # no reviewer is even asked
    assert "REJECT has no override" in refused.log
    assert repository.endpoints() == {ENDPOINT: {live: 100}}


@pytest.fixture(scope="module")
def held(live: str, repository: Harness) -> Result:
    """A push with a gain that its rule finds suspicious, for an endpoint that serves nothing yet. The training stays as it was."""
    repository.configure(
        (r"^margin = -0.01", "margin = -0.01\nmax_gain = 1e-9"),
        (r'^name = "chat-prod"', 'name = "chat-new"'),
        (r'^name = "chat"$', 'name = "new"'),
    )
    return repository.push()


def override(repository: Harness, run: Result, **options: str) -> Result:
    return repository.dispatch("dispatch.yml", {"from": "evaluate-gate", "run-id": run.run_id, "override": REASON}, **options)


def test_a_push_without_enough_evidence_is_held(held: Result, live: str, repository: Harness) -> None:
    assert held.jobs == {"validate": "success", "train": "success", "evaluate-gate": "failure", "teardown": "success"}, held.trouble
    assert held.outputs["verdict"] == "HOLD"
    assert repository.endpoints() == {ENDPOINT: {live: 100}}


def test_nobody_overrides_where_nobody_reviews(held: Result, live: str, repository: Harness, emulator: Emulator) -> None:
    github_api.add_environment(emulator.azure, "gate-override")
    refused = override(repository, held)
    assert refused.jobs == {"validate": "success", "evaluate-gate": "failure", "teardown": "success"}, refused.trouble
    assert "An override was asked for and refused: environment gate-override has no required reviewers" in refused.summary
    assert repository.endpoints() == {ENDPOINT: {live: 100}}


def test_a_reviewed_override_promotes_and_is_loud(held: Result, repository: Harness, emulator: Emulator, workspace: Workspace) -> None:
    github_api.add_environment(emulator.azure, "gate-override", ["lead"])
    github_api.approve(emulator.azure, "502", "gate-override", "lead", "I have read them, too.")
    trained = repository.jobs()
    let = override(repository, held, run_id="502")
    assert let.code == 0, let.trouble
    assert list(let.jobs) == [job for job in JOBS if job != "train"]
    assert (let.outputs["verdict"], let.outputs["override"]) == ("HOLD", "true")
    assert "## Gate: HOLD, overridden" in let.summary
    assert "OVERRIDDEN by octocat at " in let.summary
    assert f"{REASON}. Approved by lead in environment gate-override" in let.summary
    assert repository.jobs() == trained, "nothing was trained again"
    assert list(repository.endpoints()["chat-new"].values()) == [100]
    (model,) = workspace.ml.models.list("new")
    tags = workspace.ml.models.get("new", model.version).tags
    assert (tags["mlops.verdict"], tags["mlops.override"]) == ("HOLD", f"{REASON} (octocat, lead)")


def test_a_long_training_is_left_to_itself_and_carried_on_by_the_schedule(
    live: str, repository: Harness, emulator: Emulator, workspace: Workspace
) -> None:
    began = repository.configure(learning_rate("0.02"), (r"^\[defaults\.training\]", "[defaults.training]\ndetach_after_minutes = 0"))
    before = set(repository.jobs())
    left = repository.push()
    assert left.jobs == {"validate": "success", "train": "success"}, left.trouble
    assert left.outputs["state"] == "detached"
    (job,) = set(repository.jobs()) - before
    assert until(lambda: repository.jobs()[job] == "Completed"), repository.jobs()

    # Meanwhile main moves on. The pipeline goes on as it began, at its own commit.
    repository.configure(learning_rate("0.03"), (r'^name = "chat"$', 'name = "chat-of-tomorrow"'))
    assert repository.schedule().jobs == {"resume": "success", "reap": "success"}
    (asked,) = github_api.dispatches(emulator.azure)
    assert (asked["workflow"], asked["ref"], asked["inputs"]["commit"]) == ("dispatch.yml", "main", began)
    assert (asked["inputs"]["target"], asked["inputs"]["from"], asked["inputs"]["run-id"]) == ("prod", "train", left.run_id)
    rest = repository.dispatch("dispatch.yml", asked["inputs"])
    assert rest.code == 0, rest.trouble
    assert rest.jobs == dict.fromkeys(JOBS, "success")
    assert set(repository.jobs()) == before | {job}, "the training was paid for twice"
    traffic = repository.endpoints()[ENDPOINT]
    assert traffic.pop(live) == 0, "the previous deployment is kept for rollback"
    assert list(traffic.values()) == [100]
    models = [workspace.ml.models.get("chat", model.version) for model in workspace.ml.models.list("chat")]
    assert [model.tags["mlops.commit"] for model in models if model.tags["mlops.job"] == job] == [began]

    repository.schedule(job="resume")
    assert len(github_api.dispatches(emulator.azure)) == 1, "what has been carried on is not carried on again"


def test_a_rollback_gives_the_traffic_back(live: str, repository: Harness) -> None:
    assert repository.endpoints()[ENDPOINT][live] == 0
    back = repository.dispatch("dispatch.yml", {"action": "rollback"})
    assert back.jobs == {"rollback": "success"}, back.trouble
    assert repository.endpoints()[ENDPOINT][live] == 100
    assert f"back on {live}" in back.summary


def test_a_commit_that_is_not_on_the_branch_is_not_run(live: str, repository: Harness) -> None:
    """A commit brings its own code, which gets this repository's identity: of a branch that nobody has reviewed, or of a fork."""
    git(repository.tree, "checkout", "--quiet", "-b", "unreviewed")
    theirs = commit(repository.tree)
    git(repository.tree, "checkout", "--quiet", "main")
    refused = repository.dispatch("dispatch.yml", {"from": "teardown", "commit": theirs})
    assert refused.jobs == {"validate": "failure"}, refused.trouble
    assert "commit is not on the branch that was dispatched" in refused.log
    assert repository.endpoints()[ENDPOINT][live] == 100


def test_a_repository_without_azure_variables_says_so(repository: Harness) -> None:
    silent = repository.push(configured=False)
    assert silent.jobs == {"unconfigured": "success"}
    assert "AZURE_CLIENT_ID is not set" in silent.log
