"""How often the canary stops a worse deployment, and lets an equal one through, on simulated answers.

    python -m benchmarks.canary [--rollouts 1000] [--rows 500]

Prints a Markdown table. A rollout compares two deployments as `mlops promote` does, with the default steps and margin: first at 0 % of the
traffic, then at each step. ROUGE-L of both deployments' answers to a request has a common part, the request's difficulty, and a part of its
own. "Before 5 %" counts rollouts that were stopped before the new deployment had any traffic. The random numbers are the same in every run.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from dataclasses import dataclass
from statistics import mean, median

from mlops.cli.canary import pairs_of_steps
from mlops.core import console
from mlops.core.settings import PromotionConfig
from mlops.judging.canary import Canary, Measured
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
    """Share of answers that take longer than the limit."""

    def answer(self, generator: random.Random, difficulty: float) -> Measured:
        """Draw an answer."""
        if generator.random() < self.faults:
            return Measured(usable=0.0, rouge_l=0.0, in_time=1.0, latency_ms=1.0)
        score = min(1.0, max(0.0, self.rouge_l + difficulty + generator.gauss(0, self.spread)))
        return Measured(usable=1.0, rouge_l=score, in_time=float(generator.random() >= self.late), latency_ms=1.0)


OLD = Deployment()
CASES = {
    "equal": (OLD, OLD),
    "equal, answers differ more": (Deployment(spread=0.15), Deployment(spread=0.15)),
    "equal, the same answers": (Deployment(spread=0.0, faults=0.0), Deployment(spread=0.0, faults=0.0)),
    "better by 3 points": (OLD, Deployment(rouge_l=0.38)),
    "ROUGE-L worse by 2 points": (OLD, Deployment(rouge_l=0.33)),
    "ROUGE-L worse by 5 points": (OLD, Deployment(rouge_l=0.30)),
    "ROUGE-L worse by 5 points, answers differ more": (Deployment(spread=0.15), Deployment(rouge_l=0.30, spread=0.15)),
    "ROUGE-L worse by 10 points": (OLD, Deployment(rouge_l=0.25)),
    "5 points more faults": (OLD, Deployment(faults=0.06)),
    "5 points more late answers": (OLD, Deployment(late=0.05)),
    "no usable answer": (OLD, Deployment(faults=1.0)),
}


def roll_out(old: Deployment, new: Deployment, rows: int, generator: random.Random) -> tuple[str, int]:
    """Simulate a rollout; return how it ended (``promoted``, ``stopped before 5 %``, ``stopped later``) and the pairs at 0 %."""
    settings = PromotionConfig()
    canary = Canary(settings.margin)
    kept = pairs_of_steps(settings)

    while canary.finding is Finding.OPEN and canary.pairs < rows - kept:
        ask(canary, old, new, generator)
    pairs = canary.pairs
    if canary.finding is not Finding.NOT_WORSE:
        return "stopped before 5 %", pairs
    findings = [ask(canary, old, new, generator) for _ in range(kept)]
    return "stopped later" if Finding.WORSE in findings else "promoted", pairs


def ask(canary: Canary, old: Deployment, new: Deployment, generator: random.Random) -> Finding:
    """Let both answer a request, and return what has been shown then."""
    difficulty = generator.gauss(0, 0.1)
    canary.add(old.answer(generator, difficulty), new.answer(generator, difficulty))
    return canary.finding


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=500, help="of the target suite")
    options = parser.parse_args()
    console.info("| new deployment | promoted | stopped before 5 % | stopped later | pairs at 0 %, median (mean) |\n|---|---|---|---|---|")
    for name, (old, new) in CASES.items():
        generator = random.Random(SEED)  # noqa: S311 - no secret
        ends, pairs = zip(*(roll_out(old, new, options.rows, generator) for _ in range(options.rollouts)), strict=True)
        counts = Counter(ends)
        shares = " | ".join(f"{100 * counts[end] / options.rollouts:.1f} %" for end in ("promoted", "stopped before 5 %", "stopped later"))
        console.info(f"| {name} | {shares} | {median(pairs):.0f} ({mean(pairs):.0f}) |")


if __name__ == "__main__":
    main()
