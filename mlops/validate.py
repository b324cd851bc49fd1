"""Check the data, the configuration and the Azure workspace before any GPU is paid for.

    python -m mlops.validate --target pr

All findings are told, not only the first; they are kept in ``run/findings.json``. The suites that models will be judged on are frozen
in ``run/suites/``.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlops.cli import stage
from mlops.core import console
from mlops.core.config import Config, Rule
from mlops.core.errors import AzureError, ConfigError, ValidationFailed
from mlops.core.records import Finding, Prepared, Suite, Validated
from mlops.core.run import Run, write_atomically
from mlops.dataset import suites
from mlops.dataset.checks import RETENTION, check
from mlops.dataset.conversation import SPLITS
from mlops.judging.metrics import EVERY_KIND, parse
from mlops.judging.validity import rule_fault
from mlops.judging.wording import describe

if TYPE_CHECKING:
    from mlops.cloud.assets import BaseModel, Component
    from mlops.cloud.compute import ComputeView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "validate"]

SHOWN = 30
"""So many findings of a rule are printed; the rest is counted, and stands in run/findings.json."""

KEPT = 20
"""So many warnings of a rule are kept in the record."""

T = TypeVar("T")


def validate(config: Config, run: Run, workspace: Workspace) -> Validated:
    """Hold data, configuration and workspace against what training needs. Makes the cluster where there is none.

    Raises:
        RecordError: there is no data yet.
        ConfigError: the retention suite is not there.
        ValidationFailed: there are errors. No record is written.
        CredentialError: Azure doesn't accept our identity.
    """
    prepared = run.read(Prepared)
    retention = Path(config.evaluation.retention_suite)
    if not retention.is_file():
        raise ConfigError(f"There is no retention suite {retention}.", "set evaluation.retention_suite in pipeline.toml to a file")
    files = {split: run.directory / prepared.files[split].path for split in SPLITS}
    checked = check({**files, RETENTION: retention})
    findings = list(checked.findings)
    frozen, short = suites.freeze(files["test_sft"], retention, run.path("suites", "target.jsonl").parent, config.evaluation)
    findings += short
    findings += _rules(config, {name: _kinds(path) for name, (path, _) in frozen.items()})
    seen = _look(config, workspace, findings)
    _tell(run, findings)

    model, component, cluster = seen.complete()
    cost, note = seen.cost
    before = run.find(Validated)
    record = Validated(
        inputs={Prepared.stage: prepared.digest()},
        files={f"suite.{name}": run.keep(path, rows=rows) for name, (path, rows) in frozen.items()},
        data_fingerprint=prepared.fingerprint,
        rows_checked=dict(checked.rows),
        findings=tuple(_first(findings, KEPT)),
        suites={name: _suite(run, name, path, rows) for name, (path, rows) in frozen.items()},
        base_model=model.id,
        component=component.id,
        compute=cluster.name,
        compute_size=cluster.size,
        gpus_per_node=cluster.gpus_per_node,
        endpoint_sku=config.endpoint.instance_type,
        cost_estimate_usd=cost,
        cost_note=note,
    )
    _sum_up(record, cluster, unchanged=before is not None and before.digest() == record.digest())
    return run.write(record)


def _rules(config: Config, counts: Mapping[str, Counter[str]]) -> list[Finding]:
    """Gate rules that nothing can ever satisfy: better told now than when the training is paid for."""
    findings = []
    for name, rule in config.gate.enabled_rules.items():
        found = partial(Finding, where=config.locate(f"gate.rules.{name}"))
        if (fault := rule_fault(rule)) is not None:
            findings.append(found(rule="gate.rule", severity="error", message=f"{describe(rule)}: {fault}"))
        elif (few := _too_few(rule, counts, config.evaluation.generate_rows)) is not None:
            findings.append(found(rule="gate.rows", severity="error" if rule.critical else "warning", message=f"{describe(rule)}: {few}"))
    return findings


def _too_few(rule: Rule, counts: Mapping[str, Counter[str]], answers: int) -> str | None:
    """What keeps a rule without a fault of its own from ever having the rows that it wants."""
    metric = parse(rule.metric)
    assert metric is not None  # that is a fault
    kinds = counts[metric.suite]
    if metric.kind == EVERY_KIND and "" in kinds:
        return f"{kinds['']:,} rows of the {metric.suite} suite have no kind, so it can't be judged kind by kind"
    asked = kinds if metric.kind == EVERY_KIND else {metric.kind: kinds[metric.kind]} if metric.kind else {"": kinds.total()}
    kind, rows = min(asked.items(), key=lambda counted: counted[1], default=("", 0))
    if metric.measure == "rouge_l":
        rows = min(rows, answers)
    if rows >= rule.min_rows:
        return None
    of_what = f"{metric.suite} suite" + (f" of kind {kind}" if kind else "") + (" with an answer" if metric.measure == "rouge_l" else "")
    setting = "generate_rows" if metric.measure == "rouge_l" else f"{metric.suite}_rows"
    return (
        f"it wants {rule.min_rows:,} rows, and there are {rows:,} in the {of_what}, so it would never be shown to hold: "
        f"lower min_rows or raise evaluation.{setting}"
    )


def _kinds(suite: Path) -> Counter[str]:
    """Kind → rows of a frozen suite; rows without a kind under the empty one."""
    return Counter(json.loads(line).get("kind", "") for line in suite.read_bytes().splitlines())


@dataclass
class _Seen:
    """What the workspace showed. A part is None where it can't be had, which is a finding by then."""

    model: BaseModel | None = None
    component: Component | None = None
    cluster: ComputeView | None = None
    cost: tuple[float | None, str] = field(default=(None, ""))

    def complete(self) -> tuple[BaseModel, Component, ComputeView]:
        """All of it, once there is no finding that is an error."""
        if self.model is None or self.component is None or self.cluster is None:
            raise ValidationFailed("The workspace was not looked at to the end.", "run `mlops validate` again")
        return self.model, self.component, self.cluster


def _look(config: Config, workspace: Workspace, findings: list[Finding]) -> _Seen:
    """Hold configuration and workspace against each other; findings grow."""
    from mlops.cloud import preflight

    at = config.locate
    seen = _Seen()
    registry, wanted, training = config.model.registry, config.compute, config.training
    assets, computes = workspace.assets, workspace.compute

    console.info(f"  reading {config.model.name} and {training.component} of registry {registry}")
    version = config.model.version
    seen.model = _attempt(lambda: assets.base_model(registry, config.model.name, version), "model.missing", at("model.name"), findings)
    model = seen.model
    gone = model is None or model.archived or model.retired_on is not None
    successors = assets.successors(registry, config.model.name) if gone else []
    if model is None:
        findings[-1] = findings[-1].model_copy(
            update={"message": f"{findings[-1].message}. Of this family can be fine-tuned: {', '.join(successors) or 'none'}"}
        )
    else:
        today = datetime.now(UTC).date()
        findings += preflight.check_model(model, successors, config.model.allow_archived, today, at("model.name"))

    pinned = training.component_version
    where = at("training.component_version")
    seen.component = _attempt(lambda: assets.component(registry, training.component, pinned), "component.missing", where, findings)
    if seen.component is not None:
        findings += preflight.check_parameters(seen.component, training, model.defaults if model else {}, at)

    sizes = computes.sizes()
    if model is not None:
        findings += preflight.check_size(wanted.size, model, sizes, at("compute.size"))
        findings += preflight.check_endpoint_size(config.endpoint, model, sizes, at("endpoint.instance_type"))
    # A cluster is made only when nothing else is wrong; one that exists is looked at all the same.
    wrong = any(found.severity == "error" for found in findings)
    get = (lambda: computes.find(wanted.name)) if wrong else (lambda: computes.ensure(wanted))
    seen.cluster = _attempt(get, "compute.missing", at("compute.name"), findings)
    if seen.cluster is not None:
        findings += preflight.check_cluster(seen.cluster, wanted, training.parameters, at)
        if model is not None and seen.cluster.size.lower() != wanted.size.lower():
            findings += preflight.check_size(seen.cluster.size, model, sizes, at("compute.name"))
    seen.cost = preflight.estimate_cost(wanted, training, config.endpoint)
    return seen


def _attempt(read: Callable[[], T | None], rule: str, where: str, findings: list[Finding]) -> T | None:
    """What is read, or None and a finding with Azure's words: the other checks go on."""
    from mlops.cloud.preflight import finding

    try:
        return read()
    except AzureError as problem:
        findings.append(finding(rule, where, str(problem).replace("\n", " ")))
        return None


def _suite(run: Run, name: str, path: Path, rows: int) -> Suite:
    kept = run.keep(path, rows=rows)
    return Suite(name=name, path=kept.path, digest=kept.sha256, rows=rows)


def _tell(run: Run, findings: Sequence[Finding]) -> None:
    """Print the findings as a table, keep them all, and stop where one is an error."""
    path = run.path("findings.json")
    write_atomically(path, json.dumps([found.model_dump() for found in findings], indent=1, ensure_ascii=False).encode() + b"\n")
    shown = list(_first(findings, SHOWN))
    if shown:
        rows = [("severity", "rule", "where", "message"), *((found.severity, found.rule, found.where, found.message) for found in shown)]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for row in rows:
            console.info("  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))
    errors = [found for found in findings if found.severity == "error"]
    if not errors:
        return
    run.forget(Validated)
    first = "\n".join(f"{found.where}: {found.rule}: {found.message}" for found in errors[:3])
    more = f"\n… and {len(errors) - 3} more" if len(errors) > 3 else ""
    raise ValidationFailed(
        f"{len(errors)} finding(s) stand against training; no job was started. All are in {path}.\n{first}{more}",
        "mend what the findings name, then run `mlops prepare` (if it was data) and `mlops validate` again",
    )


def _first(findings: Iterable[Finding], most: int) -> Iterable[Finding]:
    """At most so many findings of each rule, and a line for the rest."""
    seen: Counter[str] = Counter()
    last: dict[str, Finding] = {}
    for found in findings:
        seen[found.rule] += 1
        last[found.rule] = found
        if seen[found.rule] <= most:
            yield found
    for rule, count in seen.items():
        if count > most:
            yield last[rule].model_copy(
                update={"message": f"… {count - most} more of {rule}, of which this is the last; see run/findings.json"}
            )


def _sum_up(record: Validated, cluster: ComputeView, *, unchanged: bool) -> None:
    rows: Mapping[str, int] = record.rows_checked
    console.info(f"  {'nothing has changed: ' if unchanged else ''}{sum(rows.values()):,} rows checked, {len(record.findings)} warnings")
    console.info(f"  suites: {', '.join(f'{suite.name} {suite.rows} rows ({suite.digest[:12]})' for suite in record.suites.values())}")
    console.info(f"  base model {record.base_model}, component {record.component}")
    made = ", made now" if cluster.created else ""
    console.info(f"  compute {cluster.name}: {cluster.size}, {cluster.gpus_per_node} GPU(s) a node, {cluster.tier}{made}")
    estimate = "unknown" if record.cost_estimate_usd is None else f"{record.cost_estimate_usd:,.2f} USD"
    console.info(f"  cost of the training: {estimate} ({record.cost_note})")


main = stage.command(validate, needs=(Prepared,))


if __name__ == "__main__":
    sys.exit(main())
