"""What makes evidence worthless for a rule. Each fault has its own words; none may ever promote."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import Metric

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["first_fault"]

_AVAILABLE_TESTS = ("paired_bootstrap", "none")


def first_fault(rule: Rule, metric: Metric | None, role: str, evidence: Evidence) -> str | None:
    """Why the evidence does not answer the rule, or None where it does.

    Args:
        rule: the rule.
        metric: its metric, or None where no evaluation makes one of this name.
        role: which model it is answered against: ``champion``, ``base`` or ``none``.
        evidence: all of it.
    """
    if metric is None:
        return f"no evaluation makes a metric called {rule.metric!r}"
    # Later checks stand on earlier ones; a generator stops at the first that finds something.
    return next(_faults(rule, metric, role, evidence), None)


def _faults(rule: Rule, metric: Metric, role: str, evidence: Evidence) -> Iterator[str]:
    yield from _of_the_rule(rule, metric)
    yield from _of_the_models(role, evidence)
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


def _of_the_rule(rule: Rule, metric: Metric) -> Iterator[str]:
    if rule.baseline == "none":
        if rule.floor is None and rule.ceiling is None:
            yield "the rule asks for nothing: it has neither a baseline nor a floor or ceiling"
        for name, given in (("margin", rule.margin != 0), ("max_gain", rule.max_gain is not None), ("test", rule.test != "none")):
            if given:
                yield f"the rule has a {name} and no baseline to hold it against"
    if rule.test not in _AVAILABLE_TESTS:
        yield f"test = {rule.test!r} is not available yet; available are {', '.join(_AVAILABLE_TESTS)}"
    if rule.test != "none" and not metric.paired:
        yield f"{metric.measure} has no per-row scores for test = {rule.test!r}; judge nll, kl_base or rouge_l"


def _of_the_models(role: str, evidence: Evidence) -> Iterator[str]:
    for name in ("candidate", "base", role):
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
    if one.model == other.model:
        return f"both are {one.model}"
    if one.run == other.run:
        return f"both were scored by run {one.run}"
    if one.weights_digest == other.weights_digest:
        return "their weights are equal"
    suites = one.rows.keys() & other.rows.keys()
    if suites and all(np.array_equal(one.rows[suite].nll, other.rows[suite].nll) for suite in suites):
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
    ids = model.rows[suite].ids
    if len(set(ids)) != len(ids):
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
        if metric.paired and not _possible(metric, rows):
            yield f"a row of the {name} has a {metric.measure} that can't be: missing, not finite or out of range"
        value = metric.value(rows)
        if value is None or not math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-12):
            yield f"{metric.name} of the {name} does not follow from its rows: reported is {reported:.6g}, they give {value}"


def _possible(metric: Metric, rows: Rows) -> bool:
    numerator, _ = metric.sums(rows)
    within = np.isfinite(numerator) & (numerator >= 0)
    return bool(np.all(within & (numerator <= 1)) if metric.measure == "rouge_l" else np.all(within))
