from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import ComputeConfig, Config
from mlops.core.errors import AzureError, ConfigError
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Start = Callable[..., Emulator]
WANTED = ComputeConfig(name="cluster", size="Standard_NC24ads_A100_v4", max_instances=1)


def test_a_missing_cluster_is_created_once(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    workspace = open_workspace(settings())
    assert workspace.compute.find("cluster") is None
    made = workspace.compute.ensure(WANTED)
    assert (made.created, made.tier, made.state, made.gpus_per_node) == (True, "dedicated", "Succeeded", 1)
    # The service answers in capitals; the spelling of the list of sizes is the one that allow-lists use.
    assert made.size == "Standard_NC24ads_A100_v4"
    assert not workspace.compute.ensure(WANTED).created
    assert workspace.session.owns(workspace.session.ml.compute.get("cluster").tags)


def test_low_priority_is_taken_where_dedicated_has_no_quota(
    start_emulator: Start, settings: Settings, open_workspace: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    start_emulator("compute-quota@Dedicated cluster")
    made = open_workspace(settings()).compute.ensure(WANTED)
    assert made.tier == "low_priority"
    assert "can't be had as dedicated" in capsys.readouterr().err


def test_no_quota_at_all_is_an_error_that_says_so(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator("compute-quota@* always")
    with pytest.raises(AzureError, match="neither as dedicated nor as low priority") as caught:
        open_workspace(settings()).compute.ensure(WANTED)
    assert "quota" in caught.value.fix


def test_a_cluster_that_failed_is_not_handed_out(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator("compute-failed@cluster always")
    with pytest.raises(AzureError):
        open_workspace(settings()).compute.ensure(WANTED)


def test_an_unknown_size_names_near_ones(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    workspace = open_workspace(settings())
    assert workspace.compute.size("STANDARD_NC24ADS_A100_V4").gpus == 1
    with pytest.raises(ConfigError, match="Standard_NC24ads_A100_v4"):
        workspace.compute.size("Standard_NC24ads_A100")
