"""What makes evidence worthless for a rule. Each fault has its own words; none may ever promote."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import EVERY_KIND, Metric, parse

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["direction_fault", "first_fault", "rule_fault"]


def rule_fault(rule: Rule) -> str | None:
    """What is wrong with a rule whatever the evidence, or None.

    It names an unknown metric, its fields don't go together, or it asks for a worse model.
    """
    return next(_of_the_rule(rule, parse(rule.metric)), None) or direction_fault(rule)


def direction_fault(rule: Rule) -> str | None:
    """Whether a rule that compares models asks for the worse one.

    It is said of rules as they are configured, and is no fault of the evidence: the self-test turns rules round to see whether the judge
    notices.
    """
    metric = parse(rule.metric)
    if metric is None or rule.baseline == "none" or metric.better in (None, rule.direction):
        return None
    return f'direction = "{rule.direction}" lets through what is worse: a better model has a {metric.better} {metric.measure}'


def first_fault(rule: Rule, metric: Metric | None, role: str, evidence: Evidence) -> str | None:
    """Why the evidence does not answer the rule, or None where it does.

    Args:
        rule: the rule.
        metric: its metric, or None where no evaluation makes one of this name.
        role: which model it is answered against: ``champion``, ``base`` or ``none``.
        evidence: all of it.
    """
    # Later checks stand on earlier ones; a generator stops at the first that finds something.
    return next(_faults(rule, metric, role, evidence), None)


def _faults(rule: Rule, metric: Metric | None, role: str, evidence: Evidence) -> Iterator[str]:
    yield from _of_the_rule(rule, metric)
    assert metric is not None  # or the rule had its fault
    yield from _of_the_models(role, evidence)
    yield from _of_the_kinds(metric, evidence)
    compared = {name: evidence.models[name] for name in ("candidate", role) if name != "none"}
    for name, model in compared.items():
        yield from _of_the_suite(name, model, metric, evidence)
    candidate = evidence.models["candidate"]
    if role != "none":
        yield from _of_the_pair(candidate.rows[metric.suite], evidence.models[role].rows[metric.suite], metric, role)
    for name, model in compared.items():
        yield from _of_the_value(name, model, metric)
    if role != "none" and rule.margin_kind == "relative" and evidence.models[role].metrics[metric.name] == 0:
        yield f'{metric.name} of the {role} is 0, and a margin relative to 0 means nothing: use margin_kind = "absolute"'


def _of_the_rule(rule: Rule, metric: Metric | None) -> Iterator[str]:
    if metric is None:
        yield f"no evaluation makes a metric called {rule.metric!r}"
        return
    if rule.baseline == "none":
        if rule.floor is None and rule.ceiling is None:
            yield "the rule asks for nothing: it has neither a baseline nor a floor or ceiling"
        for name, given in (("margin", rule.margin != 0), ("max_gain", rule.max_gain is not None), ("test", rule.test != "none")):
            if given:
                yield f"the rule has a {name} and no baseline to hold it against"
    if rule.floor is not None and rule.ceiling is not None and rule.floor > rule.ceiling:
        yield f"nothing lies between the floor {rule.floor:g} and the ceiling {rule.ceiling:g}"
    if metric.measure == "kl_base" and rule.baseline == "base" and rule.margin_kind == "relative":
        yield 'the kl_base of the base is 0 by its definition, and a margin relative to 0 means nothing: use margin_kind = "absolute"'
    if rule.test != "none" and not metric.paired:
        yield f"{metric.measure} has no per-row scores for test = {rule.test!r}: judge nll, kl_base, token_accuracy, exact_match or rouge_l"
    if rule.test == "mcnemar" and not metric.binary:
        yield f'test = "mcnemar" counts wins and losses, and {metric.measure} has none: judge exact_match, or use test = "paired_bootstrap"'
    if rule.test == "mcnemar" and rule.margin != 0:
        yield 'test = "mcnemar" asks whether there is a difference and knows no margin: set margin = 0, or use test = "paired_bootstrap"'
    if rule.test == "wilcoxon" and metric.binary:
        yield f'test = "wilcoxon" ranks differences, and {metric.measure} has wins and losses: use test = "mcnemar" or "paired_bootstrap"'


def _of_the_kinds(metric: Metric, evidence: Evidence) -> Iterator[str]:
    """A rule about every kind that could not be made one per kind."""
    if metric.kind == EVERY_KIND:
        unnamed = {row for model in evidence.models.values() for row in _without_kind(model.rows.get(metric.suite))}
        what = f"{len(unnamed):,} rows of the {metric.suite} suite have no kind" if unnamed else f"the {metric.suite} suite has no kinds"
        yield f"{what}, so it can't be judged kind by kind"


def _without_kind(rows: Rows | None) -> Iterator[str]:
    return (row for row, kind in zip(rows.ids, rows.kinds, strict=True) if not kind) if rows is not None else iter(())


def _of_the_models(role: str, evidence: Evidence) -> Iterator[str]:
    for name in ("candidate", "base", role):
        if name in evidence.missing:
            yield f"the {name} was not evaluated: {evidence.missing[name]}"
        if name != "none" and name not in evidence.models:
            yield f"the {name} was not evaluated"
    candidate = evidence.models["candidate"]
    for name, model in evidence.models.items():
        if not model.model or not model.weights_digest or not model.run:
            yield f"it is not known which model the {name} is"
    for name in sorted(evidence.models.keys() - {"candidate"}):
        if same := _same(candidate, evidence.models[name]):
            yield f"the candidate is the {name}: {same}"


def _same(one: ModelEvidence, other: ModelEvidence) -> str:
    """In what two models are one and the same; empty where they differ."""
    if one.model.lower() == other.model.lower():  # as Azure compares ids
        return f"both are {one.model}"
    if one.run == other.run:
        return f"both were scored by run {one.run}"
    if one.weights_digest == other.weights_digest:
        return "their weights are equal"
    suites = one.rows.keys() & other.rows.keys()
    if suites and all(np.array_equal(one.rows[suite].nll, other.rows[suite].nll, equal_nan=True) for suite in suites):
        return "they score every row alike"
    return ""


def _of_the_suite(name: str, model: ModelEvidence, metric: Metric, evidence: Evidence) -> Iterator[str]:
    suite = metric.suite
    if suite not in evidence.suite_digests:
        yield f"validation froze no {suite} suite"
    elif model.suite_digests.get(suite) != evidence.suite_digests[suite]:
        yield f"the {name} was scored on another {suite} suite than the one that validation froze"
    if suite in evidence.overlapping:
        yield f"the {suite} suite overlaps the training data: {evidence.overlapping[suite]}"
    if suite not in model.rows or not model.rows[suite].ids:
        yield f"there are no per-row scores of the {name} on the {suite} suite"
        return
    if model.rows[suite].repeats:
        yield f"rows of the {name} on the {suite} suite are there twice"


def _of_the_pair(candidate: Rows, reference: Rows, metric: Metric, role: str) -> Iterator[str]:
    if candidate.ids != reference.ids:
        differing = len(set(candidate.ids) ^ set(reference.ids))
        yield f"candidate and {role} were scored on different rows: {differing:,} are in one only"
    elif candidate.kinds != reference.kinds:
        yield f"candidate and {role} have rows of different kinds"
    elif candidate.inputs != reference.inputs or not np.array_equal(candidate.tokens, reference.tokens):
        yield f"candidate and {role} read the rows as different tokens, so their figures per token can't be compared"
    elif metric.measure == "rouge_l" and not np.array_equal(candidate.answered, reference.answered):
        yield f"candidate and {role} answered different rows"


def _of_the_value(name: str, model: ModelEvidence, metric: Metric) -> Iterator[str]:
    reported = model.metrics.get(metric.name)
    if reported is None:
        yield f"{metric.name} of the {name} is missing"
    elif not math.isfinite(reported):
        yield f"{metric.name} of the {name} is {reported}"
    else:
        rows = model.rows[metric.suite]
        of_rows = metric.of_rows
        if of_rows.paired and not _possible(of_rows, rows):
            article = "an" if of_rows.measure[0] in "aeinou" else "a"
            yield f"a row of the {name} has {article} {of_rows.measure} that can't be: missing, not finite or out of range"
        value = metric.value(rows)
        if value is None or not math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-12):
            yield f"{metric.name} of the {name} does not follow from its rows: reported is {reported:.6g}, they give {value}"


def _possible(metric: Metric, rows: Rows) -> bool:
    numerator, weight = metric.sums(rows)
    within = np.isfinite(numerator) & (numerator >= 0)
    if metric.fraction:
        within &= numerator <= weight
    if metric.measure == "exact_match":
        within &= ((rows.greedy_tokens >= 0) & (rows.greedy_tokens <= rows.tokens))[metric.selects(rows)]
    return bool(np.all(within))
