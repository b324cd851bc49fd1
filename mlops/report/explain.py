"""Explanations for a terminal: how a verdict follows from the numbers, and what other rules would decide. They only need records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mlops.core import console
from mlops.core.judgement import Interval, Judgement, Outcome, Probe, Verdict
from mlops.core.records import Judged
from mlops.judging.wording import hidden_share, number, percent
from mlops.report.markdown import meaning, override_line, self_test_line

__all__ = ["explain", "probes", "select", "what_if"]

AXIS_WIDTH = 60
Key = tuple[str, str, int]


def explain(judged: Judged, metric: str = "") -> str:
    """Explain how outcomes follow from metric values, and the verdict from the outcomes.

    Args:
        judged: the gate's record.
        metric: explain only rules about this metric, or with ``target.*`` about all metrics with this prefix; empty for everything.
    """
    parts = ["\n".join(_rule(judgement)) for judgement in select(judged, metric)]
    return "\n\n".join(parts if metric else [*parts, "\n".join(_verdict(judged))])


def select(judged: Judged, metric: str = "") -> Iterator[Judgement]:
    """Yield the judgements that :func:`explain` explains."""
    for judgement in judged.judgements:
        if judgement.metric.startswith(metric[:-1]) if metric.endswith("*") or not metric else judgement.metric == metric:
            yield judgement


def what_if(before: Judged | None, now: Judged) -> str:
    """Compare the gate's verdict with the one under the current rules.

    Args:
        before: the gate's record; None if it has not judged yet.
        now: the judgement of the same evaluation under the current rules. It is not stored.
    """
    past = f"The gate's verdict was {before.verdict}" if before else "The gate has not judged this evaluation"
    lines = [f"{past}; under the current rules it would be {now.verdict}."]
    lines += _render_list(now.reasons, "-")
    old, new = _key_judgements(before.judgements if before else ()), _key_judgements(now.judgements)
    lines += ["", "Rule by rule:"]
    for key in [*new, *(key for key in old if key not in new)]:
        lines += _change(old.get(key), new.get(key))
    return "\n".join([*lines, "", "Nothing was run or written; the gate's record is unchanged."])


def probes(results: Sequence[Probe]) -> str:
    """Describe each probe of the self-test."""
    marks = {"detected": "detected", "missed": "MISSED", "not applicable": "n/a"}
    rows = []
    for probe in results:
        rows.append((marks[probe.result], probe.name))
        rows.append(("", f"{probe.mutation}; expected: {probe.expected}; actual: {probe.actual}"))
    return "\n".join([console.columns(rows), f"  {self_test_line(results)}"])


def _rule(judgement: Judgement) -> list[str]:
    head = f"{judgement.title}{'' if judgement.critical else ' (not critical)'}"
    rows = [*_steps(judgement), *(("", line) for line in _axis(judgement)), ("so", _why(judgement)), ("", judgement.reason)]
    return [f"▸ {head}: {judgement.outcome.value.upper()}", console.columns(rows)]


def _steps(judgement: Judgement) -> Iterable[tuple[str, str]]:
    """Yield (label, text) for every number that exists."""
    role = judgement.compared_with
    yield "candidate", f"{number(judgement.candidate)}, {judgement.direction} is better"
    if role != "none":
        replacement = "" if role == judgement.baseline else f", because there is no {judgement.baseline} yet"
        yield role, f"{number(judgement.reference)}{replacement}"
        yield "difference", _difference(judgement)
        yield "margin", _margin(judgement)
    for name, bound in (("floor", judgement.floor), ("ceiling", judgement.ceiling)):
        if bound is not None:
            yield name, f"{number(bound)}, inclusive"
    required = "" if judgement.min_rows is None else f"; the rule requires {judgement.min_rows:,}"
    yield "rows", f"{'unknown' if judgement.n is None else f'{judgement.n:,}'}{required}"
    if judgement.n:
        yield (
            "unseen",
            f"up to {hidden_share(judgement.n)} of such rows can have faults that {judgement.n:,} rows don't show (rule of three)",
        )
    if role == "none" or judgement.test == "none":
        return
    seed = "" if judgement.seed is None else f", seed {judgement.seed}"
    yield "test", f"{judgement.test}{seed}"
    if judgement.distance_interval is not None:
        interval = _distance_interval(judgement.distance_interval, judgement)
        limit = "largest share" if judgement.test == "tail" else "margin"
        yield (
            "distance",
            f"{_distance(judgement)} from the {limit}, > 0 is the good side; {interval}",
        )
    if judgement.p_value is not None:
        holm = "" if judgement.p_holm is None else f", after Holm's correction over the critical rules {number(judgement.p_holm)}"
        yield "p", f"{number(judgement.p_value)}{holm}: how likely the rows look this bad by chance although the rule holds"
    if judgement.mde is not None:
        yield (
            "MDE",
            f"{number(judgement.mde)}: these rows detect a true difference of this size in about 80 of 100 runs, smaller ones less often",
        )
    if judgement.rows_needed is not None:
        yield "needed", f"about {judgement.rows_needed:,} rows"


def _difference(judgement: Judgement) -> str:
    text = f"{number(judgement.candidate)} − {number(judgement.reference)} = {number(judgement.difference)}"
    if judgement.interval is None:
        return f"{text}, no interval"
    ends = f"[{number(judgement.interval.low)}, {number(judgement.interval.high)}]"
    confidence = percent(judgement.interval.confidence)
    if judgement.typical_difference is not None:
        return f"{text}; of the typical row {number(judgement.typical_difference)}, {confidence} interval {ends}"
    return f"{text}, {confidence} interval {ends}"


def _margin(judgement: Judgement) -> str:
    if judgement.margin is None:
        return "unknown because the baseline is unknown"
    worse = {"lower": "above", "higher": "below"}[judgement.direction]
    better = {"lower": "below", "higher": "above"}[judgement.direction]
    limit = _limit(judgement)
    if judgement.max_share is not None:
        return f"rows that are {number(judgement.margin)} worse are much worse; at most {percent(judgement.max_share)} may be"
    margin = (
        f"{number(abs(judgement.margin))} worse is tolerated" if judgement.margin > 0 else f"{number(-judgement.margin)} better is required"
    )
    margin = "none" if judgement.margin == 0 else margin
    return f"{margin}: the difference must be {better} {number(limit)}; {worse} it the rule fails"


def _distance(judgement: Judgement) -> str:
    value = judgement.distance
    if value is None:
        return "–"
    return percent(value) if _is_fraction(judgement) else number(value)


def _distance_interval(interval: Interval, judgement: Judgement) -> str:
    form = percent if _is_fraction(judgement) else number
    return f"{percent(interval.confidence)} interval [{form(interval.low)}, {form(interval.high)}]"


def _is_fraction(judgement: Judgement) -> bool:
    """Return whether the distance is a fraction, of the baseline's value or of the rows."""
    return judgement.margin_kind == "relative" or judgement.test == "tail"


def _limit(judgement: Judgement) -> float:
    margin = judgement.margin or 0.0
    return margin + 0.0 if judgement.direction == "lower" else 0.0 - margin


def _axis(judgement: Judgement) -> list[str]:
    """Draw difference, interval, margin and 0 on one axis; nothing if a value is missing or not finite."""
    interval, difference = judgement.interval, judgement.typical_difference
    difference = judgement.difference if difference is None else difference
    if difference is None or judgement.margin is None or judgement.test == "tail":
        return []
    limit = _limit(judgement)
    shown = [0.0, difference, limit, *((interval.low, interval.high) if interval else ())]
    if not all(abs(value) < float("inf") for value in shown):  # also False for NaN
        return []
    start, reach = min(shown), (max(shown) - min(shown)) or 1.0

    def place(value: float) -> int:
        return 2 + int((value - start) / reach * (AXIS_WIDTH - 5) + 0.5)

    axis = ["·"] * AXIS_WIDTH
    good = range(place(limit)) if judgement.direction == "lower" else range(place(limit) + 1, AXIS_WIDTH)
    for column in good:
        axis[column] = "+"
    if interval is not None:
        for column in range(place(interval.low), place(interval.high) + 1):
            axis[column] = "─"
        axis[place(interval.low)], axis[place(interval.high)] = "├", "┤"
    axis[place(0.0)] = "0"
    axis[place(limit)] = "|"
    axis[place(difference)] = "●"
    return ["".join(axis), "+ good side   | margin   ● difference   ├─┤ interval   0 no difference"]


def _why(judgement: Judgement) -> str:
    """Return which step decides."""
    bounds = [(judgement.floor, 1), (judgement.ceiling, -1)]
    value = judgement.candidate
    if judgement.outcome is Outcome.INVALID:
        return "invalid: there is no valid evidence, so nothing was compared"
    if judgement.n is not None and judgement.min_rows is not None and judgement.n < judgement.min_rows:
        return "unproven: fewer rows than the rule requires"
    if value is not None and any(bound is not None and sign * (value - bound) < 0 for bound, sign in bounds):
        return "failed: the value is out of bounds"
    if judgement.compared_with == "none":
        return "shown: the value is within its bounds"
    if judgement.test == "none":
        side = {Outcome.SHOWN: "on the good side of the margin, or on it", Outcome.FAILED: "on the bad side of the margin"}
        return f"{judgement.outcome.value}: two numbers, {side.get(judgement.outcome, 'too good to be true')}"
    if judgement.distance_interval is None:
        return f"{judgement.outcome.value}: there is no interval"
    return f"{judgement.outcome.value}: {_where(judgement, judgement.distance_interval)}"


def _where(judgement: Judgement, interval: Interval) -> str:
    if judgement.outcome is Outcome.UNPROVEN:
        if interval.low > 0:
            return "the interval is on the good side, but there is another objection"
        if interval.high < 0:
            return "the interval is on the bad side, but not clearly enough for this many rules, or the values disagree"
        return "the interval contains the margin, so the true difference may be on either side"
    side = "good" if judgement.outcome is Outcome.SHOWN else "bad"
    return f"the whole interval is on the {side} side of the margin"


def _verdict(judged: Judged) -> list[str]:
    counts = Counter(judgement.outcome for judgement in judged.judgements if judgement.critical)
    lines = [f"▸ {judged.verdict}: {meaning(judged)}"]
    lines.append(f"  critical rules: {', '.join(f'{counts[outcome]} {outcome.value}' for outcome in Outcome)}")
    steps = (
        (Verdict.REJECT, "any failed", counts[Outcome.FAILED] > 0),
        (Verdict.PROMOTE, "all shown, and at least one rule", bool(counts) and counts[Outcome.SHOWN] == counts.total()),
        (Verdict.HOLD, "else", True),
    )
    is_decided = False
    for verdict, condition, holds in steps:
        here = holds and not is_decided
        lines.append(f"  {'→' if here else ' '} {condition}: {verdict}{'' if here else (' (no)' if not is_decided else '')}")
        is_decided = is_decided or holds
    lines += _render_list(judged.reasons, "-")
    lines += _render_list(judged.notes, "-")
    if warning := override_line(judged):
        lines += _render_list([warning], "!")
    lines.append(f"  {self_test_line(judged.self_test)}")
    return lines


def _key_judgements(judgements: Sequence[Judgement]) -> Mapping[Key, Judgement]:
    """Key judgements by metric, baseline and number among those that share both, because a rule's text changes with its margin."""
    seen: Counter[tuple[str, str]] = Counter()
    keyed: dict[Key, Judgement] = {}
    for judgement in judgements:
        pair = (judgement.metric, judgement.baseline)
        keyed[*pair, seen[pair]] = judgement
        seen[pair] += 1
    return keyed


def _change(old: Judgement | None, new: Judgement | None) -> list[str]:
    if new is None:
        assert old is not None
        return [f"  − {old.rule}: was {_outcome(old)}, no longer a rule"]
    if old is None:
        return [f"  + {new.rule}: {_outcome(new)}, a new rule", *_render_list([new.reason], "", 5)]
    if (old.rule, _outcome(old)) == (new.rule, _outcome(new)):
        return [f"  = {new.rule}: {_outcome(new)}"]
    renamed = "" if old.rule == new.rule else f" (was: {old.rule.removeprefix(f'{old.metric}: ')})"
    outcome = _outcome(new) if _outcome(old) == _outcome(new) else f"{_outcome(old)} → {_outcome(new)}"
    return [f"  ~ {new.rule}{renamed}: {outcome}", *_render_list([new.reason], "", 5)]


def _outcome(judgement: Judgement) -> str:
    return judgement.outcome.value if judgement.critical else f"{judgement.outcome.value}, not critical"


def _render_list(texts: Iterable[str], mark: str, indent: int = 2) -> list[str]:
    """Return a list with a mark in front of each text."""
    text = console.columns([(mark, text) for text in texts], indent=indent, gap=1)
    return [text] if text else []
