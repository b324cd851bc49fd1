"""The reaper: it deletes what has expired and keeps what is foreign, unexpired or detached; dispatched by hand it only lists."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlops.cloud.tags import DETACHED, EXPIRES, MARK, OWNER, PIPELINE, RUN, RUN_KEY, TARGET, WAITING
from mlops.cloud.workspace import Workspace
from mlops.emulator import github_api
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import Harness
from tests.support.workflows.trees import REPOSITORY

PAST, FUTURE = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))


def tags(run: str = f"{REPOSITORY}/7", expires: str = "") -> dict[str, str]:
    ours = {PIPELINE: MARK, TARGET: "pr", OWNER: "octocat", RUN: run}
    return ours | ({EXPIRES: expires} if expires else {})


ENDPOINTS = {
    "expired": tags(expires=PAST.isoformat()),
    "unexpired": tags(expires=FUTURE.isoformat()),
    "lasting": tags(),
    "unreadable": tags(expires="soon"),
    "foreign": {EXPIRES: PAST.isoformat()},
    "of-production": tags(expires=PAST.isoformat()) | {TARGET: "prod"},
    "of-no-target": tags(expires=PAST.isoformat()) | {TARGET: "gone"},
    "another-repository": tags("octo/other/7", PAST.isoformat()),
}


def endpoint(workspace: Workspace, name: str, endpoint_tags: dict[str, str]) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    workspace.session.ml.online_endpoints.begin_create_or_update(
        ManagedOnlineEndpoint(name=name, auth_mode="key", tags=endpoint_tags)
    ).result()


def job(workspace: Workspace, code: Path, name: str, run: str, **more: str) -> str:
    """Submit a job that runs until it is canceled."""
    from azure.ai.ml import command

    environment = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
    submitted: Any = command(
        command="sleep 600", code=str(code), environment=environment, compute="cluster", tags={**tags(run), RUN_KEY: name, **more}
    )
    submitted.name = name
    return str(workspace.session.ml.jobs.create_or_update(submitted).name)


def test_the_reaper_deletes_what_has_expired_and_nothing_else(
    repository: Harness, emulator: Emulator, workspace: Workspace, tmp_path: Path
) -> None:
    from azure.ai.ml.entities import AmlCompute

    for name, endpoint_tags in ENDPOINTS.items():
        endpoint(workspace, name, endpoint_tags)
    workspace.session.ml.compute.begin_create_or_update(
        AmlCompute(name="cluster", size="Standard_NC24ads_A100_v4", max_instances=9)
    ).result()
    (tmp_path / "nothing.txt").touch()
    github_api.add_workflow_run(emulator.azure, "7", "completed", "cancelled")
    github_api.add_workflow_run(emulator.azure, "8", "in_progress", None)
    forgotten = job(workspace, tmp_path, "forgotten", f"{REPOSITORY}/7")
    others = [
        job(workspace, tmp_path, "detached", f"{REPOSITORY}/7"),
        job(workspace, tmp_path, "active", f"{REPOSITORY}/8"),
        job(workspace, tmp_path, "of-another", "octo/other/7"),
        job(workspace, tmp_path, "of-a-laptop", "laptop:/home/me"),
    ]

    workspace.tracking.set_tags("detached", {DETACHED: WAITING})

    listed = repository.dispatch("schedule.yml", {})
    assert listed.jobs == {"resume": "success", "reap": "success", "reap-pr": "success"}, listed.trouble
    assert "endpoint expired" in listed.summary
    assert "job forgotten" in listed.summary
    assert set(repository.endpoints()) == set(ENDPOINTS), "by hand it only lists"
    assert not any(name in listed.summary for name in (*others, "foreign", "lasting", "another", "unreadable", "unexpired"))

    reaped = repository.schedule()
    assert reaped.jobs == {"resume": "success", "reap": "success", "reap-pr": "success"}, reaped.trouble
    assert set(repository.endpoints()) == set(ENDPOINTS) - {"expired"}
    assert workspace.jobs.get(forgotten).status in ("Canceled", "CancelRequested")
    assert all(workspace.jobs.get(other).is_active for other in others)
    for other in others:
        workspace.jobs.cancel(other)
