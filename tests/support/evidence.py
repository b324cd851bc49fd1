"""Synthetic evidence: scores of candidate, champion and base over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, FrozenSuite, ModelEvidence, Rows
from mlops.remote.metrics import aggregate

DIGESTS = {"target": "t" * 64, "retention": "r" * 64}
KINDS = ("facts", "refusal")


def make_rows(role: str, *, n: int = 60, seed: int = 0, shift: float = 0.0, kl: float = 0.1, answers: int = 20) -> list[dict[str, Any]]:
    """Make rows of scores.jsonl: the same questions for every role, and scores that differ by ``shift`` nats per token on average."""
    shared, own, choices = (np.random.default_rng(key) for key in (seed, [seed, *role.encode()], [seed, 1, *role.encode()]))
    rows = []
    for suite in DIGESTS:
        for number in range(n):
            tokens = int(shared.integers(3, 40))
            per_token = 2.0 + shared.normal(0, 0.3) + shift + own.normal(0, 0.05)
            greedy = tokens - int(choices.binomial(tokens, 0.05 if shift < 0 else 0.1))
            drift = 0.0 if role == "base" else kl * float(own.uniform(0.5, 1.5))
            rows.append(
                {
                    "suite": suite,
                    "id": f"{suite}-{number:05d}",
                    "kind": KINDS[number % 2] if suite == "retention" else "",
                    "input": f"{suite}{number}",
                    "tokens": tokens,
                    "nll": tokens * max(per_token, 0.01),
                    "kl": tokens * drift if suite == "retention" else None,
                    "greedy_tokens": greedy,
                    "overlong": 0.0,
                    "rouge_l": float(own.uniform(0.2, 0.6)) if suite == "target" and number < answers else None,
                    "passed": float(greedy >= 0.85 * tokens) if suite == "retention" else None,
                    **(answer_health(number) if suite == "target" and number < answers else {}),
                }
            )
    return rows


def answer_health(number: int) -> dict[str, float]:
    """Make what the scorer says about an answer: every tenth is cut off."""
    return {"empty": 0.0, "truncated": float(number % 10 == 0), "looping": 0.0, "other_language": 0.0, "refused": 0.0, "length_ratio": 1.0}


CANDIDATE = make_rows("candidate", shift=-0.4)


def make_model(role: str, scores: Sequence[Mapping[str, Any]], **changes: Any) -> ModelEvidence:
    by_suite = {suite: Rows.of(row for row in scores if row["suite"] == suite) for suite in DIGESTS}
    evidence = ModelEvidence(
        model=f"azureml://models/{role}",
        run=f"run-{role}",
        weights_digest=f"weights-{role}",
        metrics=aggregate(scores),
        suite_digests=dict(DIGESTS),
        rows=by_suite,
    )
    return replace(evidence, **changes)


def change_model(change: Callable[[dict[str, Any]], None] = lambda row: None, role: str = "candidate", **fields: Any) -> ModelEvidence:
    """Make a model whose rows are changed before its metrics are computed. Without changes it is a model of the default evidence."""
    rows = [dict(row) for row in (CANDIDATE if role == "candidate" else make_rows(role))]
    for row in rows:
        change(row)
    return make_model(role, rows, **fields)


def freeze(*models: ModelEvidence) -> dict[str, FrozenSuite]:
    """Make the suites that these models' rows are from. Any number of tokens is possible."""
    suites = {}
    for name, rows in models[-1].rows.items():
        low, high = np.zeros(len(rows.ids)), np.full(len(rows.ids), np.inf)
        suites[name] = FrozenSuite(rows.ids, rows.kinds, rows.texts, rows.ids, low, high)
    return suites


def make_evidence(
    candidate: ModelEvidence | None = None, champion: ModelEvidence | None = None, base: ModelEvidence | None = None
) -> Evidence:
    """Make evidence. By default the candidate is clearly better than the other models."""
    models = {
        "candidate": candidate or make_model("candidate", CANDIDATE),
        "champion": champion or make_model("champion", make_rows("champion")),
        "base": base or make_model("base", make_rows("base")),
    }
    return Evidence(models=models, suite_digests=dict(DIGESTS), overlapping={}, suites=freeze(models["base"]))


def make_rule(metric: str = "target.nll", direction: str = "lower", **fields: Any) -> Rule:
    return Rule.model_validate({"metric": metric, "direction": direction, **fields})


def name_rules(rules: Sequence[Rule]) -> dict[str, Rule]:
    """Give each rule a name, as pipeline.toml does."""
    return {f"rule-{number}": rule for number, rule in enumerate(rules, start=1)}


RETENTION = make_rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap")
"""A rule about the suite that most rules of tests are not about: without one, any model could forget everything."""

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap"),
    make_rule(baseline="base", margin=-0.05, test="paired_bootstrap"),
    make_rule(baseline="champion"),
    RETENTION,
    make_rule("retention.facts.nll", baseline="base", margin=0.1),
    make_rule("retention.kl_base", ceiling=0.5),
    make_rule("target.nll", ceiling=3.0),
)
"""Rules that are all shown on the default evidence."""
