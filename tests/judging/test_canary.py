"""The comparison of two deployments, and simulated rollouts."""

from __future__ import annotations

import random

import pytest

from benchmarks.canary import CASES, live_cases, roll_out
from mlops.judging.canary import Canary, Measured, fewest_pairs
from mlops.judging.statistics.sequential import Finding

GOOD = Measured(usable=1.0, rouge_l=0.4, in_time=1.0, latency_ms=10.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("equal", "promoted"),
        ("equal, the same answers", "promoted"),
        ("equal, 200 live requests", "promoted"),
        ("20 points more faults in 200 live requests only", "stopped before 5 %"),
        ("ROUGE-L worse by 5 points", "stopped before 5 %"),
        ("5 points more faults", "stopped before 5 %"),
        ("5 points more late answers", "stopped before 5 %"),
    ],
)
def test_95_of_100_rollouts_end_as_they_must(name: str, end: str) -> None:
    generator = random.Random(1)
    ends = [roll_out((CASES | live_cases(200))[name], 500, generator)[0] for _ in range(100)]
    assert ends.count(end) >= 95


@pytest.mark.parametrize(
    ("worse", "measure"),
    [
        (Measured(usable=0.0, rouge_l=0.4, in_time=1.0, latency_ms=10.0), "usable answers"),
        (Measured(usable=1.0, rouge_l=0.0, in_time=1.0, latency_ms=10.0), "ROUGE-L"),
        (Measured(usable=1.0, rouge_l=0.4, in_time=0.0, latency_ms=9000.0), "answers in time"),
    ],
)
def test_each_measure_alone_stops_it(worse: Measured, measure: str) -> None:
    canary = Canary(0.05)
    while canary.finding is Finding.OPEN and canary.pairs < 100:
        canary.add(GOOD, worse)
    assert [each.name for each in canary.measures if each.finding is Finding.WORSE] == [measure]
    assert canary.pairs < 40


def test_without_references_the_answers_are_compared_by_the_other_measures() -> None:
    canary, answer = Canary(0.05), Measured(usable=1.0, rouge_l=None, in_time=1.0, latency_ms=10.0)
    for _ in range(fewest_pairs(0.05)):
        assert canary.finding is Finding.OPEN
        canary.add(answer, answer)
    assert canary.finding is Finding.NOT_WORSE
    assert [each.name for each in canary.measures] == ["usable answers", "answers in time"]


def test_requests_of_users_can_stop_it_and_never_take_the_place_of_the_suite() -> None:
    answer, bad = (Measured(usable=usable, rouge_l=None, in_time=1.0, latency_ms=10.0) for usable in (1.0, 0.0))

    def compare(live: int, suite: int, worse: int = 0) -> Canary:
        canary = Canary(0.05, live=True)
        for _ in range(live):
            canary.add(answer, answer, live=True)
        for _ in range(suite):
            canary.add(answer, answer)
        for _ in range(worse):
            canary.add(answer, bad, live=True)
        return canary

    enough = fewest_pairs(0.05)
    assert compare(2 * enough, 0).finding is Finding.OPEN
    assert compare(2 * enough, enough).finding is Finding.NOT_WORSE
    # A few show nothing, and then the suite decides; but if they show that it is worse, nothing else counts.
    assert compare(1, enough).finding is Finding.NOT_WORSE
    stopped = compare(1, enough, worse=40)
    assert [each.name for each in stopped.measures if each.finding is Finding.WORSE] == ["usable answers to live requests"]
    assert stopped.finding is Finding.WORSE


def test_with_more_measures_each_needs_more_evidence_to_stop() -> None:
    def pairs_needed(*, live: bool) -> int:
        canary = Canary(0.05, live=live)
        while canary.finding is Finding.OPEN:
            canary.add(GOOD, Measured(usable=0.0, rouge_l=0.4, in_time=1.0, latency_ms=10.0))
        assert canary.finding is Finding.WORSE
        return canary.pairs

    # Bonferroni's correction, for three and for five measures.
    assert pairs_needed(live=False) < pairs_needed(live=True)
