"""What costs money now, with its owner."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cli.costs import costs, list_items
from mlops.cloud.workspace import Workspace
from mlops.core.settings import Config, EndpointConfig
from tests.support.deployments import registered_model

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
    assert "without a price in pipeline.toml" in output
    workspace.endpoints.delete("costly")
    assert not [item for item in list_items(config, workspace) if "costly" in item.name]
