"""The cores that a run needs, and the quotas that it would exceed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mlops.cloud.quota import CoreDemand, Deployment, Usage, count_cores, describe, find_demands, find_shortages, lacks_limit
from mlops.cloud.vm_sizes import VmSize, count_reserved_instances
from mlops.core.settings import Config

A100, DS3 = "Standard_NC24ads_A100_v4", "Standard_DS3_v2"
FAMILY = "standardNCADSA100v4Family"
SIZES = {DS3.lower(): VmSize(name=DS3, gpus=0, cores=4, family="standardDSv2Family")}
LIVE = Deployment(name="d-1", size=A100, instances=1, is_standby=False)
STANDBY = Deployment(name="d-0", size=A100, instances=1, is_standby=True)


def usage(limit: int | None, used: int = 0, **changes: Any) -> Usage:
    return replace(Usage(name=FAMILY, low_priority=False, used=used, limit=limit), **changes)


@pytest.fixture
def needs(settings: Callable[..., Config]) -> Callable[..., list[CoreDemand]]:
    def find(*existing: Deployment, size: str = A100, instances: int = 1) -> list[CoreDemand]:
        config = settings("", f"endpoint.instance_type={size}", f"endpoint.instance_count={instances}")
        return find_demands(config, count_cores("training", A100, 1, SIZES), SIZES, existing)

    return find


@pytest.mark.parametrize(
    ("size", "instances", "reserved"),
    [
        (DS3, 1, 2),
        (DS3, 5, 6),
        (DS3, 10, 12),
        (DS3, 15, 18),
        (A100.upper(), 5, 5),
        ("Standard_ND96is_H100_v5", 3, 3),
        ("Standard_NC6s_v3", 3, 4),
    ],
)
def test_most_sizes_need_a_reserve_for_upgrades(size: str, instances: int, reserved: int) -> None:
    assert count_reserved_instances(size, instances) == reserved


def test_a_second_run_needs_training_live_and_new_deployment(needs: Callable[..., list[CoreDemand]]) -> None:
    peak = needs(LIVE, STANDBY)
    assert describe(peak) == (
        f"72 cores of StandardNCADSA100v4Family (training 1 × {A100} + live deployment 1 × {A100} + new deployment 1 × {A100})"
    )


def test_the_reserve_and_an_unknown_size_are_in_the_sum(needs: Callable[..., list[CoreDemand]]) -> None:
    assert f"24 cores of standardDSv2Family (new deployment 6 × {DS3})" in describe(needs(size=DS3, instances=5))
    assert "? cores of Standard_X (new deployment 2 × Standard_X)" in describe(needs(size="Standard_X"))


@pytest.mark.parametrize(
    ("existing", "limit", "used", "fits"),
    [
        pytest.param((), 48, 0, True, id="a first run: training and deployment"),
        pytest.param((), 47, 0, False, id="a core less"),
        pytest.param((LIVE,), 72, 24, True, id="a second run: the live deployment is in use"),
        pytest.param((LIVE,), 71, 24, False, id="a second run, a core less"),
        pytest.param((LIVE, STANDBY), 72, 48, True, id="the standby is removed first"),
        pytest.param((LIVE, STANDBY), 71, 48, False, id="the standby is removed first, a core less"),
        pytest.param((), None, 10_000, True, id="unlimited"),
    ],
)
def test_a_quota_must_have_room_for_what_is_new(
    needs: Callable[..., list[CoreDemand]], existing: tuple[Deployment, ...], limit: int | None, used: int, fits: bool
) -> None:
    for name in (FAMILY, "TotalDedicatedCores"):
        assert (find_shortages(needs(*existing), [usage(limit, used, name=name)]) == []) is fits


def test_a_shortage_says_what_is_in_use_and_what_is_needed(needs: Callable[..., list[CoreDemand]]) -> None:
    assert find_shortages(needs(LIVE, STANDBY), [usage(71, 48)]) == [
        f"{FAMILY}: 48 of 71 cores are in use, and this run needs 48 more (training 1 × {A100} + new deployment 1 × {A100}); "
        "removing the standby deployment frees 24"
    ]


def test_quotas_of_other_families_and_tiers_do_not_count(needs: Callable[..., list[CoreDemand]]) -> None:
    others = [usage(0, name="standardDSv2Family"), usage(0, low_priority=True), usage(0, name="TotalLowPriorityCores", low_priority=True)]
    assert find_shortages(needs(), others) == []


def test_low_priority_nodes_have_one_quota_for_all_families(needs: Callable[..., list[CoreDemand]]) -> None:
    training, *others = needs()
    usages = [usage(24), usage(0, low_priority=True), usage(23, name="TotalLowPriorityCores", low_priority=True)]
    shortages = find_shortages([replace(training, low_priority=True), *others], usages)
    assert [shortage.partition(":")[0] for shortage in shortages] == ["TotalLowPriorityCores"]


def test_a_job_that_runs_already_needs_nothing_more(needs: Callable[..., list[CoreDemand]]) -> None:
    training, *others = needs()
    assert find_shortages([replace(training, state="in use"), *others], [usage(48, 24)]) == []


@pytest.mark.parametrize(("limit", "lacking"), [(23, True), (24, False), (None, False)])
def test_a_cluster_needs_quota_for_one_node(limit: int | None, lacking: bool) -> None:
    assert lacks_limit(count_cores("training", A100, 3, SIZES), [usage(limit)]) is lacking
