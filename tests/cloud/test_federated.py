"""Signing in from a workflow: GitHub's issuer and Entra, both emulated, with real signatures in between."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential

from mlops.cloud.credential import MANAGEMENT_SCOPE, checked_credential
from mlops.cloud.federated import GitHubCredential, identity_claims
from mlops.core.errors import CredentialError
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import github_oidc
from mlops.emulator.identity.entra import federate
from mlops.emulator.identity.github_oidc import WorkflowRun, job_environment
from mlops.emulator.server import Emulator

REPOSITORY = "octo/chat"
TRUSTED = "repo:octo/chat:environment:train"
RUN = WorkflowRun("17")

Enter = Callable[..., None]


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    options = Options(github=REPOSITORY, federated_subjects=(TRUSTED,), weights="tiny-llama")
    with Emulator(tmp_path_factory.mktemp("github"), options) as running:
        yield running


@pytest.fixture
def job(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Become a job: ``job(run, environment="train")``; no secret anywhere."""

    def enter(run: WorkflowRun = RUN, environment: str = "train", **changes: str) -> None:
        variables = github.environment() | job_environment(github.azure, run, environment) | {"GITHUB_ACTIONS": "true"} | changes
        variables.pop("AZURE_CLIENT_SECRET")
        monkeypatch.delenv("AZURE_CLIENT_SECRET", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return enter


def entra_calls(github: Emulator, order: str) -> None:
    github.azure.faults.order(order)


def test_a_job_signs_in_without_a_secret_and_its_tokens_are_masked_first(job: Enter, capsys: pytest.CaptureFixture[str]) -> None:
    job()
    credential = checked_credential()
    assert isinstance(credential, GitHubCredential)
    token = credential.get_token(MANAGEMENT_SCOPE).token
    said = capsys.readouterr().out
    assert f"::add-mask::{token}" in said
    # Each JWT appears in the log as a mask and nowhere else.
    assert all(line.startswith("::add-mask::") for line in said.splitlines() if "eyJ" in line)
    assert len(re.findall("::add-mask::eyJ", said)) == 2


def test_elsewhere_the_usual_credentials_are_used(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in github.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert not isinstance(checked_credential(), GitHubCredential)


def test_every_exchange_brings_a_fresh_assertion(job: Enter, capsys: pytest.CaptureFixture[str]) -> None:
    job()
    credential = GitHubCredential()
    for scope in (MANAGEMENT_SCOPE, "https://ml.azure.com/.default", MANAGEMENT_SCOPE):
        credential.get_token(scope)
    masked = re.findall(r"::add-mask::eyJ\S+", capsys.readouterr().out)
    # Two assertions and two access tokens: the third time it is the cache's.
    assert len(masked) == len(set(masked)) == 4


def test_an_assertion_that_was_kept_too_long_is_what_fails(job: Enter, github: Emulator) -> None:
    """The failure that a single sign-in at the start of a long job runs into, and that a fresh assertion does not."""
    job()
    entra_calls(github, "assertion-expired x1")
    kept = GitHubCredential()._assertion()
    old: Any = ClientAssertionCredential(github.azure.identity.tenant, github.azure.identity.client, lambda: kept)
    with pytest.raises(ClientAuthenticationError, match="AADSTS700024"):
        old.get_token(MANAGEMENT_SCOPE)
    assert GitHubCredential().get_token(MANAGEMENT_SCOPE).token


def test_an_expired_assertion_is_fetched_once_more(job: Enter, github: Emulator) -> None:
    job()
    entra_calls(github, "assertion-expired x1")
    assert GitHubCredential().get_token(MANAGEMENT_SCOPE).token
    assert not github.azure.faults.pending()


def test_a_clock_that_is_off_is_told(job: Enter, github: Emulator) -> None:
    job()
    entra_calls(github, "assertion-expired x2")
    with pytest.raises(CredentialError, match="AADSTS700024") as raised:
        GitHubCredential().get_token(MANAGEMENT_SCOPE)
    assert "clock" in raised.value.fix


@pytest.mark.parametrize(
    ("run", "environment", "subject"),
    [
        (RUN, "prod", "repo:octo/chat:environment:prod"),
        (RUN, "Train", "repo:octo/chat:environment:Train"),
        (RUN, "", "repo:octo/chat:ref:refs/heads/main"),
        (WorkflowRun("17", event="pull_request", ref="refs/pull/3/merge"), "", "repo:octo/chat:pull_request"),
    ],
)
def test_an_untrusted_subject_is_told_with_the_credential_to_create(
    job: Enter, github: Emulator, run: WorkflowRun, environment: str, subject: str
) -> None:
    job(run, environment)
    with pytest.raises(CredentialError, match=r"AADSTS7002138?") as raised:
        checked_credential()
    assert f"'{subject}'" in raised.value.what
    assert f'"subject": "{subject}"' in raised.value.fix
    assert '"issuer": "https://token.actions.githubusercontent.com"' in raised.value.fix
    assert f"--id {github.azure.identity.client} " in raised.value.fix


def test_an_immutable_subject_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories made since July 2026 carry ids in their subjects: the credential by names alone does not fit them."""
    options = Options(github=REPOSITORY, federated_subjects=(TRUSTED,), immutable_subjects=True)
    with Emulator(tmp_path, options) as emulator:
        variables = emulator.environment() | job_environment(emulator.azure, RUN, "train") | {"GITHUB_ACTIONS": "true"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AZURE_CLIENT_SECRET")
        with pytest.raises(CredentialError, match="AADSTS700213") as raised:
            checked_credential()
        found = re.search(r'"subject": "(repo:octo@\d+/chat@\d+:environment:train)"', raised.value.fix)
        assert found
        # What the message says to create is what helps.
        federate(emulator.azure, github_oidc.ISSUER, found[1], github_oidc._public(emulator.azure))
        assert checked_credential().get_token(MANAGEMENT_SCOPE)


def test_a_job_is_told_which_environment_it_is_in(job: Enter, capsys: pytest.CaptureFixture[str]) -> None:
    job(environment="gate-override")
    claims = identity_claims()
    assert (claims["repository"], claims["environment"], claims["run_id"]) == (REPOSITORY, "gate-override", "17")
    assert "::add-mask::eyJ" in capsys.readouterr().out
    job(environment="")
    assert "environment" not in identity_claims()


def test_without_the_permission_the_error_names_it(job: Enter, monkeypatch: pytest.MonkeyPatch) -> None:
    job()
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    with pytest.raises(CredentialError) as raised:
        checked_credential()
    assert "id-token: write" in raised.value.fix


def test_the_right_to_ask_ends_with_the_job(job: Enter, github: Emulator) -> None:
    job(**job_environment(github.azure, RUN, "train", seconds=-1))
    with pytest.raises(CredentialError, match="six hours") as raised:
        checked_credential()
    assert "detach_after_minutes" in raised.value.fix


def test_trouble_at_github_is_sat_out(job: Enter, github: Emulator) -> None:
    job()
    entra_calls(github, "503@oidc GET /idtoken/* x1")
    assert checked_credential()


@pytest.mark.parametrize(
    ("variable", "code", "told"),
    [("AZURE_CLIENT_ID", "AADSTS700016", "AZURE_CLIENT_ID"), ("AZURE_TENANT_ID", "Unable to get authority|AADSTS90002", "AZURE_TENANT_ID")],
)
def test_an_unknown_client_or_tenant_names_the_variable(job: Enter, variable: str, code: str, told: str) -> None:
    job(**{variable: "11111111-2222-4333-8444-555555555555"})
    with pytest.raises(CredentialError, match=code) as raised:
        checked_credential()
    assert told in raised.value.fix
