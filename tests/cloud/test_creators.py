"""Only Azure's own word about a creator counts: what an identity of pull requests made is not reused by a permanent target."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from mlops.cloud.creators import creator_of, creator_of_token
from mlops.cloud.isolation import check_cluster_creator
from mlops.cloud.jobs import JobView
from mlops.cloud.tags import RUN_KEY, SERVED_MODEL, TRAINING_JOB
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed
from mlops.core.records import Registered
from mlops.core.settings import ComputeConfig, Config
from mlops.deploy import deploy, deployment_name
from mlops.emulator.base.azure import object_id
from mlops.emulator.identity import entra
from mlops.emulator.server import Emulator
from mlops.register import register
from tests.support.deployments import RULES, behind_the_gate

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
EPHEMERAL = "[targets.test.endpoint]\nephemeral = true\n"


@pytest.fixture
def intruder(inside: Emulator, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace as another identity sees it that may create jobs, models and deployments and gives them the same tags."""
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(inside.azure).items():
            patch.setenv(name, value)
        workspace = open_workspace(settings())
        assert workspace.session.creator
    return workspace


def submit(workspace: Workspace, folder: Path, key: str) -> JobView:
    """Submit a job that does nothing, and return it."""
    folder.joinpath("nothing.txt").touch()
    workspace.compute.ensure(ComputeConfig(name="cluster"))
    job = workspace.jobs.submit_command(
        name_hint="trust", code=folder, command="true", inputs={}, outputs={}, compute="cluster",
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        tags={RUN_KEY: key}, experiment="trust", display_name="trust",
    )  # fmt: skip
    return workspace.jobs.get(job)


def find(workspace: Workspace, key: str) -> list[str]:
    return [job.name for job in workspace.jobs.find("trust", {RUN_KEY: key}, name_hint="trust")]


def test_a_job_of_another_identity_is_reused_by_an_ephemeral_target_only(
    inside: Emulator, intruder: Workspace, settings: Settings, open_workspace: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = hashlib.sha256(b"reused").hexdigest()
    planted = submit(intruder, tmp_path, key)
    workspace = open_workspace(settings())
    assert workspace.jobs.get(planted.name).creator == intruder.session.creator != workspace.session.creator
    capsys.readouterr()
    assert find(workspace, key) == []
    assert f"{planted.name} is not reused: it was created by {intruder.session.creator}" in capsys.readouterr().err
    own = submit(workspace, tmp_path, key)
    assert own.name != planted.name
    assert (own.creator, find(workspace, key)) == (object_id(inside.azure.identity.client), [own.name])
    trusting = open_workspace(settings(f'[targets.test.workspace]\ntrusted_creators = ["{intruder.session.creator.upper()}"]\n'))
    assert find(trusting, key) == find(open_workspace(settings(EPHEMERAL)), key) == [own.name, planted.name]


def test_a_rival_job_of_another_identity_is_not_waited_for(
    intruder: Workspace, settings: Settings, open_workspace: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = hashlib.sha256(b"rival").hexdigest()
    submit(intruder, tmp_path, key)
    workspace = open_workspace(settings())
    # The other identity submits between the look-up of the attempts and the submit.
    monkeypatch.setattr(workspace.jobs, "_list_attempts", lambda *_: iter(()))
    with pytest.raises(AzureError):
        submit(workspace, tmp_path, key)


def test_a_model_and_a_deployment_of_another_identity_are_not_taken(
    intruder: Workspace, settings: Settings, open_workspace: Open, tmp_path: Path, trained_job: str
) -> None:
    toml = '[targets.test.endpoint]\nname = "planted"\nprobe_initial_delay_s = 1\n[targets.test.registration]\nname = "planted"\n' + RULES
    config = settings(toml)
    workspace = open_workspace(config)
    run = behind_the_gate(tmp_path / "run", trained_job, identity=workspace.jobs.get(trained_job).identity)
    tags = {TRAINING_JOB: trained_job}
    path = f"azureml://jobs/{trained_job}/outputs/trained_model"
    planted = intruder.assets.register_model(name="planted", version="7", path=path, description="", tags=tags)
    assert intruder.assets.find_model("planted", tags) == planted
    assert workspace.assets.find_model("planted", tags) is None
    registered = register(config, run, workspace)
    assert registered.model != planted.id

    workspace.endpoints.create(config.endpoint, {})
    name = deployment_name(config.endpoint, registered.model, run.read(Registered).identity)
    intruder.endpoints.deploy(config.endpoint, name, registered.model, {SERVED_MODEL: registered.model})
    with pytest.raises(DeploymentFailed, match="that this pipeline did not create"):
        deploy(config, run, workspace)
    workspace.endpoints.delete("planted")


def test_the_nodes_of_another_identity_are_used_by_an_ephemeral_target_only(
    inside: Emulator, intruder: Workspace, settings: Settings, open_workspace: Open
) -> None:
    """Whoever creates a cluster can have an account on its nodes, and can give it the pipeline's tags."""
    size = intruder.compute.ensure(ComputeConfig(name="planted")).size
    config = settings()
    workspace = open_workspace(config)
    assert not workspace.compute.ensure(ComputeConfig(name="planted")).foreign
    (finding,) = check_cluster_creator(workspace, "planted", config.locate)
    assert (finding.rule, finding.severity) == ("compute.creator", "error")
    assert f"was created by {intruder.session.creator}" in finding.message
    with pytest.raises(ConfigError, match="No job was submitted") as caught:
        workspace.compute.check_unchanged("planted", size)
    assert "az ml compute delete --name planted" in caught.value.fix
    for trusting in (
        EPHEMERAL, "[targets.test.compute]\ntrusted = true\n",
        f'[targets.test.workspace]\ntrusted_creators = ["{intruder.session.creator}"]\n',
    ):  # fmt: skip
        open_workspace(settings(trusting)).compute.check_unchanged("planted", size)
    intruder.session.ml.compute.begin_delete("planted").result()
    workspace.compute.ensure(ComputeConfig(name="planted"))
    workspace.compute.check_unchanged("planted", size)
    # Azure doesn't say who created it.
    with inside.azure.store.change("compute", "planted") as stored:
        stored["created"] = {**stored["created"], "by": ""}
    with pytest.raises(ConfigError, match="an identity that Azure does not name"):
        workspace.compute.check_unchanged("planted", size)
    assert check_cluster_creator(open_workspace(settings(EPHEMERAL)), "planted", config.locate) == []


@pytest.mark.parametrize(
    ("kind", "name", "creator"),
    [
        ("Application", "779301C0", "779301c0"),
        ("ManagedIdentity", "779301C0", "779301c0"),
        ("User", "779301c0", "779301c0 (a person)"),
        ("User", "Ada Lovelace", "Ada Lovelace (a person)"),
        ("Application", None, ""),
        (None, "779301c0", "779301c0 (a person)"),
    ],
)
def test_a_person_is_never_taken_for_an_application(kind: str | None, name: str | None, creator: str) -> None:
    assert creator_of(SimpleNamespace(created_by=name, created_by_type=kind)) == creator


def test_the_owner_of_a_token() -> None:
    assert creator_of_token({"idtyp": "app", "oid": "779301C0", "name": "Ada Lovelace"}) == "779301c0"
    assert creator_of_token({"oid": "779301C0", "name": "Ada Lovelace"}) == "Ada Lovelace (a person)"
    assert creator_of_token({}) == creator_of(None) == ""


def test_a_session_without_a_known_identity_trusts_nobody(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlops.cloud.session.decode_claims", lambda _token: {})
    assert not workspace.session.trusts("")
