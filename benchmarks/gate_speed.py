"""Time and memory of judging 100,000 rows under ten rules, and of one interval beside :func:`scipy.stats.bootstrap`."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from mlops.core.config import Rule
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import parse
from mlops.judging.statistics.bootstrap import RESAMPLES, paired_bootstrap
from mlops.judging.verdict import decide

__all__ = ["speed"]

ROWS = 100_000
SUITES = ("target", "retention")
AGAINST_SCIPY = (200, 1_000, 10_000, 100_000)

Floats = npt.NDArray[np.float64]


def speed(options: argparse.Namespace) -> None:
    """How long ten rules over 100,000 rows take, and how much longer scipy takes for one interval."""
    made = scores()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    decision = decide(RULES, made)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = ", ".join(sorted({judgement.outcome.value for judgement in decision.judgements}))
    sys.stdout.write(
        f"{len(RULES)} rules over {ROWS:,} rows of each suite: {seconds:.2f} s ({busy:.2f} s of processor time), peak memory "
        f"{peak / 1024:.0f} MiB, of which the scores and the libraries had taken {before / 1024:.0f} MiB before. "
        f"Verdict {decision.verdict.value}; outcomes: {found}.\n\n"
    )
    sys.stdout.write("| rows | ours, s | scipy, s | ratio | low end apart, standard errors | high end apart |\n|---|---|---|---|---|---|\n")
    for rows in AGAINST_SCIPY if options.rows is None else options.rows:
        ours, theirs, low, high = against_scipy(rows)
        sys.stdout.write(f"| {rows:,} | {ours:.4f} | {theirs:.2f} | {theirs / ours:,.0f} | {low:.3f} | {high:.3f} |\n")
        sys.stdout.flush()


def against_scipy(rows: int) -> tuple[float, float, float, float]:
    """Seconds of ours and of scipy's for the same ratio, and by how many standard errors their ends are apart."""
    from scipy.stats import bootstrap

    generator = np.random.default_rng(rows)
    weights = np.round(40 * np.exp(0.6 * generator.standard_normal(rows))) + 1
    numerator = weights * generator.normal(0.05, 0.3, rows)
    paired_bootstrap(numerator[::-1], weights[::-1], confidence=0.95, seed=1)  # the imports
    start = time.perf_counter()
    ours = paired_bootstrap(numerator, weights, confidence=0.95)
    middle = time.perf_counter()

    def ratio(top: Floats, bottom: Floats, axis: int = -1) -> Floats:
        return np.asarray(top.sum(axis=axis) / bottom.sum(axis=axis))

    # Its defaults: BCa, 95 %. All resamples at once would take 15 GB.
    batch = max(1, 2**22 // rows)
    found: Any = bootstrap((numerator, weights), ratio, paired=True, n_resamples=RESAMPLES, batch=batch, rng=np.random.default_rng(1))
    end = time.perf_counter()
    theirs = found.confidence_interval
    apart = [abs(one - other) / ours.standard_error for one, other in ((ours.low, theirs.low), (ours.high, theirs.high))]
    return middle - start, end - middle, *apart


def scores() -> Evidence:
    """Three models on both suites, as they come from their files: nothing shared between them."""
    models = {role: model(role, number) for number, role in enumerate(("base", "champion", "candidate"))}
    return Evidence(models=models, suite_digests=dict.fromkeys(SUITES, "frozen"), overlapping={})


def model(role: str, number: int) -> ModelEvidence:
    """Each a little better than the one before."""
    suites = {}
    for suite in SUITES:
        shared, own = np.random.default_rng(1), np.random.default_rng([2, number])
        tokens = np.round(40 * np.exp(0.6 * shared.standard_normal(ROWS))) + 1
        difficulty = 2 + np.exp(0.5 * shared.standard_normal(ROWS))
        suites[suite] = Rows(
            ids=tuple(f"{suite}-{row:06d}" for row in range(ROWS)),
            kinds=tuple(f"kind {row % 5}" for row in range(ROWS)),
            inputs=tuple(f"{row:064x}" for row in range(ROWS)),
            tokens=tokens,
            nll=tokens * (difficulty * (1 - 0.02 * number) + own.uniform(-0.3, 0.3, ROWS)),
            kl=tokens * own.uniform(0, 0.2, ROWS),
            greedy_tokens=np.floor(tokens * own.uniform(0.5, 0.8, ROWS)),
            rouge_l=own.uniform(0, 1, ROWS),
            answered=np.ones(ROWS, dtype=np.bool_),
        )
    metrics = {}
    for name in {asked.metric for asked in RULES}:
        metric = parse(name)
        assert metric is not None
        value = metric.value(suites[metric.suite])
        assert value is not None
        metrics[name] = value
    return ModelEvidence(role, role, role, metrics, dict.fromkeys(SUITES, "frozen"), suites)


def rule(metric: str, direction: str, baseline: str, margin: float, kind: str) -> Rule:
    """A bootstrap rule."""
    fields = {"metric": metric, "direction": direction, "baseline": baseline, "margin": margin, "margin_kind": kind}
    return Rule.model_validate({**fields, "test": "paired_bootstrap"})


RULES = (
    rule("target.nll", "lower", "champion", 0.0, "relative"),
    rule("target.nll", "lower", "base", -0.005, "relative"),
    rule("target.nll", "lower", "base", 0.1, "absolute"),
    rule("target.rouge_l", "higher", "base", 0.02, "relative"),
    rule("target.rouge_l", "higher", "champion", 0.01, "absolute"),
    rule("target.token_accuracy", "higher", "base", 0.01, "relative"),
    rule("retention.nll", "lower", "base", 0.05, "relative"),
    rule("retention.kind 1.nll", "lower", "base", 0.05, "relative"),
    rule("retention.kl_base", "lower", "champion", 0.1, "relative"),
    rule("retention.kl_base", "lower", "champion", 0.05, "absolute"),
)
