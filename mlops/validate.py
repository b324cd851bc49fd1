"""Check the data, the configuration and the Azure workspace before any GPU is paid for.

    mlops validate --target pr

All findings are reported, not only the first; they are stored in ``run/findings.json``. The suites that models are judged on are frozen
in ``run/suites/``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from mlops.cli import canary, stage
from mlops.cloud import isolation, permissions, preflight, serving_images
from mlops.cloud.assets import Assets, BaseModel, Component
from mlops.cloud.compute import ComputeView
from mlops.cloud.endpoint_views import FAILED_STATES
from mlops.cloud.judge_model import JudgeModel, read_labeled_pairs
from mlops.cloud.network import describe_difference
from mlops.cloud.preferences import judge_digest
from mlops.cloud.quota import CoreDemand, Deployment, State, count_cores, find_demands, lacks_limit
from mlops.cloud.quota import describe as describe_needs
from mlops.cloud.standby import find_standby
from mlops.cloud.tags import RESERVED
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import AzureError, ConfigError, DeploymentFailed, NotPromoted, ValidationFailed
from mlops.core.records import Finding, Prepared, Suite, Validated
from mlops.core.run import Run, write_atomically
from mlops.core.settings import Config
from mlops.dataset import suites
from mlops.dataset.checks import RETENTION, TRAINING_SPLIT, check
from mlops.dataset.conversation import SPLITS
from mlops.dataset.lengths import check_prompt_lengths
from mlops.dataset.near_duplicates import check_near_duplicates
from mlops.dataset.privacy import check_privacy
from mlops.dataset.statistics import summarize
from mlops.dataset.tokenizer import load_counter
from mlops.judging.rule_checks import check_judge_rules, check_rules, count_kinds

__all__ = ["main", "validate"]

MAX_PRINTED = 30
"""At most this many findings of a rule are printed; the others are counted, and are in run/findings.json."""
MAX_RECORDED = 20
"""Maximum number of warnings of a rule in the record."""

T = TypeVar("T")


def validate(config: Config, run: Run, workspace: Workspace) -> Validated:
    """Check that data, configuration and workspace meet the requirements of training.

    Creates the cluster if there is none, without nodes, and the endpoint, without deployments. Both cost nothing.

    Raises:
        RecordError: there is no data yet.
        ConfigError, DataError: the retention suite does not exist, or the tokenizer can't be read.
        ValidationFailed: there are errors. No record is written.
        CredentialError: Azure doesn't accept our identity.
    """
    prepared = run.read(Prepared)
    retention = Path(config.evaluation.retention_suite)
    if not retention.is_file():
        raise ConfigError(f"There is no retention suite {retention}.", "set evaluation.retention_suite in pipeline.toml to a file")
    count = load_counter(config.model.tokenizer) if config.model.tokenizer else None
    files = {split: prepared.path(split, run.directory) for split in SPLITS}
    origins = {split: run.directory / file.path for split in SPLITS if (file := prepared.files.get(f"origin.{split}"))}
    checked = check({**files, RETENTION: retention}, origins)
    findings = list(checked.findings)
    frozen, short = suites.freeze(files["test_sft"], retention, run.path("suites", "target.jsonl").parent, config.evaluation)
    findings += short
    places = {split: path.read_text(encoding="utf-8").split("\n") for split, path in origins.items()}

    def locate(split: str, line: int) -> str:
        return places[split][line - 1] if split in places else f"{files[split]}:{line}"

    findings += check_privacy(files, locate)
    findings += check_near_duplicates(files, TRAINING_SPLIT, locate)
    answered = {
        "target": count_kinds(frozen["target"][0], config.evaluation.generate_rows),
        "retention": suites.count_tasks(frozen["retention"][0], config.evaluation.task_rows),
    }
    findings += check_rules(config, {name: count_kinds(path) for name, (path, _) in frozen.items()}, answered)
    findings += _check_suite_size(config, frozen["target"][1])
    findings += _check_judge(config, workspace)
    trained = {split: files[split] for split in ("train_sft", "test_sft")}
    snapshot = _check_workspace(config, workspace, findings, partial(check_prompt_lengths, trained, locate, count))
    _report(run, findings)

    model, component, cluster = snapshot.complete()
    cost, note = snapshot.cost
    before = run.find(Validated)
    record = Validated(
        inputs={Prepared.stage: prepared.digest()},
        files={f"suite.{name}": run.describe_file(path, rows=rows) for name, (path, rows) in frozen.items()},
        data_fingerprint=prepared.fingerprint,
        rows_checked=dict(checked.rows),
        statistics={split: summarize(path, checked.rows[split]) for split, path in files.items()},
        findings=tuple(_limit_per_rule(findings, MAX_RECORDED)),
        suites={name: _build_suite(run, name, path, rows) for name, (path, rows) in frozen.items()},
        base_model=model.id,
        component=component.id,
        compute=cluster.name,
        compute_size=cluster.size,
        gpus_per_node=cluster.gpus_per_node or 0,
        endpoint_sku=config.endpoint.instance_type,
        cost_estimate_usd=cost,
        cost_note=note,
        quota_note=snapshot.quota,
    )
    _print_summary(record, cluster, unchanged=before is not None and before.digest() == record.digest())
    return run.write(record)


def _check_suite_size(config: Config, rows: int) -> list[Finding]:
    """Check that the target suite has as many rows as promote has to compare."""
    if rows >= (needed := canary.rows_needed(config)):
        return []
    where, fix = config.locate("evaluation.target_rows"), "raise it (and the rows of test_sft), or set promotion.steps = [100]"
    message = f"promote compares at least {needed} rows, but the target suite has {rows}: {fix}"
    return [preflight.make_finding("promotion.rows", where, message)]


def _check_judge(config: Config, workspace: Workspace) -> list[Finding]:
    """Find a rule about the judge's metric without a judge, and a judge that can't be used."""
    findings, settings = check_judge_rules(config), config.evaluation.judge
    if settings.url:
        try:
            judge_digest(settings)
            JudgeModel(settings, workspace.session.credential)
            read_labeled_pairs(Path(settings.labeled_pairs))
        except ConfigError as problem:
            where = config.locate("evaluation.judge")
            findings.append(preflight.make_finding("evaluation.judge", where, problem.in_one_line))
    return findings


@dataclass
class WorkspaceSnapshot:
    """The resources that training needs. A resource that could not be read is None, and a finding says why."""

    model: BaseModel | None = None
    component: Component | None = None
    cluster: ComputeView | None = None
    cost: tuple[float | None, str] = field(default=(None, ""))
    quota: str = ""

    def complete(self) -> tuple[BaseModel, Component, ComputeView]:
        """Return all resources, once no finding is an error."""
        if self.model is None or self.component is None or self.cluster is None:
            raise ValidationFailed("The workspace was not fully checked.", "run `mlops validate` again")
        return self.model, self.component, self.cluster


def _check_workspace(
    config: Config, workspace: Workspace, findings: list[Finding], check_lengths: Callable[[int, str], list[Finding]]
) -> WorkspaceSnapshot:
    """Check that configuration and data fit the workspace; findings are added.

    Args:
        config: the settings.
        workspace: the workspace.
        findings: those so far; no cluster is created if one is an error.
        check_lengths: limit of the base model in tokens, and where it comes from → findings about the prompts.
    """
    locate = config.locate
    snapshot = WorkspaceSnapshot()
    registry, compute, training = config.model.registry, config.compute, config.training
    assets, computes = workspace.assets, workspace.compute

    network = workspace.network.get()
    obstacle = workspace.network.find_obstacle() if network.is_private else ""
    findings += preflight.check_network(network, obstacle, config.endpoint, locate)
    console.info(f"  reading {config.model.name} and {training.component} of registry {registry}")
    snapshot.model = model = _read_base_model(config, assets, findings)
    if model is not None and (limit := preflight.find_context_limit(model, training)):
        findings += check_lengths(*limit)

    component_version = training.component_version
    where = locate("training.component_version")
    snapshot.component = _attempt(
        lambda: assets.get_component(registry, training.component, component_version), "component.missing", where, findings
    )
    if snapshot.component is not None:
        findings += serving_images.check_images(config, snapshot.component.version, locate)
        findings += preflight.check_parameters(snapshot.component, training, model.defaults if model else {}, locate)

    sizes = computes.sizes
    if model is not None:
        findings += preflight.check_size(compute.size, model, sizes, locate("compute.size"))
        findings += preflight.check_endpoint_size(config.endpoint, model, sizes, locate("endpoint.instance_type"))
    environment = "pr" if config.endpoint.ephemeral else "prod"
    lacking = permissions.check(workspace.session, environment, lambda: computes.find(compute.name) is not None)
    findings += [preflight.make_finding("role.missing", "Azure", sentence) for sentence in lacking]
    findings += _check_endpoint(config, workspace)
    findings += isolation.check_shared_workspace(config, workspace, locate("endpoint.ephemeral"))
    findings += isolation.check_review(config, locate)
    needs = _find_quota_demands(config, workspace)
    snapshot.quota = describe_needs(needs)
    findings += preflight.check_quota(needs, computes.usages, locate("compute.size"))
    findings += preflight.report_unchecked(computes.not_permitted, locate("compute.size"))
    snapshot.cost = preflight.estimate_cost(compute, training, config.endpoint)
    findings += preflight.check_budget(config.budget, snapshot.cost[0], config.endpoint, locate)
    findings += preflight.check_storage_access(workspace.outputs.has_keys(), computes.find(compute.name), compute, locate)
    # A cluster is only created if nothing else is wrong; an existing one is checked in any case.
    has_errors = any(finding.severity == "error" for finding in findings)
    get = (lambda: computes.find(compute.name)) if has_errors else (lambda: computes.ensure(compute))
    snapshot.cluster = _attempt(get, "compute.missing", locate("compute.name"), findings)
    if snapshot.cluster is not None:
        findings += preflight.check_cluster(snapshot.cluster, compute, training.parameters, locate)
        findings += isolation.check_cluster_creator(workspace, compute.name, locate)
        if model is not None and snapshot.cluster.size.lower() != compute.size.lower():
            findings += preflight.check_size(snapshot.cluster.size, model, sizes, locate("compute.name"))
    if not any(finding.severity == "error" for finding in findings):
        findings += _reserve_endpoint(config, workspace)
    return snapshot


def _read_base_model(config: Config, assets: Assets, findings: list[Finding]) -> BaseModel | None:
    """Return the base model, or None; findings are added, which name models that can replace one that is gone or soon will be."""
    settings, where = config.model, config.locate("model.name")
    model = _attempt(lambda: assets.get_base_model(settings.registry, settings.name, settings.version), "model.missing", where, findings)
    needs_successor = model is None or model.archived or model.retired_on is not None
    successors = assets.find_successors(settings.registry, settings.name) if needs_successor else []
    if model is None:
        missing = findings[-1]
        message = f"{missing.message}. Models of this family that can be fine-tuned: {', '.join(successors) or 'none'}"
        findings[-1] = missing.model_copy(update={"message": message})
    else:
        findings += preflight.check_model(model, successors, settings.allow_archived, datetime.now(UTC).date(), where)
    return model


def _check_endpoint(config: Config, workspace: Workspace) -> list[Finding]:
    """Check, before anything is paid for, that an existing endpoint is one that this target may deploy to, and has the right access."""
    endpoint = workspace.endpoints.find(config.endpoint.name)
    if endpoint is None:
        return []
    findings = []
    try:
        workspace.check_endpoint(endpoint.name, endpoint.tags)
    except NotPromoted as problem:
        findings.append(preflight.make_finding("endpoint.owner", config.locate("endpoint.name"), str(problem).replace("\n", " ")))
    if difference := describe_difference(endpoint.name, endpoint.public_network_access, config.endpoint.public_network_access):
        where = config.locate("endpoint.public_network_access")
        findings.append(preflight.make_finding("endpoint.access", where, " ".join(difference)))
    return findings


def _reserve_endpoint(config: Config, workspace: Workspace) -> list[Finding]:
    """Create the endpoint if there is none, because there is no other way to learn whether its name is taken in the region.

    Otherwise only `deploy` would find out, after the training was paid for.
    """
    if workspace.endpoints.find(config.endpoint.name) is not None:
        return []
    try:
        workspace.endpoints.create(config.endpoint, {RESERVED: "true"})
    except (AzureError, DeploymentFailed) as problem:
        message = str(problem).replace("\n", " ")
        return [preflight.make_finding("endpoint.name", config.locate("endpoint.name"), message)]
    return []


def _find_quota_demands(config: Config, workspace: Workspace) -> list[CoreDemand]:
    """Check the quota that the run needs at its peak: for the training, the endpoint's current deployments, and the new one."""
    computes = workspace.compute
    cluster = computes.find(config.compute.name)
    # The nodes of a running job are already in use, and this run attaches to it.
    state: State = "new" if all(job.is_over for job in workspace.jobs.list_owned()) else "in use"
    training = count_cores("training", config.compute.size, preflight.count_nodes(config.training), computes.sizes, state)
    if cluster.tier == "low_priority" if cluster else config.compute.allow_low_priority and lacks_limit(training, computes.usages):
        training = replace(training, low_priority=True)
    existing = []
    if (endpoint := workspace.endpoints.find(config.endpoint.name)) is not None:
        standby = find_standby(workspace, endpoint)
        standby = standby if standby is not None and workspace.session.owns(standby.tags) else None
        existing = [
            Deployment(
                name=view.name, size=view.sku, instances=view.instances, is_standby=standby is not None and view.name == standby.name
            )
            for view in workspace.endpoints.list_deployments(endpoint.name)
            if view.state not in FAILED_STATES
        ]
    return find_demands(config, training, computes.sizes, existing)


def _attempt(read: Callable[[], T | None], rule: str, where: str, findings: list[Finding]) -> T | None:
    """Return the resource, or None and add a finding with Azure's message, so that the other checks can continue."""
    try:
        return read()
    except AzureError as problem:
        findings.append(preflight.make_finding(rule, where, str(problem).replace("\n", " ")))
        return None


def _build_suite(run: Run, name: str, path: Path, rows: int) -> Suite:
    file = run.describe_file(path, rows=rows)
    return Suite(name=name, path=file.path, digest=file.sha256, rows=rows)


def _report(run: Run, findings: Sequence[Finding]) -> None:
    """Print the findings as a table, store all of them, and stop if one is an error."""
    path = run.path("findings.json")
    write_atomically(path, json.dumps([finding.model_dump() for finding in findings], indent=1, ensure_ascii=False).encode() + b"\n")
    if printed := list(_limit_per_rule(findings, MAX_PRINTED)):
        rows = [(finding.severity, finding.rule, finding.where, finding.message) for finding in printed]
        console.table(rows, ("severity", "rule", "where", "message"))
    errors = [finding for finding in findings if finding.severity == "error"]
    if not errors:
        return
    run.delete(Validated)
    first = "\n".join(f"{finding.where}: {finding.rule}: {finding.message}" for finding in errors[:3])
    more = f"\n… and {len(errors) - 3} more" if len(errors) > 3 else ""
    raise ValidationFailed(
        f"Training is blocked: {len(errors)} finding(s). No job was started. All are in {path}.\n{first}{more}",
        "fix the findings, then run `mlops prepare` (if they are about data) and `mlops validate` again",
    )


def _limit_per_rule(findings: Iterable[Finding], limit: int) -> Iterable[Finding]:
    """Yield at most ``limit`` findings of each rule, and a line that counts the others."""
    counts: Counter[str] = Counter()
    last: dict[str, Finding] = {}
    for finding in findings:
        counts[finding.rule] += 1
        last[finding.rule] = finding
        if counts[finding.rule] <= limit:
            yield finding
    for rule, count in counts.items():
        if count > limit:
            message = f"… {count - limit} more of {rule}, of which this is the last; see run/findings.json"
            yield last[rule].model_copy(update={"message": message})


def _print_summary(record: Validated, cluster: ComputeView, *, unchanged: bool) -> None:
    total = sum(record.rows_checked.values())
    console.info(f"  {'nothing has changed: ' if unchanged else ''}{total:,} rows checked, {len(record.findings)} warnings")
    console.info(f"  suites: {', '.join(f'{suite.name} {suite.rows} rows ({suite.digest[:12]})' for suite in record.suites.values())}")
    console.info(f"  base model {record.base_model}, component {record.component}")
    created = ", created now" if cluster.created else ""
    gpus = "unknown" if cluster.gpus_per_node is None else cluster.gpus_per_node
    console.info(f"  compute {cluster.name}: {cluster.size}, {gpus} GPU(s) a node, {cluster.tier}{created}")
    console.info(f"  quota: the run needs {record.quota_note}")
    estimate = "unknown" if record.cost_estimate_usd is None else f"{record.cost_estimate_usd:,.2f} USD"
    console.info(f"  cost of the training: {estimate} ({record.cost_note})")


main = stage.command(validate, needs=(Prepared,))


if __name__ == "__main__":
    sys.exit(main())
