"""How often the canary stops a worse deployment, and lets an equal one through, on simulated answers.

    python -m benchmarks.canary [--rollouts 1000] [--rows 500] [--live 200 1000]

Prints a Markdown table. A rollout compares two deployments as `mlops promote` does, with the default steps and margin: at 0 % of the
traffic, first with requests of users where there are any, then with those of the suite, then at each step. ROUGE-L of both
deployments' answers to a request has a common part, the request's difficulty, and a part of its own. "Before 5 %" counts rollouts
that were stopped before the new deployment had any traffic. The random numbers are the same in every run.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass, replace
from statistics import mean, median

from mlops.cli.canary import pairs_of_steps
from mlops.core import console
from mlops.core.settings import PromotionConfig
from mlops.judging.canary import Canary, LatencyLimit, Measurement
from mlops.judging.statistics.sequential import Finding

SEED = 5


@dataclass(frozen=True)
class Deployment:
    """What its answers are like."""

    rouge_l: float = 0.35
    spread: float = 0.1
    """Standard deviation of the part of ROUGE-L that is its own."""
    faults: float = 0.01
    """Share of answers that are not usable."""
    late: float = 0.0
    """Share of answers that take a hundred times as long."""
    seconds: float = 2.0
    """Median latency. Its logarithm has a standard deviation of 0.3."""

    def answer(self, generator: random.Random, difficulty: float) -> Measurement:
        """Draw an answer."""
        is_late, latency_ms = generator.random() < self.late, 1000 * self.seconds * generator.lognormvariate(0, 0.3)
        latency_ms *= 100 if is_late else 1
        if generator.random() < self.faults:
            return Measurement(usable=0.0, rouge_l=0.0, latency_ms=latency_ms)
        score = min(1.0, max(0.0, self.rouge_l + difficulty + generator.gauss(0, self.spread)))
        return Measurement(usable=1.0, rouge_l=score, latency_ms=latency_ms)


@dataclass(frozen=True)
class Case:
    """Two deployments, and the requests of users that both answer before the suite's."""

    old: Deployment
    new: Deployment
    live: int = 0
    answers_to_users: tuple[Deployment, Deployment] | None = None
    """How both answer them; like the suite's if None."""


OLD = Deployment()
FAULTY, LATE = Deployment(faults=0.06), Deployment(late=0.05)
CASES = {
    "equal": Case(OLD, OLD),
    "equal, answers differ more": Case(Deployment(spread=0.15), Deployment(spread=0.15)),
    "equal, the same answers": Case(Deployment(spread=0.0, faults=0.0), Deployment(spread=0.0, faults=0.0)),
    "equal, 5 % faults": Case(Deployment(faults=0.05), Deployment(faults=0.05)),
    "better by 3 points": Case(OLD, Deployment(rouge_l=0.38)),
    "ROUGE-L worse by 2 points": Case(OLD, Deployment(rouge_l=0.33)),
    "ROUGE-L worse by 5 points": Case(OLD, Deployment(rouge_l=0.30)),
    "ROUGE-L worse by 5 points, answers differ more": Case(Deployment(spread=0.15), Deployment(rouge_l=0.30, spread=0.15)),
    "ROUGE-L worse by 10 points": Case(OLD, Deployment(rouge_l=0.25)),
    "5 points more faults": Case(OLD, FAULTY),
    "5 points more late answers": Case(OLD, LATE),
    "equal, answers take 0.5 s": Case(Deployment(seconds=0.5), Deployment(seconds=0.5)),
    "1.5 times as slow": Case(OLD, Deployment(seconds=3.0)),
    "2 times as slow": Case(OLD, Deployment(seconds=4.0)),
    "3 times as slow": Case(OLD, Deployment(seconds=6.0)),
    "2 times as slow, 0.5 s": Case(Deployment(seconds=0.5), Deployment(seconds=1.0)),
    "no usable answer": Case(OLD, Deployment(faults=1.0)),
}
LIVE_CASES = {
    "equal": (OLD, OLD),
    "ROUGE-L worse by 5 points": (OLD, Deployment(rouge_l=0.30)),
    "5 points more faults": (OLD, FAULTY),
    "5 points more late answers": (OLD, LATE),
}
"""With requests of users, which the new deployment answers like the suite's."""
LIVE_ONLY = {
    "equal, 10 % faults": (Deployment(faults=0.1), Deployment(faults=0.1)),
    "5 points more faults": (OLD, FAULTY),
    "5 points more late answers": (OLD, LATE),
    "20 points more faults": (OLD, Deployment(faults=0.21)),
}
"""How requests of users are answered, while both answer the suite's equally well."""


def live_cases(count: int) -> dict[str, Case]:
    """Return the cases with requests of users."""
    cases = {f"{name}, {count} live requests": Case(old, new, count) for name, (old, new) in LIVE_CASES.items()}
    return cases | {f"{name} in {count} live requests only": Case(OLD, OLD, count, both) for name, both in LIVE_ONLY.items()}


def roll_out(case: Case, rows: int, generator: random.Random) -> tuple[str, int]:
    """Simulate a rollout; return how it ended (``promoted``, ``stopped before 5 %``, ``stopped later``) and the pairs at 0 %."""
    settings = PromotionConfig()
    canary = Canary(settings.margin, LatencyLimit(settings.latency_factor, settings.latency_floor_ms), live=bool(case.live))
    kept = pairs_of_steps(settings)

    while canary.finding is not Finding.WORSE and canary.pairs < case.live:
        ask(canary, *(case.answers_to_users or (case.old, case.new)), generator, live=True)
    while canary.finding is Finding.OPEN and canary.pairs < case.live + rows - kept:
        ask(canary, case.old, case.new, generator)
    pairs = canary.pairs
    if canary.finding is not Finding.NOT_WORSE:
        return "stopped before 5 %", pairs
    findings = [ask(canary, case.old, case.new, generator) for _ in range(kept)]
    return "stopped later" if Finding.WORSE in findings else "promoted", pairs


def ask(canary: Canary, old: Deployment, new: Deployment, generator: random.Random, *, live: bool = False) -> Finding:
    """Let both answer a request, and return what has been shown then. Requests of users have no answer to compare with."""
    difficulty = generator.gauss(0, 0.1)
    answers = [each.answer(generator, difficulty) for each in (old, new)]
    canary.add(*(replace(each, rouge_l=None) if live else each for each in answers), live=live)
    return canary.finding


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500, help="of the target suite")
    parser.add_argument("--live", type=int, nargs="*", default=[200, 1000], help="requests of users (`promotion.live_requests`)")
    options = parser.parse_args()
    cases = CASES | {name: case for count in options.live for name, case in live_cases(count).items()}
    console.info("| new deployment | promoted | stopped before 5 % | stopped later | pairs at 0 %, median (mean) |\n|---|---|---|---|---|")
    for name, case in cases.items():
        generator = random.Random(SEED)  # noqa: S311 - no secret
        ends, pairs = zip(*(roll_out(case, options.rows, generator) for _ in range(options.rollouts)), strict=True)
        counts = Counter(ends)
        shares = " | ".join(f"{100 * counts[end] / options.rollouts:.1f} %" for end in ("promoted", "stopped before 5 %", "stopped later"))
        console.info(f"| {name} | {shares} | {median(pairs):.0f} ({mean(pairs):.0f}) |")


if __name__ == "__main__":
    main()
