"""Decides whether a deployment answers as well as another one, from their answers to the same requests.

Three measures are compared pair by pair, each by a test that may stop after any pair (:mod:`mlops.judging.statistics.sequential`): whether
an answer is usable (the error rate), its ROUGE-L against the answer in the data (the gate's metric), and whether it came in time.

The limit of that time is a multiple of the 95th percentile of the old deployment's answers before this pair, at least a floor. So both
answers of a pair have the same limit, which only depends on earlier pairs, as the test requires. If the old deployment keeps it, then "not
5 points worse" means that the 95th percentile of the new one is below the limit.

Users' requests have no reference answer, and are usually few. So they are compared separately, by the first and the last measure, and can
only show that a deployment is worse, but never replace the suite.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlops.judging.statistics.percentile import percentile
from mlops.judging.statistics.sequential import Finding, SequentialComparison, pairs_needed

__all__ = ["ALPHA", "Canary", "LatencyLimit", "Measure", "Measurement", "fewest_pairs"]

ALPHA = 0.025
"""Maximum probability that a deployment worse by the margin passes, and that an equal one is stopped as worse."""
MEASURES = ("usable answers", "ROUGE-L", "answers in time")
LIVE = ("usable answers to live requests", "answers to live requests in time")


@dataclass(frozen=True)
class Measurement:
    """The measures of one answer. All but the latency are in [0, 1], larger is better."""

    usable: float
    rouge_l: float | None
    """ROUGE-L against the answer in the data; None if there is none."""
    latency_ms: float


@dataclass(frozen=True)
class LatencyLimit:
    """The limit within which an answer is in time."""

    factor: float = 2.0
    """Multiple of the 95th percentile of the old deployment's earlier answers."""
    floor_ms: float = 2_000.0
    """Milliseconds that are always fast enough."""
    most_ms: float = 60_000.0
    """Maximum in milliseconds, and the limit of the first pair."""

    def after(self, latencies_ms: Sequence[float]) -> float:
        """Return the limit in milliseconds after these answers of the old deployment."""
        if not latencies_ms:
            return self.most_ms
        return min(self.most_ms, max(self.floor_ms, self.factor * percentile(latencies_ms, 95)))


@dataclass
class _Latencies:
    """Latencies of the old and of the new deployment, in milliseconds, in ascending order."""

    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Measure:
    """The result for one measure."""

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
        limit: within which an answer is in time.
        live: whether there are also users' requests.
    """

    def __init__(self, margin: float, limit: LatencyLimit, *, live: bool = False) -> None:
        self.pairs = 0
        self._limit = limit
        # Users ask for longer or shorter answers than the suite.
        self._suite, self._live = _Latencies(), _Latencies()
        names = (*MEASURES, *(LIVE if live else ()))
        self._comparisons = {name: SequentialComparison(margin, ALPHA, len(names)) for name in names}

    def add(self, old: Measurement, new: Measurement, *, live: bool = False) -> None:
        """Take the answers of both deployments to one request into account, which may be a user's."""
        self.pairs += 1
        usable, in_time = LIVE if live else (MEASURES[0], MEASURES[2])
        latencies = self._live if live else self._suite
        limit_ms = self._limit.after(latencies.old)
        differences = {
            usable: new.usable - old.usable,
            in_time: float(new.latency_ms <= limit_ms) - float(old.latency_ms <= limit_ms),
        }
        if old.rouge_l is not None and new.rouge_l is not None:
            differences["ROUGE-L"] = new.rouge_l - old.rouge_l
        for name, difference in differences.items():
            self._comparisons[name].add(difference)
        insort(latencies.old, old.latency_ms)
        insort(latencies.new, new.latency_ms)

    @property
    def latencies_p95_ms(self) -> tuple[float, float]:
        """95th percentiles of the old deployment and of the new one, over all pairs."""
        old, new = self._suite.old + self._live.old, self._suite.new + self._live.new
        return percentile(old, 95), percentile(new, 95)

    @property
    def latency_limit_ms(self) -> float:
        """The limit for the next answer to a request of the suite, in milliseconds."""
        return self._limit.after(self._suite.old)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The result for each measure that any request has."""
        return tuple(Measure(name, each.finding, each.pairs, each.mean) for name, each in self._comparisons.items() if each.pairs)

    @property
    def finding(self) -> Finding:
        """WORSE if any measure is worse, NOT_WORSE if no measure of the suite is worse by the margin."""
        if any(measure.finding is Finding.WORSE for measure in self.measures):
            return Finding.WORSE
        findings = {measure.finding for measure in self.measures if measure.name not in LIVE}
        return Finding.NOT_WORSE if findings == {Finding.NOT_WORSE} else Finding.OPEN

    def __str__(self) -> str:
        return "; ".join(str(measure) for measure in self.measures)


def fewest_pairs(margin: float) -> int:
    """Return the number of pairs that are needed even if all answers are the same."""
    return pairs_needed(margin, ALPHA)
