"""Explanations whose words and axes agree with the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlops.core.judgement import Interval, Outcome, Probe, Verdict
from mlops.core.records import Judged
from mlops.report.explain import explain, probes, what_if
from tests.support.evidence import make_rows, make_rule
from tests.support.run_directories import judge_run, make_run

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    make_rule("retention.nll", baseline="base", margin=0.05, test="wilcoxon"),
    make_rule("retention.kl_base", ceiling=0.5),
    make_rule("target.perplexity", baseline="base", margin=-0.01, critical=False),
)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Judged:
    return judge_run(make_run(tmp_path_factory.mktemp("judged")), *RULES)


def changed(judged: Judged, **changes: Any) -> Judged:
    """Return the record with changes to its first rule."""
    first = judged.judgements[0].model_copy(update=changes)
    return judged.model_copy(update={"judgements": (first, *judged.judgements[1:])})


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines()]


def step(text: str, label: str) -> str:
    """Return the text of a step."""
    [line] = [line for line in lines(text) if line.startswith(f"{label} ")]
    return line.removeprefix(label).strip()


def test_every_number_that_decides_is_explained(judged: Judged) -> None:
    judgement = judged.judgements[0]
    text = explain(judged.model_copy(update={"judgements": (judgement,)}), "target.nll")
    assert lines(text)[0] == "▸ rule-1: target.nll: not worse than the champion: SHOWN"
    assert step(text, "candidate").endswith("lower is better")
    assert judgement.interval is not None
    assert judgement.difference is not None
    assert f"= {judgement.difference:.4g}, 95 % interval [{judgement.interval.low:.4g}, {judgement.interval.high:.4g}]" in step(
        text, "difference"
    )
    assert step(text, "margin") == "none: the difference must be below 0; above it the rule fails"
    assert step(text, "rows") == "60; the rule requires 50"
    assert step(text, "test").startswith("paired_bootstrap, seed ")
    assert step(text, "distance").endswith("%]")
    assert f"after Holm's correction over the critical rules {judgement.p_holm:.4g}" in step(text, "p")
    assert step(text, "MDE").startswith(f"{judgement.mde:.4g}: ")
    assert step(text, "so") == "shown: the whole interval is on the good side of the margin"
    assert judgement.reason in " ".join(lines(text))


def test_a_wilcoxon_rule_shows_the_typical_row(judged: Judged) -> None:
    text = explain(judged, "retention.nll")
    assert "; of the typical row " in step(text, "difference")
    assert "worse is tolerated: the difference must be below" in step(text, "margin")


def test_bounds_and_rules_that_are_not_critical(judged: Judged) -> None:
    text = explain(judged, "retention.kl_base")
    assert step(text, "ceiling") == "0.5, inclusive"
    assert step(text, "so") == "shown: the value is within its bounds"
    assert "difference" not in text
    assert "(not critical): SHOWN" in explain(judged, "target.perplexity")


def test_the_verdict_follows_from_the_outcomes(judged: Judged) -> None:
    text = explain(judged)
    assert "critical rules: 3 shown, 0 failed, 0 unproven, 0 invalid" in text
    assert "→ all shown, and at least one rule: PROMOTE" in text
    assert "any failed: REJECT (no)" in text
    assert "Self-test: the gate detected" in text
    rejected = changed(judged, outcome=Outcome.FAILED).model_copy(update={"verdict": Verdict.REJECT})
    assert "→ any failed: REJECT" in explain(rejected)
    held = changed(judged, outcome=Outcome.UNPROVEN).model_copy(update={"verdict": Verdict.HOLD})
    assert "→ else: HOLD" in explain(held)
    nothing = judged.model_copy(update={"judgements": (), "verdict": Verdict.HOLD})
    assert "→ else: HOLD" in explain(nothing)


def test_one_metric_or_all_with_a_prefix(judged: Judged) -> None:
    assert explain(judged, "target.*").count("▸") == 2
    assert explain(judged, "target.nll").count("▸") == 1
    assert explain(judged, "target") == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"outcome": Outcome.INVALID}, "invalid: there is no valid evidence"),
        ({"outcome": Outcome.UNPROVEN, "n": 20}, "unproven: fewer rows than the rule requires"),
        ({"outcome": Outcome.FAILED, "ceiling": 0.1}, "failed: the value is out of bounds"),
        ({"outcome": Outcome.FAILED, "floor": 99.0}, "failed: the value is out of bounds"),
        ({"outcome": Outcome.FAILED}, "failed: the whole interval is on the bad side of the margin"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": Interval(low=-1, high=1, confidence=0.95)}, "contains the margin"),
        ({"outcome": Outcome.UNPROVEN}, "on the good side, but there is another objection"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": Interval(low=-2, high=-1, confidence=0.95)}, "not clearly enough"),
        ({"outcome": Outcome.UNPROVEN, "distance_interval": None, "interval": None}, "unproven: there is no interval"),
        ({"outcome": Outcome.FAILED, "test": "none"}, "failed: two numbers, on the bad side of the margin"),
        ({"outcome": Outcome.UNPROVEN, "test": "none"}, "unproven: two numbers, too good to be true"),
    ],
)
def test_the_deciding_step_is_named(judged: Judged, changes: dict[str, Any], why: str) -> None:
    assert why in step(explain(changed(judged, **changes), "target.nll"), "so")


def test_unknown_numbers_are_shown_as_unknown(judged: Judged) -> None:
    unknown = dict.fromkeys(
        ("candidate", "reference", "difference", "interval", "distance", "distance_interval", "margin", "mde", "n", "p_value")
    )
    text = explain(changed(judged, outcome=Outcome.INVALID, **unknown), "target.nll")
    assert step(text, "candidate") == "–, lower is better"
    assert step(text, "margin") == "unknown because the baseline is unknown"
    assert step(text, "rows") == "unknown; the rule requires 50"
    assert "●" not in text


@pytest.mark.parametrize("direction", ["lower", "higher"])
@pytest.mark.parametrize(("difference", "margin"), [(-0.2, 0.1), (0.2, 0.1), (-0.2, -0.1), (0.0, 0.0), (0.3, -0.1)])
def test_the_axis_has_everything_in_its_place(judged: Judged, direction: str, difference: float, margin: float) -> None:
    interval = Interval(low=difference - 0.05, high=difference + 0.05, confidence=0.95)
    text = explain(changed(judged, direction=direction, difference=difference, margin=margin, interval=interval), "target.nll")
    [axis] = [line for line in text.splitlines() if "●" in line and "difference" not in line]
    limit = margin if direction == "lower" else -margin
    assert axis.index("├") < axis.index("●") < axis.index("┤")
    if limit not in (0.0, difference):
        assert (axis.index("|") < axis.index("●")) is (limit < difference)
        good = axis[: axis.index("|")] if direction == "lower" else axis[axis.index("|") :]
        assert "·" not in good.strip()


def test_what_if_shows_each_change(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    before = judge_run(run, *RULES)
    kept = make_rule("retention.token_accuracy", "higher", baseline="base", margin=0.05)
    now = judge_run(run, RULES[0].model_copy(update={"margin": -0.5}), RULES[2], make_rule("target.nll", ceiling=9.0), kept)
    text = what_if(before, now)
    assert "The gate's verdict was PROMOTE; under the current rules it would be REJECT." in text
    assert "~ target.nll: at least 50 % better than the champion (was: not worse than the champion): shown → failed" in text
    assert "= retention.kl_base: at most 0.5: shown" in text
    assert "+ target.nll: at most 9: shown, a new rule" in text
    assert "− retention.nll: at most 5 % worse than the base: was shown, no longer a rule" in text
    assert "− target.perplexity" in text
    assert "was shown, not critical, no longer a rule" in text
    assert what_if(None, now).startswith("The gate has not judged this evaluation; under the current rules")


def test_probes_are_described_one_by_one() -> None:
    results = [
        Probe(name=name, mutation="a change", expected="this", actual="that", result=result)
        for name, result in (("one", "detected"), ("two", "missed"), ("three", "not applicable"))
    ]
    text = probes(results)
    assert lines(text)[0] == "detected  one"
    assert "MISSED    two" in lines(text)
    assert "a change; expected: this; actual: that" in lines(text)
    assert lines(text)[-1] == "Self-test: the gate detected 1 of 2 mutations of this evidence; 1 more are not applicable."


def test_a_rejection_is_explained(tmp_path: Path) -> None:
    scores: Any = {"candidate": make_rows("candidate", shift=0.4), "champion": make_rows("champion"), "base": make_rows("base")}
    text = explain(judge_run(make_run(tmp_path, scores), *RULES))
    assert "failed: the whole interval is on the bad side of the margin" in text
    assert "→ any failed: REJECT" in text
