"""Many promotions by the rules of pipeline.toml about target.nll, of candidates whose true quality is known.

    python -m benchmarks.gate_promotions pass [--trials 500]      one candidate: how often it is promoted
    python -m benchmarks.gate_promotions drift [--trials 40]      thirty candidates, each worse than the champion of its day
    python -m benchmarks.gate_promotions retries [--trials 200]   twenty candidates on the same rows against the same champion

A row has a length and a difficulty that all models share; each model adds noise of its own, which stays the same as long as the suite does.
The correlation is that of two models' nats per token over the rows. The random numbers are the same in every run.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from benchmarks.gate import percent, table_head, table_row
from benchmarks.gate_pairs import Floats, evidence
from mlops.cloud.anchor import promotion_tags
from mlops.core.config import load
from mlops.core.judgement import Verdict
from mlops.core.records import Evaluated, Judged, Registered
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.statistics.spending import spend
from mlops.judging.verdict import decide

ROOT = Path(__file__).parents[1]
ROWS = (500, 1_000)
CORRELATIONS = (0.9, 0.97)
EFFECTS = (-0.02, -0.01, 0.0, 0.01, 0.02, 0.05)
CANDIDATES, TRIES = 30, 20


class Suite:
    """Rows of a suite: lengths and difficulties; ``noise`` is the standard deviation of a model's own nats per token."""

    def __init__(self, rows: int, correlation: float, generator: np.random.Generator) -> None:
        self.rows, self.generator = rows, generator
        self.tokens = np.maximum(1.0, np.round(40 * np.exp(0.6 * generator.standard_normal(rows))))
        self.difficulty = 2 + np.exp(0.5 * generator.standard_normal(rows))
        self.noise = math.sqrt(math.exp(0.25) * (math.exp(0.25) - 1) * (1 / correlation - 1))

    def score(self, loss: float) -> Floats:
        """Return the nll of a new model with this loss, as a multiple of the first champion's: shape [rows]."""
        noise = np.clip(self.generator.standard_normal(self.rows), -3, 3) * self.noise
        return self.tokens * (self.difficulty * loss + noise)

    def compare(self, candidate: Floats, champion: Floats, anchor: Floats | None = None) -> Evidence:
        """Make the gate's evidence of three models."""
        base = evidence(self.tokens, candidate, self.score(1.3))
        models = dict(base.models)
        for role, nll in {"champion": champion, "anchor": anchor}.items():
            if nll is not None:
                other = evidence(self.tokens, nll, champion).models["candidate"]
                models[role] = type(other)(**{**vars(other), "model": role, "run": role, "weights_digest": role})
        return Evidence(models=models, suite_digests=base.suite_digests, overlapping={}, suites=base.suites)


@functools.cache
def rules(*names: str) -> tuple[Rule, ...]:
    """Return production's rules about target.nll that compare with champion and anchor, or those of these names."""
    all_rules = load(ROOT / "pipeline.toml", "prod", environment={}).gate.enabled_rules
    return tuple(
        rule for name, rule in all_rules.items() if rule.metric == "target.nll" and rule.baseline != "base" and (not names or name in names)
    )


def is_promoted(judged_rules: Sequence[Rule], models: Evidence) -> bool:
    """Return whether all of these rules are shown."""
    return decide(judged_rules, models).verdict is Verdict.PROMOTE


# One candidate


def pass_rates(options: argparse.Namespace) -> None:
    """Print how often a candidate is promoted, by its true quality."""
    table_head(
        "rows",
        "correlation",
        *(f"{'better' if effect > 0 else 'worse'} by {percent(abs(effect))}" if effect else "equal" for effect in EFFECTS),
    )
    cells = [(rows, correlation, effect) for rows in ROWS for correlation in CORRELATIONS for effect in EFFECTS]
    with ProcessPoolExecutor(options.workers) as pool:
        rates = list(pool.map(functools.partial(_pass_rate, options.trials), cells))
    for start in range(0, len(cells), len(EFFECTS)):
        rows, correlation, _ = cells[start]
        table_row(f"{rows:,}", f"{correlation:g}", *map(percent, rates[start : start + len(EFFECTS)]))


def _pass_rate(trials: int, cell: tuple[int, float, float]) -> float:
    rows, correlation, effect = cell
    generator = np.random.default_rng([1, rows, round(correlation * 100), round(1000 * (1 + effect))])
    promoted = 0
    for _ in range(trials):
        suite = Suite(rows, correlation, generator)
        promoted += is_promoted(rules(), suite.compare(suite.score(1 - effect), suite.score(1.0)))
    return promoted / trials


# Many promotions


def drift(options: argparse.Namespace) -> None:
    """Print how much worse the champion is after thirty candidates, each of which is worse than the champion of its day."""
    table_head(
        "each worse by", "without the anchor: promoted", "champion worse by", "with the anchor: promoted", "champion worse by", "at most"
    )
    for each in (0.003, 0.005, 0.007, 0.01):
        with ProcessPoolExecutor(options.workers) as pool:
            results = {
                anchored: list(pool.map(functools.partial(_drift, each, anchored), range(options.trials))) for anchored in (False, True)
            }
        cells = []
        for anchored in (False, True):
            promoted, losses = np.array(results[anchored]).T
            cells += [f"{promoted.mean():.1f} of {CANDIDATES}", percent(float(np.median(losses)))]
        table_row(percent(each), *cells, percent(max(loss for _, loss in results[True])))


def _drift(each: float, anchored: bool, trial: int) -> tuple[int, float]:
    suite = Suite(1_000, 0.97, np.random.default_rng([2, trial, round(each * 1000), anchored]))
    judged_rules = rules() if anchored else tuple(rule for rule in rules() if rule.baseline != "anchor")
    loss, promoted = 1.0, 0
    champion = anchor = suite.score(1.0)
    for _ in range(CANDIDATES):
        candidate = suite.score(loss * (1 + each))
        models = suite.compare(candidate, champion, None if anchor is champion else anchor)
        decision = decide(judged_rules, models)
        if decision.verdict is Verdict.PROMOTE:
            better = anchored and _moves_the_anchor(decision.judgements)
            anchor, champion, loss, promoted = (candidate if better else anchor), candidate, loss * (1 + each), promoted + 1
    return promoted, loss - 1


def _moves_the_anchor(judgements: Sequence[object]) -> bool:
    named = cast(Judged, SimpleNamespace(judgements=judgements))
    before = cast(Evaluated, SimpleNamespace(anchor="anchor", champion="champion", models={}))
    return bool(promotion_tags(named, before, cast(Registered, SimpleNamespace(model="candidate", identity=""))))


# Many tries


def retries(options: argparse.Namespace) -> None:
    """Print how often one of twenty candidates that must not be promoted is."""
    table_head("candidates", "rule", "one try", f"{TRIES} tries, not corrected", f"{TRIES} tries, corrected")
    better = rules("target-vs-champion")[0].model_copy(update={"margin": 0.0})
    for text, loss, rule, shown in (
        ("equal to the champion", 1.0, better, "not worse (margin 0)"),
        ("worse by the margin", 1.01, rules("target-vs-champion")[0], "at most 1 % worse"),
    ):
        with ProcessPoolExecutor(options.workers) as pool:
            first, plain, corrected = np.array(list(pool.map(functools.partial(_try, loss, rule), range(options.trials)))).mean(axis=0)
        table_row(text, shown, percent(first), percent(plain), percent(corrected))


def _try(loss: float, rule: Rule, trial: int) -> tuple[bool, bool, bool]:
    suite = Suite(500, 0.97, np.random.default_rng([3, trial, round(loss * 1000)]))
    champion = suite.score(1.0)
    first = plain = corrected = False
    for number in range(1, TRIES + 1):
        models = suite.compare(suite.score(loss), champion)
        promoted = is_promoted([rule], models)
        first, plain = first or (number == 1 and promoted), plain or promoted
        stricter = rule.model_copy(update={"confidence": spend(rule.confidence, number)})
        corrected = corrected or (promoted and is_promoted([stricter], models))
    return first, plain, corrected


def main() -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, trials in (("pass", pass_rates, 500), ("drift", drift, 40), ("retries", retries, 200)):
        command = commands.add_parser(name, help=(run.__doc__ or "").partition("\n")[0])
        command.set_defaults(run=run)
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--trials", type=int, default=trials)
    options = parser.parse_args()
    options.run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
