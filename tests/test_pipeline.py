"""The whole pipeline by its one command, from conversations to live traffic and back, and every way in which it may stop.

Training, scoring and serving are real, on models so small that it takes seconds. Each test says where the run stops, with which exit code,
what the endpoint serves afterwards, and that nothing is left that costs money.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.__main__ import COMMANDS, main
from mlops.core.judgement import Verdict
from mlops.core.records import RECORDS, Evaluated, Judged, Promoted, Registered, Smoked, TornDown, Trained, Validated
from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.project import Project, client_of
from tests.support.roles import restricted
from tests.support.rows import write_rows

ENDPOINT = "pipeline-test"
ML = "Microsoft.MachineLearningServices/workspaces"
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

[defaults.gate.rules.target-vs-champion]
metric = "target.nll"
direction = "lower"
baseline = "champion"
test = "paired_bootstrap"
min_rows = 40

[defaults.gate.rules.target-vs-base]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = -0.01
test = "paired_bootstrap"
min_rows = 40

[defaults.gate.rules.retention-per-kind]
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

[defaults.promotion]
steps = [100]

[targets.test]

[targets.ephemeral.endpoint]
name = "{ENDPOINT}-pr"
ephemeral = true
"""
IDENTITY = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
PHI_3 = 'model={name="Phi-3-mini-4k-instruct", version="15"}'
LENIENT = "".join(
    f'[defaults.gate.rules.{suite}]\nmetric = "{suite}.nll"\ndirection = "lower"\nbaseline = "champion"\nmargin = 0.4\n'
    'margin_kind = "absolute"\n\n'
    for suite in ("target", "retention")
)


def row(number: int, split: str) -> dict[str, object]:
    """Something regular, so that a tiny model has something to learn."""
    question = f"{split}: what comes after {number}?"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": f"After {number} comes {number + 1}, as ever."}]
    return {"prompt": question, "prompt_id": f"{split}-{number}", "messages": messages}


def make_project(folder: Path, emulator: Emulator) -> Project:
    project = Project(folder, emulator, TOML, target="test", endpoint=ENDPOINT)
    for split, count in {"train_sft": 60, "test_sft": 70, "train_gen": 4, "test_gen": 6}.items():
        write_rows(folder / "conversations" / f"{split}.jsonl", [row(number, split) for number in range(count)])
    write_rows(folder / "retention.jsonl", [row(number, "kept") | {"kind": "counting"} for number in range(12)])
    return project


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory, shared_emulator: Emulator) -> Iterator[Project]:
    """A project whose trained model is live, made with the roles of `mlops roles` and no other. Shared: a test undoes what it changes."""
    folder = tmp_path_factory.mktemp("project")
    with client_of(shared_emulator, folder), restricted(shared_emulator, "prod"):
        project = make_project(folder, shared_emulator)
        assert project.mlops("run", "--until", "promote") == 0
        yield project
        project.workspace().endpoints.delete(ENDPOINT)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path, fork_servers: ForkServers) -> Iterator[Project]:
    """A project on a subscription in which nothing has been made. Shared by tests that stop before anything costs money."""
    folder = tmp_path_factory.mktemp("untrained")
    options = Options(weights="tiny-llama", cache=weights_cache)
    state = tmp_path_factory.mktemp("emulator")
    with Emulator(state, options, fork_servers=fork_servers) as emulator, client_of(emulator, folder):
        yield make_project(folder, emulator)


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


JSON: dict[str, tuple[str, str]] = {
    "prepare": ("", "fingerprint"), "validate": ("", "rows_checked"), "train": ("", "job"), "evaluate": ("", "models"),
    "gate": ("", "verdict"), "register": ("", "model"), "deploy": ("", "deployment"), "smoke-test": ("", "requests"),
    "promote": ("", "traffic_now"), "teardown": ("--target ephemeral", "remaining"), "evaluate-gate": ("", "verdict"),
    "run": ("--until promote", "promote"), "schema": ("", "properties"), "show": ("", "gate"), "rollback": ("--to @live", "traffic"),
    "recover": ("", "traffic"), "costs": ("", ""), "resume": ("", ""), "reap": ("", ""), "data": ("show", "splits"), "plan": ("", "jobs"),
    "comment": ("--summary-only", "markdown"), "completion": ("bash", ""), "roles": ("", "Name"),
    "init": ("repository --project a/b", "written"),
    "gate --explain": ("", "judgements"), "gate --what-if": ("", "now"), "gate --history": ("", ""), "gate --self-test": ("", ""),
}  # fmt: skip
"""Command → its options, and a key of its result."""


def test_every_command_prints_its_result_as_json(
    promoted: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert JSON.keys() >= COMMANDS.keys()
    monkeypatch.setenv("MLOPS_TARGET", "test")
    (promoted.folder / "repository" / ".git").mkdir(parents=True)
    live = promoted.records().read(Promoted).deployment
    before = promoted.assets()
    # The last run in this folder must be the complete one.
    for command, (options, key) in sorted(JSON.items(), key=lambda item: item[0] == "run"):
        capsys.readouterr()
        code = main([*command.split(), *options.replace("@live", live).split(), "--json"])
        output = capsys.readouterr().out
        assert code == 0, (command, output)
        assert not key or key in json.loads(output), command
    assert promoted.assets() == before


def test_a_second_run_makes_nothing_a_second_time(promoted: Project, capsys: pytest.CaptureFixture[str]) -> None:
    jobs, models, endpoints = assets = promoted.assets()
    # What a repeated run could make a second time is among what is compared below.
    assert all(any(name.startswith(f"mlops-{hint}-") for name in jobs) for hint in ("train", "score"))
    live = promoted.records().read(Promoted)
    assert promoted.records().read(Registered).model.rsplit("/versions/")[-1] in {key.rsplit("/")[-1] for key in models}
    assert {ENDPOINT, f"{ENDPOINT}/{live.deployment}"} <= endpoints
    before = {record.stage: record.digest() for record in promoted.records().records()}
    capsys.readouterr()
    assert promoted.mlops("run", "--until", "promote") == 0
    assert promoted.assets() == assets
    assert {record.stage: record.digest() for record in promoted.records().records()} == before
    assert capsys.readouterr().out.count("nothing to do") >= 5


def test_a_runner_without_the_records_pays_for_no_second_training(promoted: Project) -> None:
    assets, live = promoted.assets(), promoted.traffic()
    assert promoted.mlops("run", "--until", "train", run="elsewhere") == 0
    assert promoted.records("elsewhere").read(Trained).reused
    assert (promoted.assets(), promoted.traffic()) == (assets, live)


def test_a_worse_model_stops_at_the_gate(promoted: Project) -> None:
    live, billing, models = promoted.traffic(), promoted.billing(), promoted.models()
    worse = ("--set", "training.parameters.max_steps=1", "--set", "training.parameters.learning_rate=1e-4")
    assert promoted.mlops("run", *worse, run="worse") == 20
    run = promoted.records("worse")
    judged = run.read(Judged)
    assert judged.verdict is Verdict.REJECT
    assert not judged.first_run
    assert run.read(Evaluated).models["champion"].metrics["target.nll"] < run.read(Evaluated).models["candidate"].metrics["target.nll"]
    # Wrong YAML can't open the gate: each later stage reads the verdict itself.
    for stage in ("register", "deploy", "promote"):
        assert promoted.mlops(stage, run="worse") != 0
    assert promoted.mlops("register", run="worse") == 17
    assert (promoted.traffic(), promoted.billing(), promoted.models()) == (live, billing, models)


@pytest.fixture(scope="module")
def another(promoted: Project) -> tuple[str, ...]:
    """Options of a run up to its registration, whose model is as good as the live one: another seed, and lenient rules."""
    first, last = TOML.index("[defaults.gate.rules."), TOML.index("[defaults.endpoint]")
    (promoted.folder / "lenient.toml").write_text(TOML[:first] + LENIENT + TOML[last:])
    options = ("--config", "lenient.toml", "--set", "training.parameters.seed=7")
    assert promoted.mlops("run", *options, "--until", "register", run="another") == 0
    return options


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        pytest.param("deployment-unhealthy", 13, id="unhealthy deployment"),
        pytest.param("deployment-quota", 13, id="no quota"),
        pytest.param("scoring-424 always", 14, id="a model that can't answer"),
    ],
)
def test_a_failure_after_the_gate_leaves_traffic_and_costs_alone(
    promoted: Project, another: tuple[str, ...], fault: str, code: int
) -> None:
    live, billing, endpoints = promoted.traffic(), promoted.billing(), promoted.endpoints()
    azure = promoted.emulator.azure
    azure.faults.add(fault)
    try:
        assert promoted.mlops("run", *another, "--from", "deploy", run="another") == code
    finally:
        azure.faults = type(azure.faults)()
    assert (promoted.traffic(), promoted.billing(), promoted.endpoints()) == (live, billing, endpoints)
    assert not promoted.records("another").has(Promoted)


@pytest.mark.parametrize(
    ("stage", "action"),
    [
        ("register", "models/versions/write"),
        ("deploy", "onlineEndpoints/deployments/write"),
        ("smoke-test", "onlineEndpoints/listKeys/action"),
    ],
)
def test_a_refused_permission_after_the_gate_is_named_and_leaves_nothing(
    promoted: Project, another: tuple[str, ...], stage: str, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`validate` notices it before the training is paid for, unless a role was taken away since."""
    live, billing, models, endpoints = promoted.traffic(), promoted.billing(), promoted.models(), promoted.endpoints()
    with restricted(promoted.emulator, "prod", f"{ML}/{action}"):
        options = ("--set", "registration.name=other") if stage == "register" else ()
        assert promoted.mlops("run", *another, *options, "--from", "register" if stage == "register" else "deploy", run="another") != 0
    text = " ".join(capsys.readouterr().err.split())
    scope = promoted.emulator.azure.workspace_id
    assert f"grant {ML}/{action} at {scope}" in text
    assert f"--role 'AzureML Data Scientist' --scope {scope}" in text
    assert promoted.traffic() == live
    assert (promoted.billing(), promoted.models(), promoted.endpoints()) == (billing, models, endpoints)


def test_an_ephemeral_target_leaves_nothing(promoted: Project) -> None:
    billing, endpoints = promoted.billing(), promoted.endpoints()
    assert promoted.mlops("run", target="ephemeral", run="pr") == 0
    assert promoted.records("pr").read(Trained).reused
    torn_down = promoted.records("pr").read(TornDown)
    assert any(f"{ENDPOINT}-pr" in name for name in torn_down.deleted)
    assert promoted.traffic(f"{ENDPOINT}-pr") is None
    assert (promoted.billing(), promoted.endpoints()) == (billing, endpoints)


def test_a_bad_row_stops_before_azure_is_used(untrained: Project) -> None:
    path = untrained.folder / "conversations" / "train_sft.jsonl"
    good = path.read_text()
    lines = good.splitlines()
    lines[6] = json.dumps(row(6, "train_sft") | {"messages": [{"role": "assistant", "content": "I speak first."}]})
    path.write_text("\n".join(lines) + "\n")
    try:
        assert untrained.mlops("run", run="bad-row") == 5
    finally:
        path.write_text(good)
    assert untrained.assets() == (set(), set(), set())
    assert not untrained.records("bad-row").has(Trained)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        pytest.param("training.parameters.learning_rat=1", "learning_rate", id="a wrong parameter name"),
        pytest.param("training.parameters.num_train_epochs=0", "num_train_epochs", id="a parameter out of range"),
        pytest.param("compute.size=Standard_ND40rs_v2", "Standard_ND40rs_v2", id="a compute that is not allowed"),
    ],
)
def test_a_wrong_setting_stops_at_validation(untrained: Project, setting: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert untrained.mlops("run", "--set", setting, run="wrong-setting") == 5
    printed = capsys.readouterr()
    assert says in printed.out + printed.err
    assert untrained.assets() == (set(), set(), set())


def test_an_archived_base_model_stops_at_validation_and_successors_are_named(
    untrained: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert untrained.mlops("run", "--set", PHI_3, run="archived") == 5
    assert untrained.assets() == (set(), set(), set())
    printed = capsys.readouterr()
    assert "archived" in printed.out + printed.err
    assert "Phi-4" in printed.out + printed.err


def test_a_training_on_a_low_priority_node_survives_its_preemption(tmp_path: Path, start_emulator: Callable[..., Emulator]) -> None:
    emulator = start_emulator("node-preempted@chat_completion_finetune", quota={"StandardNCadsH100v5Family": 0})
    with client_of(emulator, tmp_path):
        project = make_project(tmp_path, emulator)
        settings = ("--set", "compute.size=Standard_NC40ads_H100_v5", "--set", "compute.allow_low_priority=true")
        assert project.mlops("run", "--until", "promote", *settings) == 0
        live = project.records().read(Promoted).deployment
        assert project.traffic() == {live: 100}
        cluster = project.workspace().compute.find(project.records().read(Validated).compute)
        assert cluster is not None
        assert cluster.tier == "low_priority"
    assert emulator.azure.faults.pending() == []
    assert [finding.rule for finding in project.records().read(Validated).findings if "priority" in finding.rule] == [
        "compute.low-priority"
    ]
    assert project.billing() == {f"{ENDPOINT}/{live}"}


def test_the_tutorials_model_is_one_setting_away(tmp_path: Path, start_emulator: Callable[..., Emulator]) -> None:
    emulator = start_emulator(catalog="tutorial", weights="tiny-phi3")
    with client_of(emulator, tmp_path):
        project = make_project(tmp_path, emulator)
        assert project.mlops("run", "--until", "train", "--set", PHI_3) == 0
        trained = project.records().read(Trained)
    assert trained.base_model.endswith("/models/Phi-3-mini-4k-instruct/versions/15")
    assert {item.name: (item.value, item.source) for item in trained.parameters}["deepspeed_stage"] == ("2", "model_specific_defaults")


def test_a_private_workspace_without_storage_keys_whose_name_is_taken_needs_three_settings_and_nothing_else(
    tmp_path: Path, start_emulator: Callable[..., Emulator], capsys: pytest.CaptureFixture[str]
) -> None:
    emulator = start_emulator(storage="identity", network="private", endpoints_taken=(ENDPOINT,))
    settings: tuple[str, ...] = ("--set", f"compute.identity={IDENTITY}", "--set", "endpoint.public_network_access=disabled")
    with client_of(emulator, tmp_path):
        project = make_project(tmp_path, emulator)
        assert project.mlops("run", "--until", "train") == 5
        assert "set compute.identity to the id of a user-assigned identity" in capsys.readouterr().err
        assert project.workspace().compute.find("gpu-cluster-big") is None, "nothing is created before the settings are right"
        assert project.mlops("run", "--until", "train", *settings) == 5
        assert "set another endpoint.name, or endpoint.workspace_suffix = true" in " ".join(capsys.readouterr().err.split())
        assert project.assets() == (set(), set(), set()), "nothing was paid for"
        settings += ("--set", "endpoint.workspace_suffix=true")
        assert project.mlops("run", "--until", "promote", *settings) == 0
        promoted = project.records().read(Promoted)
        assert promoted.endpoint.startswith(f"{ENDPOINT}-")
        assert list(project.traffic(promoted.endpoint) or {}) == [promoted.deployment]
        assert project.workspace().endpoints.get(promoted.endpoint).public_network_access == "disabled"
        # From outside, the endpoint doesn't answer, and nothing else is attempted.
        emulator.azure.options = dataclasses.replace(emulator.azure.options, network="private-outside")
        assert project.mlops("run", "--until", "promote", *settings, run="outside") == 5
        assert "a self-hosted runner in that network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "code"), [pytest.param("job-failed", 7, id="a failed job"), pytest.param("job-canceled", 8, id="a canceled job")]
)
def test_a_training_that_does_not_complete_stops_the_run(untrained: Project, fault: str, code: int) -> None:
    jobs = untrained.jobs()
    untrained.emulator.azure.faults.add(fault)
    assert untrained.mlops("run", run=fault) == code
    assert untrained.emulator.azure.faults.pending() == []
    assert len(untrained.jobs()) == len(jobs) + 1
    assert untrained.billing() == set()
    assert not untrained.traffic(), "validate has reserved the endpoint's name, which costs nothing"
    assert not untrained.records(fault).has(Trained)
