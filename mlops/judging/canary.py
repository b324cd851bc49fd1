"""Whether a deployment answers as well as another one, from their answers to the same requests.

Three measures are compared pair by pair, each by a test that may stop after any pair (:mod:`mlops.judging.statistics.sequential`): whether
an answer is usable (the error rate), its ROUGE-L against the answer in the data (the gate's metric), and whether it came in time: the 95th
percentile of the latency is below a limit exactly if at most 5 % of the answers take longer.

Requests of users have no answer to compare with, and are usually few. So the first and the last measure are compared of them apart, and
they can only show that a deployment is worse, never take the place of the suite.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlops.judging.statistics.sequential import Finding, SequentialComparison, pairs_needed

__all__ = ["ALPHA", "Canary", "Measure", "Measured", "fewest_pairs"]

ALPHA = 0.025
"""A canary that is worse by the margin passes, and one that is equal is stopped as worse, with at most this probability each."""
MEASURES = ("usable answers", "ROUGE-L", "answers in time")
LIVE = ("usable answers to live requests", "answers to live requests in time")


@dataclass(frozen=True)
class Measured:
    """One answer. All values are in [0, 1], larger is better."""

    usable: float
    rouge_l: float | None
    """None if the data has no answer."""
    in_time: float
    latency_ms: float


@dataclass(frozen=True)
class Measure:
    """What has been shown of one measure."""

    name: str
    finding: Finding
    pairs: int
    difference: float
    """Mean over the pairs, new − old."""

    def __str__(self) -> str:
        return f"{self.name} {100 * self.difference:+.1f} points in {self.pairs} pairs: {self.finding}"


class Canary:
    """The comparison of a new deployment with the old one.

    Args:
        margin: how much worse must be excluded, as a fraction.
        live: whether there are also requests of users.
    """

    def __init__(self, margin: float, *, live: bool = False) -> None:
        self.pairs = 0
        self.latencies_ms: tuple[list[float], list[float]] = ([], [])
        """Of the old deployment, and of the new one."""
        names = (*MEASURES, *(LIVE if live else ()))
        self._comparisons = {name: SequentialComparison(margin, ALPHA, len(names)) for name in names}

    def add(self, old: Measured, new: Measured, *, live: bool = False) -> None:
        """Take the answers of both deployments to one request into account, which may be a user's."""
        self.pairs += 1
        usable, in_time = LIVE if live else (MEASURES[0], MEASURES[2])
        differences = {usable: new.usable - old.usable, in_time: new.in_time - old.in_time}
        if old.rouge_l is not None and new.rouge_l is not None:
            differences["ROUGE-L"] = new.rouge_l - old.rouge_l
        for name, difference in differences.items():
            self._comparisons[name].add(difference)
        for latencies, answer in zip(self.latencies_ms, (old, new), strict=True):
            latencies.append(answer.latency_ms)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What has been shown of each measure; one that no request has is left out."""
        return tuple(Measure(name, each.finding, each.pairs, each.mean) for name, each in self._comparisons.items() if each.pairs)

    @property
    def finding(self) -> Finding:
        """WORSE if any measure is worse, NOT_WORSE if none of the suite's is, by the margin."""
        if any(measure.finding is Finding.WORSE for measure in self.measures):
            return Finding.WORSE
        findings = {measure.finding for measure in self.measures if measure.name not in LIVE}
        return Finding.NOT_WORSE if findings == {Finding.NOT_WORSE} else Finding.OPEN

    def __str__(self) -> str:
        return "; ".join(str(measure) for measure in self.measures)


def fewest_pairs(margin: float) -> int:
    """Return how many pairs are necessary, even if the answers are the same."""
    return pairs_needed(margin, ALPHA)
