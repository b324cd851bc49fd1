from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import Config
from mlops.core.errors import NotPromoted
from mlops.core.records import Judged, Override, Registered, Verdict
from mlops.register import NAME, register, version
from tests.support.deployments import behind_the_gate

KEY = "0123456789abcdef" * 4


def test_a_job_gets_the_same_version_in_every_time_zone() -> None:
    moment = datetime(2026, 9, 22, 10, 30, 0, tzinfo=UTC)
    assert version(moment, KEY) == "20260922103000-01234567"
    assert version(moment.astimezone(timezone(timedelta(hours=9))), KEY) == version(moment, KEY)


def test_two_jobs_created_in_the_same_second_get_two_versions() -> None:
    moment = datetime(2026, 9, 22, tzinfo=UTC)
    assert version(moment, KEY) != version(moment, KEY[::-1])


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [("ultrachat-chat", True), ("a" * 255, True), ("a" * 256, False), ("-a", False), ("a b", False), ("", False), ("a\n", False)],
)
def test_names_that_azure_does_not_accept_are_refused(name: str, is_valid: bool) -> None:
    assert bool(NAME.fullmatch(name)) is is_valid


OVERRIDE = Override(reason="we know better", actor="octocat", approvers=("hubot",), environment="gate-override")


def test_the_model_has_the_verdict_that_admitted_it_in_its_tags(
    tmp_path: Path, inside: object, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace], trained_job: str
) -> None:
    config = settings("[targets.test.registration]\nname = 'overridden'\n")
    workspace = open_workspace(config)
    identity = workspace.jobs.get(trained_job).identity

    def registered(name: str, verdict: Verdict, override: Override | None) -> Registered:
        run = behind_the_gate(tmp_path / name, trained_job, verdict, override=override, identity=identity)
        model = register(config, run, workspace)
        assert model.tags["mlops.gate_record"] == run.read(Judged).digest()
        assert workspace.assets.get_model("overridden", model.version).tags == model.tags
        return model

    first = registered("first", Verdict.PROMOTE, None)
    assert (first.tags["mlops.verdict"], first.tags["mlops.override"]) == ("PROMOTE", "none")
    # The same model, judged again by stricter rules: it is not registered twice, and does not go on saying PROMOTE.
    second = registered("second", Verdict.HOLD, OVERRIDE)
    assert (second.model, second.reused) == (first.model, True)
    assert (second.tags["mlops.verdict"], second.tags["mlops.override"]) == ("HOLD", "we know better (octocat, hubot)")
    assert second.tags["mlops.job"] == trained_job
    with pytest.raises(NotPromoted):
        registered("third", Verdict.HOLD, None)
    assert workspace.assets.get_model("overridden", second.version).tags == second.tags
