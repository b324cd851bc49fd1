"""The whole pipeline, from conversations to live traffic and back, by its one command; and every way it may stop.

Real training, scoring and serving, on models so small that it takes seconds. Each test says where the run stops, with which exit code,
what the endpoint serves afterwards and that nothing is left that costs money.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.records import RECORDS, Evaluated, Judged, Promoted, Smoked, TornDown, Trained, Verdict
from mlops.core.run import Run
from mlops.emulator.server import Emulator

ENDPOINT = "pipeline-test"
TOML = f"""
[defaults.data]
dataset = "conversations"
percent = 100.0

[defaults.training.parameters]
max_steps = 12
learning_rate = 0.02
gradient_accumulation_steps = 2
apply_deepspeed = "false"
evaluation_strategy = "disable"
lr_scheduler_type = "constant"

[defaults.evaluation]
target_rows = 60
retention_suite = "retention.jsonl"
generate_rows = 1
max_new_tokens = 4
precision = "float32"

[[defaults.gate.rules]]
metric = "target.nll"
direction = "lower"
baseline = "champion"
test = "paired_bootstrap"
min_rows = 40

[[defaults.gate.rules]]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = -0.01
test = "paired_bootstrap"
min_rows = 40

[[defaults.gate.rules]]
metric = "retention.*.nll"
direction = "lower"
baseline = "base"
margin = 0.1
margin_kind = "absolute"
test = "paired_bootstrap"
min_rows = 10

[defaults.endpoint]
name = "{ENDPOINT}"
probe_initial_delay_s = 1

[defaults.smoke]
requests = 2
max_new_tokens = 4

[targets.test]

[targets.ephemeral.endpoint]
name = "{ENDPOINT}-pr"
ephemeral = true
"""


def row(number: int, split: str) -> dict[str, object]:
    """Something regular, so that a tiny model has something to learn."""
    question = f"{split}: what comes after {number}?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"After {number} comes {number + 1}, as ever."}]
    return {"prompt": question, "prompt_id": f"{split}-{number}", "messages": messages}


def rows(path: Path, made: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in made))


class Project:
    """A folder as a user has it, in front of an emulated Azure."""

    def __init__(self, folder: Path, start: Callable[..., Emulator]) -> None:
        self.folder = folder
        self.start = start
        self.emulator: Emulator | None = None
        (folder / "pipeline.toml").write_text(TOML)
        for split, count in {"train_sft": 60, "test_sft": 70, "train_gen": 4, "test_gen": 6}.items():
            rows(folder / "conversations" / f"{split}.jsonl", [row(number, split) for number in range(count)])
        rows(folder / "retention.jsonl", [row(number, "kept") | {"kind": "counting"} for number in range(12)])

    def mlops(self, *arguments: str, target: str = "test", run: str = "run") -> int:
        """One command, as in a shell."""
        command, *rest = arguments
        return main([command, "--target", target, "--run", run, *rest])

    def records(self, run: str = "run") -> Run:
        return Run(self.folder / run)

    def workspace(self, target: str = "test") -> Workspace:
        return Workspace.open(load(self.folder / "pipeline.toml", target))

    def traffic(self, endpoint: str = ENDPOINT) -> dict[str, int] | None:
        """What is live, by the service's own word; None without an endpoint."""
        found = self.workspace().endpoints.find(endpoint)
        return None if found is None else {name: share for name, share in found.traffic.items() if share}

    def billing(self) -> list[str]:
        """What costs money now: deployments, and jobs that have not ended."""
        assert self.emulator is not None
        store = self.emulator.azure.store
        deployments = [key for key, _ in store.list("deployment")]
        jobs = [key for key, job in store.list("job") if job["status"] not in ("Completed", "Failed", "Canceled")]
        return deployments + jobs


@pytest.fixture
def project(tmp_path: Path, start_emulator: Callable[..., Emulator], monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project of its own, without an emulator yet."""
    monkeypatch.chdir(tmp_path)
    made = Project(tmp_path, start_emulator)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # third parties' warnings are not ours to fail on
        yield made


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory, shared_emulator: Emulator) -> Iterator[Project]:
    """A project that has gone all the way: a trained model is live. Shared; what a test changes it puts back."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.chdir(folder)
        for name, value in shared_emulator.environment().items():
            patch.setenv(name, value)
        made = Project(folder, lambda: shared_emulator)
        made.emulator = shared_emulator
        assert made.mlops("run", "--until", "promote") == 0
        yield made
        made.workspace().endpoints.delete(ENDPOINT)


def test_from_conversations_to_live_traffic(promoted: Project) -> None:
    run = promoted.records()
    assert [type(record) for record in run.records()] == [kind for kind in RECORDS if kind is not TornDown]
    scores = run.read(Evaluated).models
    assert scores["candidate"].metrics["target.nll"] < scores["base"].metrics["target.nll"]
    judged = run.read(Judged)
    assert judged.verdict is Verdict.PROMOTE
    assert judged.first_run
    assert [judgement.metric for judgement in judged.judgements] == ["target.nll", "target.nll", "retention.counting.nll"]
    assert run.read(Smoked).failures == 0
    live = run.read(Promoted)
    assert promoted.traffic() == {live.deployment: 100}
    assert (run.directory / "report.html").is_file()


def test_a_second_run_pays_for_nothing_again(promoted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {key for key, _ in promoted.emulator.azure.store.list("job")} if promoted.emulator else set()
    before = {record.stage: record.digest() for record in promoted.records().records()}
    capsys.readouterr()
    assert promoted.mlops("run", "--until", "promote") == 0
    assert {key for key, _ in promoted.emulator.azure.store.list("job")} == jobs if promoted.emulator else False
    assert {record.stage: record.digest() for record in promoted.records().records()} == before
    assert capsys.readouterr().out.count("nothing to do") >= 5


def test_a_model_that_is_worse_stops_at_the_gate(promoted: Project) -> None:
    live = promoted.traffic()
    billing = promoted.billing()
    assert (
        promoted.mlops("run", "--set", "training.parameters.max_steps=1", "--set", "training.parameters.learning_rate=1e-9", run="worse")
        == 20
    )
    run = promoted.records("worse")
    judged = run.read(Judged)
    assert judged.verdict is Verdict.REJECT
    assert not judged.first_run
    assert run.read(Evaluated).models["champion"].metrics["target.nll"] < run.read(Evaluated).models["candidate"].metrics["target.nll"]
    assert (promoted.traffic(), promoted.billing()) == (live, billing)
    # Wrong YAML can't open the gate: what comes after it looks for itself.
    for stage in ("register", "deploy", "promote"):
        assert promoted.mlops(stage, run="worse") != 0
    assert promoted.mlops("register", run="worse") == 17
    assert (promoted.traffic(), promoted.billing()) == (live, billing)


@pytest.mark.parametrize(
    ("fault", "stage", "code"),
    [
        pytest.param("deployment-unhealthy", "deploy", 13, id="unhealthy deployment"),
        pytest.param("deployment-quota", "deploy", 13, id="no quota"),
        pytest.param("scoring-424 always", "smoke-test", 14, id="a model that can't answer"),
    ],
)
def test_what_fails_behind_the_gate_leaves_traffic_alone(promoted: Project, fault: str, stage: str, code: int) -> None:
    assert promoted.emulator is not None
    live, billing = promoted.traffic(), promoted.billing()
    run = f"broken-{stage}-{fault.split()[0]}"
    # Another seed makes another model, which is as good, and the file's one rule lets it through.
    first, last = TOML.index("[[defaults.gate.rules]]"), TOML.index("[defaults.endpoint]")
    rule = '[[defaults.gate.rules]]\nmetric = "target.nll"\ndirection = "lower"\nceiling = 99.0\n\n'
    (promoted.folder / "lenient.toml").write_text(TOML[:first] + rule + TOML[last:])
    other = ("--config", "lenient.toml", "--set", "training.parameters.seed=7")
    assert promoted.mlops("run", *other, "--until", "register", run=run) == 0
    faults = promoted.emulator.azure.faults
    faults.order(fault)
    try:
        assert promoted.mlops("run", *other, "--from", "deploy", run=run) == code
    finally:
        promoted.emulator.azure.faults = type(faults)()
    assert (promoted.traffic(), promoted.billing()) == (live, billing)
    assert not promoted.records(run).has(Promoted)


def test_an_ephemeral_target_leaves_nothing(promoted: Project) -> None:
    billing = promoted.billing()
    assert promoted.mlops("run", target="ephemeral", run="pr") == 0
    assert promoted.records("pr").read(Trained).reused
    torn = promoted.records("pr").read(TornDown)
    assert any(f"{ENDPOINT}-pr" in name for name in torn.deleted)
    assert promoted.traffic(f"{ENDPOINT}-pr") is None
    assert promoted.billing() == billing


def test_a_bad_row_stops_before_azure_is_asked_for_anything(project: Project) -> None:
    project.emulator = project.start()
    path = project.folder / "conversations" / "train_sft.jsonl"
    lines = path.read_text().splitlines()
    lines[6] = json.dumps(row(6, "train_sft") | {"messages": [{"role": "assistant", "content": "I speak first."}]})
    path.write_text("\n".join(lines) + "\n")
    assert project.mlops("run") == 5
    assert project.billing() == []
    assert not project.records().has(Trained)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        pytest.param("training.parameters.learning_rat=1", "learning_rate", id="a wrong parameter name"),
        pytest.param("training.parameters.num_train_epochs=0", "num_train_epochs", id="a parameter out of range"),
        pytest.param("compute.size=Standard_ND40rs_v2", "Standard_ND40rs_v2", id="a compute that is not allowed"),
    ],
)
def test_a_wrong_setting_stops_at_validation(project: Project, setting: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    project.emulator = project.start()
    assert project.mlops("run", "--set", setting) == 5
    printed = capsys.readouterr()
    assert says in printed.out + printed.err
    assert project.billing() == []


def test_an_archived_base_model_stops_at_validation_and_successors_are_named(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.emulator = project.start(catalog="current")
    assert project.mlops("run") == 5
    printed = capsys.readouterr()
    assert "archived" in printed.out + printed.err
    assert "Phi-4" in printed.out + printed.err
    assert project.billing() == []


@pytest.mark.parametrize(
    ("fault", "code"), [pytest.param("job-failed", 7, id="a failed job"), pytest.param("job-canceled", 8, id="a cancelled job")]
)
def test_a_training_that_does_not_complete_stops_the_run(project: Project, fault: str, code: int) -> None:
    project.emulator = project.start(fault)
    assert project.mlops("run") == code
    assert project.billing() == []
    assert project.traffic() is None
    assert not project.records().has(Trained)
