"""How a verdict follows from the numbers, in words and pictures that agree with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops.core.records import Interval, Judged, Outcome, Probe, Verdict
from mlops.report.explain import explain, probes, what_if
from tests.support.evidence import rows, rule
from tests.support.run_directories import judge_run, make_run

RULES = (
    rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    rule("retention.nll", baseline="base", margin=0.05, test="wilcoxon"),
    rule("retention.kl_base", ceiling=0.5),
    rule("target.perplexity", baseline="base", margin=-0.01, critical=False),
)


@pytest.fixture
def judged(tmp_path: Path) -> Judged:
    return judge_run(make_run(tmp_path), *RULES)


def changed(judged: Judged, **changes: Any) -> Judged:
    """The record with its first rule otherwise."""
    first = judged.judgements[0].model_copy(update=changes)
    return judged.model_copy(update={"judgements": (first, *judged.judgements[1:])})


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def told(text: str, label: str) -> str:
    """What a step says."""
    [line] = [line for line in lines(text) if line.startswith(f"{label} ")]
    return line.removeprefix(label).strip()


def test_every_number_that_decides_is_told(judged: Judged) -> None:
    answer = judged.judgements[0]
    text = explain(judged.model_copy(update={"judgements": (answer,)}), "target.nll")
    assert lines(text)[0] == "▸ target.nll: not worse than the champion: SHOWN"
    assert told(text, "candidate").endswith("lower is better")
    assert answer.interval is not None
    assert answer.difference is not None
    assert f"= {answer.difference:.4g}, 95 % interval [{answer.interval.low:.4g}, {answer.interval.high:.4g}]" in told(text, "difference")
    assert told(text, "margin") == "none: the difference must lie below 0, and fails above"
    assert told(text, "rows") == "60; the rule wants 50"
    assert told(text, "test").startswith("paired_bootstrap, seed ")
    assert told(text, "distance").endswith("%]")
    assert f"after Holm's correction over the critical rules {answer.p_holm:.4g}" in told(text, "p")
    assert told(text, "MDE").startswith(f"{answer.mde:.4g}: ")
    assert told(text, "so") == "shown: the whole interval is on the good side of the margin"
    assert answer.reason in " ".join(lines(text))


def test_a_wilcoxon_rule_tells_the_typical_row(judged: Judged) -> None:
    text = explain(judged, "retention.nll")
    assert "; of the typical row " in told(text, "difference")
    assert "worse is tolerated: the difference must lie below" in told(text, "margin")


def test_bounds_and_rules_that_are_not_critical(judged: Judged) -> None:
    text = explain(judged, "retention.kl_base")
    assert told(text, "ceiling") == "0.5, inclusive"
    assert told(text, "so") == "shown: the figure is within its bounds"
    assert "difference" not in text
    assert "(not critical): SHOWN" in explain(judged, "target.perplexity")


def test_the_verdict_follows_from_the_outcomes(judged: Judged) -> None:
    text = explain(judged)
    assert "critical rules: 3 shown, 0 failed, 0 unproven, 0 invalid" in text
    assert "→ all shown, and at least one asked: PROMOTE" in text
    assert "any failed: REJECT (not so)" in text
    assert "Self-test: the gate noticed" in text
    rejected = changed(judged, outcome=Outcome.FAILED).model_copy(update={"verdict": Verdict.REJECT})
    assert "→ any failed: REJECT" in explain(rejected)
    held = changed(judged, outcome=Outcome.UNPROVEN).model_copy(update={"verdict": Verdict.HOLD})
    assert "→ else: HOLD" in explain(held)
    nothing = judged.model_copy(update={"judgements": (), "verdict": Verdict.HOLD})
    assert "→ else: HOLD" in explain(nothing)


def test_one_metric_or_all_that_begin_alike(judged: Judged) -> None:
    assert explain(judged, "target.*").count("▸") == 2
    assert explain(judged, "target.nll").count("▸") == 1
    assert explain(judged, "target") == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"outcome": Outcome.INVALID}, "invalid: there is no valid evidence"),
        ({"outcome": Outcome.UNPROVEN, "n": 20}, "unproven: fewer rows than the rule wants"),
        ({"outcome": Outcome.FAILED, "ceiling": 0.1}, "failed: the figure is out of bounds"),
        ({"outcome": Outcome.FAILED, "floor": 99.0}, "failed: the figure is out of bounds"),
        ({"outcome": Outcome.FAILED}, "failed: the whole interval is on the bad side of the margin"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": Interval(low=-1, high=1, confidence=0.95)}, "reaches over the margin"),
        ({"outcome": Outcome.UNPROVEN}, "on the good side, and another reason speaks against it"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": Interval(low=-2, high=-1, confidence=0.95)}, "not plainly enough"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": None, "interval": None}, "unproven: there is no interval"),
        ({"outcome": Outcome.FAILED, "test": "none"}, "failed: two numbers, on the bad side of the margin"),
        ({"outcome": Outcome.UNPROVEN, "test": "none"}, "unproven: two numbers, too good to be true"),
    ],
)
def test_the_step_that_decides_is_named(judged: Judged, changes: dict[str, Any], why: str) -> None:
    assert why in told(explain(changed(judged, **changes), "target.nll"), "so")


def test_what_is_not_known_is_not_made_up(judged: Judged) -> None:
    unknown = dict.fromkeys(
        ("candidate", "reference", "difference", "interval", "distance", "distance_interval", "margin", "mde", "n", "p_value")
    )
    text = explain(changed(judged, outcome=Outcome.INVALID, **unknown), "target.nll")
    assert told(text, "candidate") == "–, lower is better"
    assert told(text, "margin") == "unknown, since the baseline is"
    assert told(text, "rows") == "unknown; the rule wants 50"
    assert "●" not in text


@pytest.mark.parametrize("direction", ["lower", "higher"])
@pytest.mark.parametrize(("difference", "margin"), [(-0.2, 0.1), (0.2, 0.1), (-0.2, -0.1), (0.0, 0.0), (0.3, -0.1)])
def test_the_picture_has_things_where_they_are(judged: Judged, direction: str, difference: float, margin: float) -> None:
    interval = Interval(low=difference - 0.05, high=difference + 0.05, confidence=0.95)
    text = explain(changed(judged, direction=direction, difference=difference, margin=margin, interval=interval), "target.nll")
    [axis] = [line for line in text.splitlines() if "●" in line and "difference" not in line]
    limit = margin if direction == "lower" else -margin
    assert axis.index("├") < axis.index("●") < axis.index("┤")
    if limit not in (0.0, difference):
        assert (axis.index("|") < axis.index("●")) is (limit < difference)
        good = axis[: axis.index("|")] if direction == "lower" else axis[axis.index("|") :]
        assert "·" not in good.strip()


def test_what_if_tells_each_change(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = judge_run(run, *RULES)
    now = judge_run(run, RULES[0].model_copy(update={"margin": -0.5}), RULES[2], rule("target.nll", ceiling=9.0))
    text = what_if(before, now)
    assert "The gate said PROMOTE; under the rules as they are now it would say REJECT." in text
    assert "~ target.nll: at least 50 % better than the champion (was: not worse than the champion): shown → failed" in text
    assert "= retention.kl_base: at most 0.5: shown" in text
    assert "+ target.nll: at most 9: shown, was not asked" in text
    assert "− retention.nll: at most 5 % worse than the base: was shown, is no longer asked" in text
    assert "− target.perplexity" in text
    assert "was shown, not critical, is no longer asked" in text
    assert what_if(None, now).startswith("The gate has not judged this evaluation; under the rules")


def test_probes_are_told_one_by_one() -> None:
    made = [
        Probe(name=name, change="a change", expected="this", found="that", result=result)
        for name, result in (("one", "passed"), ("two", "missed"), ("three", "not applicable"))
    ]
    text = probes(made)
    assert lines(text)[0] == "passed  one"
    assert "MISSED  two" in lines(text)
    assert "a change; expected: this; found: that" in lines(text)
    assert lines(text)[-1] == "Self-test: the gate noticed 1 of 2 sabotages of this evidence; 1 more are not applicable."


def test_bad_candidates_are_explained_too(tmp_path: Path) -> None:
    scores: Any = {"candidate": rows("candidate", shift=0.4), "champion": rows("champion"), "base": rows("base")}
    text = explain(judge_run(make_run(tmp_path, scores), *RULES))
    assert "failed: the whole interval is on the bad side of the margin" in text
    assert "→ any failed: REJECT" in text
