from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud import vm_sizes
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError
from mlops.core.settings import ComputeConfig, Config
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
Start = Callable[..., Emulator]
FAMILY = "StandardNCADSA100v4Family"
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


def test_a_cluster_has_the_identity_that_is_configured(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    workspace = open_workspace(settings())
    identity = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
    workspace.compute.ensure(CLUSTER.model_copy(update={"identity": identity}))
    found = workspace.compute.find("cluster")
    assert found is not None
    assert found.identities == (identity,)


def test_a_cluster_that_somebody_else_created_is_used_and_named(
    start_emulator: Start, settings: Settings, open_workspace: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    from azure.ai.ml.entities import AmlCompute

    emulator = start_emulator()
    workspace = open_workspace(settings())
    by_hand = AmlCompute(name="cluster", size=CLUSTER.size, tags={"made-by": "hand"})
    workspace.session.ml.compute.begin_create_or_update(by_hand).result()
    [before] = emulator.azure.store.list("compute")
    assert workspace.compute.ensure(CLUSTER).foreign
    assert "cluster was created outside this pipeline" in capsys.readouterr().err
    assert emulator.azure.store.list("compute") == [before]
    emulator.azure.faults.add("404@arm GET */computes/cluster")  # wrongly
    assert workspace.compute.ensure(CLUSTER).foreign
    assert not emulator.azure.faults.pending()
    assert emulator.azure.store.list("compute") == [before]


def test_a_foreign_cluster_is_not_cleaned_up_after_a_failed_creation(
    start_emulator: Start, settings: Settings, open_workspace: Open
) -> None:
    """Somebody else's creation of the same name fails at the same time."""
    from azure.ai.ml.entities import AmlCompute
    from azure.core.exceptions import HttpResponseError

    start_emulator("compute-failed@cluster")
    workspace = open_workspace(settings())
    with pytest.raises(HttpResponseError):
        workspace.session.ml.compute.begin_create_or_update(AmlCompute(name="cluster", size=CLUSTER.size)).result()
    assert workspace.compute._delete_failed("cluster") == ""
    assert workspace.compute.find("cluster") is not None


def test_low_priority_is_never_used_silently(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(quota={FAMILY: 0})
    workspace = open_workspace(settings())
    with pytest.raises(AzureError, match="quota of 0 and cannot accomodate") as caught:
        workspace.compute.ensure(CLUSTER)
    assert "compute.allow_low_priority = true" in caught.value.fix
    # On Azure the refused cluster exists, and is Failed.
    assert workspace.compute.find("cluster") is None


def test_low_priority_is_used_if_it_is_allowed_and_dedicated_has_no_quota(
    start_emulator: Start, settings: Settings, open_workspace: Open, capsys: pytest.CaptureFixture[str]
) -> None:
    start_emulator(quota={FAMILY: 0})
    created = open_workspace(settings()).compute.ensure(CLUSTER.model_copy(update={"allow_low_priority": True}))
    assert (created.tier, created.state) == ("low_priority", "Succeeded")
    assert "can't be created as dedicated" in capsys.readouterr().err


def test_missing_quota_in_both_tiers_is_an_error(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(quota={FAMILY: 0, "TotalLowPriorityCores": 23})
    workspace = open_workspace(settings())
    with pytest.raises(AzureError, match=r"low_priority.*quota of 23") as caught:
        workspace.compute.ensure(CLUSTER.model_copy(update={"allow_low_priority": True}))
    assert "quota" in caught.value.fix
    assert workspace.compute.find("cluster") is None


@pytest.mark.parametrize(("fault", "message"), [("compute-failed", "no capacity"), ("operation-canceled", "was canceled")])
def test_another_failure_is_not_a_reason_for_low_priority(
    start_emulator: Start, settings: Settings, open_workspace: Open, fault: str, message: str
) -> None:
    start_emulator(f"{fault}@cluster")
    workspace = open_workspace(settings())
    with pytest.raises(AzureError, match=message):
        workspace.compute.ensure(CLUSTER.model_copy(update={"allow_low_priority": True}))
    assert workspace.compute.find("cluster") is None


@pytest.mark.parametrize("size", ["standard_nc24ADS_a100_V4", "Standard_NC24ads_A100"])
def test_the_name_of_a_size_ignores_case_and_the_error_names_the_setting(
    start_emulator: Start, settings: Settings, open_workspace: Open, size: str
) -> None:
    start_emulator()
    config = CLUSTER.model_copy(update={"size": size})
    if size.lower() == CLUSTER.size.lower():
        compute = open_workspace(settings()).compute
        assert compute.ensure(config).size == CLUSTER.size
        compute.check_unchanged(config.name, size)
    else:
        with pytest.raises(AzureError, match="is not supported in eastus") as caught:
            open_workspace(settings()).compute.ensure(config)
        assert "compute.size" in caught.value.fix


def test_sizes_are_listed_by_lower_case_name(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    size = open_workspace(settings()).compute.sizes["standard_nc24ads_a100_v4"]
    assert (size.name, size.gpus, size.cores, size.family) == ("Standard_NC24ads_A100_v4", 1, 24, FAMILY)


def test_the_built_in_sizes_are_those_of_the_service(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator()
    offered = open_workspace(settings()).compute.sizes
    assert {name: offered[name] for name in vm_sizes.BY_NAME} == vm_sizes.BY_NAME


def test_usages_are_read_per_family_and_tier(start_emulator: Start, settings: Settings, open_workspace: Open) -> None:
    start_emulator(quota={FAMILY: 100, "TotalDedicatedCores": 200})
    compute = open_workspace(settings()).compute
    compute.ensure(CLUSTER.model_copy(update={"min_instances": 2, "max_instances": 2}))
    usages = compute.usages
    limits = {(usage.name, usage.low_priority): usage.limit for usage in usages}
    assert (limits[FAMILY, False], limits[FAMILY, True]) == (100, None)
    assert (limits["TotalDedicatedCores", False], limits["TotalLowPriorityCores", True]) == (200, None)
    assert len(limits) == len(usages)
    assert {usage.name: usage.used for usage in usages if usage.used} == {FAMILY: 48, "TotalDedicatedCores": 48}


def test_without_permission_sizes_and_usages_are_empty_and_the_missing_permission_is_named(
    start_emulator: Start, settings: Settings, open_workspace: Open
) -> None:
    emulator = start_emulator("403@arm GET */vmSizes", "403@arm GET */usages")
    compute = open_workspace(settings()).compute
    assert (compute.sizes, compute.usages) == ({}, ())
    scope = f"/subscriptions/{emulator.azure.identity.subscription}"
    assert compute.not_permitted == {
        "VM sizes": f"the action Microsoft.MachineLearningServices/locations/vmSizes/read at scope {scope}",
        "quota usage": f"the action Microsoft.MachineLearningServices/locations/usages/read at scope {scope}",
    }
    assert compute.ensure(CLUSTER).gpus_per_node == 1
    unknown = compute.ensure(CLUSTER.model_copy(update={"name": "other", "size": "Standard_NC6s_v3"}))
    assert unknown.gpus_per_node is None
