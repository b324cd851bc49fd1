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
from mlops.emulator.workspace.compute import find, get_vm_size
from mlops.emulator.workspace.instances import KIND


@pytest.fixture(autouse=True)
def _faults(emulator: Emulator) -> Iterator[None]:
    yield
    emulator.azure.faults = Faults()
    for kind in ("compute", KIND):
        for name, _ in emulator.azure.store.list(kind):
            emulator.azure.store.delete(kind, name)


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
    with pytest.raises(ResourceNotFoundError) as refused:
        ml.compute.get("nowhere")
    assert refused.value.response.text() == ""


def test_sizes_have_gpu_counts(ml: Any) -> None:
    gpus = {size.name: size.gpus for size in ml.compute.list_sizes()}
    assert (gpus["Standard_NC24ads_A100_v4"], gpus["Standard_ND96isr_H100_v5"], gpus["Standard_DS3_v2"]) == (1, 8, 0)


def test_every_size_of_the_catalogs_is_listed(ml: Any) -> None:
    from mlops.emulator.registry.catalog import A100, H100, V100

    assert {*A100, *H100, *V100} <= {size.name for size in ml.compute.list_sizes()}


DOCUMENTED = {
    "A4_v2": (4, 0, 8), "A2m_v2": (2, 0, 16), "D2_v2": (2, 0, 7), "D14_v2": (16, 0, 112), "DS15_v2": (20, 0, 140), "D2as_v4": (2, 0, 8),
    "D32_v3": (32, 0, 128), "D64s_v3": (64, 0, 256), "D48ds_v4": (48, 0, 192), "D96a_v4": (96, 0, 384), "D8ads_v5": (8, 0, 32),
    "DC8_v2": (8, 0, 32), "E20s_v3": (20, 0, 160), "E64_v3": (64, 0, 432), "E64ds_v4": (64, 0, 504), "E64ds_v5": (64, 0, 512),
    "E96as_v4": (96, 0, 672), "F16": (16, 0, 32), "F72s_v2": (72, 0, 144), "FX4mds": (4, 0, 84), "FX48mds": (48, 0, 1008),
    "H16mr": (16, 0, 224), "HB60rs": (60, 0, 228), "HB120rs_v2": (120, 0, 456), "HB120rs_v3": (120, 0, 448),
    "HB176-96rs_v4": (176, 0, 768), "HC44rs": (44, 0, 352), "L80s_v2": (80, 0, 640), "L8s_v3": (8, 0, 64), "M64ms": (64, 0, 1792),
    "M128s": (128, 0, 2048), "NC12": (12, 2, 112), "NC24rs_v2": (24, 4, 448), "NC6s_v3": (6, 1, 112), "NC64as_T4_v3": (64, 4, 440),
    "NC96ads_A100_v4": (96, 4, 880), "NC40ads_H100_v5": (40, 1, 320), "ND24rs": (24, 4, 448), "ND40rs_v2": (40, 8, 672),
    "ND96asr_v4": (96, 8, 900), "ND96isr_H100_v5": (96, 8, 1900), "ND96isr_H200_v5": (96, 8, 1850), "NV24": (24, 4, 224),
    "NV48s_v3": (48, 4, 448), "NV36ads_A10_v5": (36, 1, 440),
}  # fmt: skip
"""Sizes of all series that Azure ML documents: cores, GPUs and GiB of memory, from Microsoft's page of each series."""


def test_the_sizes_of_the_documented_series_are_listed(ml: Any) -> None:
    listed = {size.name: size.gpus for size in ml.compute.list_sizes()}
    for name, (cores, gpus, memory) in DOCUMENTED.items():
        assert listed[f"Standard_{name}"] == gpus
        # The SDK drops what it does not know how to spell.
        wire = get_vm_size(f"standard_{name}".upper())
        assert (wire["vCPUs"], wire["memoryGB"]) == (cores, memory), name
    assert len({name.lower() for name in listed}) == len(listed)


def test_a_cluster_of_any_listed_size_is_created_whatever_the_case(ml: Any) -> None:
    ml.compute.begin_create_or_update(cluster(name="any-size", size="STANDARD_hb120RS_v3")).result()
    assert ml.compute.get("any-size").size.lower() == "standard_hb120rs_v3"


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
        ({"computeType": "Kubernetes"}, 501, "AmlCompute and ComputeInstance only"),
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
        ml.compute.begin_create_or_update(cluster()).result()
    # As on Azure, the cluster exists although its provisioning has failed.
    assert ml.compute.get("gpu-cluster").provisioning_state == "Failed"
    ml.compute.begin_delete("gpu-cluster").result()
    created = ml.compute.begin_create_or_update(cluster(tier="LowPriority")).result()
    assert (created.provisioning_state, created.tier) == ("Succeeded", "low_priority")


def test_failed_provisioning(ml: Any, emulator: Emulator) -> None:
    emulator.azure.faults = Faults(["compute-failed@gpu-cluster"])
    with pytest.raises(HttpResponseError, match="no capacity for its VM size"):
        ml.compute.begin_create_or_update(cluster()).result()
    failed = ml.compute.get("gpu-cluster")
    assert failed.provisioning_state == "Failed"
    assert failed.provisioning_errors == "AllocationFailed"


def test_an_operation_that_was_accepted_can_fail_or_be_canceled_and_changes_nothing(ml: Any, emulator: Emulator) -> None:
    for fault, state, message in (("operation-failed", "Failed", "has failed"), ("operation-canceled", "Canceled", "was canceled")):
        emulator.azure.faults = Faults([f"{fault}@gpu-cluster"])
        with pytest.raises(HttpResponseError, match=f"The operation on gpu-cluster {message}"):
            ml.compute.begin_create_or_update(cluster()).result()
        assert ml.compute.get("gpu-cluster").provisioning_state == state
        ml.compute.begin_create_or_update(cluster()).result()
        emulator.azure.faults = Faults([f"{fault}@gpu-cluster"])
        with pytest.raises(HttpResponseError, match=message):
            ml.compute.begin_delete("gpu-cluster").result()
        assert ml.compute.get("gpu-cluster").provisioning_state == state
        ml.compute.begin_delete("gpu-cluster").result()


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


def test_resources_can_be_sent_back_as_they_were_read(ml: Any) -> None:
    ml.compute.begin_create_or_update(cluster()).result()
    read = ml.compute.get("gpu-cluster")
    assert read.ssh_public_access_enabled is True
    read.max_instances = 4
    assert ml.compute.begin_update(read).result().max_instances == 4


def test_a_cluster_takes_an_account_a_location_and_an_identity(ml: Any) -> None:
    from azure.ai.ml.entities import AmlComputeSshSettings, IdentityConfiguration

    settings = AmlComputeSshSettings(admin_username="azureuser", admin_password="secret-1", ssh_key_value="ssh-rsa AAAA")
    more = {"ssh_settings": settings, "location": "westus", "identity": IdentityConfiguration(type="system_assigned"), "tags": {"a": None}}
    created = ml.compute.begin_create_or_update(cluster(**more)).result()
    assert (created.location, created.ssh_settings.admin_username, created.tags) == ("westus", "azureuser", {"a": None})
    assert (created.ssh_settings.admin_password, created.ssh_settings.ssh_key_value) == (None, "ssh-rsa AAAA")


def test_the_answer_to_an_update_has_the_new_values_and_no_nodes(emulator: Emulator, environment: object) -> None:
    put(emulator)
    answer = put(emulator, aml={"scaleSettings": {"maxNodeCount": 7}})
    properties = answer.json()["properties"]
    assert (answer.status_code, properties["provisioningState"]) == (201, "Creating")
    assert properties["properties"]["scaleSettings"]["maxNodeCount"] == 7
    assert properties["properties"]["nodeStateCounts"] is None
    assert "Retry-After" not in answer.headers


def test_missing_fields_are_filled_as_on_azure(emulator: Emulator, environment: object) -> None:
    created = put(emulator).json()
    assert (created["tags"], created["properties"]["disableLocalAuth"]) == (None, False)
    read = requests.get(
        MANAGEMENT + arm_id(emulator.azure, "computes", "gpu-cluster"),
        params={"api-version": "2023-08-01-preview"},
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        timeout=30,
    ).json()
    assert (read["tags"], read["properties"]["resourceId"]) == ({}, None)


class TestInstance:
    """Compute instances are records that can be started and stopped."""

    def test_create_stop_start_delete(self, ml: Any) -> None:
        from azure.ai.ml.entities import ComputeInstance

        instance = ml.compute.begin_create_or_update(ComputeInstance(name="notebook", size="Standard_DS3_v2", enable_sso=False)).result()
        assert (instance.state, instance.size, instance.enable_sso) == ("Running", "STANDARD_DS3_V2", False)
        ml.compute.begin_stop("notebook").result()
        assert ml.compute.get("notebook").state == "Stopped"
        ml.compute.begin_start("notebook").result()
        ml.compute.begin_restart("notebook").result()
        read = ml.compute.get("notebook")
        assert (read.state, read.last_operation["operationName"]) == ("Running", "Restart")
        assert [compute.type for compute in ml.compute.list()] == ["computeinstance"]
        ml.compute.begin_delete("notebook").result()
        assert list(ml.compute.list()) == []

    def test_an_unknown_setting_is_refused(self, emulator: Emulator, environment: object) -> None:
        answer = put(emulator, "notebook", computeType="ComputeInstance", properties={"vmSize": "Standard_DS3_v2", "surprise": 1})
        assert (answer.status_code, "properties.properties.surprise" in answer.text) == (400, True)

    def test_a_cluster_can_not_be_started(self, ml: Any) -> None:
        ml.compute.begin_create_or_update(cluster()).result()
        with pytest.raises(HttpResponseError, match="only a compute instance can be started"):
            ml.compute.begin_start("gpu-cluster")
