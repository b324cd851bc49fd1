"""Evidence made up for tests: scores of candidate, champion and base over the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mlops.core.config import Rule
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.remote.metrics import aggregate

DIGESTS = {"target": "t" * 64, "retention": "r" * 64}
KINDS = ("facts", "refusal")


def rows(role: str, *, n: int = 60, seed: int = 0, shift: float = 0.0, kl: float = 0.1) -> list[dict[str, Any]]:
    """Rows as in scores.jsonl: equal questions for every role, answers ``shift`` nats a token from the others' on average."""
    shared, own, choices = (np.random.default_rng(key) for key in (seed, [seed, *role.encode()], [seed, 1, *role.encode()]))
    made = []
    for suite in DIGESTS:
        for number in range(n):
            tokens = int(shared.integers(3, 40))
            per_token = 2.0 + shared.normal(0, 0.3) + shift + own.normal(0, 0.05)
            drift = 0.0 if role == "base" else kl * float(own.uniform(0.5, 1.5))
            made.append(
                {
                    "suite": suite,
                    "id": f"{suite}-{number:05d}",
                    "kind": KINDS[number % 2] if suite == "retention" else "",
                    "input": f"{suite}{number}",
                    "tokens": tokens,
                    "nll": tokens * max(per_token, 0.01),
                    "kl": tokens * drift if suite == "retention" else None,
                    "greedy_tokens": tokens - int(choices.binomial(tokens, 0.05 if shift < 0 else 0.1)),
                    "rouge_l": float(own.uniform(0.2, 0.6)) if suite == "target" and number < 20 else None,
                }
            )
    return made


def model(role: str, scored: Sequence[Mapping[str, Any]], **changes: Any) -> ModelEvidence:
    by_suite = {suite: Rows.of(row for row in scored if row["suite"] == suite) for suite in DIGESTS}
    made = ModelEvidence(
        model=f"azureml://models/{role}",
        run=f"run-{role}",
        weights_digest=f"weights-{role}",
        metrics=aggregate(scored),
        suite_digests=dict(DIGESTS),
        rows=by_suite,
    )
    return replace(made, **changes)


def evidence(candidate: ModelEvidence | None = None, champion: ModelEvidence | None = None, base: ModelEvidence | None = None) -> Evidence:
    """By default the candidate is clearly better than both others."""
    models = {
        "candidate": candidate or model("candidate", rows("candidate", shift=-0.4)),
        "champion": champion or model("champion", rows("champion")),
        "base": base or model("base", rows("base")),
    }
    return Evidence(models=models, suite_digests=dict(DIGESTS), overlapping={})


def rule(metric: str = "target.nll", direction: str = "lower", **fields: Any) -> Rule:
    return Rule.model_validate({"metric": metric, "direction": direction, **fields})


RULES = (
    rule(baseline="champion", test="paired_bootstrap"),
    rule(baseline="base", margin=-0.05, test="paired_bootstrap"),
    rule(baseline="champion"),
    rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap"),
    rule("retention.facts.nll", baseline="base", margin=0.1),
    rule("retention.kl_base", ceiling=0.5),
    rule("target.nll", ceiling=3.0),
)
"""All of these are shown on the default evidence."""
