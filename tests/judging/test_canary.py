"""The comparison of two deployments, and simulated rollouts."""

from __future__ import annotations

import random

import pytest

from benchmarks.canary import CASES, live_cases, roll_out
from mlops.judging.canary import Canary, LatencyLimit, Measurement, fewest_pairs
from mlops.judging.statistics.sequential import Finding

LIMIT = LatencyLimit()
GOOD = Measurement(usable=1.0, rouge_l=0.4, latency_ms=10.0)


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
        ("1.5 times as slow", "promoted"),
        ("2 times as slow, 0.5 s", "promoted"),
        ("3 times as slow", "stopped before 5 %"),
    ],
)
def test_95_of_100_rollouts_end_as_they_must(name: str, end: str) -> None:
    generator = random.Random(1)
    ends = [roll_out((CASES | live_cases(200))[name], 500, generator)[0] for _ in range(100)]
    assert ends.count(end) >= 95


@pytest.mark.parametrize(
    ("worse", "measure"),
    [
        (Measurement(usable=0.0, rouge_l=0.4, latency_ms=10.0), "usable answers"),
        (Measurement(usable=1.0, rouge_l=0.0, latency_ms=10.0), "ROUGE-L"),
        (Measurement(usable=1.0, rouge_l=0.4, latency_ms=9000.0), "answers in time"),
    ],
)
def test_each_measure_alone_stops_it(worse: Measurement, measure: str) -> None:
    canary = Canary(0.05, LIMIT)
    while canary.finding is Finding.OPEN and canary.pairs < 100:
        canary.add(GOOD, worse)
    assert [each.name for each in canary.measures if each.finding is Finding.WORSE] == [measure]
    assert canary.pairs < 40


def test_without_references_the_answers_are_compared_by_the_other_measures() -> None:
    canary, answer = Canary(0.05, LIMIT), Measurement(usable=1.0, rouge_l=None, latency_ms=10.0)
    for _ in range(fewest_pairs(0.05)):
        assert canary.finding is Finding.OPEN
        canary.add(answer, answer)
    assert canary.finding is Finding.NOT_WORSE
    assert [each.name for each in canary.measures] == ["usable answers", "answers in time"]


def test_requests_of_users_can_stop_it_and_never_take_the_place_of_the_suite() -> None:
    answer, bad = (Measurement(usable=usable, rouge_l=None, latency_ms=10.0) for usable in (1.0, 0.0))

    def compare(live: int, suite: int, worse: int = 0) -> Canary:
        canary = Canary(0.05, LIMIT, live=True)
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
        canary = Canary(0.05, LIMIT, live=live)
        while canary.finding is Finding.OPEN:
            canary.add(GOOD, Measurement(usable=0.0, rouge_l=0.4, latency_ms=10.0))
        assert canary.finding is Finding.WORSE
        return canary.pairs

    # Bonferroni's correction, for three and for five measures.
    assert pairs_needed(live=False) < pairs_needed(live=True)


def compare_latencies(old_s: float, new_s: float, limit: LatencyLimit = LIMIT, *, live: bool = False, pairs: int = 150) -> Canary:
    """Compare answers that differ in nothing but how long they take, which varies by up to a tenth."""
    generator, canary = random.Random(1), Canary(0.05, limit, live=live)
    for _ in range(pairs):
        old, new = (Measurement(1.0, None, 1000 * each * generator.uniform(0.9, 1.1)) for each in (old_s, new_s))
        canary.add(old, new, live=live)
        if canary.finding is Finding.WORSE:
            break
    return canary


@pytest.mark.parametrize(
    ("old_s", "new_s", "finding"),
    [
        (1.0, 55.0, Finding.WORSE),
        (4.0, 9.0, Finding.WORSE),
        (4.0, 6.0, Finding.NOT_WORSE),
        (9.0, 4.0, Finding.NOT_WORSE),
        (50.0, 70.0, Finding.WORSE),
        (0.05, 0.1, Finding.NOT_WORSE),
        (0.05, 1.8, Finding.NOT_WORSE),
        (0.05, 2.5, Finding.WORSE),
    ],
)
def test_an_answer_may_take_twice_as_long_as_the_old_ones_and_always_two_seconds(old_s: float, new_s: float, finding: Finding) -> None:
    canary = compare_latencies(old_s, new_s)
    assert canary.finding is finding
    assert (canary.pairs < 20) is (finding is Finding.WORSE)


def test_the_limit_of_a_pair_depends_on_the_old_answers_of_the_same_kind_before_it() -> None:
    limit = LatencyLimit(factor=3.0, floor_ms=100.0, most_ms=9_000.0)
    assert [limit.after(latencies) for latencies in ([], [10.0], [1_000.0], [1_000.0] * 19 + [8_000.0], [8_000.0])] == [
        9_000.0, 100.0, 3_000.0, 3_000.0, 9_000.0,
    ]  # fmt: skip
    canary = Canary(0.05, limit, live=True)
    # The first pair has no limit but the highest one, and users' requests say nothing about the suite's.
    canary.add(Measurement(1.0, None, 200.0), Measurement(1.0, None, 8_999.0))
    canary.add(Measurement(1.0, None, 200.0), Measurement(1.0, None, 8_999.0), live=True)
    assert {each.name: each.difference for each in canary.measures if "in time" in each.name} == {
        "answers in time": 0.0, "answers to live requests in time": 0.0,
    }  # fmt: skip
    assert canary.latency_limit_ms == 600.0
    # A slow answer of the old one does not raise the limit of its own pair.
    canary.add(Measurement(1.0, None, 5_000.0), Measurement(1.0, None, 5_000.0))
    canary.add(Measurement(1.0, None, 100.0), Measurement(1.0, None, 700.0), live=True)
    assert {each.name: each.difference for each in canary.measures if "in time" in each.name} == {
        "answers in time": 0.0, "answers to live requests in time": -0.5,
    }  # fmt: skip
    assert canary.latency_limit_ms == 9_000.0


def test_slow_answers_to_users_alone_stop_it() -> None:
    stopped = compare_latencies(1.0, 55.0, live=True)
    assert [each.name for each in stopped.measures if each.finding is Finding.WORSE] == ["answers to live requests in time"]
