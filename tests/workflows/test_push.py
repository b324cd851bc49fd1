"""Push to main: promotion, rejection at the gate, an override, a detached training that the schedule resumes, a rollback.

In this order, in one repository.
"""

from __future__ import annotations

import pytest

from mlops.cloud.workspace import Workspace
from mlops.emulator import github_api
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness, Result
from tests.support.workflows.signals import wait_until
from tests.support.workflows.trees import commit, git

ENDPOINT = "chat-prod"
REASON = "The suite is new and small; two of us have read every answer"
JOBS = ["validate", "train", "evaluate-gate", "register", "deploy", "smoke-test", "promote", "teardown"]


def learning_rate(value: str) -> tuple[str, str]:
    return r"^learning_rate = .*", f"learning_rate = {value}"


@pytest.fixture(scope="module")
def first(repository: Harness, emulator: Emulator) -> Result:
    """The first push. In the middle of it GitHub issues one token that has already expired."""
    emulator.azure.faults.add("assertion-expired@*:environment:prod x1")
    return repository.push()


@pytest.fixture(scope="module")
def live(first: Result, repository: Harness) -> str:
    """The deployment that the first push made live."""
    assert first.code == 0, first.trouble
    (name,) = repository.endpoints()[ENDPOINT]
    return name


def test_a_push_trains_judges_and_promotes(first: Result, live: str, repository: Harness, emulator: Emulator) -> None:
    assert first.jobs == dict.fromkeys(JOBS, "success")
    assert list(first.jobs) == JOBS
    assert first.outputs["verdict"] == "PROMOTE"
    assert (first.outputs["state"], first.outputs["endpoint"]) == ("completed", ENDPOINT)
    assert repository.endpoints() == {ENDPOINT: {live: 100}}
    assert "## Gate: PROMOTE" in first.summary
    assert not emulator.azure.faults.pending(), "no job requested the expired token"
    assert all(emulator.contacted_hosts.values()), emulator.contacted_hosts


def test_nothing_secret_is_printed(first: Result, emulator: Emulator) -> None:
    keys = [key for _, endpoint in emulator.azure.store.list("endpoint") for key in endpoint["keys"].values()]
    assert len(keys) == 2
    assert "ghs_" in (emulator.azure.store.list("github-token")[0][0])
    for line in first.log.splitlines():
        if "add-mask" not in line:
            # JSON Web Tokens, GitHub's own, shared access signatures, the endpoint's keys.
            assert not any(secret in line for secret in ("eyJ", "ghs_", "sig=", *keys)), line


def test_a_push_with_a_worse_model_is_rejected_and_cannot_be_overridden(live: str, repository: Harness) -> None:
    repository.configure(learning_rate("1e-5"))  # a model that is the base again is no evidence
    worse = repository.push()
    assert worse.code == 1
    assert worse.jobs == {"validate": "success", "train": "success", "evaluate-gate": "failure", "teardown": "success"}
    assert worse.outputs["verdict"] == "REJECT"
    assert repository.endpoints() == {ENDPOINT: {live: 100}}

    refused = override(repository, worse)
    assert refused.jobs == {"validate": "failure"}, refused.trouble  # before any reviewer is asked
    assert "REJECT has no override" in refused.log
    assert repository.endpoints() == {ENDPOINT: {live: 100}}


@pytest.fixture(scope="module")
def held(live: str, repository: Harness) -> Result:
    """A push whose gain a rule finds suspicious, for an endpoint that serves nothing yet. The training is reused."""
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
    assert repository.endpoints() == {ENDPOINT: {live: 100}, "chat-new": {}}, "the name is reserved, and nothing is deployed"


def test_an_override_needs_an_environment_with_reviewers(held: Result, live: str, repository: Harness, emulator: Emulator) -> None:
    github_api.add_environment(emulator.azure, "gate-override")
    refused = override(repository, held)
    assert refused.jobs == {"validate": "success", "evaluate-gate": "failure", "teardown": "success"}, refused.trouble
    assert "An override was requested and refused: environment gate-override has no required reviewers" in refused.summary
    assert repository.endpoints() == {ENDPOINT: {live: 100}, "chat-new": {}}


def test_a_reviewed_override_promotes_and_is_visible(held: Result, repository: Harness, emulator: Emulator, workspace: Workspace) -> None:
    github_api.add_environment(emulator.azure, "gate-override", ["lead"])
    github_api.approve(emulator.azure, "502", "gate-override", "lead", "I have read them, too.")
    trained = repository.jobs()
    overridden = override(repository, held, run_id="502")
    assert overridden.code == 0, overridden.trouble
    assert list(overridden.jobs) == [job for job in JOBS if job != "train"]
    assert (overridden.outputs["verdict"], overridden.outputs["override"]) == ("HOLD", "true")
    assert "## Gate: HOLD, overridden" in overridden.summary
    assert "OVERRIDDEN by octocat at " in overridden.summary
    assert f"{REASON}. Approved by lead in environment gate-override" in overridden.summary
    assert repository.jobs() == trained, "nothing was trained again"
    assert list(repository.endpoints()["chat-new"].values()) == [100]
    (model,) = workspace.session.ml.models.list("new")
    tags = workspace.session.ml.models.get("new", model.version).tags
    assert (tags["mlops.verdict"], tags["mlops.override"]) == ("HOLD", f"{REASON} (octocat, lead)")


def test_a_long_training_is_detached_and_resumed_by_the_schedule(
    live: str, repository: Harness, emulator: Emulator, workspace: Workspace
) -> None:
    start = repository.configure(learning_rate("0.011"), (r"^\[defaults\.training\]", "[defaults.training]\ndetach_after_minutes = 0"))
    before = set(repository.jobs())
    detached = repository.push()
    assert detached.jobs == {"validate": "success", "train": "success"}, detached.trouble
    assert detached.outputs["state"] == "detached"
    (job,) = set(repository.jobs()) - before
    assert wait_until(lambda: repository.jobs()[job] == "Completed"), repository.jobs()

    # Meanwhile main moves on. The pipeline continues at the commit where it started.
    repository.configure(learning_rate("0.012"), (r'^name = "chat"$', 'name = "chat-of-tomorrow"'))
    assert repository.schedule().jobs == {"resume": "success", "reap": "success", "reap-pr": "success"}
    (dispatched,) = github_api.dispatches(emulator.azure)
    assert (dispatched["workflow"], dispatched["ref"], dispatched["inputs"]["commit"]) == ("dispatch.yml", "main", start)
    inputs = dispatched["inputs"]
    assert (inputs["target"], inputs["from"], inputs["run-id"]) == ("prod", "train", detached.run_id)
    rest = repository.dispatch("dispatch.yml", dispatched["inputs"])
    assert rest.code == 0, rest.trouble
    assert rest.jobs == dict.fromkeys(JOBS, "success")
    assert set(repository.jobs()) == before | {job}, "the training was paid for twice"
    traffic = repository.endpoints()[ENDPOINT]
    assert traffic.pop(live) == 0, "the previous deployment is kept for rollback"
    assert list(traffic.values()) == [100]
    models = [workspace.session.ml.models.get("chat", model.version) for model in workspace.session.ml.models.list("chat")]
    assert [model.tags["mlops.commit"] for model in models if model.tags["mlops.job"] == job] == [start]

    repository.schedule(job="resume")
    assert len(github_api.dispatches(emulator.azure)) == 1, "a training is resumed once"


def test_a_rollback_moves_the_traffic_back(live: str, repository: Harness) -> None:
    assert repository.endpoints()[ENDPOINT][live] == 0
    back = repository.dispatch("dispatch.yml", {"action": "rollback"})
    assert back.jobs == {"rollback": "success"}, back.trouble
    assert repository.endpoints()[ENDPOINT][live] == 100
    assert f"back on {live}" in back.summary
    (bad,) = set(repository.endpoints()[ENDPOINT]) - {live}
    again = repository.dispatch("dispatch.yml", {"action": "rollback"})
    assert again.jobs == {"rollback": "success"}, again.trouble
    assert repository.endpoints()[ENDPOINT] == {live: 100, bad: 0}, "not forward to the bad model"


def test_a_commit_outside_the_branch_is_refused(live: str, repository: Harness) -> None:
    """A commit brings its own code, which would run with this repository's identity; it may come from an unreviewed branch or a fork."""
    git(repository.tree, "checkout", "--quiet", "-b", "unreviewed")
    theirs = commit(repository.tree)
    git(repository.tree, "checkout", "--quiet", "main")
    refused = repository.dispatch("dispatch.yml", {"from": "teardown", "commit": theirs})
    assert refused.jobs == {"validate": "failure"}, refused.trouble
    assert "The commit is not on the dispatched branch" in refused.log
    assert repository.endpoints()[ENDPOINT][live] == 100


def test_a_repository_without_azure_variables_says_so(repository: Harness) -> None:
    unconfigured = repository.push(configured=False)
    assert unconfigured.jobs == {"unconfigured": "success"}
    assert "AZURE_CLIENT_ID is not set" in unconfigured.log
