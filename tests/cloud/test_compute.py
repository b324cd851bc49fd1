from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import ComputeConfig, Config
from mlops.core.errors import AzureError
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Start = Callable[..., Emulator]
CLUSTER = ComputeConfig(name="cluster", size="Standard_NC24ads_A100_v4", max_instances=1)


def test_a_missing_cluster_is_created_once(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    workspace = open_workspace(settings())
    assert workspace.compute.find("cluster") is None
    created = workspace.compute.ensure(CLUSTER)
    assert (created.created, created.tier, created.state, created.gpus_per_node) == (True, "dedicated", "Succeeded", 1)
    # The service returns the size in capitals; allow-lists use the spelling of the list of sizes.
    assert created.size == "Standard_NC24ads_A100_v4"
    assert not workspace.compute.ensure(CLUSTER).created
    assert workspace.session.owns(workspace.session.ml.compute.get("cluster").tags)


def test_low_priority_is_used_if_dedicated_has_no_quota(
    start_emulator: Start, settings: Settings, open_workspace: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    start_emulator("compute-quota@Dedicated cluster")
    created = open_workspace(settings()).compute.ensure(CLUSTER)
    assert created.tier == "low_priority"
    assert "can't be created as dedicated" in capsys.readouterr().err


def test_missing_quota_in_both_tiers_is_an_error(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator("compute-quota@* always")
    with pytest.raises(AzureError, match="neither as dedicated nor as low priority") as caught:
        open_workspace(settings()).compute.ensure(CLUSTER)
    assert "quota" in caught.value.fix


def test_a_cluster_that_fails_to_start_is_an_error(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator("compute-failed@cluster always")
    with pytest.raises(AzureError):
        open_workspace(settings()).compute.ensure(CLUSTER)


def test_sizes_are_listed_by_lower_case_name(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    size = open_workspace(settings()).compute.sizes["standard_nc24ads_a100_v4"]
    assert (size.name, size.gpus) == ("Standard_NC24ads_A100_v4", 1)
