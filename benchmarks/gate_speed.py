"""Time and memory of judging 100,000 rows by ten rules, and of one interval compared with :func:`scipy.stats.bootstrap`."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, FrozenSuite, ModelEvidence, Rows
from mlops.judging.metric_table import COLUMNS
from mlops.judging.metrics import parse
from mlops.judging.statistics.bootstrap import RESAMPLES, paired_bootstrap
from mlops.judging.verdict import decide

__all__ = ["speed"]

ROWS = 100_000
SUITES = ("target", "retention")
SCIPY_ROWS = (200, 1_000, 10_000, 100_000)

Floats = npt.NDArray[np.float64]


def speed(options: argparse.Namespace) -> None:
    """Measure how long ten rules take on 100,000 rows, and how much longer scipy takes for one interval."""
    evidence = scores()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, busy = time.perf_counter(), time.process_time()
    decision = decide(RULES, evidence)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = ", ".join(sorted({judgement.outcome.value for judgement in decision.judgements}))
    sys.stdout.write(
        f"{len(RULES)} rules on {ROWS:,} rows of each suite: {seconds:.2f} s ({busy:.2f} s of CPU time), peak memory "
        f"{peak / 1024:.0f} MiB, including {before / 1024:.0f} MiB for the scores and the libraries. "
        f"Verdict {decision.verdict.value}; outcomes: {outcomes}.\n\n"
    )
    sys.stdout.write("| rows | gate, s | scipy, s | ratio | low ends differ by, standard errors | high ends |\n|---|---|---|---|---|---|\n")
    for rows in SCIPY_ROWS if options.rows is None else options.rows:
        gate_seconds, scipy_seconds, low, high = compare_with_scipy(rows)
        sys.stdout.write(
            f"| {rows:,} | {gate_seconds:.4f} | {scipy_seconds:.2f} | {scipy_seconds / gate_seconds:,.0f} | {low:.3f} | {high:.3f} |\n"
        )
        sys.stdout.flush()


def compare_with_scipy(rows: int) -> tuple[float, float, float, float]:
    """Time the gate's and scipy's interval of the same ratio, and return the differences of their ends in standard errors, too."""
    from scipy.stats import bootstrap

    generator = np.random.default_rng(rows)
    weights = np.round(40 * np.exp(0.6 * generator.standard_normal(rows))) + 1
    numerator = weights * generator.normal(0.05, 0.3, rows)
    paired_bootstrap(numerator[::-1], weights[::-1], confidence=0.95, seed=1)  # warm up: imports
    start = time.perf_counter()
    gate_interval = paired_bootstrap(numerator, weights, confidence=0.95)
    middle = time.perf_counter()

    def ratio(top: Floats, bottom: Floats, axis: int = -1) -> Floats:
        return np.asarray(top.sum(axis=axis) / bottom.sum(axis=axis))

    # scipy's defaults are BCa and 95 %. All resamples in one batch would take 15 GB.
    batch = max(1, 2**22 // rows)
    result: Any = bootstrap((numerator, weights), ratio, paired=True, n_resamples=RESAMPLES, batch=batch, rng=np.random.default_rng(1))
    end = time.perf_counter()
    scipy_interval = result.confidence_interval
    differences = [
        abs(one - other) / gate_interval.standard_error
        for one, other in ((gate_interval.low, scipy_interval.low), (gate_interval.high, scipy_interval.high))
    ]
    return middle - start, end - middle, *differences


def scores() -> Evidence:
    """Make three models' scores on both suites, without shared arrays, as if read from files."""
    models = {role: model(role, number) for number, role in enumerate(("base", "champion", "candidate"))}
    suites = {
        name: FrozenSuite(rows.ids, rows.kinds, rows.texts, rows.ids, np.zeros(ROWS), np.full(ROWS, np.inf))
        for name, rows in models["base"].rows.items()
    }
    return Evidence(models=models, suite_digests=dict.fromkeys(SUITES, "frozen"), overlapping={}, suites=suites)


def model(role: str, number: int) -> ModelEvidence:
    """Make a model's scores; each model is slightly better than the previous one."""
    suites = {}
    for suite in SUITES:
        shared, own = np.random.default_rng(1), np.random.default_rng([2, number])
        tokens = np.round(40 * np.exp(0.6 * shared.standard_normal(ROWS))) + 1
        difficulty = 2 + np.exp(0.5 * shared.standard_normal(ROWS))
        suites[suite] = Rows(
            ids=tuple(f"{suite}-{row:06d}" for row in range(ROWS)),
            kinds=tuple(f"kind {row % 5}" for row in range(ROWS)),
            inputs=tuple(f"{row:064x}" for row in range(ROWS)),
            texts=tuple(f"{row:016x}" for row in range(ROWS)),
            tokens=tokens,
            columns={
                **dict.fromkeys(COLUMNS, np.zeros(ROWS)),
                "nll": tokens * (difficulty * (1 - 0.02 * number) + own.uniform(-0.3, 0.3, ROWS)),
                "kl": tokens * own.uniform(0, 0.2, ROWS),
                "greedy_tokens": np.floor(tokens * own.uniform(0.5, 0.8, ROWS)),
                "rouge_l": own.uniform(0, 1, ROWS),
            },
            measured=dict.fromkeys(COLUMNS, np.ones(ROWS, dtype=np.bool_)),
        )
    metrics = {}
    for name in {rule.metric for rule in RULES}:
        metric = parse(name)
        assert metric is not None
        value = metric.value(suites[metric.suite])
        assert value is not None
        metrics[name] = value
    return ModelEvidence(role, role, role, metrics, dict.fromkeys(SUITES, "frozen"), suites)


def make_rule(metric: str, direction: str, baseline: str, margin: float, kind: str) -> Rule:
    """Make a bootstrap rule."""
    fields = {"metric": metric, "direction": direction, "baseline": baseline, "margin": margin, "margin_kind": kind}
    return Rule.model_validate({**fields, "test": "paired_bootstrap"})


RULES = (
    make_rule("target.nll", "lower", "champion", 0.0, "relative"),
    make_rule("target.nll", "lower", "base", -0.005, "relative"),
    make_rule("target.nll", "lower", "base", 0.1, "absolute"),
    make_rule("target.rouge_l", "higher", "base", 0.02, "relative"),
    make_rule("target.rouge_l", "higher", "champion", 0.01, "absolute"),
    make_rule("target.token_accuracy", "higher", "base", 0.01, "relative"),
    make_rule("retention.nll", "lower", "base", 0.05, "relative"),
    make_rule("retention.kind 1.nll", "lower", "base", 0.05, "relative"),
    make_rule("retention.kl_base", "lower", "champion", 0.1, "relative"),
    make_rule("retention.kl_base", "lower", "champion", 0.05, "absolute"),
)
