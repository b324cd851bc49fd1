"""All rules of target prod together, on models whose true quality is known, and what a few spoiled rows do.

    python -m benchmarks.gate_default_rules equal [--trials 200]     equal and 2 % better models, by their share of faulty answers
    python -m benchmarks.gate_default_rules spoiled [--trials 1000]   a model that is better but for 1 % of its rows

A row has a difficulty that all models share (standard deviation 0.3 nats per token) and noise of each model (0.07). The base model's
loss is 8 % higher. Half of the faulty answers are faulty because of their question, so for all models; the others are each model's own. A
task is passed by 70 % of the models, and one of ten by only one of two. The random numbers are the same in every run.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gate import percent, table_head, table_row
from mlops.core.config import load
from mlops.core.judgement import Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.verdict import decide
from tests.support.evidence import make_evidence, make_model

PIPELINE = Path(__file__).parents[1] / "pipeline.toml"
KINDS = ("instruction", "fact", "arithmetic", "multi_turn", "refusal", "format", "tool_call", "long_context")
FAULTS: dict[str, dict[str, float]] = {
    "5 % truncated, 1 % looping": {"empty": 0.0, "truncated": 0.05, "looping": 0.01, "other_language": 0.0, "refused": 0.005},
    "15 % truncated, 3 % looping, 2 % refused, 1 % other language": {
        "empty": 0.005, "truncated": 0.15, "looping": 0.03, "other_language": 0.01, "refused": 0.02,
    },
}  # fmt: skip
"""Shares of answers that are faulty; the candidate's are the champion's."""
ANSWERS = (200, 500, 1_000)
TARGET_ROWS, RETENTION_ROWS = 1_000, 1_221
SPOILT_ROWS = (40, 200, 500, 1_000)
SPOILT_SHARE, SPOILT_BY = 0.01, 5.0


@functools.cache
def prod_rules() -> tuple[Rule, ...]:
    """Return the rules of target prod."""
    return tuple(load(PIPELINE, "prod", environment={}).gate.enabled_rules.values())


# Equal models


def equal(options: argparse.Namespace) -> None:
    """Print how often an equal model, and one that is 2 % better, is promoted by all rules of target prod."""
    table_head("faulty answers", "answers", "promoted: equal", "2 % better", "which rules held the equal ones back")
    with ProcessPoolExecutor(options.workers) as pool:
        for name in FAULTS:
            for answers in options.answers:
                rates, holders = [], Counter[str]()
                for gain in (0.0, 0.02):
                    results = list(pool.map(functools.partial(_held_by, FAULTS[name], answers, gain), range(options.trials)))
                    rates.append(sum(not held for held in results) / options.trials)
                    if not gain:
                        holders.update(metric for held in results for metric in held)
                held = ", ".join(f"{metric} ({count})" for metric, count in holders.most_common(4)) or "–"
                table_row(name, f"{answers:,}", *map(percent, rates), held)


def _held_by(faults: Mapping[str, float], answers: int, gain: float, trial: int) -> list[str]:
    """Return the metrics of the critical rules that did not let this candidate through."""
    decision = decide(prod_rules(), make_models(faults, answers, gain, np.random.default_rng([4, trial])))
    if decision.verdict is Verdict.PROMOTE:
        return []
    return sorted({each.metric for each in decision.judgements if each.critical and each.outcome is not Outcome.SHOWN})


def make_models(faults: Mapping[str, float], answers: int, gain: float, generator: np.random.Generator) -> Evidence:
    """Make candidate, champion and base; ``gain``: by which fraction the candidate's loss on the target suite is lower."""
    target = _rows("target", TARGET_ROWS, generator.integers(20, 300, TARGET_ROWS), generator)
    retention = _rows("retention", RETENTION_ROWS, generator.integers(5, 60, RETENTION_ROWS), generator)
    by_question = {name: generator.random(answers) < share for name, share in faults.items()}
    likeness, is_passed = generator.normal(0.25, 0.08, answers), generator.random(RETENTION_ROWS) < 0.7
    scores = {}
    for role, loss in (("candidate", 1 - gain), ("champion", 1.0), ("base", 1.08)):
        rows = []
        noise = generator.normal(0, 0.07, TARGET_ROWS)
        own = {
            name: np.where(generator.random(answers) < 0.5, shared, generator.random(answers) < faults[name])
            for name, shared in by_question.items()
        }
        rouge = np.clip(likeness + generator.normal(0, 0.07, answers), 0, 1)
        for number, row in enumerate(target):
            answered = number < answers
            values: dict[str, Any] = {
                "nll": row["tokens"] * max(0.01, row["difficulty"] * loss + noise[number]),
                "kl": None,
                "passed": None,
            }
            values |= {name: float(flags[number]) if answered else None for name, flags in own.items()}
            values |= {"rouge_l": float(rouge[number]), "length_ratio": 1.0} if answered else {"rouge_l": None}
            rows.append(row | values)
        noise, drift = generator.normal(0, 0.1, RETENTION_ROWS), generator.uniform(0.05, 0.3, RETENTION_ROWS)
        passes = np.where(generator.random(RETENTION_ROWS) < 0.875, is_passed, generator.random(RETENTION_ROWS) < 0.7)
        for number, row in enumerate(retention):
            kl = 0.0 if role == "base" else row["tokens"] * float(drift[number])
            nll = row["tokens"] * max(0.01, row["difficulty"] + noise[number])
            rows.append(row | {"nll": nll, "kl": kl, "rouge_l": None, "passed": float(passes[number])})
        scores[role] = make_model(role, rows)
    return make_evidence(scores["candidate"], scores["champion"], scores["base"])


def _rows(suite: str, count: int, tokens: np.ndarray[Any, np.dtype[Any]], generator: np.random.Generator) -> list[dict[str, Any]]:
    difficulty = 2 + generator.normal(0, 0.3, count)
    return [
        {
            "suite": suite,
            "id": f"{suite}-{number:05d}",
            "kind": KINDS[number % len(KINDS)] if suite == "retention" else "",
            "input": f"{suite}{number}",
            "tokens": int(tokens[number]),
            "difficulty": float(difficulty[number]),
            "greedy_tokens": int(tokens[number]) // 2,
            "overlong": 0.0,
        }
        for number in range(count)
    ]


# Spoilt rows


def spoiled(options: argparse.Namespace) -> None:
    """Print how often a model is promoted that is 1 % better, but for 1 % of its rows, which are 5 nats per token worse."""
    table_head("rows", "by the mean (margin 1 %)", "by mean, typical row and tail")
    rules = {rule.test: rule for rule in prod_rules() if rule.metric == "target.nll" and rule.baseline == "champion"}
    with ProcessPoolExecutor(options.workers) as pool:
        for rows in SPOILT_ROWS:
            judged = [rule.model_copy(update={"min_rows": 1}) for rule in rules.values()]
            results = np.array(list(pool.map(functools.partial(_promoted, judged, rows), range(options.trials))))
            table_row(f"{rows:,}", *map(percent, results.mean(axis=0)))


def _promoted(rules: list[Rule], rows: int, trial: int) -> tuple[bool, bool]:
    generator = np.random.default_rng([5, rows, trial])
    target = _rows("target", rows, generator.integers(20, 300, rows), generator)
    spoiled = generator.random(rows) < SPOILT_SHARE
    models = {}
    for role, loss in (("candidate", 0.99), ("champion", 1.0), ("base", 1.08)):
        per_token = np.array([row["difficulty"] for row in target]) * loss + generator.normal(0, 0.07, rows)
        per_token += SPOILT_BY * spoiled if role == "candidate" else 0.0
        scores = [
            row | {"nll": row["tokens"] * max(0.01, float(loss)), "kl": None, "rouge_l": None, "passed": None}
            for row, loss in zip(target, per_token, strict=True)
        ]
        kept = {
            **target[0],
            "suite": "retention",
            "id": "retention-0",
            "kind": "fact",
            "nll": 1.0 * len(role),
            "kl": 0.0 if role == "base" else 1.0,
        }
        models[role] = make_model(role, [*scores, kept | {"rouge_l": None, "passed": None}])
    evidence = make_evidence(models["candidate"], models["champion"], models["base"])
    shown = [decide([rule], evidence).verdict is Verdict.PROMOTE for rule in rules]
    return shown[0], all(shown)


def main() -> int:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, trials in (("equal", equal, 200), ("spoiled", spoiled, 1_000)):
        command = commands.add_parser(name, help=(run.__doc__ or "").partition("\n")[0])
        command.set_defaults(run=run)
        command.add_argument("--workers", type=int, default=1)
        command.add_argument("--trials", type=int, default=trials)
        if name == "equal":
            command.add_argument("--answers", type=int, nargs="*", default=ANSWERS, help="numbers of generated answers")
    options = parser.parse_args()
    options.run(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
