"""State in memory and background tasks of the emulated subscription."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlops.emulator.base.azure import Azure, Identity, Options, Services
from mlops.emulator.base.children import Children
from mlops.emulator.base.faults import Faults
from mlops.emulator.base.store import Store


class Counter:
    """State of a service."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def azure(tmp_path: Path) -> Iterator[Azure]:
    with closing(Store(tmp_path / "s.db")) as store:
        yield Azure(tmp_path, store, Identity.load_or_create(store), Options(), Faults(), Children())


def test_each_emulator_has_its_own_state() -> None:
    one, other = Services(), Services()
    one.get(Counter).count += 1
    assert one.get(Counter).count == 1
    assert other.get(Counter).count == 0


def test_threads_share_one_object() -> None:
    services = Services()
    states: list[Counter] = []
    threads = [threading.Thread(target=lambda: states.append(services.get(Counter))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(state) for state in states}) == 1


def test_a_background_task_runs_without_a_reference_to_it(azure: Azure) -> None:
    async def run() -> int:
        async def work() -> None:
            await asyncio.sleep(0)
            azure.services.get(Counter).count += 1

        tasks = [azure.start_task(work()) for _ in range(3)]
        await asyncio.gather(*tasks)
        return azure.services.get(Counter).count

    assert asyncio.run(run()) == 3


def test_the_identity_survives(tmp_path: Path, azure: Azure) -> None:
    azure.store.close()
    with closing(Store(tmp_path / "s.db")) as store:
        assert Identity.load_or_create(store) == azure.identity
