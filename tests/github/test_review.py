"""Promoting without a review, where one is required: GitHub says whether the job's environment has reviewers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlops.core.errors import NotPromoted
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import github_oidc
from mlops.emulator.identity.github_oidc import WorkflowRun
from mlops.emulator.server import Emulator
from mlops.github.review import require_review
from tests.support.project import enter

Enter = Callable[..., None]


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("github"), Options(github="octo/chat")) as running:
        yield running


@pytest.fixture
def job(octo: Emulator, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Become the promoting job of a workflow run, in an environment."""

    def start(environment: str, actions: str = "read") -> None:
        enter(octo, monkeypatch)
        variables = github_oidc.job_environment(octo.azure, WorkflowRun(run_id="7", actor="octocat"), environment)
        token = github_api.issue_token(octo.azure, {"actions": actions})
        own = {"GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "octo/chat", "GITHUB_RUN_ID": "7", "GITHUB_TOKEN": token}
        for name, value in (variables | own).items():
            monkeypatch.setenv(name, value)

    return start


def test_an_environment_with_reviewers_is_enough(octo: Emulator, job: Enter) -> None:
    github_api.add_environment(octo.azure, "reviewed", ("hubot",))
    job("reviewed")
    require_review()


@pytest.mark.parametrize(
    ("environment", "why"),
    [("open", "environment open, which has no required reviewers"), ("absent", "environment absent, which"), ("", "in no environment")],
)
def test_without_reviewers_nothing_is_promoted(octo: Emulator, job: Enter, environment: str, why: str) -> None:
    github_api.add_environment(octo.azure, "open", ())
    job(environment)
    with pytest.raises(NotPromoted, match=why) as stopped:
        require_review()
    assert "promotion.require_review = false" in stopped.value.fix


def test_a_token_that_may_not_read_the_reviewers_stops_too(octo: Emulator, job: Enter) -> None:
    github_api.add_environment(octo.azure, "reviewed", ("hubot",))
    job("reviewed", actions="none")
    with pytest.raises(NotPromoted, match="does not say whether this job was reviewed") as stopped:
        require_review()
    assert "actions: read" in stopped.value.fix


def test_outside_github_nothing_can_be_reviewed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with pytest.raises(NotPromoted, match="only a job on GitHub can be reviewed"):
        require_review()
