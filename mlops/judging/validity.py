"""Problems that make evidence invalid for a rule. Each has its own message; none may ever promote."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, FrozenSuite, ModelEvidence, Reference, Rows
from mlops.judging.metric_table import METRICS, Floats, MetricDefinition
from mlops.judging.metrics import EVERY_KIND, Metric, parse

__all__ = ["MAX_RELATIVE_MARGIN", "MAX_REPEATED", "are_equal", "check_rule", "direction_problem", "evidence_problem", "rule_problem"]

MAX_RELATIVE_MARGIN = 0.5
"""The largest relative margin, because a tolerance must be far below the value itself."""
MAX_REPEATED = 0.02
"""The largest share of rows that may be copies of others; they count once."""

_PAIRED = [metric.name for metric in METRICS.values() if metric.column is not None]
_BINARY = [metric.name for metric in METRICS.values() if metric.binary]
_ROUNDING = 1e-6
"""The largest relative difference between two computations of the same model's scores."""


def rule_problem(rule: Rule) -> str | None:
    """Return what is wrong with a rule regardless of the evidence, or None.

    Its metric is unknown, its fields contradict each other, or it requires a worse model.
    """
    return next(check_rule(rule, parse(rule.metric)), None) or direction_problem(rule)


def direction_problem(rule: Rule) -> str | None:
    """Return how a rule that compares models requires the worse one, or None.

    This is checked for rules as they are configured and doesn't make evidence invalid: the self-test reverses the direction of rules.
    """
    metric = parse(rule.metric)
    if metric is None or rule.baseline == "none" or metric.definition.better in (None, rule.direction):
        return None
    better, name = metric.definition.better, metric.definition.name
    return f'direction = "{rule.direction}" favors worse models: a better model has a {better} {name}'


def evidence_problem(rule: Rule, metric: Metric | None, role: Reference, evidence: Evidence) -> str | None:
    """Return why the rule can't be judged on this evidence, or None.

    Args:
        rule: the rule.
        metric: its metric; None if no evaluation computes one of this name.
        role: the model that the candidate is compared with.
        evidence: all evidence.
    """
    # Later checks rely on earlier ones. The generator stops at the first problem.
    return next(_check(rule, metric, role, evidence), None)


def _check(rule: Rule, metric: Metric | None, role: Reference, evidence: Evidence) -> Iterator[str]:
    yield from check_rule(rule, metric)
    assert metric is not None  # otherwise check_rule has reported it
    yield from _check_models(role, evidence)
    yield from _check_kinds(metric, evidence)
    yield from _check_divergence(metric, evidence)
    compared = {name: evidence.models[name] for name in ("candidate", role) if name != "none"}
    for name, model in compared.items():
        yield from _check_suite(name, model, metric, evidence)
    candidate = evidence.models["candidate"]
    if role != "none":
        yield from _check_pairs(candidate.rows[metric.suite], evidence.models[role].rows[metric.suite], metric, role)
    for name, model in compared.items():
        yield from _check_rows(name, model.rows[metric.suite], metric, evidence.suites.get(metric.suite))
        yield from _check_value(name, model, metric)
    if role != "none" and rule.margin_kind == "relative" and evidence.models[role].metrics[metric.name] == 0:
        yield f'{metric.name} of the {role} is 0, and a margin relative to 0 is meaningless: use margin_kind = "absolute"'


def check_rule(rule: Rule, metric: Metric | None) -> Iterator[str]:
    """Yield what is wrong with a rule about a metric, whatever the evidence and the direction."""
    if metric is None:
        yield f"no evaluation computes a metric called {rule.metric!r}"
        return
    definition = metric.definition
    if rule.baseline == "none":
        if rule.floor is None and rule.ceiling is None:
            yield "the rule requires nothing: it has no baseline, floor or ceiling"
        for name, is_set in (("margin", rule.margin != 0), ("max_gain", rule.max_gain is not None), ("test", rule.test != "none")):
            if is_set:
                yield f"the rule has a {name} but no baseline to compare with"
    yield from _check_ranges(rule, definition)
    if rule.floor is not None and rule.ceiling is not None and rule.floor > rule.ceiling:
        yield f"nothing lies between the floor {rule.floor:g} and the ceiling {rule.ceiling:g}"
    if definition.zero_for_base and rule.baseline == "base" and rule.margin_kind == "relative":
        yield f'{definition.name} of the base is 0 by definition, and a margin relative to 0 is meaningless: use margin_kind = "absolute"'
    if rule.test != "none" and not metric.paired:
        yield f"{definition.name} has no per-row scores for test = {rule.test!r}: judge {_either(_PAIRED)}"
    if rule.test in ("mcnemar", "tango") and not definition.binary:
        yield (
            f'test = "{rule.test}" needs rows that are right or wrong, and {definition.name} has none: judge {_either(_BINARY)}, or use '
            'test = "paired_bootstrap"'
        )
    if rule.test == "mcnemar" and rule.margin != 0:
        yield 'test = "mcnemar" tests for any difference and supports no margin: set margin = 0, or use test = "paired_bootstrap"'
    if rule.test == "tango" and rule.margin_kind != "absolute":
        yield 'test = "tango" compares shares, so its margin is a difference of shares: set margin_kind = "absolute"'
    if (rule.test == "tail") != (rule.max_share is not None):
        yield 'test = "tail" needs max_share, the largest share of rows that may be worse by more than the margin; no other test has one'
    if rule.test == "tail" and (rule.margin_kind != "absolute" or rule.margin <= 0):
        yield 'test = "tail" counts rows that are worse by more than the margin: set a margin > 0 and margin_kind = "absolute"'
    if rule.test in ("wilcoxon", "tail") and definition.binary:
        yield (
            f'test = "{rule.test}" needs differences of any size, but rows of {definition.name} are right or wrong: use test = "mcnemar", '
            '"tango" or "paired_bootstrap"'
        )


def _check_ranges(rule: Rule, definition: MetricDefinition) -> Iterator[str]:
    """Refuse numbers that make the rule meaningless, such as a margin of 5 that was intended as 5 %."""
    absolute = definition.max_row_margin if rule.test == "tail" else definition.max_margin
    widest = MAX_RELATIVE_MARGIN if rule.margin_kind == "relative" else absolute
    if abs(rule.margin) > widest:
        yield (
            f"a margin of {rule.margin:g} is implausible: for {definition.name} it must lie between {-widest:g} and {widest:g} "
            + ("(0.05 is 5 %)" if rule.margin_kind == "relative" else f"({definition.unit})")
        )
    low, high = definition.range
    for name, bound in (("floor", rule.floor), ("ceiling", rule.ceiling)):
        if bound is not None and not low <= bound <= high:
            yield f"a {name} of {bound:g} is meaningless: {definition.name} lies between {low:g} and {high:g}"


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _check_kinds(metric: Metric, evidence: Evidence) -> Iterator[str]:
    """Check a rule with ``*`` that could not be expanded into one rule per kind."""
    if metric.kind == EVERY_KIND:
        unlabeled = {row for model in evidence.models.values() for row in _without_kind(model.rows.get(metric.suite))}
        what = (
            f"{len(unlabeled):,} rows of the {metric.suite} suite have no kind" if unlabeled else f"the {metric.suite} suite has no kinds"
        )
        yield f"{what}, so it can't be judged kind by kind"


def _without_kind(rows: Rows | None) -> Iterator[str]:
    return (row for row, kind in zip(rows.ids, rows.kinds, strict=True) if not kind) if rows is not None else iter(())


def _check_models(role: Reference, evidence: Evidence) -> Iterator[str]:
    for name in ("candidate", "base", role):
        if name in evidence.missing:
            yield f"the {name} was not evaluated: {evidence.missing[name]}"
        if name != "none" and name not in evidence.models:
            yield f"the {name} was not evaluated"
    yield from evidence.problems
    candidate = evidence.models["candidate"]
    for name, model in evidence.models.items():
        if not model.model or not model.weights_digest or not model.run:
            yield f"the {name} can't be identified: its model id, weights digest or scoring run is empty"
    for name in sorted(evidence.models.keys() - {"candidate"}):
        if reason := _identical(candidate, evidence.models[name]):
            yield f"the candidate is the {name}: {reason}"


def _identical(one: ModelEvidence, other: ModelEvidence) -> str:
    """Return why two models are the same; empty if they differ."""
    if one.model.lower() == other.model.lower():  # Azure's ids are case-insensitive
        return f"both are {one.model}"
    if one.run == other.run:
        return f"both were scored by run {one.run}"
    if one.weights_digest == other.weights_digest:
        return "their weights are equal"
    suites = one.rows.keys() & other.rows.keys()
    if suites and all(are_equal(one.rows[suite].columns["nll"], other.rows[suite].columns["nll"]) for suite in suites):
        return "they have the same score in every row, except for rounding"
    return ""


def are_equal(one: Floats, other: Floats) -> bool:
    """Return whether scores are those of the same model, up to the rounding of two computations."""
    return one.shape == other.shape and bool(np.allclose(one, other, rtol=_ROUNDING, atol=0.0, equal_nan=True))


def _check_suite(name: str, model: ModelEvidence, metric: Metric, evidence: Evidence) -> Iterator[str]:
    suite = metric.suite
    if suite not in evidence.suite_digests:
        yield f"validation froze no {suite} suite"
    elif model.suite_digests.get(suite) != evidence.suite_digests[suite]:
        yield f"the {name} was scored on a different {suite} suite than the one that validation froze"
    if suite in evidence.overlapping:
        yield f"the {suite} suite overlaps the training data: {evidence.overlapping[suite]}"
    if suite not in model.rows or not model.rows[suite].ids:
        yield f"there are no per-row scores of the {name} on the {suite} suite"
        return
    if model.rows[suite].has_duplicates:
        yield f"the {name} has duplicate rows on the {suite} suite"


def _check_rows(name: str, rows: Rows, metric: Metric, frozen: FrozenSuite | None) -> Iterator[str]:
    """Compare a model's rows with those of the suite, because all models' scores can have the same fault."""
    suite = metric.suite
    if frozen is None:
        yield f"the rows of the frozen {suite} suite can't be read, so it is unclear what was scored"
        return
    if rows.ids != frozen.ids:
        absent, foreign = (len(set(one) - set(other)) for one, other in ((frozen.ids, rows.ids), (rows.ids, frozen.ids)))
        yield f"the {name} was not scored on exactly the frozen {suite} suite: {absent:,} rows are absent, and {foreign:,} are foreign"
        return
    if rows.kinds != frozen.kinds:
        yield f"the {name} has rows of other kinds than the frozen {suite} suite"
    if rows.texts != frozen.texts and any(one and one != other for one, other in zip(rows.texts, frozen.texts, strict=True)):
        yield f"the {name} was scored on other texts than those of the frozen {suite} suite"
    if impossible := int(((rows.tokens < frozen.fewest_tokens) | (rows.tokens > frozen.most_tokens)).sum()):
        yield f"{impossible:,} rows of the {name} have numbers of tokens that the texts of the frozen {suite} suite can't have"
    counted = metric.selects(rows)
    copies = int((counted & (rows.is_copy | frozen.is_copy)).sum())
    if copies > MAX_REPEATED * counted.sum():
        yield (
            f"{copies:,} of {int(counted.sum()):,} rows of the {suite} suite repeat the input of another row, so they add no "
            "evidence: remove the copies"
        )


def _check_divergence(metric: Metric, evidence: Evidence) -> Iterator[str]:
    """Check that rows without divergence have equal scores, since such models give every token the same probability."""
    models = [evidence.models[role].rows.get(metric.suite) for role in ("candidate", "base") if role in evidence.models]
    if metric.column is None or metric.column.name != "kl" or len(models) < 2:
        return
    candidate, base = models
    if candidate is None or base is None or candidate.ids != base.ids:
        return  # reported elsewhere
    per_token = np.maximum(candidate.tokens, 1)
    with np.errstate(invalid="ignore"):  # infinite scores are reported elsewhere
        differs = np.abs(candidate.columns["nll"] - base.columns["nll"]) > 1e-2 * per_token
    if wrong := int((differs & (candidate.columns["kl"] <= 1e-9 * per_token)).sum()):
        yield f"{wrong:,} rows of the candidate have no divergence from the base model, although their likelihoods differ"


def _check_pairs(candidate: Rows, reference: Rows, metric: Metric, role: Reference) -> Iterator[str]:
    column = metric.column
    if candidate.ids != reference.ids:
        differing = len(set(candidate.ids) ^ set(reference.ids))
        yield f"candidate and {role} were scored on different rows: {differing:,} rows occur in only one of them"
    elif candidate.kinds != reference.kinds:
        yield f"candidate and {role} have rows of different kinds"
    elif candidate.inputs != reference.inputs or not np.array_equal(candidate.tokens, reference.tokens):
        yield f"candidate and {role} read the rows as different tokens, so their values per token can't be compared"
    elif column is not None and column.sampled and not np.array_equal(candidate.measured[column.name], reference.measured[column.name]):
        yield f"candidate and {role} answered different rows"


def _check_value(name: str, model: ModelEvidence, metric: Metric) -> Iterator[str]:
    reported = model.metrics.get(metric.name)
    if reported is None:
        yield f"{metric.name} of the {name} is missing"
    elif not math.isfinite(reported):
        yield f"{metric.name} of the {name} is {reported}"
    else:
        rows = model.rows[metric.suite]
        of_rows = metric.of_rows
        if of_rows.paired and not _is_possible(of_rows, rows):
            yield f"a row of the {name} has an impossible {of_rows.definition.name}: missing, not finite or out of range"
        value = metric.value(rows)
        if value is None or not math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-12):
            yield f"{metric.name} of the {name} does not follow from its rows: {reported:.6g} was reported, but the rows give {value}"


def _is_possible(metric: Metric, rows: Rows) -> bool:
    numerator, weight = metric.sums(rows)
    within = np.isfinite(numerator) & (numerator >= 0)
    if metric.definition.fraction:
        within &= numerator <= weight
    if metric.column is not None and metric.column.counts_tokens:
        counts = rows.columns[metric.column.name]
        within &= ((counts >= 0) & (counts <= rows.tokens))[metric.selects(rows)]
    return bool(np.all(within))
