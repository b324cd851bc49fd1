"""Letting a HOLD through: nobody may alone, nobody may in silence, and a REJECT never goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from mlops.cli import guard
from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.errors import NotPromoted, UsageError
from mlops.core.judgement import Verdict
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import github_oidc
from mlops.emulator.identity.github_oidc import WorkflowRun
from mlops.emulator.server import Emulator
from mlops.gate import gate, main
from mlops.github import oidc
from mlops.github.client import run_url
from tests.support.evidence import make_rows
from tests.support.run_directories import make_run

WHY = "the champion answers nonsense since Monday"
ENVIRONMENT = "gate-override"
RUN = "77"
TOML = """
[targets.{name}.gate.rules.target-vs-base]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = -0.05
test = "paired_bootstrap"
[targets.{name}.gate.rules.retention-vs-base]
metric = "retention.nll"
direction = "lower"
baseline = "base"
margin = 0.05
test = "paired_bootstrap"
[targets.{name}.endpoint]
ephemeral = {ephemeral}
"""


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator of Azure and GitHub."""
    with Emulator(tmp_path_factory.mktemp("github"), Options(github="octo/chat")) as running:
        yield running


@pytest.fixture
def folder(octo: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a lasting and an ephemeral target, outside of GitHub."""
    for name, value in octo.environment().items():
        monkeypatch.setenv(name, value)
    for name in ("GITHUB_ACTIONS", "MLOPS_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    text = TOML.format(name="prod", ephemeral="false") + TOML.format(name="pr", ephemeral="true")
    (tmp_path / "pipeline.toml").write_text(text)
    return tmp_path


Session = tuple[Config, Workspace]


@pytest.fixture
def session(folder: Path, open_workspace: Callable[[Config], Workspace]) -> Callable[[str], Session]:
    def open_session(target: str) -> Session:
        config = load(folder / "pipeline.toml", target)
        return config, open_workspace(config)

    return open_session


def write_evaluation(folder: Path, workspace: Workspace, shift: float) -> Run:
    """Write the evaluation of a candidate whose loss is higher by ``shift``."""
    client = workspace.tracking.client
    experiment = client.get_experiment_by_name("override")
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("override")).info.run_id
    scores: Any = {role: make_rows(role, shift=shift if role == "candidate" else 0.0) for role in ("candidate", "champion", "base")}
    return make_run(folder / "run", scores, mlflow_run=run)


HOLD, REJECT, PROMOTE = -0.1, 0.4, -0.4


@pytest.fixture
def workflow(octo: Emulator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Simulate a job of a workflow run in an environment."""
    number = iter(range(1000))

    def enter(
        environment: str = ENVIRONMENT,
        *,
        run: str = RUN,
        claimed_run: str = "",
        reviewers: tuple[str, ...] = ("hubot",),
        actions: str = "read",
    ) -> None:
        azure = octo.azure
        github_api.add_environment(azure, ENVIRONMENT, reviewers)
        github_api.add_workflow_run(azure, run, "in_progress", None)
        job_variables = github_oidc.job_environment(azure, WorkflowRun(run_id=claimed_run or run, actor="octocat"), environment)
        variables = {
            "GITHUB_ACTIONS": "true", "GITHUB_REPOSITORY": "octo/chat", "GITHUB_RUN_ID": run,
            "GITHUB_TOKEN": github_api.issue_token(azure, {"actions": actions}), "GITHUB_OUTPUT": str(folder / f"output-{next(number)}"),
        }  # fmt: skip
        for name, value in (variables | job_variables).items():
            monkeypatch.setenv(name, value)

    return enter


# In a workflow --------------------------------------------------------------------------------------------------------------------


def test_a_hold_is_overridden_if_a_reviewer_approved(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    workflow(run="78")
    github_api.approve(octo.azure, "78", ENVIRONMENT, "hubot")
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    judged = gate(config, run, workspace, f"  {WHY} ")
    assert (judged.verdict, judged.exit_code, judged.is_admitted) == (Verdict.HOLD, 0, True)
    assert judged.override is not None
    override = judged.override
    assert (override.reason, override.actor, override.approvers, override.environment) == (WHY, "octocat", ("hubot",), ENVIRONMENT)
    assert override.workflow_run == "https://github.com/octo/chat/actions/runs/78"
    # It is announced in every place.
    captured = capsys.readouterr()
    announcement = (
        f"OVERRIDDEN by octocat at {override.overridden_at:%Y-%m-%d %H:%M} UTC: {WHY}. Approved by hubot in environment {ENVIRONMENT}"
    )
    for place in (captured.out, (run.directory / "gate.md").read_text(), (run.directory / "report.html").read_text()):
        assert announcement in place
    tags = workspace.tracking.client.get_run(run.read(Judged).candidate_job and _mlflow_run(run)).data.tags
    assert (tags["mlops.verdict"], tags["mlops.override"]) == ("HOLD", f"{WHY} (octocat, approved by hubot)")
    assert gate(config, run, workspace, WHY).digest() == judged.digest()


def _mlflow_run(run: Run) -> str:
    from mlops.core.records import Trained

    return run.read(Trained).mlflow_run_id


@pytest.mark.parametrize(
    ("job", "approval", "message"),
    [
        ({"environment": "prod"}, "hubot", "this job runs in environment prod, but overrides are only allowed in gate-override"),
        ({"environment": ""}, "hubot", "this job runs in no environment"),
        ({"reviewers": ()}, "hubot", "environment gate-override has no required reviewers"),
        ({}, "", "no reviewer has approved run 80 for environment gate-override"),
        ({"actions": "none"}, "hubot", "it can't be determined who approved this job for environment gate-override. GitHub answered 403"),
        ({"claimed_run": "81"}, "hubot", "GitHub's token is about run_id 81"),
    ],
)
def test_an_override_without_approval_is_refused(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None], capsys: pytest.CaptureFixture[str],
    job: dict[str, Any], approval: str, message: str,
) -> None:  # fmt: skip
    for key, _ in octo.azure.store.list("github-approval", "80/"):
        octo.azure.store.delete("github-approval", key)
    workflow(run="80", **job)
    if approval:
        github_api.approve(octo.azure, "80", ENVIRONMENT, approval)
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    judged = gate(config, run, workspace, WHY)
    assert (judged.override, judged.exit_code, judged.is_admitted) == (None, 10, False)
    assert judged.override_refused.startswith(message)
    assert message in capsys.readouterr().out
    assert "An override was requested and refused" in (run.directory / "gate.md").read_text()


def test_without_an_identity_token_it_is_refused(
    folder: Path, session: Callable[[str], Session], workflow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    workflow()
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    assert "id-token: write" in gate(config, run, workspace, WHY).override_refused


def test_an_approval_for_another_environment_or_run_does_not_count(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None]
) -> None:
    workflow(run="82")
    github_api.approve(octo.azure, "82", "prod", "hubot")
    github_api.approve(octo.azure, "83", ENVIRONMENT, "hubot")
    config, workspace = session("prod")
    assert gate(config, write_evaluation(folder, workspace, HOLD), workspace, WHY).override is None


def test_nobody_approves_their_own_override(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None]
) -> None:
    """GitHub lets the requester approve, unless "Prevent self-review" is selected."""
    workflow(run="84")
    github_api.approve(octo.azure, "84", ENVIRONMENT, "Octocat")
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    judged = gate(config, run, workspace, WHY)
    assert not judged.is_admitted
    assert "octocat requested it and is the only one who approved run 84" in judged.override_refused
    github_api.approve(octo.azure, "84", ENVIRONMENT, "hubot")
    granted = gate(config, run, workspace, WHY).override
    assert granted is not None
    assert granted.approvers == ("hubot",)


def test_a_later_stage_asks_github_who_approved(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None]
) -> None:
    workflow(run="86")
    github_api.approve(octo.azure, "86", ENVIRONMENT, "hubot")
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    judged = gate(config, run, workspace, WHY)
    workflow("production", run="87")  # another job, even of another workflow run
    assert guard.require_admission(run, config, workspace) == judged
    assert judged.override is not None
    for forged, says in (
        ({"approvers": ("hubot", "mallory")}, "mallory did not approve workflow run 86"),
        ({"workflow_run": run_url("87")}, "no reviewer has approved run 87"),
        ({"workflow_run": "https://github.com/other/repo/actions/runs/86"}, "names no workflow run of this repository"),
        ({"actor": "hubot"}, "hubot requested it and is the only one who approved"),
        ({"environment": "open"}, "approved for environment open"),
    ):
        run.write(judged.model_copy(update={"override": judged.override.model_copy(update=forged)}))
        with pytest.raises(NotPromoted, match=says):
            guard.require_admission(run, config, workspace)


def test_a_token_that_github_did_not_sign_is_refused(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may set variables of the job can answer the request for a token themselves."""
    workflow(run="88")
    github_api.approve(octo.azure, "88", ENVIRONMENT, "hubot")
    own_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    genuine = oidc.request_token()
    forged = jwt.encode(oidc.decode_claims(genuine), own_key, algorithm="RS256", headers=jwt.get_unverified_header(genuine))
    monkeypatch.setattr(oidc, "request_token", lambda: forged)
    config, workspace = session("prod")
    judged = gate(config, write_evaluation(folder, workspace, HOLD), workspace, WHY)
    assert not judged.is_admitted
    assert "is not GitHub's: InvalidSignatureError" in judged.override_refused


@pytest.mark.parametrize("target", ["prod", "pr"])
def test_reject_has_no_override(
    octo: Emulator, folder: Path, session: Callable[[str], Session], workflow: Callable[..., None], target: str
) -> None:
    workflow(run="85")
    github_api.approve(octo.azure, "85", ENVIRONMENT, "hubot")
    config, workspace = session(target)
    judged = gate(config, write_evaluation(folder, workspace, REJECT), workspace, WHY)
    assert (judged.verdict, judged.exit_code, judged.override) == (Verdict.REJECT, 20, None)
    assert judged.override_refused == "REJECT has no override."


# Outside of GitHub ----------------------------------------------------------------------------------------------------------------


def test_outside_github_only_an_ephemeral_target_can_be_overridden(folder: Path, session: Callable[[str], Session]) -> None:
    config, workspace = session("prod")
    run = write_evaluation(folder, workspace, HOLD)
    refused = gate(config, run, workspace, WHY)
    assert (refused.override, refused.exit_code) == (None, 10)
    assert "only be overridden on GitHub" in refused.override_refused
    config, workspace = session("pr")
    judged = gate(config, run, workspace, WHY)
    assert judged.override is not None
    assert (judged.exit_code, judged.override.approvers, judged.override.environment) == (0, (), "")
    assert "without approval" in (run.directory / "gate.md").read_text()


def test_promote_needs_no_override(folder: Path, session: Callable[[str], Session], capsys: pytest.CaptureFixture[str]) -> None:
    config, workspace = session("pr")
    judged = gate(config, write_evaluation(folder, workspace, PROMOTE), workspace, WHY)
    assert (judged.verdict, judged.override, judged.override_refused) == (Verdict.PROMOTE, None, "")
    assert "not needed" in capsys.readouterr().err


@pytest.mark.parametrize("reason", ["short", "          ", "a b c    d"])
def test_a_too_short_reason_is_refused_before_judging(folder: Path, session: Callable[[str], Session], reason: str) -> None:
    config, workspace = session("pr")
    with pytest.raises(UsageError, match="too short"):
        gate(config, Run(folder / "nothing"), workspace, reason)


@pytest.mark.parametrize("how", ["option", "variable"])
def test_the_command_takes_the_reason_as_option_or_variable(
    folder: Path, session: Callable[[str], Session], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    run = write_evaluation(folder, session("pr")[1], HOLD)
    options = ["--target", "pr", "--config", str(folder / "pipeline.toml"), "--run", str(run.directory)]
    assert main(options) == 10
    if how == "variable":
        monkeypatch.setenv("MLOPS_OVERRIDE", WHY)
    output = folder / "output"
    monkeypatch.setenv("GITHUB_OUTPUT", str(output))
    assert main([*options, *(["--override", WHY] if how == "option" else [])]) == 0
    assert "\nHOLD\n" in output.read_text()
    assert "override<<" in output.read_text()
    assert "\ntrue\n" in output.read_text()
