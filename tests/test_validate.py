"""The validate stage, against the emulator: what it records, and that nothing wrong gets past it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace as change
from pathlib import Path
from typing import Any

import pytest
from azure.ai.ml.entities import AmlCompute, ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError

from mlops.cloud.tags import EXPIRES, MARK, PIPELINE, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core.errors import ConfigError, CredentialError, RecordError, ValidationFailed
from mlops.core.records import Prepared, Validated
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config
from mlops.dataset.conversation import SPLITS
from mlops.emulator.identity import entra
from mlops.emulator.server import Emulator
from mlops.prepare import prepare
from mlops.validate import MAX_PRINTED, MAX_RECORDED, validate
from tests.support.tiny import make_tokenizer

RETENTION = Path(__file__).parent.parent / "data" / "retention.jsonl"
KINDS = ("instruction", "fact", "arithmetic", "multi_turn", "refusal", "format", "tool_call", "long_context")
A100 = "Standard_NC24ads_A100_v4"
ENVIRONMENTS = "azureml://registries/azureml/environments"
PHI_3 = 'model={name="Phi-3-mini-4k-instruct", version="15"}'
PLAIN = [
    f"gate.rules.{suite}={{metric='{suite}.nll', direction='lower', baseline='base', margin=0.1}}" for suite in ("target", "retention")
]
"""A critical rule for each suite, beside those that a test is about."""

Make = Callable[..., Config]
Open = Callable[[Config], Workspace]


def row(split: str, number: int, **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"{split} asks {number}"}, {"role": "assistant", "content": f"Answer {number} of {split}"}]
    return {"prompt": messages[0]["content"], "messages": messages, "prompt_id": f"{split}-{number}", **changes}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for split in SPLITS:
        replace(folder, split, [row(split, number) for number in range(8)])
    return folder


def replace(folder: Path, split: str, rows: Sequence[dict[str, Any]]) -> None:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))


@pytest.fixture
def configure(settings: Make, source: Path) -> Make:
    def make(*overrides: str) -> Config:
        overridden = (
            f"data.dataset={source}",
            "data.percent=100",
            f"evaluation.retention_suite={RETENTION}",
            "evaluation.target_rows=6",
            "evaluation.retention_rows=16",
        )
        # Of a target that goes away again anything may be set.
        return settings("[targets.test.endpoint]\nephemeral = true\n", *overridden, *overrides)

    return make


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


def refused(config: Config, run: Run, workspace: Workspace) -> list[tuple[str, str]]:
    """Prepare, validate, be refused; the rules and places of all findings."""
    prepare(config, run)
    with pytest.raises(ValidationFailed) as caught:
        validate(config, run, workspace)
    assert not run.has(Validated)
    findings = json.loads((run.directory / "findings.json").read_text())
    errors = [finding for finding in findings if finding["severity"] == "error"]
    assert f"{len(errors)} finding(s)" in str(caught.value)
    assert errors[0]["message"] in str(caught.value)
    return [(finding["rule"], finding["where"]) for finding in findings]


def test_a_valid_setup_is_recorded(inside: Emulator, configure: Make, open_workspace: Open, run: Run) -> None:
    config = configure("compute.price_per_hour_usd=3.5", "training.expected_hours=2")
    prepared = prepare(config, run)
    record = validate(config, run, open_workspace(config))
    assert run.read(Validated) == record
    assert record.inputs == {"prepare": prepared.digest()}
    assert record.data_fingerprint == prepared.fingerprint
    assert record.rows_checked == {**dict.fromkeys(SPLITS, 8), "retention": 1273}
    assert {split: (each.rows, each.sampled, each.messages) for split, each in record.statistics.items()} == dict.fromkeys(
        SPLITS, (8, 8, {2: 8})
    )
    assert record.findings == ()
    assert record.base_model == "azureml://registries/azureml/models/Phi-4/versions/8"
    assert record.component == "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.81"
    assert (record.compute_size, record.gpus_per_node, record.endpoint_sku) == (A100, 1, A100)
    assert record.cost_estimate_usd == pytest.approx(7.0)
    assert json.loads((run.directory / "findings.json").read_text()) == []


def test_the_suites_are_frozen_by_digest(inside: Emulator, configure: Make, open_workspace: Open, run: Run) -> None:
    config = configure()
    prepare(config, run)
    record = validate(config, run, open_workspace(config))
    assert {name: suite.rows for name, suite in record.suites.items()} == {"target": 6, "retention": 16}
    for suite in record.suites.values():
        assert file_sha256(run.directory / suite.path) == suite.digest
    target = (run.directory / record.suites["target"].path).read_text().splitlines()
    assert target == (run.directory / "data" / "test_sft.jsonl").read_text().splitlines()[:6]
    kinds = [json.loads(line)["kind"] for line in (run.directory / record.suites["retention"].path).read_text().splitlines()]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(KINDS, 2)
    (run.directory / record.suites["target"].path).write_text("changed\n")
    with pytest.raises(RecordError, match="mlops validate"):
        run.read(Validated)


def test_a_second_run_changes_nothing_and_says_so(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure()
    prepare(config, run)
    first = validate(config, run, open_workspace(config))
    assert "nothing has changed" not in capsys.readouterr().out
    assert validate(config, run, open_workspace(config)).digest() == first.digest()
    assert "nothing has changed" in capsys.readouterr().out


def test_an_invalid_row_is_reported_with_its_line_and_no_cluster_is_created(
    configure: Make, open_workspace: Open, run: Run, source: Path, inside: Emulator
) -> None:
    bad = row("train_sft", 3)
    bad["messages"][1]["role"] = "bot"
    replace(source, "train_sft", [row("train_sft", 0), row("train_sft", 1), bad])
    config = configure("compute.name=never-created")
    workspace = open_workspace(config)
    findings = refused(config, run, workspace)
    assert findings == [("role.unknown", f"{source}/train_sft.jsonl:3")], "the line of the source, not of the copy in another order"
    assert workspace.compute.find("never-created") is None


def test_a_row_of_the_target_suite_in_the_training_data_is_an_error(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, source: Path
) -> None:
    leaked = row("test_sft", 2)
    replace(source, "train_sft", [row("train_sft", 0), {**leaked, "prompt_id": "other"}])
    config = configure("data.deduplicate=false")
    assert [rule for rule, _ in refused(config, run, open_workspace(config))] == ["overlap.exact"]


def test_a_row_of_the_retention_suite_in_the_training_data_is_an_error(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, source: Path
) -> None:
    item = json.loads(RETENTION.read_text().splitlines()[4])
    replace(source, "train_sft", [row("train_sft", 0), {key: item[key] for key in ("prompt", "prompt_id", "messages")}])
    config = configure("data.deduplicate=false")
    assert refused(config, run, open_workspace(config)) == [("overlap.exact", f"{RETENTION}:5")]


def test_every_finding_is_reported_not_only_the_first(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(
        "training.parameters.num_train_epochs=0",
        "training.parameters.lr_schedule_type=cosine",
        "training.parameters.precision=8",
        "compute.size=Standard_NC6",
        "endpoint.instance_type=STANDARD_NC4AS_T4_V3",
        "evaluation.retention_rows=2",
    )
    findings = refused(config, run, open_workspace(config))
    assert set(findings) >= {
        ("suite.kinds", "evaluation.retention_rows"),
        ("parameter.range", "--set training.parameters.num_train_epochs=0"),
        ("parameter.unknown", "--set training.parameters.lr_schedule_type=cosine"),
        ("parameter.enum", "--set training.parameters.precision=8"),
        ("compute.size.not-allowed", "--set compute.size=Standard_NC6"),
        ("endpoint.size.not-allowed", "--set endpoint.instance_type=STANDARD_NC4AS_T4_V3"),
    }
    printed = capsys.readouterr().out
    assert all(rule in printed for rule, _ in findings)
    assert "did you mean 'lr_scheduler_type'" in printed


def test_a_finding_names_the_line_of_pipeline_toml(inside: Emulator, settings: Make, open_workspace: Open, run: Run, source: Path) -> None:
    toml = f"[targets.test.data]\ndataset = '{source}'\npercent = 100\n"
    toml += f"[targets.test.evaluation]\nretention_suite = '{RETENTION}'\ntarget_rows = 6\n"
    toml += "[targets.test.promotion]\nsteps = [100]\n"
    config = settings(toml + "[targets.test.training.parameters]\nseed = 1\nnum_train_epochs = 0\n")
    assert refused(config, run, open_workspace(config)) == [("parameter.range", f"{config.file}:12")]


def test_a_suite_too_small_for_the_comparison_of_deployments_is_reported_before_the_training(
    inside: Emulator, settings: Make, open_workspace: Open, run: Run, source: Path
) -> None:
    toml = f"[targets.test.data]\ndataset = '{source}'\npercent = 100\n"
    config = settings(toml + f"[targets.test.evaluation]\nretention_suite = '{RETENTION}'\ntarget_rows = 6\n")
    assert refused(config, run, open_workspace(config)) == [("promotion.rows", f"{config.file}:7")]


def test_a_rule_that_can_never_hold_is_reported_before_the_training(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    unknown = "{metric='target.bleu', direction='higher', baseline='base'}"
    unfit = "{metric='target.nll', direction='lower', baseline='base', test='mcnemar'}"
    config = configure(f"gate.rules.unknown={unknown}", f"gate.rules.unfit={unfit}", *PLAIN)
    findings = refused(config, run, open_workspace(config))
    assert [name for name, _ in findings] == ["gate.rule", "gate.rule"]


def test_a_judge_that_can_not_be_used_is_reported_before_the_training(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = "gate.rules.judged={metric='target.judge_win', direction='higher', baseline='base', margin=0.1, margin_kind='absolute'}"
    config = configure(rule, *PLAIN)
    assert [name for name, _ in refused(config, run, open_workspace(config))] == ["gate.judge"]
    labels = tmp_path / "labels.jsonl"
    labels.write_text('{"prompt": "a", "better": "b", "worse": "c"}\n')
    settings = {"url": "https://judge.example/v1", "model": "judge-1", "labeled_pairs": str(labels)}
    for name, value, key in (("model", "''", "k"), ("labeled_pairs", "gone.jsonl", "k"), ("url", settings["url"], "")):
        monkeypatch.setenv("MLOPS_JUDGE_KEY", key)
        config = configure(rule, *PLAIN, *(f"evaluation.judge.{each}={text}" for each, text in (settings | {name: value}).items()))
        assert [found for found, _ in refused(config, run, open_workspace(config))] == ["evaluation.judge"]
    monkeypatch.setenv("MLOPS_JUDGE_KEY", "k")
    config = configure(rule, *PLAIN, *(f"evaluation.judge.{name}={value}" for name, value in settings.items()))
    validate(config, run, open_workspace(config))


def test_a_suite_without_a_critical_rule_is_reported_before_the_training(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def rule(suite: str, metric: str = "nll", critical: str = "true") -> str:
        return f"gate.rules.{suite}={{metric='{suite}.{metric}', direction='lower', baseline='base', margin=0.1, critical={critical}}}"

    for rules, suite in (
        ([rule("target")], "retention"),
        ([rule("target"), rule("retention", "overlong")], "retention"),
        ([rule("target", critical="false"), rule("retention")], "target"),
    ):
        config = configure(*rules)
        assert [name for name, _ in refused(config, run, open_workspace(config))] == ["gate.suite"]
        assert f"no critical rule is about the likelihoods of the {suite} suite" in capsys.readouterr().out
    config = configure(rule("target"), rule("retention"))
    validate(config, run, open_workspace(config))


def test_a_rule_that_needs_more_rows_than_there_are_is_reported_before_the_training(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def asking(metric: str, rows: int, direction: str = "lower", critical: str = "true") -> str:
        return f"{{metric='{metric}', direction='{direction}', baseline='base', min_rows={rows}, critical={critical}}}"

    rules = [asking("target.nll", 6), asking("target.nll", 7), asking("target.nll", 7, critical="false")]
    rules += [asking("retention.fact.nll", 2), asking("retention.fact.nll", 3), asking("retention.*.nll", 2), asking("retention.*.nll", 3)]
    rules += [asking("target.rouge_l", 3, "higher"), asking("target.rouge_l", 4, "higher"), asking("target.nll", 1, "higher")]
    rules += [asking(f"retention.{name}", rows, "higher") for name in ("passed", "*.passed") for rows in (1, 9)]
    limits = ("evaluation.generate_rows=3", "evaluation.task_rows=8")
    config = configure(*(f"gate.rules.rule-{number}={rule}" for number, rule in enumerate(rules)), *limits)
    findings = refused(config, run, open_workspace(config))
    assert sorted(name for name, _ in findings if name.startswith("gate.")) == ["gate.rows"] * 7 + ["gate.rule"]
    printed = capsys.readouterr().out
    assert "retention.fact.nll: not worse than the base: it needs 3 rows, but there are 2 in the retention suite of kind fact" in printed
    assert "retention.*.nll: not worse than the base: it needs 3 rows, but there are 2 in the retention suite of kind" in printed
    assert "needs 4 rows, but there are 3 in the target suite with an answer" in printed
    assert "raise evaluation.generate_rows" in printed
    assert "it needs 9 rows, but there are 8 in the retention suite with an answer" in printed
    assert "it needs 9 rows, but there are 1 in the retention suite of kind" in printed
    assert "raise evaluation.task_rows" in printed


def test_missing_models_and_components_are_findings(inside: Emulator, configure: Make, open_workspace: Open, run: Run) -> None:
    config = configure("model.name=Phi-3-mini-4k", "training.component_version=9.9.9")
    findings = refused(config, run, open_workspace(config))
    assert findings == [
        ("model.missing", "--set model.name=Phi-3-mini-4k"),
        ("component.missing", "--set training.component_version=9.9.9"),
    ]


def test_an_archived_model_names_its_successors_and_may_be_allowed(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure(PHI_3)
    assert ("model.archived", f"--set {PHI_3}") in refused(config, run, open_workspace(config))
    messages = [finding["message"] for finding in json.loads((run.directory / "findings.json").read_text())]
    assert any("models/Phi-4/versions/" in message for message in messages)

    allowed = configure(PHI_3, "model.allow_archived=true")
    record = validate(allowed, run, open_workspace(allowed))
    assert {finding.severity for finding in record.findings} == {"warning"}
    assert "model.archived" in {finding.rule for finding in record.findings}


def test_a_model_that_its_serving_image_could_not_load_is_refused_before_training(
    start_emulator: Callable[..., Emulator], configure: Make, open_workspace: Open, run: Run
) -> None:
    start_emulator(catalog="current")
    newer = ("training.component_version=0.0.82", "model.allow_archived=true")
    scoring = f"evaluation.environment={ENVIRONMENTS}/acft-hf-nlp-gpu/versions/112"
    for settings, blocked in (
        (newer, ["endpoint.image.incompatible", "evaluation.environment.incompatible"]),
        ((*newer, f"endpoint.environment={ENVIRONMENTS}/foundation-model-inference/versions/93"), ["evaluation.environment.incompatible"]),
        ((*newer, scoring), ["endpoint.image.incompatible"]),
    ):
        config = configure(*settings)
        rules = [rule for rule, _ in refused(config, run, open_workspace(config))]
        assert [rule for rule in rules if not rule.startswith("model.")] == blocked


def test_a_cluster_is_created_at_low_priority_only_if_that_is_allowed(
    inside: Emulator, fault: Callable[[str], None], configure: Make, open_workspace: Open, run: Run
) -> None:
    fault("compute-quota@Dedicated cheap x2")
    refusing = configure("compute.name=cheap")
    assert refused(refusing, run, open_workspace(refusing)) == [("compute.missing", "--set compute.name=cheap")]
    config = configure("compute.name=cheap", "compute.allow_low_priority=true")
    workspace = open_workspace(config)
    assert [finding.rule for finding in validate(config, run, workspace).findings] == ["compute.low-priority"]
    cluster = workspace.compute.find("cheap")
    assert cluster is not None
    assert cluster.tier == "low_priority"
    # An earlier run's low-priority cluster is not used silently either.
    assert refused(refusing, run, open_workspace(refusing)) == [("compute.low-priority", "--set compute.name=cheap")]


def test_a_cluster_that_can_not_be_created_is_a_finding(
    inside: Emulator, fault: Callable[[str], None], configure: Make, open_workspace: Open, run: Run
) -> None:
    fault("compute-quota@* none")
    config = configure("compute.name=none")
    assert refused(config, run, open_workspace(config)) == [("compute.missing", "--set compute.name=none")]


def test_without_permission_for_sizes_and_quota_the_rest_is_checked(
    inside: Emulator, fault: Callable[[str], None], configure: Make, open_workspace: Open, run: Run
) -> None:
    fault("403@arm GET */vmSizes")
    fault("403@arm GET */usages")
    config = configure("compute.name=unlisted")
    prepare(config, run)
    record = validate(config, run, open_workspace(config))
    assert (record.compute, record.compute_size, record.gpus_per_node) == ("unlisted", A100, 1)
    messages = [finding.message for finding in record.findings if finding.rule == "not-checked"]
    subscription = f"/subscriptions/{inside.azure.identity.subscription}"
    assert messages == [
        f"{what} not checked: needs the action Microsoft.MachineLearningServices/locations/{kind}/read at scope {subscription}"
        for what, kind in (("VM sizes", "vmSizes"), ("quota usage", "usages"))
    ]
    assert {finding.severity for finding in record.findings} == {"warning"}


def test_missing_quota_stops_before_anything_is_created(
    start_emulator: Callable[..., Emulator], configure: Make, open_workspace: Open, run: Run
) -> None:
    emulator = start_emulator(quota={"StandardNCADSA100v4Family": 47})
    config = configure()
    assert refused(config, run, open_workspace(config)) == [("quota.exceeded", config.file)]
    (finding,) = json.loads((run.directory / "findings.json").read_text())
    assert f"0 of 47 cores are in use, and this run needs 48 more (training 1 × {A100} + new deployment 1 × {A100})" in finding["message"]
    assert emulator.azure.store.list("compute") == []

    emulator.azure.options = change(emulator.azure.options, quota={"StandardNCADSA100v4Family": 48})
    assert validate(config, run, open_workspace(config)).quota_note.startswith("48 cores of StandardNCADSA100v4Family (training")


def test_a_cluster_that_failed_is_a_finding(
    inside: Emulator, fault: Callable[[str], None], configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure("compute.name=broken")
    workspace = open_workspace(config)
    fault("compute-failed@broken")
    with pytest.raises(HttpResponseError, match="no capacity"):
        workspace.session.ml.compute.begin_create_or_update(AmlCompute(name="broken", size=A100)).result()
    assert refused(config, run, workspace) == [("compute.state", "--set compute.name=broken")]


def test_pull_requests_in_the_workspace_of_production_are_a_warning(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure()
    with Path(config.file).open("a") as file:
        file.write("[targets.prod]\n[targets.other.endpoint]\nephemeral = true\n")
    workspace = open_workspace(config)
    names = ("of-prod", "of-another", "by-hand")
    for name, tags in zip(names, ({PIPELINE: MARK, TARGET: "prod"}, {PIPELINE: MARK, TARGET: "other"}, {TARGET: "prod"}), strict=True):
        entity = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=tags)
        workspace.session.ml.online_endpoints.begin_create_or_update(entity).result()
    prepare(config, run)
    (finding,) = validate(config, run, workspace).findings
    assert (finding.rule, finding.severity) == ("workspace.shared", "warning")
    assert "endpoint of-prod of target prod is in this workspace" in finding.message
    for name in names:
        workspace.endpoints.delete(name)


@pytest.mark.parametrize("reviewed", [False, True])
def test_a_permanent_target_needs_its_own_cluster_and_a_warning_reports_promotions_without_review(
    reviewed: bool, inside: Emulator, source: Path, settings: Make, open_workspace: Open, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        f"data = {{ dataset = '{source}', percent = 100 }}\ncompute.name = 'taken'\npromotion.require_review = {str(reviewed).lower()}\n"
        f"evaluation = {{ retention_suite = '{RETENTION}', target_rows = 6, retention_rows = 16 }}\npromotion.steps = [100]\n"
    )
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(inside.azure).items():
            patch.setenv(name, value)
        intruder = open_workspace(config)
        intruder.compute.ensure(config.compute)
    workspace = open_workspace(config)
    at_home = refused(config, run, workspace)
    assert [rule for rule, _ in at_home] == ["compute.creator"]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    expected = {"compute.creator"} if reviewed else {"compute.creator", "promotion.review"}
    assert {rule for rule, _ in refused(config, run, workspace)} == expected
    intruder.session.ml.compute.begin_delete("taken").result()


@pytest.mark.parametrize("tags", [{"made-by": "hand"}, {PIPELINE: MARK, TARGET: "prod"}])
def test_an_endpoint_that_this_target_may_not_deploy_to_is_a_finding(
    tags: dict[str, str], inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure("endpoint.name=not-ours", "compute.name=unneeded")
    workspace = open_workspace(config)
    endpoints = workspace.session.ml.online_endpoints
    endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="not-ours", auth_mode="key", tags=tags)).result()
    assert refused(config, run, workspace) == [("endpoint.owner", "--set endpoint.name=not-ours")]
    assert workspace.compute.find("unneeded") is None
    workspace.endpoints.delete("not-ours")


def test_a_name_that_somebody_else_in_the_region_has_is_a_finding(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside.azure, "options", change(inside.azure.options, endpoints_taken=("popular",)))
    config = configure("endpoint.name=popular")
    workspace = open_workspace(config)
    assert refused(config, run, workspace) == [("endpoint.name", "--set endpoint.name=popular")]
    (finding,) = json.loads((run.directory / "findings.json").read_text())
    assert "unique within a region" in finding["message"]
    assert "endpoint.workspace_suffix = true" in finding["message"]
    assert workspace.endpoints.find("popular") is None


def test_the_name_of_the_endpoint_is_reserved_once_and_the_reaper_may_delete_it(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure("endpoint.name=reserved", "endpoint.expires_after_hours=1")
    workspace = open_workspace(config)
    prepare(config, run)
    validate(config, run, workspace)
    first = workspace.endpoints.get("reserved")
    assert workspace.endpoints.is_reserved(first)
    assert EXPIRES in first.tags
    validate(config, run, workspace)
    assert workspace.endpoints.get("reserved").identity == first.identity
    workspace.endpoints.delete("reserved")


def test_an_endpoint_that_can_not_be_created_is_a_finding(
    inside: Emulator, fault: Callable[[str], None], configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure("endpoint.name=unlucky")
    workspace = open_workspace(config)
    fault("endpoint-failed@unlucky")
    assert refused(config, run, workspace) == [("endpoint.name", "--set endpoint.name=unlucky")]
    workspace.endpoints.delete("unlucky")


def test_an_endpoint_with_another_network_access_is_a_finding(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("endpoint.name=is-public", "endpoint.public_network_access=disabled", "compute.name=unneeded")
    workspace = open_workspace(config)
    workspace.endpoints.create(config.endpoint.model_copy(update={"public_network_access": "enabled"}), {})
    monkeypatch.setattr(inside.azure, "options", change(inside.azure.options, network="private"))
    assert refused(config, run, workspace) == [("endpoint.access", "--set endpoint.public_network_access=disabled")]
    workspace.endpoints.delete("is-public")


def test_a_private_workspace_is_validated_from_inside_only(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure("endpoint.name=private", "endpoint.public_network_access=disabled", "compute.name=not-yet")
    workspace = open_workspace(config)
    monkeypatch.setattr(inside.azure, "options", change(inside.azure.options, network="private-outside"))
    assert refused(config, run, workspace) == [("network.unreachable", "Azure")]
    (finding,) = json.loads((run.directory / "findings.json").read_text())
    assert "a self-hosted runner in that network (docs/azure.md)" in finding["message"]
    assert workspace.compute.find("not-yet") is None
    monkeypatch.setattr(inside.azure, "options", change(inside.azure.options, network="private"))
    assert validate(config, run, workspace).findings == ()


def test_an_existing_cluster_of_another_size_is_a_finding(inside: Emulator, configure: Make, open_workspace: Open, run: Run) -> None:
    config = configure("compute.name=other")
    prepare(config, run)
    validate(config, run, open_workspace(config))
    larger = configure("compute.name=other", "compute.size=Standard_NC48ads_A100_v4")
    assert refused(larger, run, open_workspace(larger)) == [("compute.size.differs", "--set compute.size=Standard_NC48ads_A100_v4")]


def test_warnings_do_not_block_training_and_are_recorded_up_to_a_limit(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = MAX_PRINTED + 5
    replace(source, "train_gen", [row("train_gen", 0, prompt="Something else", prompt_id=str(number)) for number in range(many)])
    config = configure("data.deduplicate=false", "evaluation.target_rows=500")
    prepare(config, run)
    record = validate(config, run, open_workspace(config))
    rules = [finding.rule for finding in record.findings]
    assert {rule: rules.count(rule) for rule in rules} == {
        "prompt.mismatch": MAX_RECORDED + 1,
        "duplicate.exact": MAX_RECORDED + 1,
        "suite.short": 1,
    }
    assert f"{many - MAX_RECORDED} more of prompt.mismatch" in record.findings[-2].message
    stored = json.loads((run.directory / "findings.json").read_text())
    assert len(stored) == many + (many - 1) + 1
    assert "5 more of prompt.mismatch" in capsys.readouterr().out


def test_an_error_deletes_the_earlier_record(inside: Emulator, configure: Make, open_workspace: Open, run: Run) -> None:
    config = configure()
    prepare(config, run)
    validate(config, run, open_workspace(config))
    wrong = configure("training.parameters.num_train_epochs=0")
    refused(wrong, run, open_workspace(wrong))
    assert run.has(Prepared)


def test_without_data_or_suite_the_error_names_the_command_to_run(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run
) -> None:
    config = configure()
    workspace = open_workspace(config)
    with pytest.raises(RecordError, match="mlops prepare"):
        validate(config, run, workspace)
    prepare(config, run)
    missing = configure("evaluation.retention_suite=nowhere.jsonl")
    with pytest.raises(ConfigError, match=r"no retention suite nowhere\.jsonl"):
        validate(missing, run, workspace)
    unreadable = configure("model.tokenizer=nowhere.json", "compute.name=unpaid")
    with pytest.raises(ConfigError, match=r"model\.tokenizer is 'nowhere\.json', which can't be read"):
        validate(unreadable, run, workspace)
    assert workspace.compute.find("unpaid") is None


def test_an_identity_that_azure_refuses_is_an_error_and_not_a_finding(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    prepare(config, run)
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "wrong")
    with pytest.raises(CredentialError):
        validate(config, run, open_workspace(config))


@pytest.mark.parametrize("extra", [[], ["training.parameters.max_seq_length=50"]])
def test_training_on_prompts_that_do_not_fit_is_refused_before_a_cluster_exists(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, source: Path, extra: list[str]
) -> None:
    prompts = [f"{number} {'some words of a prompt ' * (300 if not extra else 20)}" for number in range(4)]
    rows = [row("train_sft", number) for number in range(4)]
    for each, prompt in zip(rows, prompts, strict=True):
        each["prompt"] = each["messages"][0]["content"] = prompt
    replace(source, "train_sft", rows)
    config = configure("compute.name=unpaid", *extra)
    workspace = open_workspace(config)
    ((rule, where),) = refused(config, run, workspace)
    assert rule == "prompt.length"
    assert where.startswith(f"{source}/train_sft.jsonl:")
    assert workspace.compute.find("unpaid") is None


def test_a_single_prompt_that_does_not_fit_is_a_warning(
    inside: Emulator, configure: Make, open_workspace: Open, run: Run, source: Path
) -> None:
    long = row("train_sft", 9)
    long["prompt"] = long["messages"][0]["content"] = "some words of a prompt " * 300
    replace(source, "train_sft", [*(row("train_sft", number) for number in range(4)), long])
    config = configure()
    prepare(config, run)
    record = validate(config, run, open_workspace(config))
    assert [(finding.rule, finding.severity, finding.where) for finding in record.findings] == [
        ("prompt.length", "warning", f"{source}/train_sft.jsonl:5")
    ]
    assert "1 of 5 prompts of train_sft are longer than 1,024 tokens" in record.findings[0].message
    assert "is estimated" in record.findings[0].message
    make_tokenizer().backend_tokenizer.save(str(source / "tokenizer.json"))
    counted = configure(f"model.tokenizer={source / 'tokenizer.json'}")
    assert "is counted by model.tokenizer" in validate(counted, run, open_workspace(counted)).findings[0].message
