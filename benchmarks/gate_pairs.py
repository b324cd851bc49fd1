"""Simulated scores of a candidate and a baseline on the same rows, with a known true difference.

A row has ``tokens`` and a difficulty in nats per token that both models share. Each model adds its own noise, and nll is
tokens × (difficulty + noise). So the models' scores are correlated over rows, and long rows weigh more. There are five kinds of noise, all
with mean 0, so that a candidate is worse by exactly the requested amount:

- light: normal for both models (clipped at three standard deviations, so that no loss is negative)
- heavy: Lomax with shape 3 for both; the difference has the tails of Student's t with three degrees of freedom
- log-normal: for both, a factor on a log-normal difficulty; a few rows make up most of the loss and differ most
- spikes: log-normal with σ = 1 (skewness 6) for the candidate only; it is slightly better on most rows and much worse on a few
- dips: the same for the baseline only; the candidate is much better on a few rows
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Evidence, FrozenSuite, ModelEvidence, Rows
from mlops.judging.metric_table import COLUMNS

__all__ = ["NOISES", "Cell", "evidence", "pair"]

NOISES = ("light", "heavy", "log-normal", "spikes", "dips")
_SUITE = "target"
_MEDIAN_TOKENS = 40

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """Parameters of the distribution that pairs are drawn from."""

    rows: int
    noise: str = "light"
    lengths: float = 0.6
    """Standard deviation of the rows' log lengths; 0.5 to 0.7 in chat data; 0 makes all rows equally long."""
    correlation: float = 0.9
    """Correlation of the models' nll per token over the rows."""

    def generator(self, *purpose: int) -> np.random.Generator:
        """Return a random generator for this cell and purpose, the same in every run."""
        parameters = [self.rows, NOISES.index(self.noise), round(self.lengths * 100), round(self.correlation * 1000)]
        return np.random.default_rng([*parameters, *purpose])


def pair(cell: Cell, generator: np.random.Generator, *, worse: float = 0.0, relative: bool = False) -> Evidence:
    """Draw scores of a candidate that is worse by ``worse`` nats per token, or by this fraction of the baseline's true value."""
    tokens = np.ones(cell.rows) * _MEDIAN_TOKENS
    if cell.lengths:
        tokens = np.maximum(1.0, np.round(tokens * np.exp(cell.lengths * generator.standard_normal(cell.rows))))
    difficulty, candidate, baseline = _draw_noise(cell, generator)
    candidate_difficulty = difficulty * (1 + worse) if relative else difficulty + worse
    return evidence(tokens, tokens * (candidate_difficulty + candidate), tokens * (difficulty + baseline))


def evidence(tokens: Floats, candidate: Floats, baseline: Floats) -> Evidence:
    """Make the gate's evidence from two models' nll: shape [rows] each."""
    models = {"candidate": _model("candidate", tokens, candidate), "base": _model("base", tokens, baseline)}
    return Evidence(models=models, suite_digests={_SUITE: "frozen"}, overlapping={}, suites=_freeze(models["candidate"]))


def _draw_noise(cell: Cell, generator: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Draw the difficulty and the noise of candidate and baseline in nats per token: shape [rows] each."""
    normal = functools.partial(generator.standard_normal, cell.rows)
    if cell.noise == "log-normal":
        difficulty = np.exp(0.8 * normal())
        mean_square, variance = math.exp(2 * 0.64), math.exp(0.64) * (math.exp(0.64) - 1)
        variance_of_factor = variance * (1 / cell.correlation - 1) / mean_square
        sigma = math.sqrt(math.log(1 + variance_of_factor))
        factors = [np.exp(sigma * normal() - sigma**2 / 2) - 1 for _ in range(2)]
        return difficulty, difficulty * factors[0], difficulty * factors[1]
    difficulty = 2 + np.exp(0.5 * normal())
    deviation = math.sqrt(math.exp(0.25) * (math.exp(0.25) - 1))
    zeros = np.zeros(cell.rows)
    if cell.noise in ("spikes", "dips"):
        noise = np.exp(normal()) - math.exp(0.5)
        noise *= deviation * math.sqrt(1 / cell.correlation**2 - 1) / math.sqrt(math.e * (math.e - 1))
        return (difficulty, noise, zeros) if cell.noise == "spikes" else (difficulty, zeros, noise)
    scale = deviation * math.sqrt(1 / cell.correlation - 1)
    if cell.noise == "heavy":
        # The Lomax distribution with shape 3 has mean 1/2 and variance 3/4.
        return difficulty, *((generator.pareto(3.0, cell.rows) - 0.5) / math.sqrt(0.75) * scale for _ in range(2))
    return difficulty, *(np.clip(normal(), -3, 3) * scale for _ in range(2))


def _freeze(model: ModelEvidence) -> dict[str, FrozenSuite]:
    return {
        name: FrozenSuite(rows.ids, rows.kinds, rows.texts, rows.ids, np.zeros(len(rows.ids)), np.full(len(rows.ids), np.inf))
        for name, rows in model.rows.items()
    }


def _model(role: str, tokens: Floats, nll: Floats) -> ModelEvidence:
    ids, unmeasured = _ids(len(tokens)), np.full(len(tokens), np.nan)
    rows = Rows(
        ids=ids,
        kinds=("",) * len(ids),
        inputs=ids,
        texts=ids,
        tokens=tokens,
        columns={**dict.fromkeys(COLUMNS, unmeasured), "nll": nll, "greedy_tokens": np.zeros(len(ids))},
        measured={name: np.full(len(ids), name in ("nll", "greedy_tokens")) for name in COLUMNS},
    )
    return ModelEvidence(
        model=role,
        run=role,
        weights_digest=role,
        metrics={f"{_SUITE}.nll": float(nll.sum() / tokens.sum())},
        suite_digests={_SUITE: "frozen"},
        rows={_SUITE: rows},
    )


@functools.lru_cache(maxsize=4)
def _ids(rows: int) -> tuple[str, ...]:
    return tuple(f"{row:06d}" for row in range(rows))
