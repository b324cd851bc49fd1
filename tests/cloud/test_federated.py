"""Signing in from a workflow: GitHub's issuer and Entra ID are emulated, with real signatures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientAssertionCredential

from mlops.cloud.credential import MANAGEMENT_SCOPE, sign_in
from mlops.cloud.federated import GitHubCredential
from mlops.core.errors import CredentialError
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import github_oidc
from mlops.emulator.identity.entra import federate
from mlops.emulator.identity.github_oidc import WorkflowRun, job_environment
from mlops.emulator.server import Emulator
from tests.support.github_job import REPOSITORY, RUN, enter_job

TRUSTED = "repo:octo/chat:environment:train"

Enter = Callable[..., None]


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    options = Options(github=REPOSITORY, federated_subjects=(TRUSTED,), weights="tiny-llama")
    with Emulator(tmp_path_factory.mktemp("github"), options) as running:
        yield running


@pytest.fixture
def job(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Run as a job: ``job(run, environment="train")``."""
    return partial(enter_job, github, monkeypatch)


def test_a_job_signs_in_without_a_secret_and_masks_its_tokens(job: Enter, capsys: pytest.CaptureFixture[str]) -> None:
    job()
    credential = sign_in()
    assert isinstance(credential, GitHubCredential)
    token = credential.get_token(MANAGEMENT_SCOPE).token
    output = capsys.readouterr().out
    assert f"::add-mask::{token}" in output
    # The log contains each JWT in a mask command only.
    assert all(line.startswith("::add-mask::") for line in output.splitlines() if "eyJ" in line)
    assert len(re.findall("::add-mask::eyJ", output)) == 2


def test_outside_of_github_the_default_credentials_are_used(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in github.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert not isinstance(sign_in(), GitHubCredential)


def test_every_exchange_uses_a_fresh_assertion(job: Enter, capsys: pytest.CaptureFixture[str]) -> None:
    job()
    credential = GitHubCredential()
    for scope in (MANAGEMENT_SCOPE, "https://ml.azure.com/.default", MANAGEMENT_SCOPE):
        credential.get_token(scope)
    masked = re.findall(r"::add-mask::eyJ\S+", capsys.readouterr().out)
    # Two assertions and two access tokens: the third one comes from the cache.
    assert len(masked) == len(set(masked)) == 4


def test_a_cached_assertion_expires_but_a_fresh_one_works(job: Enter, github: Emulator) -> None:
    """A single sign-in at the start of a long job would fail like this."""
    job()
    github.azure.faults.add("assertion-expired x1")
    assertion = GitHubCredential()._request_assertion()
    cached: Any = ClientAssertionCredential(github.azure.identity.tenant, github.azure.identity.client, lambda: assertion)
    with pytest.raises(ClientAuthenticationError, match="AADSTS700024"):
        cached.get_token(MANAGEMENT_SCOPE)
    assert GitHubCredential().get_token(MANAGEMENT_SCOPE).token


def test_an_expired_assertion_is_requested_again_once(job: Enter, github: Emulator) -> None:
    job()
    github.azure.faults.add("assertion-expired x1")
    assert GitHubCredential().get_token(MANAGEMENT_SCOPE).token
    assert not github.azure.faults.pending()


def test_a_wrong_clock_is_reported(job: Enter, github: Emulator) -> None:
    job()
    github.azure.faults.add("assertion-expired x2")
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
def test_an_untrusted_subject_is_an_error_with_the_credential_to_create(
    job: Enter, github: Emulator, run: WorkflowRun, environment: str, subject: str
) -> None:
    job(run, environment)
    with pytest.raises(CredentialError, match=r"AADSTS7002138?") as raised:
        sign_in()
    assert f"'{subject}'" in raised.value.what
    assert f'"subject": "{subject}"' in raised.value.fix
    assert '"issuer": "https://token.actions.githubusercontent.com"' in raised.value.fix
    assert f"--id {github.azure.identity.client} " in raised.value.fix


def test_an_immutable_subject_needs_its_own_credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repositories created since July 2026 have ids in their subjects, so a credential with names only does not match."""
    options = Options(github=REPOSITORY, federated_subjects=(TRUSTED,), immutable_subjects=True)
    with Emulator(tmp_path, options) as emulator:
        variables = emulator.environment() | job_environment(emulator.azure, RUN, "train") | {"GITHUB_ACTIONS": "true"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AZURE_CLIENT_SECRET")
        with pytest.raises(CredentialError, match="AADSTS700213") as raised:
            sign_in()
        match = re.search(r'"subject": "(repo:octo@\d+/chat@\d+:environment:train)"', raised.value.fix)
        assert match
        # Creating the suggested credential fixes it.
        federate(emulator.azure, github_oidc.ISSUER, match[1], github_oidc.public_keys(emulator.azure))
        assert sign_in().get_token(MANAGEMENT_SCOPE)


@pytest.mark.parametrize(
    ("variable", "code", "name"),
    [("AZURE_CLIENT_ID", "AADSTS700016", "AZURE_CLIENT_ID"), ("AZURE_TENANT_ID", "Unable to get authority|AADSTS90002", "AZURE_TENANT_ID")],
)
def test_an_unknown_client_or_tenant_names_the_variable(job: Enter, variable: str, code: str, name: str) -> None:
    job(**{variable: "11111111-2222-4333-8444-555555555555"})
    with pytest.raises(CredentialError, match=code) as raised:
        sign_in()
    assert name in raised.value.fix
