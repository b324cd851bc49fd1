from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.errors import NotPromoted
from mlops.core.judgement import Override, Verdict
from mlops.core.records import Evaluated, Judged, Registered, Trained
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.emulator.server import Emulator
from mlops.emulator.workspace import uris
from mlops.register import register
from tests.support.deployments import RULES, behind_the_gate


def test_the_version_is_when_the_job_was_created_or_the_next_free_one(
    tmp_path: Path, inside: Emulator, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace], trained_job: str
) -> None:
    config = settings(f"[targets.test.registration]\nname = 'numbered'\n{RULES}")
    workspace = open_workspace(config)
    job = workspace.jobs.get(trained_job)
    assert job.created_at is not None
    second = int(job.created_at.timestamp())
    # The versions of two jobs that were created in the same second.
    output = f"azureml://jobs/{trained_job}/outputs/trained_model"
    for taken in (second, second + 1):
        workspace.assets.register_model(name="numbered", version=str(taken), path=output, description="", tags={"mlops.job": "another"})
    run = behind_the_gate(tmp_path / "first", trained_job, identity=job.identity)
    registered = register(config, run, workspace)
    assert (registered.version, registered.reused) == (str(second + 2), False)
    assert registered.tags["mlops.run_key"] == run.read(Trained).run_key
    # Another runner finds the version by its tags, whatever its number is.
    again = register(config, behind_the_gate(tmp_path / "second", trained_job, identity=job.identity), workspace)
    assert (again.version, again.reused) == (registered.version, True)


def test_an_archived_version_of_the_same_job_is_restored(
    tmp_path: Path, inside: Emulator, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace], trained_job: str
) -> None:
    config = settings(f"[targets.test.registration]\nname = 'restored'\n{RULES}")
    workspace = open_workspace(config)
    identity = workspace.jobs.get(trained_job).identity
    first = register(config, behind_the_gate(tmp_path / "first", trained_job, identity=identity), workspace)
    workspace.session.ml.models.archive("restored", version=first.version)
    again = register(config, behind_the_gate(tmp_path / "second", trained_job, identity=identity), workspace)
    assert (again.version, again.reused) == (first.version, False)
    assert [model.version for model in workspace.session.ml.models.list("restored")] == [first.version]


def _check_lineage(emulator: Emulator, run: Run, model: Registered) -> None:
    """The file that the model's tag names by its digest says how the model was made, and why it was admitted."""
    assert model.lineage == f"azureml://datastores/workspaceblobstore/paths/mlops/models/{model.name}/{model.version}.json"
    text = uris.resolve(emulator.azure, model.lineage).read_bytes()
    assert hashlib.sha256(text).hexdigest() == model.tags["mlops.lineage"]
    lineage, judged = json.loads(text), run.read(Judged)
    assert lineage["training"]["run_key"] == run.read(Trained).run_key
    assert lineage["evaluation"]["models"]["candidate"]["metrics"] == run.read(Evaluated).models["candidate"].metrics
    assert lineage["gate"] | {"verdict": judged.verdict.value, "record": judged.digest()} == lineage["gate"]


OVERRIDE = Override(reason="we know better", actor="octocat")


def test_the_model_has_the_verdict_that_admitted_it_in_its_tags(
    tmp_path: Path, inside: Emulator, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace], trained_job: str
) -> None:
    config = settings(f"[targets.test.registration]\nname = 'overridden'\n[targets.test.endpoint]\nephemeral = true\n{RULES}")
    workspace = open_workspace(config)
    identity = workspace.jobs.get(trained_job).identity

    def registered(name: str, verdict: Verdict, override: Override | None) -> Registered:
        run = behind_the_gate(tmp_path / name, trained_job, verdict, override=override, identity=identity)
        model = register(config, run, workspace)
        assert model.tags["mlops.gate_record"] == run.read(Judged).digest()
        assert len(model.tags) <= 15
        _check_lineage(inside, run, model)
        assert workspace.assets.get_model("overridden", model.version).tags == model.tags
        return model

    first = registered("first", Verdict.PROMOTE, None)
    assert (first.tags["mlops.verdict"], first.tags["mlops.override"]) == ("PROMOTE", "none")
    # The same model, judged again by stricter rules: it is not registered twice, and does not go on saying PROMOTE.
    second = registered("second", Verdict.HOLD, OVERRIDE)
    assert (second.model, second.reused) == (first.model, True)
    assert (second.tags["mlops.verdict"], second.tags["mlops.override"]) == ("HOLD", "we know better (octocat)")
    assert second.tags["mlops.job"] == trained_job
    with pytest.raises(NotPromoted):
        registered("third", Verdict.HOLD, None)
    assert workspace.assets.get_model("overridden", second.version).tags == second.tags
