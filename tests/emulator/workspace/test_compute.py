"""Compute clusters through the real SDK."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.base.azure import LOCATION, arm_id
from mlops.emulator.base.faults import Faults
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.workspace.compute import find


@pytest.fixture(autouse=True)
def _faults(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.azure.faults = Faults()
    for name, _ in emulator.azure.store.list("compute"):
        emulator.azure.store.delete("compute", name)


def cluster(**change: Any) -> Any:
    from azure.ai.ml.entities import AmlCompute

    return AmlCompute(**{"name": "gpu-cluster", "size": "Standard_NC24ads_A100_v4", "tier": "Dedicated", "max_instances": 2} | change)


def put(emulator: Emulator, name: str = "gpu-cluster", location: str = LOCATION, **change: Any) -> requests.Response:
    properties: dict[str, Any] = {
        "computeType": "AmlCompute",
        "properties": {"vmSize": "Standard_NC24ads_A100_v4", "scaleSettings": {"maxNodeCount": 1}} | change.pop("aml", {}),
    }
    return requests.put(
        MANAGEMENT + arm_id(emulator.azure, "computes", name),
        params={"api-version": "2023-08-01-preview"},
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        json={"location": location, "properties": properties | change},
        timeout=30,
    )


def test_create_get_list_delete(ml: Any, emulator: Emulator) -> None:
    created = ml.compute.begin_create_or_update(cluster()).result()
    assert created.provisioning_state == "Succeeded"
    read = ml.compute.get("GPU-Cluster")
    # As Azure answers: the size in upper case, the rest as it was sent.
    assert (read.name, read.size, read.tier.lower(), read.max_instances) == ("gpu-cluster", "STANDARD_NC24ADS_A100_V4", "dedicated", 2)
    assert read.idle_time_before_scale_down == 120
    assert [compute.name for compute in ml.compute.list()] == ["gpu-cluster"]
    ml.compute.begin_delete("gpu-cluster").result()
    assert list(ml.compute.list()) == []
    assert find(emulator.azure, "gpu-cluster") is None


def test_an_unknown_cluster_is_not_found(ml: Any) -> None:
    with pytest.raises(ResourceNotFoundError, match="Compute with name nowhere not found"):
        ml.compute.get("nowhere")


def test_sizes_have_gpu_counts(ml: Any) -> None:
    gpus = {size.name: size.gpus for size in ml.compute.list_sizes()}
    assert (gpus["Standard_NC24ads_A100_v4"], gpus["Standard_ND96isr_H100_v5"], gpus["Standard_DS3_v2"]) == (1, 8, 0)


def test_every_size_of_the_catalogs_is_listed(ml: Any) -> None:
    from mlops.emulator.registry.catalog import A100, H100, V100

    assert {*A100, *H100, *V100} <= {size.name for size in ml.compute.list_sizes()}


def test_the_scale_can_change_but_not_the_size(ml: Any) -> None:
    ml.compute.begin_create_or_update(cluster()).result()
    assert ml.compute.begin_create_or_update(cluster(max_instances=5)).result().max_instances == 5
    with pytest.raises(HttpResponseError, match="its vmSize can't be changed"):
        ml.compute.begin_create_or_update(cluster(size="Standard_NC48ads_A100_v4"))


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        ({"aml": {"vmSize": "Standard_NC24ads_A100"}}, 400, "VM size 'Standard_NC24ads_A100' is not supported"),
        ({"aml": {"vmPriority": "Cheap"}}, 400, "vmPriority"),
        ({"aml": {"vmsize": "x"}}, 400, "vmsize"),
        ({"aml": {"scaleSettings": {"maxNodeCount": 1, "minNodeCount": 2}}}, 400, "minNodeCount"),
        ({"aml": {"scaleSettings": {"maxNodeCount": "1"}}}, 400, "maxNodeCount"),
        ({"aml": {"scaleSettings": {"maxNodeCount": 1, "nodeIdleTimeBeforeScaleDown": "120"}}}, 400, "nodeIdleTimeBeforeScaleDown"),
        ({"name": "gpu_cluster"}, 400, "Compute name 'gpu_cluster' is invalid"),
        ({"name": "c" * 25}, 400, "is invalid"),
        ({"location": "westeurope"}, 400, "the workspace is in eastus"),
        ({"computeType": "ComputeInstance"}, 501, "AmlCompute only"),
        ({"surprise": True}, 400, "surprise"),
    ],
)
def test_an_invalid_cluster_is_refused(emulator: Emulator, environment: object, arguments: dict[str, Any], status: int, text: str) -> None:
    answer = put(emulator, **arguments)
    assert answer.status_code == status
    assert text in answer.json()["error"]["message"]


def test_low_priority_works_without_dedicated_quota(ml: Any, emulator: Emulator) -> None:
    emulator.azure.faults = Faults(["compute-quota@Dedicated *"])
    with pytest.raises(HttpResponseError, match=r"total vCPU quota of 0 .* maps to 24 vCPUs"):
        ml.compute.begin_create_or_update(cluster())
    created = ml.compute.begin_create_or_update(cluster(tier="LowPriority")).result()
    assert (created.provisioning_state, created.tier) == ("Succeeded", "low_priority")


def test_failed_provisioning(ml: Any, emulator: Emulator) -> None:
    emulator.azure.faults = Faults(["compute-failed@gpu-cluster"])
    with pytest.raises(HttpResponseError, match="no capacity for its VM size"):
        ml.compute.begin_create_or_update(cluster()).result()
    failed = ml.compute.get("gpu-cluster")
    assert failed.provisioning_state == "Failed"
    assert failed.provisioning_errors == "AllocationFailed"


def test_a_slow_operation_is_in_progress_for_a_while(emulator: Emulator, environment: object) -> None:
    emulator.azure.faults = Faults(["operation-slow@gpu-cluster"])
    first = put(emulator)
    assert first.status_code == 201
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    statuses = [requests.get(first.headers["Azure-AsyncOperation"], headers=headers, timeout=30).json()["status"] for _ in range(4)]
    assert statuses == ["InProgress", "InProgress", "InProgress", "Succeeded"]


def test_delete_wants_an_action(emulator: Emulator, environment: object) -> None:
    put(emulator)
    url = MANAGEMENT + arm_id(emulator.azure, "computes", "gpu-cluster")
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    answer = requests.delete(url, params={"api-version": "2023-08-01-preview"}, headers=headers, timeout=30)
    assert (answer.status_code, "underlyingResourceAction" in answer.text) == (400, True)
