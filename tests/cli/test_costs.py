"""What costs money now, with its owner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.cli.costs import Item, costs, list_items
from mlops.cloud.tags import RUN_KEY
from mlops.cloud.workspace import Workspace
from mlops.core.errors import Detached
from mlops.core.settings import ComputeConfig, Config, EndpointConfig
from mlops.emulator.server import Emulator
from mlops.train import train
from tests.support.deployments import ready_to_train, registered_model

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
TOML = """
[targets.test.endpoint]
name = "costly"
price_per_hour_usd = 2.5
probe_initial_delay_s = 1
instance_count = 2
"""


@pytest.mark.slow
def test_a_deployment_costs_money_whatever_its_traffic_and_is_gone_afterwards(
    inside: object, settings: Settings, open_workspace: Open, trained_job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = settings(TOML)
    workspace = open_workspace(config)
    workspace.endpoints.create(config.endpoint, {})
    assert not [item for item in list_items(config, workspace) if "costly" in item.name], "an endpoint alone costs nothing"
    workspace.endpoints.deploy(config.endpoint, "idle", registered_model(workspace, trained_job), {})
    other = EndpointConfig(name="costly", instance_type="Standard_NC6s_v3", probe_initial_delay_s=1)
    workspace.endpoints.deploy(other, "unpriced", registered_model(workspace, trained_job), {})
    items = {item.name.split()[1]: item for item in list_items(config, workspace) if "costly" in item.name}
    assert (items["idle"].usd_per_hour, items["unpriced"].usd_per_hour) == (5.0, None)
    assert items["idle"].since.startswith("20")
    assert "target test" in items["idle"].owner
    capsys.readouterr()
    shown = costs(config, workspace)
    assert {item.name for item in shown} >= {item.name for item in items.values()}
    output = capsys.readouterr().out
    assert "deployment idle of costly (2 × Standard_NC24ads_A100_v4, 0 % of the traffic)" in output
    assert "5.00 USD/h" in output
    assert "without a known price" in output
    workspace.endpoints.delete("costly")
    assert not [item for item in list_items(config, workspace) if "costly" in item.name]


SIZES = """
[targets.test.compute]
name = "cluster"
price_per_hour_usd = 3.0
[targets.test.endpoint]
instance_type = "Standard_NC6s_v3"
price_per_hour_usd = 0.5
[targets.test.training]
detach_after_minutes = 0
"""


@pytest.fixture
def nodes(
    start_emulator: Callable[..., Emulator], settings: Settings, open_workspace: Open
) -> Callable[[], tuple[Config, Workspace, Callable[[], dict[str, Item]]]]:
    """An empty workspace: its settings, itself, and what costs money in it, by kind and name."""

    def make() -> tuple[Config, Workspace, Callable[[], dict[str, Item]]]:
        start_emulator()
        config = settings(SIZES)
        workspace = open_workspace(config)
        return config, workspace, lambda: {item.name.partition(" (")[0]: item for item in list_items(config, workspace)}

    return make


def submit(workspace: Workspace, folder: Path, name: str, compute: str, nodes: int = 1) -> str:
    """Submit a job that runs until it is canceled."""
    from azure.ai.ml import command

    folder.joinpath("nothing.txt").touch()
    job: Any = command(
        command="sleep 600",
        code=str(folder),
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        compute=compute,
        instance_count=nodes,
        tags={**workspace.session.tags, RUN_KEY: name},
    )
    job.name = name
    return str(workspace.session.ml.jobs.create_or_update(job).name)


def wait_until_running(workspace: Workspace, job: str) -> None:
    with pytest.raises(Detached):
        workspace.wait(job, 120, 0.0)


@pytest.mark.slow
def test_nodes_cost_money_once_with_the_job_that_is_on_them_or_without_any(nodes: Any, tmp_path: Path) -> None:
    _, workspace, items = nodes()
    workspace.compute.ensure(ComputeConfig(name="idle", min_instances=0))
    assert items() == {}, "a cluster without nodes costs nothing"
    workspace.compute.ensure(ComputeConfig(name="kept", min_instances=3, max_instances=3))
    workspace.compute.ensure(ComputeConfig(name="small", size="Standard_NC6s_v3", max_instances=1))
    workspace.compute.ensure(ComputeConfig(name="unpriced", size="Standard_NC12s_v3", max_instances=1))
    assert {name: item.usd_per_hour for name, item in items().items()} == {"cluster kept": 9.0}
    assert "3 × STANDARD_NC24ADS_A100_V4 without a job" in items()["cluster kept"].name
    assert items()["cluster kept"].since.startswith("20")
    assert "target test" in items()["cluster kept"].owner
    for name, compute, count in (("two", "kept", 2), ("one", "small", 1), ("waiting", "small", 1), ("dear", "unpriced", 1)):
        submit(workspace, tmp_path, name, compute, count)
        if name != "waiting":
            wait_until_running(workspace, name)
    found = items()
    assert {name: item.usd_per_hour for name, item in found.items()} == {
        "job two": 6.0, "job one": 0.5, "job waiting": 0.0, "job dear": None, "cluster kept": 3.0,
    }  # fmt: skip
    assert "Queued, no node" in found["job waiting"].name
    assert "2 × STANDARD_NC24ADS_A100_V4" in found["job two"].name


@pytest.mark.slow
def test_a_training_costs_as_much_as_the_nodes_of_its_steps(nodes: Any, tmp_path: Path) -> None:
    config, workspace, items = nodes()
    workspace.compute.ensure(config.compute)
    with pytest.raises(Detached):
        train(config, ready_to_train(tmp_path / "run"), workspace)
    (job,) = workspace.jobs.list_owned()
    shown: list[Item] = []
    while not any(item.usd_per_hour for item in shown):
        assert workspace.jobs.get(job.name).is_active
        shown = list(items().values())
    assert [item.usd_per_hour for item in shown] == [3.0]
    assert shown[0].name.startswith(f"job {job.name} (Running, 1 × ")
    workspace.jobs.cancel(job.name)
